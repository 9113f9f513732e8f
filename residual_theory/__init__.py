"""Prove, simulate and measure how residual streams grow in looped (weight-tied) networks."""
