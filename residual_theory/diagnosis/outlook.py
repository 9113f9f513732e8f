"""Where a law leads with more loops, and what multiple of the residual scale keeps the stream in bounds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from residual_theory.diagnosis.laws import GROWN, Law, Verdict, falling, rising, shrinking
from residual_theory.diagnosis.reading import FEWEST, Reading
from residual_theory.diagnosis.trajectory import BLOCKS, Estimate, GrowthModel, Trajectory
from residual_theory.theory.learning_rate import ScalingRule

FACTORS = (2, 4, 8)  # times the loops
_TOLD = 1.5  # R has to change by this factor before any feedback on the changes can be seen
_FASTEST = 2.5  # the greatest s considered: a branch that multiplies the stream by itself has 2
_ROUGH = 0.02
_SHORT = 8  # steps: fewer do not show whether growth gains on itself
_STRAYS = 10.0  # times what R has strayed over the later half
_UNKNOWN = Estimate(math.nan)
TARGET = 0.5  # of R₀², in the displacement to first order: what λ = 1 gives a random ReLU loop


@dataclass(frozen=True)
class Forecast:
    """R after factor times the loops, `visits` in all, extrapolated: at the same ε, and at ε times `scale`.

    learning_rate: multiplier of the rate tuned at the scale recommended for today's count. It, the scale and R there
      are NaN where something else than the residual scale moves the stream.
    An interval whose ends lie further apart than a factor of ten tells nothing but its ends: see `Estimate.told`.
    """

    factor: int
    visits: int
    same: Estimate
    scale: float
    recommended: Estimate
    learning_rate: float


class Outlook(NamedTuple):
    """A model of the growth, the scale recommended today, log(forecast/seen) from the first half, and forecasts."""

    growth: GrowthModel | None
    residual_scale: float
    backtest: float
    forecasts: tuple[Forecast, ...]


NOTHING = Outlook(None, math.nan, math.nan, ())


def _ranges(path: Trajectory, verdict: Verdict, found: Mapping[str, Estimate]) -> tuple[Estimate, Estimate]:
    """γ and s of the law, with the range of either that the data leave open."""
    directions, late, feedback = (found[name] for name in ("direction_exponent", "late_exponent", "feedback"))
    law, way = verdict.law, verdict.way
    if way == "undecided" and law != "undecided":
        way = "coherent" if late.value > 0.5 else "independent"
    if way == "coherent":
        gamma = Estimate(1.0, float(np.clip(late.low, 0.5, 1)), float(np.clip(late.high, 1, 1.2)))
    elif way == "independent":
        gamma = Estimate(0.0, 0.0, float(np.clip(directions.high, 0, 0.5)))
    else:
        gamma = Estimate(*(float(np.clip(value, 0, 1)) for value in (late.value, late.low, late.high)))
    highest = max(feedback.high, found["late_feedback"].high)
    if law == "exponential":
        low = min(feedback.low, found["late_feedback"].low) if falling(found) else feedback.low
        return gamma, Estimate(1.0, float(np.clip(low, 0.5, 1)), float(np.clip(highest, 1, _FASTEST)))
    if law == "linear":
        low, value, high = (float(np.clip(each, -0.5, 0.5)) for each in (feedback.low, feedback.value, feedback.high))
    else:
        low, value, high = (
            float(np.clip(each, -0.5, _FASTEST)) for each in (feedback.low, feedback.value, feedback.high)
        )
    if falling(found):  # and falls on, by as much again at most
        late_s = found["late_feedback"]
        value = float(np.clip(2 * late_s.value - feedback.value, 0, max(value, 0.0)))
        return gamma, Estimate(value, min(low, 0.0), float(np.clip(late_s.high, value, high)))
    changed = math.sqrt(path.squares[1:].max() / path.squares[1:].min())
    if law == "undecided" or changed < GROWN:
        low = min(low, 0.0)
    if law == "undecided" or changed < _TOLD or rising(found):
        high = max(high, 1.0)
    return gamma, Estimate(value, low, high)


def outlook(path: Trajectory, verdict: Verdict, found: Mapping[str, Estimate], reading: Reading) -> Outlook:
    """What the law says of 2, 4 and 8 times the loops, and of ε; between laws, what all that are open do."""
    law = verdict.law
    if law == "undecided" and not verdict.certain:
        return NOTHING
    gamma, feedback = _ranges(path, verdict, found)
    fixed = law in ("normalised", "bounded")
    model = GrowthModel.through(path, gamma.value, feedback.value)
    half = GrowthModel.through(path.first(path.steps // 2), gamma.value, feedback.value)
    seen = math.sqrt(path.squares[-1])
    backtest = 0.0 if fixed else math.log(float(half.norm(half.displaced(np.asarray(float(path.steps))))) / seen)
    today = 1.0 if fixed else min(1.0, math.sqrt(TARGET / model.drive))
    today = 1.0 if today > 0.8 else today
    if reading.moves_alone and not fixed:
        today = math.nan
    surest = gamma.high if verdict.way == "undecided" and law == "undecided" else gamma.value
    rule = ScalingRule("diagnosed", 0.5, (1 + surest) / 2, "arXiv:2607.13491")
    corners = [GrowthModel.through(path, g, s) for g in set(_bounds(gamma)) for s in set(_bounds(feedback))]
    again = [GrowthModel.through(path, 1.0, s) for s in set(_bounds(feedback))] if reading.repeats else []
    aligned = [replace(each, gamma=1.0, displacement=float(path.sizes.sum() ** 2)) for each in corners]
    forecasts = []
    for factor in FACTORS if not reading.no_more else ():
        scale = 1.0 if law == "bounded" else today * factor**-rule.loops
        if fixed:
            same = recommended = _settled(path, law, found["rate"], factor)
        else:
            same = _forecast(path, model, corners + again, factor, 1.0, backtest)
            same = _with_trend(same, path, factor)
            if law == "exponential" or (law != "linear" and path.steps < _SHORT):
                same = _with_rate(same, path, found["rate"], factor)
            # at a smaller ε a branch in use again may align where it does not today
            others = corners + (aligned if reading.shared else [])
            recommended = _forecast(path, model, others, factor, scale, backtest) if scale > 0 else _UNKNOWN
        rate = rule.learning_rate("adam").factor(factor, 1.0) if scale > 0 else math.nan
        visits = factor * reading.loops * reading.layers + reading.fixed
        forecasts.append(Forecast(factor, visits, same, scale, recommended, rate))
    return Outlook(None if fixed else model, today, backtest, tuple(forecasts))


def _bounds(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.low, estimate.value, estimate.high


def _forecast(
    path: Trajectory, model: GrowthModel, corners: list[GrowthModel], factor: int, scale: float, backtest: float
) -> Estimate:
    """R after factor times the steps: between the corners', and in log R off by two standard errors.

    They hold the backtest's error, in proportion to how much further log R grows than in the backtest, and the blocks'
    scatter about the model, as a random walk and as an error of its rate; at a smaller ε, each once. No forecast is
    better than a hundredth of the change in log R, nor than a thousandth of R.
    """
    steps = np.asarray(float(factor * path.steps))
    value, *others = (float(each.norm(each.displaced(steps, scale))) for each in (model, *corners))
    grown = abs(math.log(path.squares[-1] / path.squares[path.steps // 2]) / 2)
    ahead = abs(math.log(value / model.norm_reached)) if 0 < value < math.inf else math.inf
    further = max(math.log2(factor), ahead / max(grown, 1e-12)) if backtest and scale == 1 else 1.0
    walked = math.sqrt(factor * (factor - 1)) if scale == 1 else 1.0
    off = 2 * math.hypot(backtest * further, _scatter(path, model) * walked)
    moved = ahead if scale == 1 else 3 * abs(math.log(value / math.sqrt(path.squares[0])))  # first order in ε
    spread = math.exp(min(off + _ROUGH * (0.1 + moved), 700.0))
    return Estimate(value, min([value, *others]) / spread, max([value, *others]) * spread)


def _with_trend(forecast: Estimate, path: Trajectory, factor: int) -> Estimate:
    """A forecast widened by how much log R gains in every doubling of the steps going on as it did, and as it changed.

    Between two doublings a power law's gain stays, an exponential's doubles; a second mode of growth, that takes over
    late, shows first in that ratio.
    """
    ends = np.log(np.maximum(path.squares[1:], 1e-300)) / 2
    places = path.steps * np.array([0.125, 0.25, 0.5, 1.0])
    gains = np.diff(np.interp(places, np.arange(1, path.steps + 1), ends))
    if path.steps < _SHORT or not (np.sign(gains) == np.sign(gains[-1])).all() or abs(gains).min() < 1e-9:
        return forecast
    before, now = (float(ratio) for ratio in gains[1:] / gains[:-1])
    slower = math.sqrt((now - 1) / (before - 1)) if 1 < now < before else 1.0  # on its way to a power law
    doublings = np.arange(int(math.log2(factor)))
    rising = 1 + (now - 1) * slower**doublings + max(now - before, 0.0) + _ROUGH
    bounds = []
    for ratios in (np.full(len(doublings), now - abs(now - before)), rising):
        ahead = gains[-1] * ratios.clip(0.0, 4.0).cumprod().sum()
        bounds.append(math.sqrt(path.squares[-1]) * math.exp(min(float(ahead), 700.0)))
    return Estimate(forecast.value, min(forecast.low, *bounds), max(forecast.high, *bounds))


def _with_rate(forecast: Estimate, path: Trajectory, rate: Estimate, factor: int) -> Estimate:
    """A forecast widened by today's d log R/d step going on, and by its rise over the later half going on once more."""
    reached, before = np.sqrt(path.squares[[-1, -2]])
    now = math.log(reached / before)
    ahead = (factor - 1) * path.steps
    rates = (min(rate.low, 2 * now - rate.value), max(rate.high, 2 * now - rate.value))
    low, high = (float(reached) * math.exp(min(each * ahead, 700.0)) for each in rates)
    return Estimate(forecast.value, min(forecast.low, low), max(forecast.high, high))


