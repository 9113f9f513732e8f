"""What one probe of a model says of its residual stream: the law it follows, where it goes, and what to do about it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from residual_theory.diagnosis.laws import Law, Verdict, judge
from residual_theory.diagnosis.outlook import NOTHING, TARGET, Forecast, outlook
from residual_theory.diagnosis.reading import FEWEST, read
from residual_theory.diagnosis.regime import LoopMap
from residual_theory.diagnosis.trajectory import MEASURES, Estimate, GrowthModel, Trajectory, estimates
from residual_theory.diagnosis.words import explain, summary
from residual_theory.errors import InputError
from residual_theory.theory.recommend import recommend

_REST, _DEAD = 1e-6, 1e-3  # of R and of the largest change: smaller changes at the end are float32's rounding
_LOST = 1e-12  # of the largest R² before: what is left is rounding of float64
_LEAST = 1e-7  # of R: a change below it is lost in the difference of float64 squares
_CORNERS = {
    "independent": (0, 0),
    "coherent": (1, 0),
    "exponential, independent": (0, 1),
    "exponential, coherent": (1, 1),
}


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` answers: `print` shows three lines, `explain` all of it. R = ‖h‖/√d; intervals are at `level`.

    law, why: one of MEANING's keys, and the evidence in a sentence.
    certain: where the law is undecided, what is sure nevertheless; "" where nothing is, and nothing is forecast.
    steps, unit: how many steps the stream was followed over, and whether a step is a visit or a loop.
    norms: R before the first step and after each.
    exponent: d log R / d log step over the later half.
    rate, displacement_exponent: d log R / d step and d log S / d log step there.
    cosine, turning: mean cosine between the changes of two different steps; of one and the next, over the later half.
    alignment, alignment_exponent: κ = ‖Σ Δ‖²/Σ ‖Δ‖² over all steps, and γ, its exponent in the later half.
    direction_exponent, late_exponent: γ of the changes' directions, Δ/‖Δ‖, which a growth in size leaves alone: from
      one step to all, and over the later half.
    feedback: s in ‖Δ‖ ∝ R^s: 1 where branches are homogeneous, 0 behind a norm; [0, 1] where R hardly moved.
    late_feedback: s over the later half.
    misfit: of each law fitted to log(‖h_k − h_0‖²) with one free constant, the root mean square residual.
    growth: the law as a curve through the last step; None where R is held or dies away.
    residual_scale: the multiplier of today's ε recommended at today's count; forecasts hold those at more loops.
    backtest: log of R forecast from the first half alone over R seen.
    moves_alone, no_more: what moves the stream at any residual scale, so that none is recommended; why more loops are
      not more of the same, so that nothing is forecast. "" where there is nothing of the kind.
    regime, warning: what the loop's linearised map makes of a small disturbance, where it was measured (`loop_map` of
      probe), and where it is at odds with what was seen; "" otherwise.
    assumed, untested: what the answer rests on, and what nobody looked at.
    """

    law: Law
    why: str
    certain: str
    loops: int
    unique_layers: int
    samples: int
    level: float
    steps: int
    unit: str
    norms: tuple[float, ...]
    exponent: Estimate
    rate: Estimate
    displacement_exponent: Estimate
    cosine: Estimate
    turning: float
    alignment: Estimate
    alignment_exponent: Estimate
    direction_exponent: Estimate
    late_exponent: Estimate
    feedback: Estimate
    late_feedback: Estimate
    misfit: dict[str, float]
    growth: GrowthModel | None
    residual_scale: float
    backtest: float
    forecasts: tuple[Forecast, ...]
    moves_alone: str
    no_more: str
    regime: str
    warning: str
    assumed: tuple[str, ...]
    untested: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """Every field, nested, for JSON: None where a number is not finite."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def explain(self) -> str:
        """Everything in words: the law and its evidence, every number, what is assumed and what is untested."""
        return explain(self)

    def __str__(self) -> str:
        return summary(self)


def diagnose(
    probed: xr.Dataset, *, loops: int | None = None, unique_layers: int | None = None, level: float = 0.95
) -> Diagnosis:
    """Which law the residual stream of a probed model follows, where more loops take it, and what scale bounds it.

    With h_k the stream after step k (a loop where there are five or more, else a visit), Δ_k = h_k − h_{k−1} and
    S_k = ‖h_k − h_0‖²/d, one model holds every law: S = u^(1+γ), du/dk = w R^(2s/(1+γ)), R² = R₀² + 2xR₀√S + S. Untied
    layers have γ = 0, coherent ones γ = 1; homogeneous branches s = 1 (exponential growth), branches behind a norm
    s = 0. γ is the exponent of κ_k = ‖Σ e_j‖²/k, e_j = Δ_j/‖Δ_j‖, over the later half, s the slope of log ‖Δ‖ on log R.
    A law is named only if the interval of what tells it lies wholly on one side. Else it is undecided, and forecasts
    span the laws left open; there are none for visits in an order that random ones match.

    The points of one trajectory are correlated, so intervals leave out blocks of consecutive steps in turn (a jackknife
    over at most 10 blocks, Student with blocks − 1 degrees of freedom); if covariance has a dimension more, such as
    probes of several initialisations joined by `xarray.concat`, they leave out its members and the wider one is taken.
    Forecasts span the intervals of γ and s, the error of forecasting the second half from the first, and the gain in
    log R of every doubling going on as it did, or as it changed. An interval wider than a factor of ten is no answer,
    and printed as "cannot tell". Of predict and simulate the loops alone are read, prelude and coda being fixed. What
    carries, injects or changes between visits moves the stream at any ε: then no ε is recommended. Layers that do not
    take turns have no forecast, since more loops would change the order of all visits. A probe with `loop_map` adds
    what becomes of a small disturbance, and a warning where that is at odds with what was seen.

    Arguments:
      probed: a Dataset of `probe`, `simulate` or `predict`, with covariance (visit, visit_other).
      loops, unique_layers: N and L, if the attributes do not say or group them otherwise; N·L visits.
      level: of the intervals.
    Returns: a Diagnosis: str() is three lines, explain() all of it. Fewer than five steps are undecided.
    Raises: InputError for a Dataset without covariance, for one visit only, for a stream that is not finite (naming the
      first visit), and for loops and unique_layers that do not make the visits.
    Source: theory.md, §1 and §3; arXiv:2607.13491 for κ.

    >>> from residual_theory.theory.forward import predict
    >>> from residual_theory.stack import Stack
    >>> found = diagnose(predict(Stack(loops=32, residual_scale="1", weight_variance=0.5)))
    >>> found.law, round(found.feedback.value, 1), found.forecasts[0].visits
    ('exponential', 1.0, 64)
    """
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise InputError("level", level, "must lie between 0 and 1")
    reading = read(probed, loops, unique_layers)
    covariances, stride = reading.covariances, reading.stride
    loops, layers = reading.loops, reading.layers
    members = [Trajectory.of(each[::stride, ::stride]) for each in covariances]
    path = Trajectory(np.mean([member.gram for member in members], axis=0))
    squares = np.diagonal(covariances.mean(0))[::stride]
    unit = "loop" if stride == layers else "visit"
    known: dict[str, Any] = {
        "loops": loops, "unique_layers": layers, "samples": _samples(probed), "level": level,
        "steps": path.steps, "unit": unit, "norms": tuple(map(float, np.sqrt(np.maximum(squares, 0)))),
        "moves_alone": reading.moves_alone, "no_more": reading.no_more,
    }  # fmt: skip
    loop_map = LoopMap.of(probed.attrs)
    known |= {"regime": "" if loop_map is None else loop_map.regime, "warning": ""}
    untested = _untested(probed, len(covariances))
    moving = _moving(path)
    path, members = path.first(moving), [member.first(moving) for member in members]
    if reason := _cannot_tell(path, unit):
        return Diagnosis(
            law="undecided", why=reason, certain="", **known,
            **dict[str, Any](dict.fromkeys(MEASURES, Estimate(math.nan))), turning=math.nan, misfit={},
            **NOTHING._asdict(), assumed=(), untested=untested,
        )  # fmt: skip
    found = estimates(path, members, level)
    misfit = {name: GrowthModel.through(path, *corner).misfit(path) for name, corner in _CORNERS.items()}
    whole = path.steps // layers  # loops before the stream came to rest
    several = stride == 1 and layers > 2 and whole > 1
    across = path.first(whole * layers).across_loops(whole, level) if several else None
    verdict = judge(path, found, misfit, unit, across)
    if loop_map is not None:
        if verdict.law == "undecided" and loop_map.settles(path):
            verdict = Verdict("bounded", f"{loop_map.regime}, and {loop_map.rest(path):.2g} is left of the way")
        known["warning"] = loop_map.warning(verdict.law, found["rate"], path.steps)
    return Diagnosis(
        law=verdict.law, why=verdict.why, certain=verdict.certain, **known,
        **dict[str, Any](found), turning=path.turning, misfit=misfit,
        **outlook(path, verdict, found, reading)._asdict(),
        assumed=_assumed(verdict, loops, layers), untested=untested,
    )  # fmt: skip


def _samples(probed: xr.Dataset) -> int:
    return int(probed.samples.sum()) if "samples" in probed else 0


def _moving(path: Trajectory) -> int:
    """How many steps go by before the stream has come to rest for good: all, unless its changes have died away."""
    rest = np.minimum(_REST * np.sqrt(path.squares[:-1]), _DEAD * path.sizes.max())
    moved = int(np.flatnonzero(path.sizes > rest).max(initial=-1)) + 1
    return moved if moved >= FEWEST else path.steps


def _cannot_tell(path: Trajectory, unit: str) -> str:
    if path.steps < FEWEST:
        return f"{path.steps} {unit}s are too few to tell laws apart; probe {FEWEST} at least"
    if path.squares[0] == 0:
        return "the stream starts from zero, against which nothing grows; probe with other inputs"
    lost = np.flatnonzero(path.squares[1:] <= _LOST * np.maximum.accumulate(path.squares)[:-1])
    if len(lost):
        return f"the stream all but vanishes in {unit} {lost[0] + 1}; probe fewer, or those before"
    still = np.flatnonzero(path.sizes <= _LEAST * np.sqrt(path.squares[:-1]))
    if len(still) == path.steps:
        return f"no {unit} changes the stream"
    return f"{unit} {still[0] + 1} leaves the stream as it is, which has no direction" if len(still) else ""


def _assumed(verdict: Verdict, loops: int, layers: int) -> tuple[str, ...]:
    notes = [
        "Further visits do as those seen did; forecasts are extrapolations, at the same weights.",
        f"Intervals leave out blocks of consecutive {'loops' if loops >= FEWEST else 'visits'} in turn; they do not "
        "cover what another draw of the weights would do, unless draws were joined.",
        "A branch's output is proportional to ε, and the branches keep their law at another ε.",
    ]
    law = verdict.law
    if law == "undecided":
        if not verdict.certain:
            return tuple(notes[1:2])
        notes.append(
            "Forecasts span every law left open; ε falls with the loops as at the greatest γ left open, the safe side."
        )
    notes.append(
        f"At today's count ε is cut until S/R₀² to first order is {TARGET:g} at most, a random ReLU loop's at λ = 1; "
        "at m times the loops ε ∝ m^(-(1+γ)/2) and Adam's rate in the blocks ∝ m^(-(1-γ)/2), γ = 1 being ε = λ/(N√L)."
    )
    notes += recommend(loops, layers).scope if law in ("linear", "exponential") or verdict.way == "coherent" else ()
    return tuple(notes)


def _untested(probed: xr.Dataset, members: int) -> tuple[str, ...]:
    """What this probe did not vary or cannot see."""
    attrs = probed.attrs
    notes = []
    if _samples(probed) <= 1:
        notes.append("A single sample: another input may do otherwise.")
    if members == 1:
        notes.append("One set of weights, as they are: at initialisation or trained, the other was not seen.")
    if "mode" in attrs:
        other = "training" if attrs["mode"] == "eval" else "evaluation"
        notes.append(f"Probed in {attrs['mode']} mode; not in {other} mode.")
    if attrs.get("changed_between_visits"):
        notes.append(
            f"The stream is changed between {attrs['changed_between_visits']} pairs of visits, by a norm or an "
            "injection, which is counted with the changes here."
        )
    if attrs.get("dtype") in ("bfloat16", "float16"):
        notes.append(f"In {attrs['dtype']} changes below the stream's spacing are lost, and rounding looks incoherent.")
    notes.append(
        "Whether the inputs are typical, other widths, gradients, and whether the rate recommended trains better."
    )
    return tuple(notes)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
