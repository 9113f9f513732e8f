"""Where a law leads with more loops, and what multiple of the residual scale keeps the stream in bounds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from residual_theory.theory.learning_rate import ScalingRule
from residual_theory.verify.trajectory import BLOCKS, Estimate, GrowthModel, Trajectory

Law = Literal[
    "independent", "partly coherent", "coherent", "linear", "exponential", "normalised", "bounded", "undecided"
]
FACTORS = (2, 4, 8)  # times the loops
_TOLD = 1.5  # R has to change by this factor before its feedback on the changes is told
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


def _ranges(path: Trajectory, law: Law, found: Mapping[str, Estimate]) -> tuple[Estimate, Estimate]:
    """γ and s of the law, with the range of either that the data leave open."""
    directions, late, feedback = (found[name] for name in ("direction_exponent", "late_exponent", "feedback"))
    if law in ("coherent", "linear") or (law in ("exponential", "normalised") and late.value > 0.5):
        gamma = Estimate(1.0, float(np.clip(late.low, 0.5, 1)), float(np.clip(late.high, 1, 1.2)))
    elif law == "partly coherent":
        gamma = Estimate(*(float(np.clip(value, 0, 1)) for value in (late.value, late.low, late.high)))
    else:
        gamma = Estimate(0.0, 0.0, float(np.clip(directions.high, 0, 0.5)))
    if law == "exponential":
        return gamma, Estimate(1.0, float(np.clip(feedback.low, 0.5, 1)), 1.0)
    least, most = (-0.5, 0.5) if law == "linear" else (-0.5, 1.0)
    low, value, high = (float(np.clip(value, least, most)) for value in (feedback.low, feedback.value, feedback.high))
    if path.squares[1:].max() < _TOLD**2 * path.squares[1:].min():
        low, high = min(low, 0.0), 1.0
    return gamma, Estimate(value, low, high)


def outlook(path: Trajectory, law: Law, found: Mapping[str, Estimate], loops: int, layers: int) -> Outlook:
    """What the law says of 2, 4 and 8 times the loops, and of ε; nothing where it is undecided."""
    if law == "undecided":
        return Outlook(None, math.nan, math.nan, ())
    gamma, feedback = _ranges(path, law, found)
    fixed = law in ("normalised", "bounded")
    model = GrowthModel.through(path, gamma.value, feedback.value)
    half = GrowthModel.through(path.first(path.steps // 2), gamma.value, feedback.value)
    seen = math.sqrt(path.squares[-1])
    backtest = 0.0 if fixed else math.log(float(half.norm(half.displaced(np.asarray(float(path.steps))))) / seen)
    today = 1.0 if fixed else min(1.0, math.sqrt(TARGET / model.drive))
    today = 1.0 if today > 0.8 else today
    rule = ScalingRule("diagnosed", 0.5, (1 + gamma.value) / 2, "arXiv:2607.13491")
    forecasts = []
    for factor in FACTORS:
        scale = 1.0 if law == "bounded" else today * factor**-rule.loops
        if fixed:
            same = recommended = _settled(path, law, found["rate"], factor)
        else:
            corners = [GrowthModel.through(path, g, s) for g in set(_bounds(gamma)) for s in set(_bounds(feedback))]
            same, recommended = (_forecast(path, model, corners, factor, c, backtest) for c in (1.0, scale))
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
        return Estimate(reached, *(math.sqrt(f(path.squares[1:])) for f in (np.min, np.max)))
    if rate.high < 0:
        low, value = (reached * math.exp(r * (factor - 1) * path.steps) for r in (rate.low, rate.value))
        return Estimate(value, low, reached)
    rest = float(path.sizes[-max(1, path.steps // 4) :].sum())
    return Estimate(reached, max(0.0, reached - rest), reached + rest)
