"""Causal attention backward: covariances of gradients at the inputs, the path through the logits included.

Given the forward pass of two visits that share weights, what comes back through W_V, W_Q and W_K is three independent
Gaussian vectors, and by Price's theorem E ∂_i f(g) ∂_j f'(g') = ∂E[f f']/∂Cov(g_i, g'_j). So with F (query, query') the
covariance of the outputs as a function of the correlations C (key, key') between the visits, what each visit has alone
held fixed, gradients of covariance M at the outputs have at the inputs the covariance
  Σ_tt' M_tt' dF_tt'/dC_ss',
C entering F by what is averaged (W_V) and by the logits' covariance v² C_tt' C_ss' ρ (query: W_Q, key: W_K). The same
derivative in the logits' covariance gives the shares of W_Q and W_K in the tangent kernel.

F is that of `attention_covariance` with one thing added: its exponent v² G_tt' G_ss' (aa' + (√(bb') − aa') x) is right
where the visits' logits decorrelate (x = 0) and where they are the same (x = 1), but its slope only at x = 0. At x = 1
it is e (`steepness`), an integral over independent logits as a and b are, so the slope is taken as
  d(exponent)/d log covariance ∝ aa' + 2 (√(bb') − aa') x + (√(ee') − 2 √(bb') + aa') (n x^(n−1) − (n − 1) x^(n−2)),
whose integral from 0 to 1 is what the forward pass has, with n = 4. Exact are: order v² for every C, but for what the
forward pass leaves out; any v² for t = t' of one visit whose keys are all equally correlated, without rotation. Another
n and another e tell how much the rest matters: `sampled_steepness` takes e from logits of the visit's own covariance.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from scipy import special

from residual_theory.arrays import Array
from residual_theory.kernels.attention import LARGEST_VARIANCE, averaging, correlation, taylor_order, window

_LARGEST_SPREAD = 2048.0  # of logits: Z below falls like 1/√λ beyond it
_DEGREES = (12, 32)  # in log t and log(1 + λ)
_SAMPLES = 2**12  # of a query's logits
_NEGLIGIBLE = 1e-6  # a share of what comes back whose error is of no account
_CHUNK = 2**13  # numbers an intermediate array holds


class Sided(NamedTuple):
    """What is needed of one visit, or of m stacked ones, alone."""

    state: Array  # `attention_state`, (…, T + 6, T)
    steepness: Array  # e of each query, (…, T)


class Backward(NamedTuple):
    """What one visit's attention sends back against m others with the same weights, without the factor v²."""

    inputs: Array  # Σ_tt' M_tt' dF_tt'/dC_ss', (m, T, T)
    logits: Array  # dF_tt'/d log(covariance of the logits), (m, T, T): the shares of W_Q and of W_K alike


