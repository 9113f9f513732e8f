"""How much a Gaussian matrix stretches nonnegative vectors, at least and at most, as far as a search finds."""

import numpy as np
import torch
import xarray as xr

from residual_theory.montecarlo.assumptions import summary
from residual_theory.montecarlo.estimate import Moments
from residual_theory.montecarlo.randomness import Normals, Rows

STARTS = 4  # of every search; the best is kept


def cone_gain(*, width: int, steps: int, samples: int, seed: int, first_trial: int = 0) -> xr.Dataset:
    """The least and the largest gain ‖Wx‖/‖x‖ over x ≥ 0 that a search finds, W square with Var W_ij = 1/d.

    A convex function grows at every x ← ∇/‖∇‖₊ with the gradient's negative part cut off: xᵀWᵀWx to a local largest
    gain, and xᵀ(κ − WᵀW)x, κ ≥ ‖W‖², to a local least one, from several random nonnegative x. So `least` is above the
    true infimum, `most` below the supremum. Beside them the gain over all x: singular values.

    Arguments: width: d ≥ 1. steps: of each search. samples, seed, first_trial: as of `assumptions`.
    Returns: a Dataset of means over trials, each with *_stderr, and samples: least, most; singular_least and
      singular_most; one, the gain at a nonnegative vector that does not depend on W.
    Source: arXiv:2606.18524, Lemma 5; derivations/cone_gain.py has 1 ∓ 1/√2 as bounds at large d.

    >>> found = cone_gain(width=32, steps=50, samples=3, seed=1)
    >>> bool(found.singular_least < found.least < found.one < found.most < found.singular_most)
    True
    """
    device = torch.device("cpu")
    moments: dict[str, Moments] = {}
    for trial in range(first_trial, first_trial + samples):
        normals = Normals(seed, (width, 1), [trial], Rows(device), device)
        matrix = torch.empty(1, width, width, dtype=torch.float64)
        starts = torch.empty(1, STARTS, width, dtype=torch.float64)
        normals.fill(matrix)
        normals.fill(starts)
        for name, value in _gains(matrix[0] / width**0.5, starts[0].abs(), steps).items():
            moments.setdefault(name, Moments()).add(np.array([value]))
    return summary(moments, samples, {})


def _gains(W: torch.Tensor, starts: torch.Tensor, steps: int) -> dict[str, float]:
    squares = W.mT @ W
    eigenvalues = torch.linalg.eigvalsh(squares)
    most = _climb(squares, starts, steps)
    least = _climb(eigenvalues[-1] * torch.eye(len(W), dtype=W.dtype) - squares, starts, steps)
    return {
        "least": float(_gain(W, least).min()),
        "most": float(_gain(W, most).max()),
        "singular_least": float(eigenvalues[0].clamp(min=0).sqrt()),
        "singular_most": float(eigenvalues[-1].sqrt()),
        "one": float(_gain(W, starts[:1])[0]),
    }


def _gain(W: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    gains: torch.Tensor = torch.linalg.vector_norm(x @ W.mT, dim=1) / torch.linalg.vector_norm(x, dim=1)
    return gains


def _climb(form: torch.Tensor, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Nonnegative unit vectors (start, width) at which xᵀ form x, a convex function, is locally largest."""
    for _ in range(steps):
        x = (x @ form).clamp(min=0)
        x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x
