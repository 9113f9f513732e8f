"""Causal attention at initialisation: covariance of a branch's outputs, uneven weights and rotary positions included.

At initialisation the logits g of a query are centred Gaussians in the limit of wide heads, and the softmax weights p
are uniform only as far as their variance is small. Two visits to the same weights have
  Cov(g_ts, g'_t's') = v² C_tt' C_ss' ρ((t − t') − (s − s')),   ρ(Δ) = (2/d_h) Σ_i cos(θ_i Δ),
with C the correlations of the branch's normalised inputs, v = σ0² d, and ρ = 1 without rotary embedding. Outputs have
  F_tt' = v² Σ_ss' E[p_ts p'_t's'] C_ss',
and `attention_covariance` says how E[p p'] is approximated and where that is exact. Nothing is fitted.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from residual_theory.arrays import Array

_ROTARY_BASE = 10_000.0
LARGEST_VARIANCE = 32.0  # of a logit: exp(b λ) of `Couplings` hardly grows beyond it
_SMALLEST_VARIANCE = 1e-3  # that the couplings' tables reach: b is a difference divided by λ, lost to rounding below
_SATURATED = 1e200  # a logit's variance from which softmax is a maximum: larger ones could overflow on the way
_DEGREES = (12, 26)  # of the couplings' interpolants in log t and in the variance: errors below 1e-6 for v² ≤ 3
_TAYLOR_TOLERANCE = 1e-6  # of a product of weights
_CHUNK = 2**14  # numbers an intermediate array holds: a few of them should fit into the cache


@dataclass(frozen=True)
class Attention:
    """One causal attention branch at initialisation: covariances forward.  kernels.attention_backward has the way back.

    Arguments:
      variance: v = σ0² d, the variance of an entry of a query, key or value of a normalised input.
      head_size: d_h, the width of a head. rope: whether queries and keys are rotated, with base 10 000.
    """

    variance: float
    head_size: int
    rope: bool = True

    def state(self, own: Array) -> Array:
        """What `forward` needs of one visit, from the correlations (T, T) of its own inputs: an array (T + 6, T)."""
        return attention_state(own, self.logit_variance, self.rotation(len(own)))

    def forward(self, cosine: Array, left: Array, right: Array) -> Array:
        """F (m, T, T) between one visit and m others with the same weights, as `attention_covariance` but for v²."""
        rotation = self.rotation(cosine.shape[-1])
        return self.square * attention_covariance(cosine, left, right, self.logit_variance, rotation)

    @property
    def square(self) -> float:
        return self.variance * self.variance  # inf where `**` would raise OverflowError

    @property
    def logit_variance(self) -> float:
        return min(self.square, _SATURATED)

    def rotation(self, tokens: int) -> Array | None:
        return rotary_correlation(tokens, self.head_size) if self.rope else None


def averaging(tokens: int) -> Array:
    """U (query, key): uniform weights over the keys that a causal query sees."""
    return np.asarray(np.tril(np.ones((tokens, tokens))) / np.arange(1, tokens + 1)[:, None])


@lru_cache(maxsize=32)
def rotary_correlation(tokens: int, head_size: int) -> Array:
    """ρ(t − s) (T, T): the cosine of the angle between positions t and s, averaged over a head's frequencies."""
    frequency = _ROTARY_BASE ** (-np.arange(0, head_size, 2) / head_size)
    by_distance = np.cos(np.arange(tokens)[:, None] * frequency).mean(1)
    return np.asarray(by_distance[np.abs(np.subtract.outer(np.arange(tokens), np.arange(tokens)))])