def attention_backward(
    cosine: Array,
    left: Sided,
    right: Sided,
    outer: Array,
    logit_variance: float,
    rotation: Array | None,
    power: int,
) -> Backward:
    """Derivatives of F in the correlations between one visit and m others, contracted with `outer`.

    Arguments:
      cosine, left, right, logit_variance, rotation: as of `attention_covariance`, with e beside the states.
      outer: M (m, T, T), the covariance of gradients at the outputs. power: n ≥ 3 of the module's text.
    Source: docs/theory.md, "A Llama-like block".
    """
    chunk = max(1, _CHUNK // cosine.shape[-1] ** 2)
    parts = []
    for start in range(0, len(cosine), chunk):
        part = slice(start, start + chunk)
        others = Sided(right.state[part], right.steepness[part])
        pair = _Pair.of(cosine[part], left, others, logit_variance, rotation, power)
        parts.append(pair.send_back(outer[part]))
    return Backward(*(np.concatenate(found) for found in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Pair:
    """One visit against m others; pairs of keys weigh w = A A' exp(c G)(1 − c (row mean + column mean − 2 mean))."""

    cosine: Array  # C (m, T, T)
    rotation: Array | float  # ρ (T, T)
    first: Array  # A (T, T)
    second: Array  # A' (m, T, T)
    values: Array  # G, and its means over the keys seen, as `window` has them
    rows: Array
    columns: Array
    mean: Array
    strength: Array  # c (query, query')
    steepness: Array  # d(c G)/dG = d(c G)/d log(query's correlation)/G, over ρ C

    @staticmethod
    def of(
        cosine: Array, left: Sided, right: Sided, logit_variance: float, rotation: Array | None, power: int
    ) -> "_Pair":
        tokens = cosine.shape[-1]
        turned = 1.0 if rotation is None else rotation
        pairs = cosine * turned
        middle = (pairs.max((1, 2), keepdims=True) + pairs.min((1, 2), keepdims=True)) / 2
        found = window(pairs - middle)
        ours, theirs = left.state[tokens:], right.state[:, tokens:]
        x = correlation(pairs, found.squares, ours, theirs)
        linear = ours[0][:, None] * theirs[:, 0, None, :]
        full = np.sqrt(ours[1][:, None] * theirs[:, 1, None, :])
        end = np.sqrt(left.steepness[:, None] * right.steepness[:, None, :])
        bend = (end - 2 * full + linear) * (power * x ** (power - 1) - (power - 1) * x ** (power - 2))
        return _Pair(
            cosine=cosine,
            rotation=turned,
            first=left.state[:tokens],
            second=right.state[:, :tokens],
            values=found.values,
            rows=found.rows,
            columns=found.columns,
            mean=found.mean,
            strength=logit_variance * pairs * (linear + (full - linear) * x),
            steepness=logit_variance * (linear + 2 * (full - linear) * x + bend),
        )

    def without_logits(self) -> "_Pair":
        """The same weights, of which nothing passes through the logits."""
        return replace(self, steepness=np.zeros_like(self.steepness))

    def send_back(self, outer: Array) -> Backward:
        """The derivatives of F = Σ w C/Σ w."""
        plain, total, change = self._sums()
        value = total[:, 1] / total[:, 0]
        per_strength = (change[:, 1] - value * change[:, 0]) / total[:, 0]
        by_query = per_strength * self.steepness * self.rotation
        share = outer / total[:, 0]
        keys = share * self.steepness * self.cosine * self.rotation  # M c'/Σ w
        averaged, direct, offset = np.moveaxis(self._spread(np.stack((share, keys, keys * value), axis=1)), 1, 0)
        through_keys = self.cosine * direct - offset + self._centring(keys, value, plain)
        return Backward(averaged + self.rotation * through_keys + outer * by_query, by_query * self.cosine)

    def _terms(self) -> tuple[int, Array]:
        """How many powers of c G are needed, and 1 and C as (m, 2, T, T)."""
        order = taylor_order(float(np.max(np.abs(self.strength)) * np.max(np.abs(self.values))))
        return order, np.stack((np.ones_like(self.cosine), self.cosine), axis=1)

    def _sums(self) -> tuple[Array, Array, Array]:
        """Σ A A' exp(c G) C^i, Σ w C^i and the derivative of the latter in c, each (m, 2, query, query')."""
        order, term = self._terms()
        others = self.second[:, None].swapaxes(-1, -2)
        rows, columns, mean = (x[:, None] for x in (self.rows, self.columns, self.mean))
        power, before = np.ones_like(self.cosine)[:, None], np.zeros(())
        plain, total, change = (np.zeros_like(term) for _ in range(3))
        for k in range(order + 1):
            if k:
                term = term * self.values[:, None] / k
                before, power = power, power * self.strength[:, None]
            ahead = term @ others
            own = self.first @ ahead
            means = self.first @ (rows * ahead) + (columns * (self.first @ term)) @ others - 2 * mean * own
            plain += power * own
            total += power * (own - self.strength[:, None] * means)
            change += k * before * own - (k + 1) * power * means
        return plain, total, change

    def _spread(self, sources: Array) -> Array:
        """Σ_tt' w X_tt' over pairs of queries for every pair of keys, (m, i, T, T), from X (m, i, query, query')."""
        order, _ = self._terms()
        term = np.ones_like(self.cosine)
        out, power = np.zeros_like(sources), np.asarray(sources)
        back, others = self.first.T, self.second[:, None]
        rows, columns, mean = (x[:, None] for x in (self.rows, self.columns, self.mean))
        for k in range(order + 1):
            if k:
                term = term * self.values / k
            following = power * self.strength[:, None]
            found = back @ ((power + 2 * following * mean) @ others)
            found -= (rows * (back @ following)) @ others + back @ (columns * (following @ others))
            out += term[:, None] * found
            power = following
        return out

    def _centring(self, keys: Array, value: Array, plain: Array) -> Array:
        """What the derivative passes on through the means of G over rows and columns."""
        order, term = self._terms()
        average, others = averaging(self.cosine.shape[-1]), self.second
        power, less = keys, keys * value
        rows, columns = np.zeros_like(keys), np.zeros_like(keys)  # (key, query'), (query, key')
        for k in range(order + 1):
            if k:
                term = term * self.values[:, None] / k
                power, less = power * self.strength, less * self.strength
            ahead, behind = term @ others[:, None].swapaxes(-1, -2), self.first @ term
            rows += (self.first.T @ power) * ahead[:, 1] - (self.first.T @ less) * ahead[:, 0]
            columns += behind[:, 1] * (power @ others) - behind[:, 0] * (less @ others)
        both = 2 * keys * (plain[:, 1] - value * plain[:, 0])
        return np.asarray(average.T @ (both @ average - columns) - rows @ average)


def steepness(state: Array) -> Array:
    """e of each query: d log(E[p_1 p'_1]/E[p_1 p'_2])/dμ at μ = λ, for two visits whose logits have covariance μ.

    By Price's theorem e = Z/(Y (1 − Y)) with Z = t Σ_s E(∂p_1/∂g_s)² and Y = t E p_1² for the state's t_eff independent
    logits of variance λ; Y is that of the forward pass, Y/(1 − Y) = exp(b λ)/(t − 1). It tends to 1 as λ → 0.

    Arguments: state: `attention_state` of one visit.
    Returns: (T,), 0 where the weights do not fluctuate.
    """
    _, full, _, _, keys, variance = state[state.shape[1] :]
    odds = np.exp(full * variance) / np.maximum(keys - 1, 1.0)
    found = _Release.table(float(keys.max()), float(variance.max())).at(keys, variance)
    return np.asarray(np.where(full > 0, found * (1 + odds) ** 2 / odds, 0.0))


def sampled_steepness(own: Array, side: Sided, logit_variance: float, rotation: Array | None) -> Array:
    """e of a visit that makes right what it sends back to itself, from sampled logits.

    Some queries are sampled, about eight at even distances in log t, each with a gradient at its own output alone. A
    factor on e that is linear in log t between them makes right either the trace of what comes back at the inputs or
    the share of W_Q, whichever changes it more. About one per cent of it is noise.
    """
    tokens = len(own)
    queries = np.unique(np.geomspace(2, tokens, 8).round().astype(int)) - 1
    alike = Sided(*(np.broadcast_to(part, (len(queries), *part.shape)) for part in side))
    cosine = np.broadcast_to(own, (len(queries), tokens, tokens))
    pair = _Pair.of(cosine, side, alike, logit_variance, rotation, power=4)
    outer = np.zeros(cosine.shape)
    outer[np.arange(len(queries)), queries, queries] = 1.0
    whole, fixed = (np.einsum("mtt->m", p.send_back(outer).inputs) for p in (pair, pair.without_logits()))
    logits = np.diag(pair.send_back(outer).logits[0])[queries]
    factors = []
    for t, all_closed, fixed_closed, logits_closed in zip(queries, whole, fixed, logits, strict=True):
        seen = own[: t + 1, : t + 1]
        strength = logit_variance * own[t, t]
        covariance = strength * (seen if rotation is None else seen * rotation[: t + 1, : t + 1])
        through_logits, at_inputs = _sampled(seen, covariance, strength, own[t, t])
        found = [1.0]
        if all_closed - fixed_closed > _NEGLIGIBLE * all_closed:
            found.append((at_inputs - fixed_closed) / (all_closed - fixed_closed))
        if logits_closed > _NEGLIGIBLE * all_closed:
            found.append(through_logits / logits_closed)
        factors.append(max(found, key=lambda x: abs(x - 1)))
    factor = np.interp(np.log(np.arange(1, tokens + 1)), np.log(queries + 1), np.maximum(factors, 0.0))
    return np.asarray(side.steepness * factor)


def _sampled(seen: Array, covariance: Array, strength: float, size: float) -> tuple[float, float]:
    """What one query sends back to itself: dF_tt/d log(covariance of the logits), and the trace at the inputs.

    Arguments: seen: C (t, t) of its keys. covariance: Γ of its logits. strength: v² C_tt. size: C_tt.
    """
    values, vectors = np.linalg.eigh(covariance)
    logits = _normals(len(seen)) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    average = p @ seen
    second = (p * average).sum(1, keepdims=True)
    moved = p @ (covariance * seen) - 2 * (p * average) @ covariance + second * (p @ covariance)
    through_logits = float((p * moved).sum(1).mean())
    squares = p**2 * (1 + strength * (np.diag(seen) - 2 * average + second))  # E p_s², and v² C_tt E(∂…/∂g_s)²
    return through_logits, float(squares.sum(1).mean()) + (through_logits / size if size else 0.0)


@lru_cache(maxsize=16)
def _normals(dimensions: int) -> Array:
    """Standard normal vectors spread evenly, (sample, dimension)."""
    from scipy.stats import qmc  # slow to import, and needed for gradients of attention only

    points = qmc.Sobol(dimensions, seed=np.random.default_rng(1)).random(_SAMPLES)
    return np.asarray(special.ndtri(np.clip(points, 1e-12, 1 - 1e-12)))


class _Release(NamedTuple):
    """log Z, interpolated in log t and log(1 + λ)."""

    coefficients: Array
    ends: tuple[float, float]

    @staticmethod
    def table(tokens: float, variance: float) -> "_Release":
        """For 2 ≤ t ≤ tokens and λ ≤ variance, both rounded up so that few tables are made."""
        steps = [float(np.exp2(np.ceil(np.log2(max(x, least))))) for x, least in ((tokens, 4.0), (variance, 1.0))]
        return _Release._made(steps[0], min(steps[1], _LARGEST_SPREAD))

    @staticmethod
    @lru_cache(maxsize=32)
    def _made(tokens: float, variance: float) -> "_Release":
        ends = float(np.log(tokens)), float(np.log1p(variance))
        first, second = (np.cos(np.pi * np.arange(n + 1) / n) for n in _DEGREES)
        keys = np.exp(np.log(2) + (ends[0] - np.log(2)) * (1 + first) / 2)
        values = np.stack([np.log(release(keys, float(v))) for v in np.expm1(ends[1] * (1 + second) / 2)], axis=1)
        inverses = [np.linalg.inv(chebyshev.chebvander(x, len(x) - 1)) for x in (first, second)]
        return _Release(inverses[0] @ values @ inverses[1].T, ends)

    def at(self, keys: Array, variance: Array) -> Array:
        """Z of each pair."""
        inside = np.clip(variance, 0.0, np.expm1(self.ends[1]))
        place = 2 * (np.log(keys) - np.log(2)) / (self.ends[0] - np.log(2)) - 1
        rows = chebyshev.chebvander(np.clip(place, -1.0, 1.0), _DEGREES[0])
        columns = chebyshev.chebvander(np.clip(2 * np.log1p(inside) / self.ends[1] - 1, -1.0, 1.0), _DEGREES[1])
        found = np.exp(np.einsum("ti,ij,tj->t", rows, self.coefficients, columns))
        beyond = np.divide(inside, variance, out=np.ones_like(inside), where=variance > inside)
        return np.asarray(found * np.sqrt(beyond))


def release(keys: Array, variance: float) -> Array:
    """Z = t Σ_s E(∂p_1/∂g_s)² for t independent Gaussian logits of variance λ.

    It is E[S_2 − 2 S_3 + S_2²] with S_k = Σ_s p_s^k.
    By the integrals of `participation`, with 1/Z^k = ∫ x^(k−1) exp(−x Z) dx/(k − 1)!.

    >>> release(np.array([2.0, 5.0]), 0.0)
    array([0.25, 0.16])
    """
    spread = np.sqrt(variance)
    finer = max(1.0, float(spread) / np.sqrt(LARGEST_VARIANCE))  # e^g varies more
    normal = np.linspace(-8.5, 8.5, int(160 * finer) + 1)
    chance = np.exp(-0.5 * normal**2)
    chance /= chance.sum()
    log_x = np.linspace(-16.0 - np.log(keys.max()) - 8.5 * spread, 4.5 + 8.5 * spread, 500)
    load = np.exp(np.minimum(log_x[:, None] + spread * normal, 6.5))  # exp(−load) is 0 long before the bound
    moments, term = [], np.exp(-load)  # E load^k exp(−load) at every x
    for _ in range(5):
        moments.append(term @ chance)
        term *= load
    survival = moments[0] ** (keys[:, None] - 2)
    single = (moments[2] - moments[3] + moments[4] / 6) * moments[0]
    found = (survival * (single + (keys[:, None] - 1) * moments[2] ** 2 / 6)).sum(1)
    return np.asarray(keys * found * (log_x[1] - log_x[0]))