def _scatter(path: Trajectory, model: GrowthModel) -> float:
    """The standard deviation of log R at the end, from what blocks of steps add to it beyond the model."""
    ends = np.unique(np.linspace(0, path.steps, min(path.steps, BLOCKS) + 1).round().astype(int))
    ends = ends[1:]  # the first block may be of another kind
    seen = np.log(path.squares[ends]) / 2
    fitted = np.log(model.norm(model.displaced(ends.astype(np.float64))))
    return float(np.linalg.norm(np.diff(seen - fitted)))


def _settled(path: Trajectory, law: Law, rate: Estimate, factor: int) -> Estimate:
    """R of a stream that is held, or falls on, or whose changes have died away."""
    reached = math.sqrt(path.squares[-1])
    if law == "normalised":
        low, high = (math.sqrt(bound(path.squares[1:])) for bound in (np.min, np.max))
        return Estimate(reached, low - (high - low), high + (high - low))  # as far again as it has strayed
    last = -max(1, path.steps // 4)
    rest = float(path.sizes[last:].sum())
    if rate.high < 0 and not shrinking(path):
        low, value = (reached * math.exp(r * (factor - 1) * path.steps) for r in (rate.low, rate.value))
        return Estimate(value, low, max(reached + rest, math.sqrt(path.squares.max())))  # what falls can rise again
    if path.sizes[-1] < path.sizes.max() / 4 or shrinking(path):  # as a geometric series, of late slower than before
        ratio = min(0.99, max(path.sizes[-1] / path.sizes[-2], (path.sizes[-1] / path.sizes[-3]) ** 0.5))
        rest = max(rest, 2 * float(path.sizes[-1]) * ratio / (1 - ratio))
    if path.steps >= 2 * FEWEST and path.turning < 0:  # steps to and fro cancel
        ends = np.sqrt(path.squares[last - 1 :])
        rest = min(rest, float(path.every_second.sizes[last // 2 :].sum() + ends.max() - ends.min()))
    late = np.sqrt(path.squares[path.steps // 2 :])
    if not ((np.diff(late) > 0).all() or (np.diff(late) < 0).all()):  # a stream may turn on and keep its length
        rest = min(rest, _STRAYS * float(late.max() - late.min()))
    return Estimate(reached, max(0.0, reached - rest), reached + rest)