def attention_state(own: Array, logit_variance: float, rotation: Array | None = None) -> Array:
    """What `attention_covariance` needs of one visit alone.

    Query t's logits have covariance Γ = v² C_tt (C ∘ ρ); write Γ̂ for Γ after centring its rows and columns over the
    keys s ≤ t. Then the mean weights are A_ts ∝ exp(½ b_t Γ̂_ss), with a_t, b_t the couplings (see `Couplings`) of
    t_eff = 1 + (tr Γ̂)²/tr Γ̂² keys of variance λ = tr Γ̂ · t_eff/(t (t_eff − 1)). These are the number and the
    variance of the keys if all pairs are equally correlated, and of their groups if they are equal groups of copies.

    Arguments:
      own: C (T, T), correlations of the visit's inputs. logit_variance: v². rotation: ρ(t − s) (T, T), None for 1.
    Returns: (T + 6, T): A, then for each query a, b, tr Γ̂²/(v² C_tt)², C_tt, t_eff and λ.

    >>> attention_state(np.array([[1.0, 0.2], [0.2, 1.0]]), 0.5).round(4)
    array([[1.    , 0.    ],
           [0.5   , 0.5   ],
           [0.    , 0.8528],
           [0.    , 0.7413],
           [0.    , 0.64  ],
           [1.    , 1.    ],
           [2.    , 2.    ],
           [0.    , 0.4   ]])
    """
    tokens = len(own)
    pairs = own if rotation is None else own * rotation
    found = window(pairs - pairs.mean())
    size = np.diag(own)
    seen = np.tril(np.ones((tokens, tokens)))
    centred = seen * (np.diag(found.values) - 2 * found.rows.T + np.diag(found.mean)[:, None])  # (query, key)
    trace, squares, count = centred.sum(1), np.diag(found.squares), np.arange(1, tokens + 1)
    free = (trace > 1e-12 * count) & (squares > 0)  # else the weights do not fluctuate, nor couple to others
    keys = 1 + np.maximum(np.divide(trace**2, squares, out=np.ones(tokens), where=free), 1.0)
    variance = logit_variance * size * np.maximum(trace, 0.0) * keys / (count * (keys - 1))
    linear, full = Couplings.table(max(tokens, 3), logit_variance).at(keys, variance)
    linear, full = linear * free, full * free
    exponent = 0.5 * (logit_variance * size * full)[:, None] * centred
    weights = seen * np.exp(exponent - exponent.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return np.concatenate((weights, [linear, full, np.where(free, squares, 0.0), size, keys, variance]))


def attention_covariance(
    cosine: Array, left: Array, right: Array, logit_variance: float, rotation: Array | None = None
) -> Array:
    """Σ_ss' E[p_ts p'_t's'] C_ss' between one visit's causal attention and that of m visits to the same weights.

    The weights are taken to have
      E[p_ts p'_t's'] ∝ A_ts A'_t's' exp(c_tt' Ĝ_ss'),  G = C ∘ ρ,  c_tt' = v² G_tt' (aa' + (√(bb') − aa') x),
    summing to 1, with A, a, b those of `attention_state`, Ĝ centred over what both queries see, and x the correlation
    of the two centred vectors of logits. c G is kept to all orders, its row and column means to first order.

    Exact are: any v² if all C_ss' are equal, since Σ p = 1; any v² for t = t' of one visit whose keys are all equally
    correlated (for t = 2 they are) without rotation; the limit t → ∞ if row means agree and centred logits decorrelate,
    where E[p p'] ∝ exp(Cov(g, g')); and order v² for every C, but for one thing: ρ(t − t') ρ(s − s') stands for
    ρ((t − t') − (s − s')), exact if t = t' or if C_ss' = 0 for s ≠ s' (else, for heads of 64, within 0.002 v² on the
    correlations that blocks looped 4 to 16 times have). Heads are taken to be wide: at v² = 2.7 those of 64 give 0.4 %
    less if all inputs are orthogonal, and are closer than that otherwise.

    Arguments:
      cosine: C (m, T, T). left: this visit's state, right: the others' (m, …). logit_variance: v². rotation: ρ(t − s).
    Returns: (m, T, T), without the factor v².
    Source: docs/theory.md, "A Llama-like block".

    >>> own = np.array([[1.0, 0.2], [0.2, 1.0]])
    >>> state = attention_state(own, 1.7)
    >>> attention_covariance(own[None], state, state[None], 1.7)[0].round(4)
    array([[1.    , 0.6   ],
           [0.6   , 0.7302]])
    """
    chunk = max(1, _CHUNK // cosine.shape[-1] ** 2)
    out = np.empty(cosine.shape)
    for start in range(0, len(cosine), chunk):
        part = slice(start, start + chunk)
        out[part] = _covariance(cosine[part], left, right[part], logit_variance, rotation)
    return out


def _covariance(cosine: Array, left: Array, right: Array, logit_variance: float, rotation: Array | None) -> Array:
    """Σ w C/Σ w with w = A A' exp(c G)(1 − c (row mean + column mean − 2 mean)), by Taylor's series of exp(c G)."""
    tokens = cosine.shape[-1]
    pairs = cosine if rotation is None else cosine * rotation
    middle = (pairs.max((1, 2), keepdims=True) + pairs.min((1, 2), keepdims=True)) / 2  # constants in G cancel
    found = window(pairs - middle)
    strength = logit_variance * pairs * _coupling(pairs, found.squares, left[tokens:], right[:, tokens:])  # c
    weights, others = left[:tokens], np.swapaxes(right[:, None, :tokens], -1, -2)  # A (T, T), A' (m, 1, T, T)
    rows, columns, mean = (x[:, None] for x in (found.rows, found.columns, found.mean))
    term = np.stack((np.ones_like(cosine), cosine), axis=1)  # G^k/k! and C G^k/k!, (m, 2, T, T)
    power, total = np.ones_like(cosine), np.zeros_like(term)  # power: c^k
    order = taylor_order(float(np.max(np.abs(strength)) * np.max(np.abs(found.values))))
    for k in range(order + 1):
        if k:
            term *= found.values[:, None]
            term /= k
            power *= strength
        ahead = term @ others  # summed over the other visit's keys: (key, query of the other)
        plain = weights @ ahead
        total += power[:, None] * plain
        if k < order:
            centring = weights @ (rows * ahead) + (columns * (weights @ term)) @ others - 2 * mean * plain
            total -= (power * strength)[:, None] * centring
    return np.asarray(total[:, 1] / total[:, 0])


def taylor_order(reach: float) -> int:
    """How many powers of x exp(x) needs for |x| ≤ reach; at least one, for order v²."""
    if not np.isfinite(reach):
        return 1
    order, left_out = 1, reach**2 / 2
    while left_out > _TAYLOR_TOLERANCE:
        order += 1
        left_out *= reach / (order + 1)
    return order


def _coupling(pairs: Array, squares: Array, left: Array, right: Array) -> Array:
    """aa' + (√(bb') − aa') x (m, T, T)."""
    linear = left[0][:, None] * right[:, 0, None, :]
    full = np.sqrt(left[1][:, None] * right[:, 1, None, :])
    return np.asarray(linear + (full - linear) * correlation(pairs, squares, left, right))


def correlation(pairs: Array, squares: Array, left: Array, right: Array) -> Array:
    """x (m, T, T), of two queries' centred vectors of logits, from G and its centred squares."""
    index = np.arange(pairs.shape[-1])
    shorter = np.minimum.outer(index, index)  # keys that only the later query sees have no share in x
    norm = np.sqrt(left[2][shorter] * right[:, 2][:, shorter]) * (left[3][:, None] * right[:, 3, None, :])
    squared = np.divide(pairs**2 * squares, norm, out=np.zeros_like(pairs), where=norm > 0)
    return np.asarray(np.copysign(np.sqrt(np.minimum(squared, 1.0)), pairs))


class Window(NamedTuple):
    """Sums over the keys that causal queries see, by running sums; every array is (..., T, T)."""

    values: Array  # (key, key')
    rows: Array  # (key, query'): mean over key' ≤ query'
    columns: Array  # (query, key'): mean over key ≤ query
    mean: Array  # (query, query'): mean over both
    squares: Array  # (query, query'): sum of squares once the row and column means are taken out


def window(values: Array) -> Window:
    count = np.arange(1, values.shape[-1] + 1)
    rows = np.cumsum(values, -1) / count
    columns = np.cumsum(values, -2) / count[:, None]
    mean = np.cumsum(rows, -2) / count[:, None]
    squares = np.cumsum(np.cumsum(values**2, -1), -2) + mean**2 * count * count[:, None]
    squares -= np.cumsum(rows**2, -2) * count + np.cumsum(columns**2, -1) * count[:, None]
    return Window(values, rows, columns, mean, np.maximum(squares, 0.0))


class Couplings(NamedTuple):
    """How much less t keys couple the weights of two visits than infinitely many would.

    For t independent logits of variance λ let Y = t E p_1². Then E p_1²/E[p_1 p_2] = exp(b λ) within a visit, with
    b = log(Y (t − 1)/(1 − Y))/λ. Between two visits whose logits have covariance μ → 0,
    E[p_1 p'_1]/E[p_1 p'_2] = 1 + a² μ with a = (1 − Y) t/(t − 1), by E ∂p_1/∂g_1 = E[p_1 (1 − p_1)]. Both tend to 1 as
    λ → 0 or t → ∞. The same holds for logits that are all equally correlated, a shift they share being without effect.
    """

    coefficients: Array  # (2, degree in log t + 1, degree in λ + 1)
    ends: tuple[float, float]  # of log t and λ

    @staticmethod
    @lru_cache(maxsize=32)
    def table(tokens: int, logit_variance: float) -> "Couplings":
        """Chebyshev interpolants of a and b for 2 ≤ t ≤ tokens and λ ≤ 2 v², the most that λ can be."""
        ends = (float(np.log(tokens)), min(max(2 * logit_variance, _SMALLEST_VARIANCE), LARGEST_VARIANCE))
        first, second = (np.cos(np.pi * np.arange(n + 1) / n) for n in _DEGREES)  # the last of `second` is λ = 0
        keys = np.exp(np.log(2) + (ends[0] - np.log(2)) * (1 + first) / 2)
        variances = ends[1] * (1 + second[:-1]) / 2
        share = np.stack([participation(keys, variance) for variance in variances], axis=1)
        values = np.ones((2, len(first), len(second)))  # both are 1 at λ = 0
        values[0, :, :-1] = (1 - share) * (keys / (keys - 1))[:, None]
        values[1, :, :-1] = np.log(share * (keys - 1)[:, None] / (1 - share)) / variances
        inverses = [np.linalg.inv(chebyshev.chebvander(x, len(x) - 1)) for x in (first, second)]
        return Couplings(inverses[0] @ values @ inverses[1].T, ends)

    def at(self, keys: Array, variance: Array) -> tuple[Array, Array]:
        """a and b of each pair; beyond the largest λ of the table a² λ and b λ stay as they are there."""
        inside = np.clip(variance, 0.0, self.ends[1])
        place = 2 * (np.log(keys) - np.log(2)) / (self.ends[0] - np.log(2)) - 1
        rows = chebyshev.chebvander(np.clip(place, -1.0, 1.0), _DEGREES[0])
        columns = chebyshev.chebvander(2 * inside / self.ends[1] - 1, _DEGREES[1])
        linear, full = np.einsum("ti,aij,tj->at", rows, self.coefficients, columns)
        kept = np.divide(inside, variance, out=np.ones_like(inside), where=variance > self.ends[1])
        return linear * np.sqrt(kept), full * kept


def participation(keys: Array, variance: float) -> Array:
    """Y = t E p_1² for t = `keys` independent Gaussian logits of one variance λ; t need not be an integer.

    Y = t ∫ x² E[e^(2g − x e^g)] E[exp(−x e^g)]^(t − 1) dx/x, from 1/Z² = ∫ x exp(−x Z) dx; trapezoidal sums over g and
    log x, which converge exponentially for these analytic integrands.

    >>> participation(np.array([1.0, 2.0, 1e4]), 0.7) * [1, 1, 1e4 * np.exp(-0.7)]
    array([1.        , 0.60942754, 0.99969345])
    """
    normal = np.linspace(-8.5, 8.5, 161)
    chance = np.exp(-0.5 * normal**2)
    chance /= chance.sum()
    spread = np.sqrt(variance)
    log_x = np.linspace(-16.0 - np.log(keys.max()) - 8.5 * spread, 4.5 + 8.5 * spread, 500)
    load = np.exp(np.minimum(log_x[:, None] + spread * normal, 300.0))  # x e^g; exp(−load) is 0 long before the bound
    survival = np.exp(-load)
    powers = (survival @ chance) ** (keys[:, None] - 1)
    return np.asarray(keys * (powers @ ((load**2 * survival) @ chance)) * (log_x[1] - log_x[0]))
