"""How a value grows with the size of random stacks, for claims about exponents."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from residual_theory.measurements.kinds import OfStacks
from residual_theory.measurements.measurement import Observations
from residual_theory.measurements.observations import pooled
from residual_theory.stack import Stack
from residual_theory.statistics.exponents import bounded, unbounded
from residual_theory.statistics.findings import Finding


class Curve(NamedTuple):
    """Values at rising sizes, with their standard errors, and the fewest samples that a value is a mean of."""

    sizes: tuple[float, ...]
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    samples: int


def curves(
    observations: Observations,
    kind: Callable[[Stack], Hashable],
    size: Callable[[Stack], float],
    value: Callable[[Stack, xr.Dataset], tuple[float, float]],
) -> dict[Any, Curve]:
    """How a value grows with the size of random stacks: one curve for every kind of stack.

    Arguments:
      observations: with measurements of random stacks; rounds are pooled.
      kind: what the stacks of one curve have in common. size: of a stack, such as its loops.
      value: of a stack and its result, with its standard error, such as `gain` or `typical_norm`.
    Returns: by kind, the Curve over rising sizes.

    >>> from pathlib import Path
    >>> from residual_theory.measurements.kinds import Simulation
    >>> from residual_theory.measurements.measurement import Context, Observation
    >>> planned = [Simulation(stack=Stack(loops=n), width=8, samples=5, seed=1) for n in (4, 2)]
    >>> observed = [Observation(one, one.measure(Context(Path()))) for one in planned]
    >>> found = curves(observed, lambda stack: stack.activation, lambda stack: stack.loops, gain)
    >>> {kind: (curve.sizes, curve.samples) for kind, curve in found.items()}
    {'relu': ((2, 4), 5)}
    """
    points: dict[Hashable, list[tuple[float, float, float, int]]] = {}
    for measurement, drawn in pooled(OfStacks, observations):
        stack = measurement.stack
        points.setdefault(kind(stack), []).append((size(stack), *value(stack, drawn), int(drawn.samples)))
    found = {key: tuple(zip(*sorted(rows), strict=True)) for key, rows in points.items()}
    return {key: Curve(columns[0], columns[1], columns[2], min(columns[3])) for key, columns in found.items()}


def exponent(where: str, curve: Curve, *, predicted: float, margin: float) -> tuple[Finding, Finding]:
    """Does the curve grow like size^p with p = predicted ± margin, over the larger half of its sizes?

    p is a mean of the local exponents there: `margin` has to hold what the power law leaves out at these sizes only.

    Arguments: where: what grows, for the labels. curve: over at least five sizes, with positive values.
    Returns: two findings, that p is at least predicted − margin, and at most predicted + margin.
    Raises: InputError for fewer sizes.

    >>> sizes = (4.0, 8.0, 16.0, 32.0, 64.0)
    >>> curve = Curve(sizes, tuple(3 * n**0.5 for n in sizes), (0.01,) * 5, samples=24)
    >>> [found.confirm_p < 1e-9 for found in exponent("R", curve, predicted=0.5, margin=0.1)]
    [True, True]
    """
    return (
        unbounded(where, *curve, margin=predicted - margin),
        bounded(where, *curve, margin=predicted + margin),
    )


def typical_norm(_: Stack, drawn: xr.Dataset) -> tuple[float, float]:
    """The geometric mean of R after the last visit, which a few large samples do not dominate, and its standard error.

    Arguments: drawn: a simulation's result. Returns: (value, standard error), in units of R; for `curves`.

    >>> logarithm = {"log_second_moment": ("visit", [0.0, 2.0]), "log_second_moment_stderr": ("visit", [0.0, 0.02])}
    >>> [round(number, 4) for number in typical_norm(Stack(loops=1), xr.Dataset(logarithm))]
    [2.7183, 0.0272]
    """
    norm = float(np.exp(drawn.log_second_moment[-1] / 2))
    return norm, norm * float(drawn.log_second_moment_stderr[-1]) / 2


def gain(stack: Stack, drawn: xr.Dataset) -> tuple[float, float]:
    """R² − q0 after the last visit, and its standard error.

    Arguments: stack: whose initial variance is q0. drawn: a simulation's result. Returns: (value, standard error).

    >>> drawn = xr.Dataset({"second_moment": ("visit", [0.5, 0.75]), "second_moment_stderr": ("visit", [0, 0.01])})
    >>> gain(Stack(loops=1, initial_variance=0.5), drawn)
    (0.25, 0.01)
    """
    return float(drawn.second_moment[-1]) - stack.initial_variance, float(drawn.second_moment_stderr[-1])
