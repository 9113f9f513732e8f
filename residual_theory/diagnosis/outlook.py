"""Where a law leads with more loops, and what multiple of the residual scale keeps the stream in bounds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from residual_theory.diagnosis.laws import GROWN, Law, Verdict, falling
from residual_theory.diagnosis.trajectory import BLOCKS, Estimate, GrowthModel, Trajectory
from residual_theory.theory.learning_rate import ScalingRule

FACTORS = (2, 4, 8)  # times the loops
_TOLD = 1.5  # R has to change by this factor before any feedback on the changes can be seen
TARGET = 0.5  # of R₀², in the displacement to first order: what λ = 1 gives a random ReLU loop


@dataclass(frozen=True)
class Forecast:
    """R after `visits` = factor times as many, extrapolated: at the same ε, and at ε times `scale`.

    learning_rate: multiplier of the rate tuned at the scale recommended for today's count.
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
    if law == "exponential":
        low = min(feedback.low, found["late_feedback"].low) if falling(found) else feedback.low
        return gamma, Estimate(1.0, float(np.clip(low, 0.5, 1)), 1.0)
    least, most = (-0.5, 0.5) if law == "linear" else (-0.5, 1.0)
    low, value, high = (float(np.clip(value, least, most)) for value in (feedback.low, feedback.value, feedback.high))
    if falling(found):
        return gamma, Estimate(float(np.clip(found["late_feedback"].value, 0, value)), min(low, 0.0), high)
    changed = math.sqrt(path.squares[1:].max() / path.squares[1:].min())
    if law == "undecided" or changed < GROWN:
        low = min(low, 0.0)
    if law == "undecided" or changed < _TOLD:
        high = 1.0
    return gamma, Estimate(value, low, high)


def outlook(path: Trajectory, verdict: Verdict, found: Mapping[str, Estimate], loops: int, layers: int) -> Outlook:
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
    surest = gamma.high if verdict.way == "undecided" and law == "undecided" else gamma.value
    rule = ScalingRule("diagnosed", 0.5, (1 + surest) / 2, "arXiv:2607.13491")
    corners = [GrowthModel.through(path, g, s) for g in set(_bounds(gamma)) for s in set(_bounds(feedback))]
    forecasts = []
    for factor in FACTORS:
        scale = 1.0 if law == "bounded" else today * factor**-rule.loops
        if fixed:
            same = recommended = _settled(path, law, found["rate"], factor)
        else:
            same, recommended = (_forecast(path, model, corners, factor, c, backtest) for c in (1.0, scale))
            if law == "exponential":
                same = _with_rate(same, path, found["rate"], factor)
        rate = rule.learning_rate("adam").factor(factor, 1.0)
        forecasts.append(Forecast(factor, factor * loops * layers, same, scale, recommended, rate))
    return Outlook(None if fixed else model, today, backtest, tuple(forecasts))


def _bounds(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.low, estimate.value, estimate.high


def _forecast(
    path: Trajectory, model: GrowthModel, corners: list[GrowthModel], factor: int, scale: float, backtest: float
) -> Estimate:
    """R after factor times the steps: between the corners', and in log R off by two standard errors.

    They hold the backtest's error, in proportion to how much further log R grows than in the backtest, and the blocks'
    scatter about the model, as a random walk and as an error of its rate; at a smaller ε, each once.
    """
    steps = np.asarray(float(factor * path.steps))
    value, *others = (float(each.norm(each.displaced(steps, scale))) for each in (model, *corners))
    grown = abs(math.log(path.squares[-1] / path.squares[path.steps // 2]) / 2)
    ahead = abs(math.log(value / model.norm_reached)) if 0 < value < math.inf else math.inf
    further = max(math.log2(factor), ahead / max(grown, 1e-12)) if backtest and scale == 1 else 1.0
    walked = math.sqrt(factor * (factor - 1)) if scale == 1 else 1.0
    off = 2 * math.hypot(backtest * further, _scatter(path, model) * walked)
    spread = math.exp(min(off, 700.0))
    return Estimate(value, min([value, *others]) / spread, max([value, *others]) * spread)


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
    rest = float(path.sizes[-max(1, path.steps // 4) :].sum())
    if rate.high < 0:
        low, value = (reached * math.exp(r * (factor - 1) * path.steps) for r in (rate.low, rate.value))
        return Estimate(value, low, reached + rest)
    return Estimate(reached, max(0.0, reached - rest), reached + rest)
