"""How often verdicts are wrong: of the project's own claims, and of synthetic ones at the edge of their margins."""
