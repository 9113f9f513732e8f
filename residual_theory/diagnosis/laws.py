"""The laws that a residual stream can follow, and which of them the measures of one trajectory surely tell."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from residual_theory.diagnosis.reading import FEWEST
from residual_theory.diagnosis.trajectory import Estimate, Trajectory

Law = Literal[
    "independent", "partly coherent", "coherent", "linear", "exponential", "normalised", "bounded", "undecided"
]
MEANING: dict[Law, str] = {
    "independent": "changes point in unrelated directions: R² − R₀² ∝ visits",
    "partly coherent": "changes align in part: R² − R₀² ∝ visits^(1+γ), 0 < γ < 1",
    "coherent": "changes point one way: R² − R₀² ∝ visits²",
    "linear": "changes of constant size point one way, as behind a norm before each branch: R ∝ visits",
    "exponential": "changes grow with the stream itself: log R ∝ visits",
    "normalised": "a norm on the stream itself holds R constant, whatever is added",
    "bounded": "changes die away: R settles",
    "undecided": "no law is told from its neighbours",
}
GROWN = 2.0  # times R₀: from here on growth has a shape
_HELD = 0.05  # of the changes' squares, in R²: below it the stream is held
_DRIFTS, _ONE_WAY = 1.1, 1.01  # times R²: a stream that a norm holds varies less, and hardly in one direction
_DIED = 0.05  # of R, in the last quarter's changes together
_FALLEN = 0.7  # of R² at its highest; a stream that random changes happen to shorten falls less
_LEFT = 0.15  # of R: what is still to come of changes that die away
_GAMMA = {"independent": 0, "coherent": 1}
_CHANCE = 0.02  # five steps, of 120 orders, can just be told from shuffled ones


class Verdict(NamedTuple):
    """The law, its mark in words, how changes add up, and what is sure where no law is told ("": nothing).

    way: "independent", "partly coherent", "coherent" or "undecided".
    """

    law: Law
    why: str
    way: Law = "undecided"
    certain: str = ""


def judge(
    path: Trajectory, found: Mapping[str, Estimate], misfit: Mapping[str, float], unit: str, across: Estimate | None
) -> Verdict:
    """The law whose mark is surely there: `found` are the measures, `misfit` the corners', `across` one layer's cosine.

    Arguments: those of `diagnose`, which explains the measures; unit: "loop" or "visit".
    """
    if reason := _confined(path, found, unit):
        return reason
    way, marks = _coherence(found, unit, across)
    if math.sqrt(path.squares[-1]) < GROWN * math.sqrt(path.squares[1:3].min()):
        return Verdict(way, marks, way, _certain(path, found, way, unit) if way == "undecided" else "")
    feedback, late = found["feedback"], found["late_feedback"]
    marks += f"; ‖Δ‖ ∝ R^s, s = {feedback}, over the later half {late}"
    kind = "independent" if way == "independent" else "coherent"
    constant, growing = misfit[kind], misfit[f"exponential, {kind}"]
    faster = min(feedback.low, late.low) > 1
    if faster or feedback.inside(0.5, 1.6) or (feedback.value > 0.5 and growing < constant / 2):
        return Verdict("exponential", marks, way)
    forgets = min(feedback.high, late.high if falling(found) else 1) < 0.5
    told = forgets or (feedback.value < 0.5 and constant < growing / 2)
    if told and way != "undecided":
        return Verdict("linear" if way == "coherent" else way, marks, way)
    marks += "" if told else ": neither constant nor ∝ R"
    return Verdict("undecided", marks, way, _certain(path, found, way, unit))


def _confined(path: Trajectory, found: Mapping[str, Estimate], unit: str) -> Verdict | None:
    """A stream that is held, that settles or falls, or whose visits are in no order."""
    squares, sizes, top = path.squares, path.sizes, path.squares.max()
    gain, held = abs(squares[2:] - squares[1:-1]), _HELD * sizes[1:] ** 2
    strayed, rate = squares[1:].max() / squares[1:].min(), found["rate"]
    trend = rate.low > 0 or rate.high < 0 or len(set(np.sign(np.diff(squares[1:])))) == 1
    still = strayed < (_ONE_WAY if trend else _DRIFTS)
    if still and (gain <= held + 1e-6 * squares[1:-1]).all() and sizes[1:].max() > 1e-4 * math.sqrt(squares[-1]):
        return Verdict("normalised", f"no {unit} after the first changes R² by more than {_HELD:.0%} of ‖Δ‖²/d")
    if (moved := _died(path)) < 1:
        last = max(1, path.steps // 4)
        return Verdict("bounded", f"the last {last} {unit}s together move the stream by {moved:.1%} of R")
    if (ratio := shrinking(path)) and path.sizes[-1] * ratio / (1 - ratio) < _LEFT * math.sqrt(squares[-1]):
        return Verdict("bounded", f"each {unit}'s change is {ratio:.3g} times the one before")
    if (chance := path.chance()) > _CHANCE:
        if runs_away(path, found):
            mark = f"R grows by {math.exp(found['rate'].value):.4g} a {unit}, from one to the next"
            back = f", each change against the one before (cosine {path.turning:.2f})" if path.turning < 0 else ""
            return Verdict("exponential", mark + back)
        if found["rate"].high < 0 and (np.diff(squares[path.steps // 2 :]) < 0).all() and squares[-1] < _FALLEN * top:
            return Verdict("bounded", f"R falls in every {unit}: d log R / d {unit} = {found['rate']}")
        seldom = path.every_second
        if path.steps >= 2 * FEWEST and _died(seldom) < _DIED * math.sqrt(squares[-1] / top):
            moved = _died(seldom) * math.sqrt(top / squares[-1])
            return Verdict("bounded", f"the stream swings to and fro, every second {unit} at last by {moved:.1%} of R")
        mark = f"{chance:.0%} of all orders of the {unit}s make as short a path: is the order right?"
        return Verdict("undecided", mark)
    if found["rate"].high < 0 and squares[-1] < _FALLEN * top:
        return Verdict("bounded", f"R falls: d log R / d {unit} = {found['rate']}")
    if found["displacement_exponent"].high < 0.5 and found["exponent"].inside(-0.25, 0.25):
        mark = f"‖h − h_0‖² ∝ {unit}s^p over the later half, p = {found['displacement_exponent']}"
        return Verdict("bounded", mark)
    return None


def _coherence(found: Mapping[str, Estimate], unit: str, across: Estimate | None) -> tuple[Law, str]:
    """How the changes' directions add up; with a few loops, from one layer's changes in different loops."""
    if across is not None:
        marks = f"a layer's changes in different loops have cosine {across}"
        way: Law = "coherent" if across.low > 0.2 else "independent" if across.inside(-0.2, 0.2) else "undecided"
        return way, marks
    directions, late = found["direction_exponent"], found["late_exponent"]
    marks = f"directions align as {unit}s^γ, γ = {directions}, over the later half {late}"
    reaches_one = min(late.high, directions.high) > 0.9
    if reaches_one and min(late.low, directions.low) > 0.2 and max(late.low, directions.low) > 0.5:
        return "coherent", marks
    if directions.inside(-0.35, 0.35) and late.low < 0.5:
        return "independent", marks
    if directions.inside(0.1, 0.9) and late.inside(0.1, 1.1) and late.value < 0.9:
        return "partly coherent", marks
    return "undecided", f"{marks}: too wide, or at odds; probe more loops"


def _died(path: Trajectory) -> float:
    """What the last quarter of the steps moves the stream, in R, where changes have died away; else 1."""
    moved = float(path.sizes[-max(1, path.steps // 4) :].sum() / math.sqrt(path.squares.max()))
    return moved if moved < _DIED and path.sizes[-1] <= path.sizes.max() / 4 else 1.0


def shrinking(path: Trajectory) -> float:
    """The ratio of each change to the one before where they die away geometrically over the later half, else 0.

    Changes that fall as a power of the steps slow down in their fall, and may add up to anything.
    """
    late = path.sizes[path.steps // 2 :]
    if path.steps < 8 or late.min() == 0:
        return 0.0
    falls = np.diff(np.log(late))
    first, last = (part.mean() for part in np.array_split(falls, 2))
    steady = last < 0 and first < 0 and last <= 0.85 * first
    return float(np.exp(falls.mean())) if steady and abs(falls - falls.mean()).max() < 1.5 * abs(falls.mean()) else 0.0


def runs_away(path: Trajectory, found: Mapping[str, Estimate]) -> bool:
    """Whether R and its changes grow alike from step to step, wherever they point: an unstable map that may turn."""
    late = path.squares[path.steps // 2 :]
    rate = found["rate"]
    grows = path.steps >= 8 and bool((np.diff(late) > 0).all()) and late[-1] > GROWN * late[0]
    return grows and rate.low > 0.5 * rate.value and found["late_feedback"].inside(0.7, 1.4)


def rising(found: Mapping[str, Estimate]) -> bool:
    """Whether the feedback s rises: growth in proportion to R is still small beside growth of another kind."""
    return found["late_feedback"].low > 0.05 and found["late_feedback"].value > found["feedback"].value


def falling(found: Mapping[str, Estimate]) -> bool:
    """Whether the feedback s surely falls as R grows, as where branches forget R: behind a norm, or saturating."""
    return found["late_feedback"].high < found["feedback"].value


def _certain(path: Trajectory, found: Mapping[str, Estimate], way: Law, unit: str) -> str:
    """What the intervals do exclude where they leave several laws open."""
    rate, late, feedback = (found[name] for name in ("rate", "late_exponent", "feedback"))
    growth = "R grows" if rate.low > 0 else "R falls" if rate.high < 0 else "R may stay or grow"
    if way != "undecided":
        align = f"{way} (γ ≈ {_GAMMA.get(way, late)})"
    else:
        align = "with changes that align more than untied ones do" if late.low > 0 else "aligned to an unknown extent"
    few = f"these {path.steps} {unit}s do not tell"
    if feedback.high < 0.5 or math.sqrt(path.squares[-1]) < GROWN * math.sqrt(path.squares[1:3].min()):
        return f"{growth}, {align}; by which power of the {unit}s {few}"
    slow = "linear" if way == "coherent" else "a power"
    return f"{growth}, {align}; between {slow} (s = 0) and exponential (s = 1), which of the two {few}"
