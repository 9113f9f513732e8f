"""The limit of R² for many loops under the factored rule ε = λ/(N√L)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from residual_theory.arrays import Array
from residual_theory.branches.law import Activation
from residual_theory.errors import InputError
from residual_theory.kernels.dual import dual_of
from residual_theory.kernels.hermite import Series
from residual_theory.stack import Stack
from residual_theory.theory.arguments import number, plain, refuse_post_norm

_COARSEST, _FINEST = 8, 4096  # intervals of the grids
_GRIDS = 4  # grids that the spread of the extrapolation table needs to be taken as an error
_SWEEPS = 60
_MOST_WORK = 4e7  # values of Φ, weighted by `Branch.cost`: some seconds
_RAW_SERIES, _UNIT_SERIES = 100.0, 25.0  # what a value of Φ without a closed form costs, at any variance and at 1
_ROUNDING = float(np.finfo(np.float64).eps)


class Branch(NamedTuple):
    """The covariance Φ of a branch's outputs, for one row of the covariance of its inputs.

    `state` maps variances (m) to what the kernel needs of them, (m, S). `row` maps the covariances (m)
    of the row's own position with m positions, and their states (m, S), the row's own last, to Φ (m).
    """

    state: Callable[[Array], Array]
    row: Callable[[Array, Array], Array]
    cost: float = 1.0  # roughly, of one value of Φ; 1 for a closed form


def branch_of(activation: Activation, normalization: Literal["none", "rms"], weight_variance: float) -> Branch:
    """Φ = σ_w² E[φ(u) φ(v)], with u and v divided by their root mean squares if `normalization` is "rms"."""
    dual = dual_of(activation)
    series = isinstance(dual, Series)

    def raw(covariance: Array, states: Array) -> Array:
        value = dual.value(covariance[:, None, None], states[-1:], states[:, None, :])
        return weight_variance * value[:, 0, 0]

    def normalised(covariance: Array, states: Array) -> Array:
        rms = states[:, 0]
        return raw(covariance / rms / rms[-1], np.broadcast_to(unit, (len(rms), len(unit))))

    if normalization == "none":
        return Branch(dual.state, raw, _RAW_SERIES if series else 1.0)
    unit = dual.state(np.ones(1))[0]
    return Branch(lambda variance: np.sqrt(variance)[:, None], normalised, _UNIT_SERIES if series else 1.0)


@dataclass(frozen=True)
class Limit:
    """A limit and a measured bound of its absolute error (both inf when it leaves float64)."""

    value: float
    error: float


def loop_limit(
    strength: float,
    *,
    activation: Activation = "relu",
    normalization: Literal["none", "rms"] = "none",
    weight_variance: float = 1.0,
    initial_variance: float = 1.0,
    tolerance: float = 1e-8,
) -> Limit:
    """The limit G(λ) of R² as N → ∞ under ε = λ/(N√L), the same for every number L of unique layers.

    G = k(1, 1), where k(s, t) is the covariance of the residual stream at the fractions s and t of its N loops,
      k(s, t) = q0 + λ² σ_w² ∫_0^s ∫_0^t Φ(k(u, u), k(u, v), k(v, v)) du dv.
    Law and limit: W_l with independent N(0, weight_variance/d) entries, shared by all loops; first d → ∞, then N → ∞.
    Tied linear stacks have G = q0 I_0(2λσ_w); raw ReLU lies between q0 I_0(√2 λσ_w) and q0 cosh²(λσ_w/√2).

    Arguments:
      strength: λ ≥ 0, dimensionless.
      activation: a name or a function that `dual_of` takes.
      normalization, weight_variance, initial_variance: as in `Stack`.
      tolerance: the relative error to reach, from 1e-12 up to 1.
    Returns: a Limit, dimensionless. Its error is the spread of the last entries of the extrapolation table: larger
      than the true error once the grids resolve k, but not proved to be; the error of the kernel itself, `Dual.error`,
      is not included. When R² leaves float64 on the finest grid both are inf.
    Raises: InputError naming the argument; `tolerance` or `strength` also when grids of a few seconds cannot resolve k.
    Source: docs/theory.md; arXiv:2606.18524, Theorem 3 (that R² is bounded in N and L).

    >>> limit = loop_limit(1.5, weight_variance=0.64, initial_variance=2.0)
    >>> round(limit.value, 7), limit.error < 1e-8 * limit.value
    (3.730295, True)
    """
    strength = number("strength", strength)
    tolerance = number("tolerance", tolerance, least=1e-12, most=1.0)
    refuse_post_norm(normalization)
    stack = Stack(loops=1, weight_variance=plain(weight_variance), initial_variance=plain(initial_variance))
    branch = branch_of(activation, normalization, stack.weight_variance)
    return goursat(branch, strength, stack.initial_variance, tolerance)


def goursat(branch: Branch, strength: float, initial_variance: float, tolerance: float) -> Limit:
    """k(1, 1) of k(s, t) = q0 + λ² ∫_0^s ∫_0^t Φ du dv, by trapezoidal sums on grids of n, 2n, 4n, … intervals.

    k is smooth on either side of the diagonal, on which ReLU's Φ has a term |s − t|³. Grid lines meet it at nodes
    only, so the sums have an expansion in even powers of 1/n all the same: for |s − t|^p over a square on the
    diagonal this is Faulhaber's formula. Romberg's table therefore applies, here to log k(1, 1), the smoother
    function where k grows exponentially.

    Arguments:
      branch: Φ, weight variance included.  strength: λ ≥ 0.  initial_variance: q0 > 0.  tolerance: relative.
    Returns, raises: as `loop_limit`.
    Source: Romberg's method; the grid's equations are those of docs/theory.md, "The forward recursion".

    >>> liouville = Branch(state=lambda variance: variance[:, None], row=lambda k, states: np.exp(k - 0.5))
    >>> limit = goursat(liouville, 1.0, 0.5, tolerance=1e-10)  # ∂_s ∂_t k = e^(k − q0) has k = q0 − 2 log(1 − st/2)
    >>> abs(limit.value - (0.5 + 2 * math.log(2))) <= limit.error
    True
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        start = np.full(1, initial_variance)
        growth = strength * math.sqrt(abs(float(branch.row(start, branch.state(start))[0])) / initial_variance)
        intervals, logs, last, error = _COARSEST, list[float](), math.nan, math.inf
        coarsest = _FINEST >> (_GRIDS - 1 if branch.cost <= 1 else _GRIDS + 3)  # expensive kernels start coarser
        while intervals < min(growth, coarsest):  # k may grow e-fold on a scale of 1/growth
            intervals *= 2
        counted, finest = _count_work(branch), 0
        try:
            while intervals <= _FINEST:
                last, finest = _trapezoid(counted, strength, initial_variance, intervals), intervals
                logs = [*logs, math.log(last)] if 0 < last < math.inf else []
                if len(logs) >= _GRIDS:
                    best, error = _romberg(logs)
                    error += intervals * _ROUNDING
                    if error <= tolerance:
                        return Limit(math.exp(best), math.exp(best) * math.expm1(error))
                intervals *= 2
        except _TooMuchWorkError:
            last = math.nan
    if last == math.inf:
        return Limit(math.inf, math.inf)
    if error == math.inf:
        raise InputError("strength", strength, "no grid resolves the stream within seconds; give a smaller strength")
    reached = f"{finest} intervals reach {error:.1g} at strength {strength:.6g}"
    raise InputError("tolerance", tolerance, f"{reached}; ask for less")


