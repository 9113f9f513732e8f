"""Many loops: the limit of R² under the factored rule, bounds at every size, and rates of growth."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from residual_theory.branches.law import Activation
from residual_theory.errors import InputError
from residual_theory.scaling import rule_value
from residual_theory.stack import Stack
from residual_theory.theory.dual import dual_of
from residual_theory.theory.hermite import Series

Array = NDArray[np.float64]

_COARSEST, _FINEST = 8, 4096  # intervals of the grids
_GRIDS = 4  # how many grids there must be before the spread of their extrapolation table is believed
_SWEEPS = 60
_MOST_WORK = 4e7  # values of Φ, weighted by `Branch.cost`: some seconds
_RAW_SERIES, _UNIT_SERIES = 100.0, 25.0  # what a value of Φ without a closed form costs, at any variance and at 1
_ROUNDING, _LARGEST = float(np.finfo(np.float64).eps), float(np.finfo(np.float64).max)
_LARGEST_SUM = 10**7  # visits; the bounds hold a few arrays of this length
_KAPPA: dict[str, Callable[[float], float]] = {  # E[φ(u) φ(v)] of unit variances against the correlation
    "relu": lambda c: (math.sqrt(max(0.0, 1 - c * c)) + (math.pi - math.acos(c)) * c) / math.tau,
    "linear": lambda c: c,
}


class Branch(NamedTuple):
    """The covariance Φ of a branch's outputs, for one row of the covariance of its inputs.

    `state` maps variances (m) to whatever the kernel wants to know of them, (m, S). `row` maps the covariances (m)
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
    Returns: a Limit, dimensionless. Its error is the spread of the last entries of the extrapolation table: large
      against the true error once the grids resolve k, and no proof; what the kernel itself errs by, `Dual.error`,
      comes on top. When R² leaves float64 on the finest grid both are inf.
    Raises: InputError naming the argument; `tolerance` or `strength` also when grids of a few seconds cannot resolve k.
    Source: docs/theory.md; arXiv:2606.18524, Theorem 3 (that R² is bounded in N and L).

    >>> limit = loop_limit(1.5, weight_variance=0.64, initial_variance=2.0)
    >>> round(limit.value, 7), limit.error < 1e-8 * limit.value
    (3.730295, True)
    """
    strength = _number("strength", strength)
    tolerance = _number("tolerance", tolerance, least=1e-12, most=1.0)
    _raw_or_pre_norm(normalization)
    stack = Stack(loops=1, weight_variance=_plain(weight_variance), initial_variance=_plain(initial_variance))
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
        coarsest = _FINEST >> (_GRIDS - 1 if branch.cost <= 1 else _GRIDS + 3)  # dear kernels must save on grids
        while intervals < min(growth, coarsest):  # k may grow e-fold on a scale of 1/growth
            intervals *= 2
        limited, finest = _limited(branch), 0
        try:
            while intervals <= _FINEST:
                last, finest = _trapezoid(limited, strength, initial_variance, intervals), intervals
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


def _limited(branch: Branch) -> Branch:
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


def _plain(value: Any) -> Any:  # narrow floats of NumPy overflow when compared with wide ones
    return float(value) if isinstance(value, np.floating | np.integer) else value


def _raw_or_pre_norm(normalization: object) -> None:
    if not isinstance(normalization, str) or normalization not in ("none", "rms"):
        raise InputError("normalization", normalization, "only 'none' and 'rms' are known here")


def _number(name: str, value: object, least: float = 0.0, most: float = _LARGEST) -> float:
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not least <= plain <= most:
        raise InputError(name, value, f"give a number from {least:g} to {most:g}")
    return float(plain)


@dataclass(frozen=True)
class Bounds:
    """Natural logarithms of a lower and an upper bound of R², which may itself lie beyond float64."""

    log_lower: float
    log_upper: float

    @property
    def lower(self) -> float:
        """The lower bound, inf beyond float64."""
        return _exponential(self.log_lower)

    @property
    def upper(self) -> float:
        """The upper bound, inf beyond float64."""
        return _exponential(self.log_upper)


def bounds(stack: Stack) -> Bounds:
    """Closed lower and upper bounds of the last R² at infinite width, for every N, L and ε.

    Write κ(c) for the kernel at unit variances (κ(1) = 1/2 for ReLU, 1 if linear), V = NL, g = ε²σ_w²κ(1). Raw, tied:
      q0 max{Σ_k C(V, k)² (g/L)^k, (1 + g)^V}  ≤  R²  ≤  q0 min{(1 + gN)^V, cosh² u}.
    Lower: κ(c) ≥ κ(1) c, so the linear stack of the same gain lies below. It has R²/q0 = Σ_w n_w² g^|w| over words w
      in the layers, n_w the number of ways to read w off the V visits. Of the words of length k there are at most L^k,
      and their n_w add up to C(V, k): Cauchy–Schwarz. The untied stack lacks nonnegative terms, so lies below too.
    Upper: κ(c) ≤ κ(1) gives R_a² ≤ q0 + y² with y² = g Σ_l (sum of R over the earlier visits to layer l)². By
      Cauchy–Schwarz y² ≤ gN Σ R², and a discrete Gronwall inequality makes the first term. By Minkowski's inequality
      a loop adds to y at most √(gL) times √(q0 + y²) at its end, whence u = −N log(1 − √(gL)) if gL < 1; a visit adds
      at most √g times √(q0 + y²) at its start, whence u = V√g, and u = V log(1 + √g) + log(2 − 2/(2 + √g)).
      The least of the three counts.
    Both sides agree for one loop; for tied linear stacks of one layer R² is the lower bound. Untied, R² = q0 (1 + g)^V.
    Pre-norm, with x = ε²σ_w²L and correlations of at least c = q0/(q0 + x N² κ(1)),
      q0 + x (N κ(1) + N(N − 1) κ(c))  ≤  R²  ≤  q0 + x N² κ(1),  and  R² = q0 + x N κ(1)  untied.
    So raw stacks are bounded in N and L exactly when εN√L is: the factored rule is necessary and sufficient.

    Arguments:
      stack: a Stack of ReLU or linear activation, raw or pre-norm, untied or shared cyclically, else at its defaults.
    Returns: Bounds, exact but for rounding of some 1e-15 V in the logarithms.
    Raises: InputError naming the field of a stack that is not covered, and for more visits than can be summed over.
    Source: docs/theory.md; arXiv:2606.18524, Theorems 1 and 3 (sufficiency).

    >>> found = bounds(Stack(loops=64, residual_scale="1/sqrt(N)", weight_variance=0.5, initial_variance=2.0))
    >>> round(found.lower, 4), round(found.upper, 4)
    (711.8366, 1245.5266)
    """
    refuse_variants(stack, "bounds are known for single-matrix branches added to a stream that is left alone")
    if not isinstance(stack.activation, str) or stack.activation not in _KAPPA:
        raise InputError("activation", stack.activation, "bounds are known for 'relu' and 'linear'")
    _raw_or_pre_norm(stack.normalization)
    if stack.sharing != "cyclic" and min(stack.loops, stack.unique_layers) > 1:
        raise InputError("sharing", stack.sharing, "bounds are known for 'cyclic' sharing; leave it at its default")
    if stack.blocks > _LARGEST_SUM:
        raise InputError("loops", stack.loops, f"give at most {_LARGEST_SUM} visits; there are {stack.blocks}")
    start = math.log(stack.initial_variance)
    if stack.epsilon == 0:
        return Bounds(start, start)
    gain = 2 * math.log(stack.epsilon) + math.log(stack.weight_variance)
    if stack.normalization == "rms":
        return _normalised_bounds(stack, start, gain)
    gain += math.log(_KAPPA[stack.activation](1.0))
    untied = stack.blocks * _log_sum(0.0, gain)
    if not stack.tied or stack.loops == 1:
        return Bounds(start + untied, start + untied)
    coherent = _log_sum_of_squares(stack.blocks, gain - math.log(stack.unique_layers))
    if stack.activation == "linear" and stack.unique_layers == 1:
        return Bounds(start + coherent, start + coherent)
    upper = min(stack.blocks * _log_sum(0.0, gain + math.log(stack.loops)), _log_cosh_squared(stack, gain))
    return Bounds(start + max(coherent, untied), start + upper)


def refuse_variants(stack: Stack, known: str) -> None:
    """Raise InputError for a field that makes anything but h ← h + ε W φ(h) of visits, `normalization` aside."""
    if not isinstance(stack, Stack):
        raise InputError("stack", stack, "give a Stack")
    for name in ("branch", "prelude", "coda", "loop_normalization", "skip", "carry", "injection"):
        given, ruled = getattr(stack, name), name in ("skip", "carry", "injection")
        value = rule_value(name, given, stack.loops, stack.unique_layers) if ruled else given
        if value != Stack.model_fields[name].default:
            raise InputError(name, given, f"{known}; leave it at its default")


def _log_cosh_squared(stack: Stack, log_gain: float) -> float:
    """log cosh² u with the least u of `bounds`."""
    root = _exponential(log_gain / 2)
    u = min(stack.blocks * root, stack.blocks * _log_sum(0.0, log_gain / 2) + math.log(2 - 2 / (2 + root)))
    a_loop = root * math.sqrt(stack.unique_layers)
    if a_loop < 1:
        u = min(u, -stack.loops * math.log1p(-a_loop))
    return 2 * (u + math.log1p(math.exp(-2 * u)) - math.log(2))


def _normalised_bounds(stack: Stack, start: float, log_gain: float) -> Bounds:
    kappa, loops = _KAPPA[str(stack.activation)], stack.loops
    gain = log_gain + math.log(stack.unique_layers) + math.log(loops)  # of N visits to each layer
    updates = loops if stack.tied else 1
    upper = _log_sum(start, gain + math.log(updates * kappa(1.0)))
    least = kappa(math.exp(start - upper))
    return Bounds(_log_sum(start, gain + math.log(kappa(1.0) + (updates - 1) * least)), upper)


def _log_sum_of_squares(n: int, log_z: float) -> float:
    """log Σ_k C(n, k)² z^k, by the ratios of consecutive terms."""
    k = np.arange(1, n + 1)
    terms = np.cumsum(2 * np.log((n + 1 - k) / k) + log_z)
    top = max(0.0, float(terms.max()))
    return top + math.log(math.exp(-top) + float(np.exp(terms - top).sum()))


def _log_sum(x: float, y: float) -> float:
    return max(x, y) + math.log1p(math.exp(-abs(x - y)))


def _exponential(x: float) -> float:
    return math.exp(x) if x < 709.78 else math.inf


def growth_exponents(loop_exponent: float, layer_exponent: float = 0.5) -> tuple[float, float]:
    """The powers of N and of L at which log R² grows under ε = N^-a L^-b, for raw tied stacks.

    log(R²/q0) = Θ(N^max(0, 1 − a)) at fixed L and Θ(L^max(0, 1 − 2b)) at fixed N: the two sides of `bounds`.

    Arguments:
      loop_exponent: a ≥ 0.  layer_exponent: b ≥ 0.
    Returns: the two powers; 0 means that R² stays bounded.
    Raises: InputError naming the exponent that is negative or no finite number.
    Source: docs/theory.md; arXiv:2606.18524, Theorem 1 (that a = 1 is critical).

    >>> growth_exponents(0.75, 0.25)
    (0.25, 0.5)
    """
    powers = 1.0 - _number("loop_exponent", loop_exponent), 1.0 - 2.0 * _number("layer_exponent", layer_exponent)
    return max(0.0, powers[0]), max(0.0, powers[1])


def growth_constant(
    activation: str = "relu", weight_variance: float = 1.0, *, unique_layers: int = 1, scale: float = 1.0
) -> float:
    """The constant C of log R² ~ C N^(1 − a) under ε = scale · N^-a, 0 < a < 1, for raw tied stacks.

    C = 2 scale σ_w √(κ(1) L): √2 σ_w for ReLU and 2σ_w for linear activation at scale = L = 1. Both sides of `bounds`
    have it. With δ = scale · N^-a σ_w √κ(1) and L = 1 they leave
      −½ log(4πNδ) + log(1 + δ) + O(1/(Nδ))  ≤  log(R²/q0) − 2N log(1 + δ)  ≤  2 log((1 + δ)/(2 + δ)) + O((1 + δ)^-2N),
    of which linear stacks attain the left side (Laplace's asymptotics of Legendre polynomials).

    Arguments:
      activation: "relu" or "linear".  weight_variance: σ_w² > 0.  unique_layers: L ≥ 1.
      scale: > 0; ε = N^-a L^-b has scale = L^-b.
    Returns: C, dimensionless.
    Raises: InputError naming the argument that cannot be used.
    Source: docs/theory.md.

    >>> growth_constant("linear", 2.25, unique_layers=4, scale=0.5)
    3.0
    """
    if not isinstance(activation, str) or activation not in _KAPPA:
        raise InputError("activation", activation, "the constant is known for 'relu' and 'linear'")
    scale = _number("scale", scale, least=math.ulp(0.0))
    checked = Stack(loops=1, unique_layers=unique_layers, weight_variance=_plain(weight_variance))
    gain = checked.weight_variance * _KAPPA[activation](1.0) * checked.unique_layers
    return 2 * scale * math.sqrt(gain)
