"""The machinery of derivations: steps, ways to prove them, and facts that several theorems share."""
