"""How the changes that loops make line up, from the covariance of a stream over its visits."""

import numpy as np
from numpy.typing import NDArray


def change_products(covariance: NDArray[np.float64], loops: int) -> NDArray[np.float64]:
    """⟨Δ_n, Δ_m⟩/d of the changes that loops n and m make, (…, loop, loop_other), from the stream's covariance."""
    layers = (covariance.shape[-1] - 1) // loops
    ends = covariance[..., ::layers, :][..., ::layers]
    return np.asarray(np.diff(np.diff(ends, axis=-1), axis=-2))


def change_cosines(covariance: NDArray[np.float64], loops: int) -> NDArray[np.float64]:
    """Cosines between the changes that loops make, (…, loop, loop_other)."""
    products = change_products(covariance, loops)
    length = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    return np.asarray(products / length[..., :, None] / length[..., None, :])


def visit_alignment(covariance: NDArray[np.float64], loops: int) -> NDArray[np.float64]:
    """κ = ‖Σ_n Δ_n‖²/Σ_n ‖Δ_n‖²: 1 where loops push independently, N where all push the same way.

    Source: arXiv:2607.13491.
    """
    products = change_products(covariance, loops)
    return np.asarray(products.sum((-2, -1)) / np.trace(products, axis1=-2, axis2=-1))
