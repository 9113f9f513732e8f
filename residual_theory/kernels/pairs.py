"""Correlations of Gaussian pairs, without loss of digits near ±1, and kernels of them run by run."""

from collections.abc import Callable

import numpy as np

from residual_theory.arrays import Array

Kernel = Callable[[Array, Array, Array], Array]  # covariance, left, right

TINY = 1e-300  # replaces a variance of zero in denominators
BLOCK = 2**15  # entries evaluated together: a few arrays of them stay in cache


def cosines(covariance: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """c and c², clipped. The quotients make c exactly 1 where the covariance is the variance, and do not overflow."""
    left, right = left[:, None], right[:, None, :]
    square = np.minimum((covariance / left) * (covariance / right), 1.0)
    square = np.where((left > 0) & np.isfinite(left) & ((right > 0) & np.isfinite(right)), square, 0.0)
    return np.copysign(np.sqrt(square), covariance), square


def size_of(left: Array, right: Array) -> Array:
    """√(q q'), without overflow."""
    return np.sqrt(left)[:, None] * np.sqrt(right)[:, None, :]


def blockwise(kernel: Kernel, covariance: Array, left: Array, right: Array, parts: int = 1) -> Array:
    """The kernel on runs of right variables short enough to stay in cache, `parts` arrays of them at once."""
    result = np.empty(covariance.shape)
    step = max(1, BLOCK // parts // max(1, covariance[:1].size))
    with np.errstate(all="ignore"):
        for i in range(0, len(covariance), step):
            result[i : i + step] = kernel(covariance[i : i + step], left, right[i : i + step])
    return result
