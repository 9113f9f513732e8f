"""Grids of training runs: described, costed, run, and searched for the best learning rate."""
