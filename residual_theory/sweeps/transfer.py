"""Does the best learning rate move? The best rate of a sweep with its interval, and the loss given up at another."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.statistics.optima import FITS, WIDE, minimum

_SAME = 1e-6  # without noise both ends of an interval are one, which rounding splits


@dataclass(frozen=True)
class BestRate:
    """Where a curve of losses against log rate has its minimum.

    Attributes:
      log_rate, low, high: natural logarithm of the best rate and the ends of its interval; the ends are infinite where
        the seeds cannot tell that the curve turns.
      systematic: how far other fits of the curve lie from it, at most.
      index: the grid point of least mean loss, or -1 when every rate lost a seed. loss: the mean there.
      edge: "low" or "high" when that is the first or last rate that every seed survived, so that a better rate may lie
        beyond; "both" when it is the only one; "flat" when the mean curve does not turn around it, so that the grid
        does not place the best rate; "" when it lies within.
    """

    log_rate: float
    systematic: float
    low: float
    high: float
    index: int
    loss: float
    edge: str


@dataclass(frozen=True)
class Regret:
    """Mean loss at a rate less the mean loss at the best, and its interval; inf when a seed diverged at that rate."""

    value: float
    low: float
    high: float


def best_rate(log_rates: ArrayLike, losses: ArrayLike, *, confidence: float = 0.95) -> BestRate:
    """The optimum of the mean losses in x = log η, with an interval for noise and for the fit.

    The optimum is that of a cubic within two octaves of the least mean loss (`residual_theory.statistics.optima`). Each
    seed has a cubic of its own; noise leaves all x around the optimum at which a t test over seeds cannot tell the mean
    slope from zero (Fieller's interval; n − 1 degrees of freedom). Seeds are paired across rates: what a seed adds to
    all its losses cancels. The systematic error, the largest difference to the other fits, widens that on both sides.

    Arguments:
      log_rates: (rate,), rising. losses: (rate, seed), nats; not finite where a run diverged. A rate is used only if
        every seed survived it. confidence: of the interval.
    Returns: the optimum. At an edge, or where the mean curve does not turn within the window ("flat", and nothing is
      known of the interval), it is the grid point. Three rates, or one seed, leave the interval unknown.
    Raises: InputError for shapes that do not agree and for arguments out of range.
    Source: E. C. Fieller, J. R. Stat. Soc. B 16 (1954) 175.

    >>> x = np.log([1e-3, 2e-3, 4e-3, 8e-3])
    >>> curve = 3 + 0.5 * (x - np.log(3e-3)) ** 2
    >>> found = best_rate(x, np.stack([curve, curve + 0.2], axis=1))
    >>> round(math.exp(found.log_rate), 6), found.index, found.edge
    (0.003, 2, '')
    """
    x, y = _check(log_rates, losses)
    _must_be_share("confidence", confidence)
    usable = np.flatnonzero(np.isfinite(y).all(axis=1))
    unknown = (math.nan, -math.inf, math.inf)
    if not usable.size:
        return BestRate(math.nan, *unknown, -1, math.nan, "both")
    x, y = x[usable], y[usable]
    means = y.mean(axis=1)
    least = int(np.argmin(means))
    ends = {"low": least == 0, "high": least == usable.size - 1}
    edge = "both" if all(ends.values()) else next((name for name, is_end in ends.items() if is_end), "")
    at = minimum(x, means)
    if edge or not math.isfinite(at):
        return BestRate(float(x[least]), *unknown, int(usable[least]), float(means[least]), edge or "flat")
    systematic = float(np.max([abs(minimum(x, means, fit) - at) for fit in FITS]))
    kept = WIDE.around(x, least)
    low, high = _around(at, x[kept], y[kept], confidence) if math.isfinite(systematic) else unknown[1:]
    return BestRate(at, systematic, low - systematic, high + systematic, int(usable[least]), float(means[least]), "")


def _around(at: float, x: Array, y: Array, confidence: float) -> tuple[float, float]:
    """The ends of Fieller's interval around an optimum; infinite where it leaves the points.

    With mean slope s(u) of the seeds' cubics and its variance v(u) over seeds, both polynomials, it ends at the nearest
    zeros of s² − t² v/n.
    """
    seeds = y.shape[1]
    if seeds == 1:
        return -math.inf, math.inf
    terms = np.linalg.lstsq(np.vander(x - at, 4, increasing=True), y, rcond=None)[0]  # (term, seed)
    slopes = terms[1:] * np.arange(1, 4)[:, None]  # of 1, u, u²
    mean, spread = slopes.mean(axis=1), np.cov(slopes) * stats.t.ppf((1 + confidence) / 2, seeds - 1) ** 2 / seeds
    products = np.outer(mean, mean) - spread
    ends = np.polynomial.Polynomial([np.trace(products[::-1], place) for place in range(-2, 3)]).roots()
    ends = at + ends[np.abs(ends.imag) < _SAME].real
    below, above = ends[(ends <= at + _SAME) & (ends >= x[0])], ends[(ends >= at - _SAME) & (ends <= x[-1])]
    return float(np.max(below, initial=-math.inf)), float(np.min(above, initial=math.inf))


def regret(losses: ArrayLike, at: int, *, confidence: float = 0.95) -> Regret:
    """The loss given up at grid point `at` rather than at the grid's best rate: max over r of E[loss(at) - loss(r)].

    The value puts means over seeds for E, and so errs upward: of several noisy means it takes the least. The interval
    allows for that. With d_r the mean paired difference over seeds and s_r its standard error, it is
      [max_r (d_r - t' s_r), max_r (d_r + t s_r)]
    where r = at itself, with d = s = 0, keeps both ends from falling below 0; t is Student's quantile for one rate
    (the best, whichever it is), and t' its Bonferroni quantile for all other rates at once.

    Arguments:
      losses: (rate, seed), nats; not finite where a run diverged. A rate is compared with only if every seed survived
        it. With one seed the upper end is inf.
      at: index of the rate. confidence: of the interval, at least, for normal differences.
    Returns: nats. The value is inf, and the interval NaN, when some seed diverged at that rate.
    Raises: InputError for an index off the grid and a confidence out of range.
    Source: this project, after J. C. Hsu, Ann. Stat. 9 (1981) 1026.

    >>> round(regret([[3.0, 3.2], [2.8, 2.9], [2.9, 3.1]], at=0).value, 6)
    0.25
    """
    y = _losses(losses)
    _must_be_share("confidence", confidence)
    if not 0 <= at < len(y):
        raise InputError("at", at, f"must be the index of one of the {len(y)} rates")
    usable = np.flatnonzero(np.isfinite(y).all(axis=1))
    if at not in usable:
        return Regret(math.inf, math.nan, math.nan)
    differences = y[at] - y[usable]  # (rate, seed)
    rates, seeds = differences.shape
    means = differences.mean(axis=1)
    if seeds == 1:
        return Regret(float(means.max()), 0.0, math.inf)
    errors = differences.std(axis=1, ddof=1) / math.sqrt(seeds)
    tail = (1 - confidence) / 2
    for_one, for_all = (float(stats.t.isf(share, seeds - 1)) for share in (tail, tail / max(rates - 1, 1)))
    return Regret(*(float(np.max(bound)) for bound in (means, means - for_all * errors, means + for_one * errors)))


def summary(result: xr.Dataset, *, confidence: float = 0.95) -> list[dict[str, Any]]:
    """The best rate, and the regret at the rate that is best for the smallest N, for each rule, L and N of a sweep.

    Arguments:
      result: as `sweep` returns it. confidence: of every interval by itself; nothing is corrected for their number.
    Returns: rows with rule, unique_layers, loops, best_rate and its interval (rates, not logarithms), edge,
      validation_loss (mean at the best rate of the grid), transferred_rate, regret and its interval (nats),
      diverged and runs (counts over rates and seeds).
    """
    rates = result.learning_rate.values
    rows = []
    for rule in result.rule.values:
        for layers in result.unique_layers.values:
            transferred = -1
            for loops in sorted(result.loops.values):
                cell = result.sel(rule=rule, unique_layers=layers, loops=loops)
                losses = cell.validation_loss.where(~cell.diverged).transpose("learning_rate", "seed").values
                best = best_rate(np.log(rates), losses, confidence=confidence)
                transferred = best.index if loops == min(result.loops.values) else transferred
                lost = (
                    Regret(*3 * (math.nan,)) if transferred < 0 else regret(losses, transferred, confidence=confidence)
                )
                rows.append(
                    {
                        "rule": str(rule), "unique_layers": int(layers), "loops": int(loops),
                        "best_rate": math.exp(best.log_rate),
                        "interval": [_rate(best.low), _rate(best.high)],
                        "edge": best.edge, "validation_loss": best.loss,
                        "transferred_rate": float(rates[transferred]) if transferred >= 0 else math.nan,
                        "regret": lost.value, "regret_interval": [lost.low, lost.high],
                        "diverged": int(cell.diverged.sum()), "runs": int(cell.diverged.size),
                    }
                )  # fmt: skip
    return rows


def _rate(log_rate: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(log_rate))


def _losses(losses: ArrayLike) -> Array:
    y = np.asarray(losses, dtype=np.float64)
    if y.ndim != 2 or not y.size:
        raise InputError("losses", y.shape, "must be (rate, seed), at least one of each")
    return y


def _check(log_rates: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(log_rates, dtype=np.float64), _losses(losses)
    if x.shape != y.shape[:1]:
        raise InputError("log_rates", x.shape, f"must be one a row of losses, ({len(y)},)")
    if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
        raise InputError("log_rates", x.tolist(), "must be finite and rise")
    return x, y


def _must_be_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(name, value, "must lie between 0 and 1")
