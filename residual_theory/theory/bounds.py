"""Closed lower and upper bounds of R² at every number of loops and layers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from residual_theory.errors import InputError
from residual_theory.stack import Stack
from residual_theory.theory.arguments import refuse_post_norm, refuse_variants

KAPPA: dict[str, Callable[[float], float]] = {  # E[φ(u) φ(v)] of unit variances against the correlation
    "relu": lambda c: (math.sqrt(max(0.0, 1 - c * c)) + (math.pi - math.acos(c)) * c) / math.tau,
    "linear": lambda c: c,
}
_LARGEST_SUM = 10**7  # visits; the bounds hold a few arrays of this length


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
      The least of the three is taken.
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
    if not isinstance(stack.activation, str) or stack.activation not in KAPPA:
        raise InputError("activation", stack.activation, "bounds are known for 'relu' and 'linear'")
    refuse_post_norm(stack.normalization)
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
    gain += math.log(KAPPA[stack.activation](1.0))
    untied = stack.blocks * _log_sum(0.0, gain)
    if not stack.tied or stack.loops == 1:
        return Bounds(start + untied, start + untied)
    coherent = _log_sum_of_squares(stack.blocks, gain - math.log(stack.unique_layers))
    if stack.activation == "linear" and stack.unique_layers == 1:
        return Bounds(start + coherent, start + coherent)
    upper = min(stack.blocks * _log_sum(0.0, gain + math.log(stack.loops)), _log_cosh_squared(stack, gain))
    return Bounds(start + max(coherent, untied), start + upper)


def _log_cosh_squared(stack: Stack, log_gain: float) -> float:
    """log cosh² u with the least u of `bounds`."""
    root = _exponential(log_gain / 2)
    u = min(stack.blocks * root, stack.blocks * _log_sum(0.0, log_gain / 2) + math.log(2 - 2 / (2 + root)))
    a_loop = root * math.sqrt(stack.unique_layers)
    if a_loop < 1:
        u = min(u, -stack.loops * math.log1p(-a_loop))
    return 2 * (u + math.log1p(math.exp(-2 * u)) - math.log(2))


def _normalised_bounds(stack: Stack, start: float, log_gain: float) -> Bounds:
    kappa, loops = KAPPA[str(stack.activation)], stack.loops
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
