"""Several inputs (data points) to the same random weights, described by the correlations between them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residual_theory.errors import InputError

MOST_INPUTS = 4096
_ROUNDING = 1e-6  # of an entry that was computed in float32


def input_correlations(inputs: int | ArrayLike) -> NDArray[np.float64]:
    """The correlations between the inputs that pass through one set of random weights.

    The entry i of input p's stream h_0 has law N(0, q0), E[h_0,i^p h_0,j^q] = q0 ρ_pq [i = j].

    Arguments:
      inputs: P independent inputs, 1 ≤ P ≤ 4096, or their correlations ρ (P, P), dimensionless: symmetric, positive
        semidefinite and with ones on the diagonal, up to float32's rounding. Inputs may be copies of each other.
    Returns: ρ (P, P), exactly symmetric, its diagonal exactly 1, no entry beyond ±1.
    Raises: InputError naming what the matrix lacks.
    Source: docs/theory.md, "The forward recursion".

    >>> input_correlations([[1.0, -0.3], [-0.3, 1.0]]).tolist()
    [[1.0, -0.3], [-0.3, 1.0]]
    >>> input_correlations(2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if isinstance(inputs, int | np.integer) and not isinstance(inputs, bool):
        if not 1 <= inputs <= MOST_INPUTS:
            raise InputError("inputs", inputs, f"must be from 1 to {MOST_INPUTS} inputs, or their correlations")
        return np.eye(int(inputs))
    correlations = _square(inputs)
    lopsided = float(np.max(np.abs(correlations - correlations.T)))
    if lopsided > _ROUNDING:
        raise InputError("inputs", inputs, f"must be symmetric; entries differ from their mirror by up to {lopsided:g}")
    if np.max(np.abs(np.diag(correlations) - 1)) > _ROUNDING:
        mend = "must have ones on its diagonal; divide covariances by the square roots of their diagonal"
        raise InputError("inputs", inputs, mend)
    correlations = (correlations + correlations.T) / 2
    np.fill_diagonal(correlations, 1.0)
    smallest = float(np.linalg.eigvalsh(correlations)[0])
    if smallest < -_ROUNDING * len(correlations) ** 0.5:  # as much as independent rounding of the entries can make
        mend = f"must be positive semidefinite; its smallest eigenvalue is {smallest:g}"
        raise InputError("inputs", inputs, mend)
    return np.clip(correlations, -1.0, 1.0)


def _square(inputs: ArrayLike) -> NDArray[np.float64]:
    """A finite square matrix of at most MOST_INPUTS rows."""
    try:
        found = np.asarray(inputs)
    except (ValueError, TypeError):  # rows of unequal length
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "iuf" or found.ndim != 2 or found.shape[0] != found.shape[1] or not found.size:
        raise InputError("inputs", inputs, "give a number of inputs, or the square matrix of their correlations")
    if len(found) > MOST_INPUTS:
        raise InputError("inputs", inputs, f"has {len(found)} rows; at most {MOST_INPUTS} inputs are taken")
    if not np.isfinite(found).all():
        raise InputError("inputs", inputs, "must be finite; some correlations are inf or NaN")
    return found.astype(np.float64)
