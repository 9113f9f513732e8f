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

REACH = 2  # grid points on either side of the least mean loss that the parabola is fitted to
_COEFFICIENTS = 3  # of a parabola, and so the fewest points


@dataclass(frozen=True)
class BestRate:
    """Where a curve of losses against log rate has its minimum.

    Attributes:
      log_rate, low, high: natural logarithm of the best rate and the ends of its interval; the ends are infinite where
        the seeds cannot tell that the curve turns.
      index: the grid point of least mean loss, or -1 when every rate lost a seed. loss: the mean there.
      edge: "low" or "high" when that is the first or last rate that every seed survived, so that a better rate may lie
        beyond; "both" when it is the only one; "flat" when the mean curve does not turn within the window around it,
        so that the grid does not place the best rate; "" when it lies within.
    """

    log_rate: float
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


def best_rate(log_rates: ArrayLike, losses: ArrayLike, *, confidence: float = 0.95, reach: int = REACH) -> BestRate:
    """The optimum of a parabola in x = log η, fitted around the grid point of least mean loss.

    Each seed's losses in the window have the least-squares parabola a_s + b_s x + c_s x². The optimum is where the mean
    slope b + 2 c x is zero, and its interval all x at which a t test over seeds cannot tell the mean slope from zero
    (Fieller's interval; n - 1 degrees of freedom). Seeds are paired across rates: what a seed adds to all its losses
    cancels. The interval does not cover the error of taking the curve for a parabola within the window.

    Arguments:
      log_rates: (rate,), rising. losses: (rate, seed), nats; not finite where a run diverged. A rate is used only if
        every seed survived it.
      confidence: of the interval. reach: grid points of the window on either side, at least 1.
    Returns: the optimum. At an edge, or where the mean curve does not turn within the window ("flat", and nothing is
      known of the interval), it is the grid point.
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
    if reach < 1:
        raise InputError("reach", reach, "must be at least 1")
    usable = np.flatnonzero(np.isfinite(y).all(axis=1))
    if not usable.size:
        return BestRate(math.nan, -math.inf, math.inf, -1, math.nan, "both")
    means = y[usable].mean(axis=1)
    least = int(np.argmin(means))
    index = int(usable[least])
    ends = {"low": least == 0, "high": least == usable.size - 1}
    edge = "both" if all(ends.values()) else next((name for name, is_end in ends.items() if is_end), "")
    window = usable[max(0, least - reach) : least + reach + 1]
    at, low, high = _turning_point(x[window] - x[index], y[window], confidence)
    if edge == "" and not x[window[0]] - x[index] <= at <= x[window[-1]] - x[index]:
        edge, low, high = "flat", -math.inf, math.inf
    return BestRate(x[index] + (0.0 if edge else at), x[index] + low, x[index] + high, index, means[least], edge)


def _turning_point(x: Array, y: Array, confidence: float) -> tuple[float, float, float]:
    """The zero of the mean slope and its interval, NaN and infinite where there is none."""
    nothing = (math.nan, -math.inf, math.inf)
    if len(x) < _COEFFICIENTS:
        return nothing
    _, slopes, bends = np.linalg.lstsq(np.vander(x, _COEFFICIENTS, increasing=True), y, rcond=None)[0]  # each (seed,)
    slope, bend, seeds = float(slopes.mean()), float(bends.mean()), y.shape[1]
    if bend <= 0:
        return nothing
    at = -slope / (2 * bend)
    if seeds == 1:
        return at, -math.inf, math.inf
    spread = np.cov(slopes, bends) * stats.t.ppf((1 + confidence) / 2, seeds - 1) ** 2 / seeds
    square = bend**2 - spread[1, 1]  # the interval is where square·(2x)² + 2 cross·(2x) + constant ≤ 0
    cross = slope * bend - spread[0, 1]
    constant = slope**2 - spread[0, 0]
    if square <= 0:
        return at, -math.inf, math.inf
    root = math.sqrt(max(cross**2 - square * constant, 0.0))
    return at, (-cross - root) / (2 * square), (-cross + root) / (2 * square)


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
