"""Findings, equivalence tests, exponents and looks at growing data: how verdicts are made from samples."""
