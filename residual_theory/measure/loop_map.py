"""The map from the stream before the last loop to the stream after it, linearised: how fast a disturbance grows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, svds
from torch import Tensor
from torch.autograd.graph import GradientEdge

from residual_theory.arrays import Array
from residual_theory.errors import InputError

_TOLERANCE = 1e-3  # relative, of both numbers
_RESTARTS = 12  # of ARPACK, some 20 products each
_POWERS = 64  # products where ARPACK does not converge, as for a cluster of eigenvalues of one size


def loop_map(
    before: GradientEdge, after: GradientEdge, like: Tensor, shape: Sequence[int], seed: int
) -> dict[str, float]:
    """The spectral radius ρ(J) and the norm ‖J‖ of J = ∂h_V/∂h_{V−L} at the stream measured, all samples together.

    Whatever lies between is in J: norms, injections, several blocks. Samples do not mix, so both numbers are the
    greatest over samples. Products with J and Jᵀ are two passes backwards; nothing of the size of J is made. The error
    is the residual of the eigenvector or singular vector found: exact for normal J, optimistic for others.

    Arguments:
      before, after: where the gradients of the two streams are to be had. like: a tensor of their device and dtype.
      shape: of a stream, samples first. seed: of the vector that the iteration starts from.
    Returns: loop_radius, loop_radius_error, loop_norm, loop_norm_error, and loop_angle, the eigenvalue's angle in
      radians (0: no turning, π: to and fro); it is left out where several eigenvalues are as large.
    Raises: InputError where no gradient passes from one stream to the other, or the model's own has no derivative.
    Source: ARPACK by scipy.sparse.linalg.
    """
    size = int(np.prod(shape))
    if size < 4:
        raise InputError("loop_map", True, f"needs a stream of at least 4 entries, not {size}")
    operator = LinearOperator(
        (size, size),
        matvec=_numbers(lambda v: _backward(before, after, v), like, shape),  # Jᵀ, of the same spectrum
        rmatvec=_numbers(lambda v: _forward(before, after, v), like, shape),
        dtype=np.float64,
    )
    start = np.random.default_rng(seed).standard_normal(size)
    value, radius_error = _largest_eigenvalue(operator, start)
    norm, norm_error = _largest_singular_value(operator, start)
    radius, angle = (value.real, {}) if np.isnan(value.imag) else (abs(value), {"loop_angle": abs(np.angle(value))})
    found = {"loop_radius": radius, "loop_radius_error": radius_error}
    found |= {"loop_norm": norm, "loop_norm_error": norm_error} | angle
    return {name: float(number) for name, number in found.items()}


def _largest_eigenvalue(operator: Any, start: Array) -> tuple[complex, float]:
    """An eigenvalue and its error; without its angle where many are as large, and none can be told from the others."""
    try:
        values, vectors = eigs(operator, k=1, which="LM", v0=start, tol=_TOLERANCE, maxiter=_RESTARTS)
    except (ArpackNoConvergence, ArpackError):
        radius, error = _by_powers(operator.matvec, start)
        return complex(radius, np.nan), error
    vector, value = vectors[:, 0], complex(values[0])
    image = operator.matvec(vector.real) + 1j * operator.matvec(vector.imag)
    return value, float(np.linalg.norm(image - value * vector)) + _TOLERANCE * abs(value)


def _largest_singular_value(operator: Any, start: Array) -> tuple[float, float]:
    try:
        left, values, right = svds(operator, k=1, v0=start, tol=_TOLERANCE, maxiter=_RESTARTS)
    except (ArpackNoConvergence, ArpackError):
        square, error = _by_powers(lambda v: operator.rmatvec(operator.matvec(v)), start)
        return square**0.5, error / (2 * square**0.5)
    value = float(values[0])
    return value, float(np.linalg.norm(operator.matvec(right[0]) - value * left[:, 0])) + _TOLERANCE * value


def _by_powers(product: Callable[[Array], Array], vector: Array) -> tuple[float, float]:
    """The growth a step of repeated products, and how much it still changes."""
    growth = np.zeros(_POWERS)
    for step in range(_POWERS):
        vector = product(vector / np.linalg.norm(vector))
        growth[step] = np.log(np.linalg.norm(vector))
    _, _, before, last = (float(part.mean()) for part in np.split(growth, 4))
    return float(np.exp(last)), float(np.exp(last)) * (2 * abs(last - before) + _TOLERANCE)


def _numbers(product: Callable[[Tensor], Tensor], like: Tensor, shape: Sequence[int]) -> Callable[[Array], Array]:
    """A product of streams as one of flat float64 vectors."""

    def apply(vector: Array) -> Array:
        given = torch.as_tensor(np.ascontiguousarray(vector, dtype=np.float64)).reshape(tuple(shape))
        with torch.enable_grad():
            found = product(given.to(like))
        return np.asarray(found.detach().double().cpu().numpy().reshape(-1))

    return apply


def _backward(before: GradientEdge, after: GradientEdge, v: Tensor, *, again: bool = False) -> Tensor:
    """Jᵀ v."""
    found = torch.autograd.grad([after], [before], [v], retain_graph=True, create_graph=again, allow_unused=True)[0]
    if found is None:
        raise InputError("loop_map", True, "no gradient passes through the last loop; leave it out")
    return found


def _forward(before: GradientEdge, after: GradientEdge, u: Tensor) -> Tensor:
    """J u, as the derivative of ⟨Jᵀ v, u⟩ in v."""
    v = torch.zeros_like(u, requires_grad=True)
    found = torch.autograd.grad(_backward(before, after, v, again=True), [v], [u], allow_unused=True)[0]
    return torch.zeros_like(u) if found is None else found
