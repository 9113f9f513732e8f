"""How far R² of a raw stack of finite width is from its limit: bounds on its mean and its variance, with constants."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from residual_theory.errors import InputError
from residual_theory.stack import Stack
from residual_theory.theory.arguments import refuse_variants
from residual_theory.theory.forward import predict

MOST_VISITS = 1024
_WINDOWS = 2.0 ** -np.arange(-2, 28, 0.5)  # half-widths that a kink is averaged over, in units of √q0; the best counts
Polynomial = dict[tuple[int, int], float]  # coefficients of A^p x^q


class Regularity(NamedTuple):
    """What the bounds use of φ.

    slope: the largest |φ'|.  bend: the largest |φ''|, inf where φ has kinks.  oscillation: the largest change of φ'
    between two points.  origin: |φ(0)|.
    """

    slope: float
    bend: float
    oscillation: float
    origin: float = 0.0


REGULARITY = {
    "linear": Regularity(1.0, 0.0, 0.0),
    "relu": Regularity(1.0, math.inf, 1.0),
    "leaky-relu": Regularity(1.0, math.inf, 0.99),
    "tanh": Regularity(1.0, 4 / (3 * math.sqrt(3)), 1.0),
    "erf": Regularity(2 / math.sqrt(math.pi), 4 / math.sqrt(2 * math.e * math.pi), 2 / math.sqrt(math.pi)),
    "gelu": Regularity(1.1289042, math.sqrt(2 / math.pi), 1.2578084),  # φ' = Φ + xφ at ±√2, rounded upward
    "silu": Regularity(1.0998396, 0.5, 1.1996791),  # where x tanh(x/2) = 2, rounded upward
}


@dataclass(frozen=True)
class _Counts:
    """Visits V, the most of one matrix; pairs Σ n_l², those of two Σ n_l(n_l − 1)/2, and visits between these."""

    visits: int
    most: int
    pairs: int
    earlier: int
    between: int


def variance_bound(stack: Stack, width: int) -> float:
    """An upper bound of Var R² after the last visit at a finite width, for Lipschitz φ.

    With ℓ the largest slope of φ, e = εσ_wℓ, P the number of pairs of visits that share weights (N²L),
    x = ‖h_0‖/√(d q0) + |φ(0)|/(ℓ√q0) and A the product of 1 + εℓ‖W‖ over all visits,
      Var R² ≤ (4 q0²/d) E[A⁴ (1 + e²P x²) x²],   E A^p ≤ (1 + 2e)^(pV) exp(p² e² P/(2d(1 + 2e)²)).
    So by Chebyshev's inequality R² is within t of its mean with probability at least 1 − variance_bound/t². At
    ε = λ/N the bound is at most C(λ)/d, whatever N; it is far from sharp.

    Arguments:
      stack: a Stack h ← h + ε W φ(h), tied in any way: raw, of an activation named in `REGULARITY`.
      width: d ≥ 1.
    Returns: the bound, in units of R⁴; inf beyond float64.
    Raises: InputError naming the field of a stack that the theorem does not cover, or the width.
    Source: docs/theory.md, "The Gaussian limit, and how fast"; derivations/gaussian_limit.py.

    >>> stack = Stack(loops=2, residual_scale=0.25, weight_variance=0.5)
    >>> round(64 * variance_bound(stack, 64), 3)
    51.313
    """
    scaled = _scaled(stack, width)
    return stack.initial_variance**2 * _variance(scaled, scaled.origin) / width


def mean_error_bound(stack: Stack, width: int) -> float:
    """An upper bound of |E R² − K| after the last visit at a finite width, K the limit that `predict` gives.

    For φ of bounded second derivative it is C/d and C does not grow with d; where φ has kinks, as ReLU, it is C/√d:
    then φ is averaged over a window, and the best half-width of a list is taken. The recursion for it, by pairs of
    visits, is written out in the source; it is far from sharp, by orders of magnitude unless εσ_wN√L is small.

    Arguments:
      stack: a Stack h ← h + ε W φ(h), tied in any way: raw, of an activation named in `REGULARITY`.
      width: d ≥ 1.
    Returns: the bound, in units of R²; inf beyond float64.
    Raises: InputError naming the field of a stack that the theorem does not cover, or the width.
    Source: docs/theory.md, "The Gaussian limit, and how fast"; derivations/gaussian_limit.py.

    >>> stack = Stack(loops=2, residual_scale=0.05, activation="tanh")
    >>> [round(width * mean_error_bound(stack, width), 4) for width in (10**3, 10**9)]
    [0.0137, 0.0137]
    """
    scaled = _scaled(stack, width)
    limits = predict(stack, with_gradients=False).second_moment.values / stack.initial_variance
    if math.isfinite(scaled.bend):
        return stack.initial_variance * _bias(scaled, limits, scaled.bend, scaled.origin)
    found = (_averaged(scaled, limits, float(window)) for window in _WINDOWS)
    return stack.initial_variance * min(found)


class _Scaled(NamedTuple):
    """A stack with q0 = σ_w = 1 and slopes of at most 1: h ← h + e W φ(h), |φ''| ≤ bend, |φ(0)| = origin."""

    e: float
    bend: float
    oscillation: float
    origin: float
    width: int
    counts: _Counts
    weights: tuple[int, ...]


def _scaled(stack: Stack, width: int) -> _Scaled:
    refuse_variants(stack, "the theorem is about single-matrix branches added to a stream that is left alone")
    if stack.normalization != "none":
        raise InputError("normalization", stack.normalization, "the theorem is about raw stacks; give 'none'")
    if not isinstance(stack.activation, str) or stack.activation not in REGULARITY:
        raise InputError(
            "activation", stack.activation, f"its slopes are not known; give one of {', '.join(REGULARITY)}"
        )
    if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
        raise InputError("width", width, "give a whole number of at least 1")
    if stack.blocks > MOST_VISITS:
        raise InputError("loops", stack.loops, f"give at most {MOST_VISITS} visits; there are {stack.blocks}")
    slope, bend, oscillation, origin = REGULARITY[stack.activation]
    root = math.sqrt(stack.initial_variance)
    return _Scaled(
        stack.epsilon * math.sqrt(stack.weight_variance) * slope,
        root * bend / slope,
        oscillation / slope,
        origin / (slope * root),
        int(width),
        _counts(weights := tuple(visit.weights for visit in stack.visits)),
        weights,
    )


def _counts(weights: tuple[int, ...]) -> _Counts:
    places: dict[int, list[int]] = defaultdict(list)
    for visit, name in enumerate(weights):
        places[name].append(visit)
    times = [len(visits) for visits in places.values()]
    earlier = sum(n * (n - 1) // 2 for n in times)
    # Σ over pairs of (later − earlier): the visit in place k of n is the later one k times, the earlier n − 1 − k
    apart = sum((2 * k + 1 - len(v)) * visit for v in places.values() for k, visit in enumerate(v))
    return _Counts(len(weights), max(times), sum(n * n for n in times), earlier, apart - earlier)


# -- moments of A = Π (1 + e‖W‖) and x = ‖h_0‖/√d + |φ(0)| ---------------------------------------------------------


def _plus(*terms: Polynomial) -> Polynomial:
    total: Counter[tuple[int, int]] = Counter()
    for term in terms:
        for powers, coefficient in term.items():
            total[powers] += coefficient  # type: ignore[assignment]  # a Counter adds up floats as well
    return dict(total)


def _times(*factors: Polynomial | float) -> Polynomial:
    product: Polynomial = {(0, 0): 1.0}
    for factor in factors:
        by = factor if isinstance(factor, dict) else {(0, 0): factor}
        product = _plus(*({(p + r, q + s): a * b} for (p, q), a in product.items() for (r, s), b in by.items()))
    return product


A: Polynomial = {(1, 0): 1.0}
RHO: Polynomial = {(1, 1): 1.0}  # bounds the stream and its images: ‖h‖/√d + |φ(0)| ≤ A x


def _mean(polynomial: Polynomial, scaled: _Scaled, origin: float) -> float:
    """An upper bound of the mean: h_0 is independent of the weights, and all coefficients are nonnegative."""
    e, d, n = scaled.e, scaled.width, scaled.counts

    def of_weights(p: int) -> float:
        return p * n.visits * math.log1p(2 * e) + p * p * e * e * n.pairs / (2 * d * (1 + 2 * e) ** 2)

    def of_start(q: int) -> float:
        return sum(math.comb(q, k) * origin ** (q - k) * _size(k, d) for k in range(q + 1))

    return sum(
        math.exp(min(of_weights(p), 709.0)) * of_start(q) * a if of_weights(p) < 709 else math.inf
        for (p, q), a in polynomial.items()
        if a
    )


def _size(power: int, d: int) -> float:
    """E (‖h_0‖/√d)^power at q0 = 1; of an odd power the bound by the next even one."""
    even = power + power % 2
    moment = math.prod(1 + 2 * k / d for k in range(even // 2))
    return moment ** (power / even) if power else 1.0


def _sensitivity(scaled: _Scaled) -> Polynomial:
    """A² (1 + e²P x²): d times the squared gradient of a mean over coordinates, by its slope in them."""
    return {(2, 0): 1.0, (2, 2): scaled.e**2 * scaled.counts.pairs}


def _variance(scaled: _Scaled, origin: float) -> float:
    """d Var R², and of a mean of products of images as well."""
    return 4 * _mean(_times(_sensitivity(scaled), RHO, RHO), scaled, origin)


# -- the error of the mean -----------------------------------------------------------------------------------------


def _last(scaled: _Scaled, bend: float, origin: float) -> float:
    """What E R² is off 1 + e² Σ (means of products of images), from the traces of Jacobians and the feedback."""
    n, e = scaled.counts, scaled.e
    traces = _traces(scaled, bend, {(0, 0): 1.0}, {})
    return e * e * _mean(_plus(traces, _times(n.earlier, RHO, RHO)), scaled, origin) / scaled.width


def _traces(scaled: _Scaled, bend: float, value: Polynomial, slopes: Polynomial) -> Polynomial:
    """d/e² times E[(1 + e² Σ ĝ) tr(D (J − I))/d] for D of root mean square `value`, `slopes` in the stream."""
    n, e = scaled.counts, scaled.e
    weight: Polynomial = {(0, 0): 1.0, (2, 2): e * e * n.pairs}
    # ‖W‖ ≤ 2 exp((‖W‖ − 2)/2) beside A^p, p ≤ 5, of whose factors `most` have the same W
    norm = 2 * math.exp(min(700.0, (5 * n.most * e / (1 + 2 * e) + 0.25) / (2 * scaled.width)))
    in_slopes = bend * (n.earlier + norm * e * n.between)
    inner = _plus(_times(n.earlier, value), _times(in_slopes, RHO, value), _times(n.pairs, RHO, slopes))
    grams = _times(2 * e * e * n.pairs**2 / math.sqrt(scaled.width), RHO, RHO, value)
    return _times(A, _plus(_times(weight, inner), grams))


def _pair(scaled: _Scaled, bend: float, origin: float, k: float) -> float:
    """What a mean product of images is off its Gaussian value at the same covariance; k² bounds the limits of R²."""
    n, e = scaled.counts, scaled.e
    one: Polynomial = {(0, 0): 1.0}
    value = _plus(one, _times(2, _plus(RHO, {(0, 0): (math.sqrt(3) + 0.5) * k})))
    slopes = _plus(_times(2 * bend, _plus(RHO, {(0, 0): 1 + (math.sqrt(3) + 1) * k})), {(0, 0): 2.0})
    feedback = _times(2 * n.earlier, RHO, _plus(RHO, {(0, 0): k}))
    direct = _mean(_plus(_traces(scaled, bend, value, slopes), feedback), scaled, origin)
    spread = _mean(_times(_sensitivity(scaled), slopes, slopes), scaled, origin)
    return e * e * (direct + n.pairs * math.sqrt(_variance(scaled, origin) * spread)) / scaled.width


def _bias(scaled: _Scaled, limits: NDArray[np.float64], bend: float, origin: float, apart: float = 0.0) -> float:
    """The bound at q0 = 1 for |φ''| ≤ bend; `apart` is how far √K may be from the `limits`' root.

    With b(i, j) the error of a mean of products of images and B(i, j) = Σ b over p < i, q < j of one matrix,
      b(i, j) ≤ e² (B(i, j) + c_j B(i, i) + c_i B(j, j)) + pair,   c_i = √max(E R_i², K_i) + |φ(0)| + √K/2,
    where E R_i² ≤ K_i + e² B(i, i) + last, and the error of E R² at the end is at most e² B(V, V) + last.
    """
    roots = np.sqrt(limits) + apart
    if not math.isfinite(float(roots.max()) ** 2):
        return math.inf
    k, e2, V = float(roots.max()), scaled.e**2, scaled.counts.visits
    pair, last = _pair(scaled, bend, origin, k), _last(scaled, bend, origin)
    if not math.isfinite(pair + last):
        return math.inf
    weights, most = np.array(scaled.weights), max(k**2, _mean(_times(RHO, RHO), scaled, origin))
    b, row, diagonal, c = np.zeros((V, V)), np.zeros(V + 1), np.zeros(V + 1), np.zeros(V)
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(V):  # row[j] is B(i, j) for j ≤ i
            c[i] = math.sqrt(min(most, roots[i] ** 2 + e2 * diagonal[i] + last * (i > 0))) + origin + k / 2
            row[i] = diagonal[i]
            b[i, : i + 1] = e2 * (row[: i + 1] + c[: i + 1] * diagonal[i] + c[i] * diagonal[: i + 1]) + pair
            if i == 0:
                b[0, 0] = 0.0  # the input is Gaussian
            b[: i + 1, i] = b[i, : i + 1]
            partners = b[i, : i + 1] * (weights[: i + 1] == weights[i])
            row[1 : i + 2] = np.append(row[1 : i + 1], diagonal[i] + partners[:-1].sum()) + np.cumsum(partners)
            diagonal[i + 1] = row[i + 1]
        found = e2 * diagonal[V] + last
    return float(found) if math.isfinite(found) else math.inf


def _averaged(scaled: _Scaled, limits: NDArray[np.float64], window: float) -> float:
    """The bound by way of φ averaged over ± window: that has a second derivative, and is nowhere far from φ."""
    origin, off = scaled.origin + window * scaled.oscillation / 4, window * scaled.oscillation / 4
    growth = scaled.counts.visits * math.log1p(2 * scaled.e)
    apart = off * math.exp(growth) if growth < 354 else math.inf  # its square has to be a float
    moved = 2 * off * _mean({(2, 1): 2.0, (2, 0): off}, scaled, scaled.origin)
    return moved + _bias(scaled, limits, scaled.oscillation / (2 * window), origin, apart)
