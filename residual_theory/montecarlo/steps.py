"""Random stacks whose weights move: by one optimizer step, or from visit to visit. Their matrices are held in full."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo.dense import Dense
from residual_theory.montecarlo.estimate import Moments
from residual_theory.montecarlo.randomness import Normals, Rows
from residual_theory.montecarlo.streams import ForwardPass, law_of
from residual_theory.stack import Stack

Measure = Callable[[Normals, torch.Tensor], tuple[float, ...]]  # a trial's random numbers and h_0 (1, 1, width)


def optimizer_step(
    stack: Stack,
    *,
    optimizer: Literal["sign", "gradient-descent"],
    rate: float,
    width: int,
    samples: int,
    seed: int,
    first_trial: int = 0,
) -> xr.Dataset:
    """How far one step on all weights of a random stack moves its output, nothing left out.

    W ← W − (rate/fan-in) S, with S = ∂f/∂W ("gradient-descent") or its sign ("sign"), f = ⟨v, h_V⟩/‖v‖ and a standard
    normal readout v. h_0 and the weights are drawn for each trial from the law that `Stack` states; float64.

    Arguments:
      stack: a Stack whose branch has a single matrix.
      optimizer: "sign", which is also Adam's first step, or "gradient-descent".  rate: of the step.
      width: d ≥ 1.  samples: independent trials ≥ 1; the standard error of a single one is NaN.
      seed: 0 ≤ seed < 2⁶³.  first_trial: trials first_trial … first_trial + samples − 1 are drawn.
    Returns: a Dataset of means over trials: change, ‖Δh_V‖/√d; relative_change, ‖Δh_V‖/‖h_V‖; readout_change, Δf; each
      with *_stderr; and samples. All dimensionless.
    Raises: InputError naming the argument that cannot be used.
    Source: derivations/learning_rate.py; theory.learning_rate.step_size says what to expect to first order.

    >>> stack = Stack(loops=2, residual_scale=0.5, weight_variance=2.0)
    >>> moved = optimizer_step(stack, optimizer="sign", rate=0.01, width=16, samples=3, seed=1)
    >>> bool(moved.readout_change < 0), int(moved.samples)
    (True, 3)
    """
    _check_stack(stack)
    if optimizer not in ("sign", "gradient-descent"):
        raise InputError("optimizer", optimizer, "choose sign or gradient-descent")

    def measure(normals: Normals, start: torch.Tensor) -> tuple[float, ...]:
        layers: list[Dense] = []

        def draw(shape: tuple[int, int], _: int) -> Dense:
            layers.append(Dense(shape, normals, start, transposed=True))
            return layers[-1]

        forward = ForwardPass(stack, start, draw, with_gradients=True)
        readout = torch.empty_like(start, requires_grad=False)
        normals.fill(readout)
        forward.backward(readout)
        before = forward.streams[-1].detach()
        for layer in layers:
            _descend(layer, rate, optimizer, variance)
        again = iter(layers)
        change = ForwardPass(stack, start.detach(), lambda *_: next(again)).streams[-1] - before
        size = torch.linalg.vector_norm(change)
        along = torch.sum(readout * change) / torch.linalg.vector_norm(readout)
        return float(size) / math.sqrt(width), float(size / torch.linalg.vector_norm(before)), float(along)

    variance = law_of(stack.visits[0]).weight_variance
    names = ("change", "relative_change", "readout_change")
    return _average(measure, names, stack, width, samples, seed, first_trial)


def _descend(weights: Dense, rate: float, optimizer: str, variance: float) -> None:
    """Add −(rate/fan-in) S, in units of an entry's standard deviation."""
    gradient = weights.gradient()
    if optimizer == "sign":
        weights.matrix -= rate / math.sqrt(variance * gradient.shape[2]) * gradient.sign()
    else:
        weights.matrix -= rate / variance * gradient


def drifting_weights(
    stack: Stack, *, exponent: float, width: int, samples: int, seed: int, first_trial: int = 0
) -> xr.Dataset:
    """How far a random stack moves its stream when the weights of its visits are a stationary Gaussian process.

    The matrices W_i and W_j of visits i and j have the correlation (1 + |i − j|)^(−exponent): it is convex, so positive
    definite (Pólya), which |i − j|^(−exponent) with 1 on the diagonal is not. Each matrix by itself, and h_0, have the
    law that `Stack` states; float64.

    Arguments:
      stack: an untied Stack whose branch has a single matrix.
      exponent: above 0.
      width, samples, seed, first_trial: as in `optimizer_step`.
    Returns: a Dataset of the mean over trials of change_square, ‖h_V − h_0‖²/d, with change_square_stderr, and samples.
    Raises: InputError naming the argument that cannot be used.
    Source: derivations/power_law_correlations.py.

    >>> stack = Stack(loops=2, residual_scale=0.5, tied=False, activation="linear", initial_variance=3.0)
    >>> moved = drifting_weights(stack, exponent=1.0, width=64, samples=200, seed=1)
    >>> expected = 3.0 * (2 * 0.25 + 2 * 0.25 / 2 + 0.25**2)  # (W₁ + W₂)h_0/2 + W₂W₁h_0/4 as d → ∞
    >>> bool(abs(moved.change_square - expected) < 5 * moved.change_square_stderr)
    True
    """
    _check_stack(stack)
    if not exponent > 0:
        raise InputError("exponent", exponent, "must be above 0; weights that stay the same are a tied stack's")
    if len({visit.weights for visit in stack.visits}) < stack.blocks:
        raise InputError("tied", stack.tied, "needs tied = False; the weights of a visit that returns do not drift")
    places = np.arange(stack.blocks)
    root = np.linalg.cholesky((1.0 + abs(places[:, None] - places)) ** -exponent)

    def measure(normals: Normals, start: torch.Tensor) -> tuple[float, ...]:
        fresh: list[torch.Tensor] = []

        def draw(shape: tuple[int, int], _: int) -> Dense:
            weights = Dense(shape, normals, start)
            fresh.append(weights.matrix)
            combination = torch.from_numpy(root[len(fresh) - 1, : len(fresh)])
            weights.matrix = torch.einsum("k,kij->ij", combination, torch.cat(fresh))[None]
            return weights

        change = ForwardPass(stack, start, draw).streams[-1] - start
        return (float(torch.sum(change**2)) / width,)

    return _average(measure, ("change_square",), stack, width, samples, seed, first_trial)


def _check_stack(stack: Stack) -> None:
    if any(len(law_of(visit).matrices(1)) > 1 for visit in stack.visits):
        raise InputError("branch", stack.branch, "dense trials know branches of a single matrix")


def _average(
    measure: Measure, names: Sequence[str], stack: Stack, width: int, samples: int, seed: int, first_trial: int
) -> xr.Dataset:
    """Means of what `measure` finds in each trial."""
    device, moments = torch.device("cpu"), Moments()
    for trial in range(first_trial, first_trial + samples):  # one at a time: each holds all of its matrices
        normals = Normals(seed, (width, 1), [trial], Rows(device), device)
        start = torch.empty(1, 1, width, dtype=torch.float64)
        normals.fill(start)
        start *= stack.initial_variance**0.5
        moments.add(np.array([measure(normals, start)]))
    found = {name: float(value) for name, value in zip(names, moments.mean, strict=True)}
    errors = {f"{name}_stderr": float(value) for name, value in zip(names, moments.stderr, strict=True)}
    return xr.Dataset({**found, **errors, "samples": samples}, attrs={"samples_are": "stacks", "dtype": "float64"})
