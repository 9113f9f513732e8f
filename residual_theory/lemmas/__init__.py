"""Facts that several derivations share, each a chain of steps with its proofs."""