class _TooMuchWorkError(Exception): ...


def _count_work(branch: Branch) -> Branch:
    done = 0

    def row(covariance: Array, states: Array) -> Array:
        nonlocal done
        done += len(covariance)
        if done * branch.cost > _MOST_WORK:
            raise _TooMuchWorkError
        return branch.row(covariance, states)

    return branch._replace(row=row)


def _trapezoid(branch: Branch, strength: float, initial_variance: float, intervals: int) -> float:
    """k(1, 1) on one grid, inf beyond float64, nan when a row's equations do not settle.

    Row i + 1 of k follows from row i, k(i+1, j+1) = k(i, j+1) + Σ_{j' ≤ j} cell(i, j'), with a cell's integral the
    mean of Φ at its corners. Two corners lie on the new row: fixed-point sweeps solve for them to rounding, since
    what is left over would bring odd powers of 1/n into the error. A sweep is a Volterra map and converges fast.
    """
    quarter = (strength / intervals) * (strength / intervals) / 4
    row = np.full(1, initial_variance)
    states = np.repeat(branch.state(row), intervals + 1, axis=0)  # row i fills the first i + 1
    phi = before = branch.row(row, states[:1])
    for i in range(intervals):
        guess = np.append(phi, phi[-1])
        if i > 0:
            guess[:i] += phi[:-1] - before
            guess[-1] += phi[-1] - before[-1]
        known = phi.copy()
        known[:-1] += phi[1:]
        new = np.full(i + 2, initial_variance)
        for _ in range(_SWEEPS):
            old = new[1:].copy()
            cells = known + guess[:-1] + guess[1:]
            cells[-1] += guess[-2]  # the corner above the diagonal mirrors the one below
            np.cumsum(cells, out=cells)
            cells *= quarter
            new[1:-1] = row[1:] + cells[:-1]
            new[-1] = new[-2] + cells[-1]
            if not np.isfinite(new[-1]):
                return math.inf
            if (np.abs(new[1:] - old) <= 8 * _ROUNDING * np.abs(old)).all():
                break
            states[i + 1] = branch.state(new[-1:])[0]
            guess = branch.row(new, states[: i + 2])
        else:
            return math.nan
        row, phi, before = new, guess, phi
    return float(row[-1])


def _romberg(values: list[float]) -> tuple[float, float]:
    """The limit of values at steps h, h/2, h/4, … with an expansion in even powers of h, and the table's spread."""
    previous: list[float] = []
    for value in values:
        entries = [value]
        for j, earlier in enumerate(previous, start=1):
            entries.append(entries[-1] + (entries[-1] - earlier) / (4**j - 1))
        corner, previous = previous[-1] if previous else math.nan, entries
    best = previous[-1]
    return best, max(abs(best - corner), abs(best - previous[-2]))
