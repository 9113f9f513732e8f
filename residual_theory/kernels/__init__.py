"""Covariances of what branches put out at infinite width: kernels of activations, of attention, and of branches."""
