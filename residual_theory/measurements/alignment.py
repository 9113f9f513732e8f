"""How far the changes that loops make have the same direction, from the covariance of a stream over its visits."""

import numpy as np

from residual_theory.arrays import Array


def change_products(covariance: Array, loops: int) -> Array:
    """⟨Δ_n, Δ_m⟩/d of the changes Δ that loops n and m make to the stream.

    Arguments: covariance: ⟨h_k, h_l⟩/d (…, visit, visit_other), of N·L + 1 visits. loops: N.
    Returns: (…, loop, loop_other), in the units of the covariance.

    >>> stream = np.array([0.0, 1.0, 3.0])  # in one dimension
    >>> change_products(np.outer(stream, stream), loops=2).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    layers = (covariance.shape[-1] - 1) // loops
    ends = covariance[..., ::layers, :][..., ::layers]
    return np.asarray(np.diff(np.diff(ends, axis=-1), axis=-2))


def change_cosines(covariance: Array, loops: int) -> Array:
    """Cosines between the changes that loops make.

    Arguments, returns: as of `change_products`; NaN for a loop that changes nothing.

    >>> stream = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])  # (visit, coordinate)
    >>> change_cosines(stream @ stream.T, loops=2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    products = change_products(covariance, loops)
    length = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    return np.asarray(products / length[..., :, None] / length[..., None, :])


def visit_alignment(covariance: Array, loops: int) -> Array:
    """κ = ‖Σ_n Δ_n‖²/Σ_n ‖Δ_n‖²: 1 where the changes of loops are orthogonal, N where all are equal.

    Arguments: as of `change_products`. Returns: κ, of the leading dimensions.
    Source: arXiv:2607.13491.

    >>> stream = np.array([0.0, 1.0, 2.0, 3.0])
    >>> float(visit_alignment(np.outer(stream, stream), loops=3))
    3.0
    """
    products = change_products(covariance, loops)
    return np.asarray(products.sum((-2, -1)) / np.trace(products, axis1=-2, axis2=-1))
