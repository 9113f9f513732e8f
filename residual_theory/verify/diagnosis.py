"""What one probe of a model says of its residual stream: the law it follows, where it goes, and what to do about it."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.theory.learning_rate import ScalingRule
from residual_theory.theory.recommend import recommend
from residual_theory.verify.trajectory import MEASURES, Array, Estimate, GrowthModel, Trajectory, estimates

Law = Literal[
    "independent", "partly coherent", "coherent", "linear", "exponential", "normalised", "bounded", "undecided"
]
LAWS: tuple[Law, ...] = get_args(Law)
MEANING: dict[Law, str] = {
    "independent": "changes point in unrelated directions: R² − R₀² ∝ visits",
    "partly coherent": "changes align in part: R² − R₀² ∝ visits^(1+γ), 0 < γ < 1",
    "coherent": "changes point one way: R² − R₀² ∝ visits²",
    "linear": "changes of constant size point one way, as behind a norm before each branch: R ∝ visits",
    "exponential": "changes grow with the stream itself: log R ∝ visits",
    "normalised": "a norm on the stream itself holds R constant, whatever is added",
    "bounded": "changes die away: R settles",
    "undecided": "no law is told",
}
FACTORS = (2, 4, 8)  # times the loops, in forecasts
FEWEST = 5  # steps: three points and two parameters tell nothing
_TOLD = 1.5  # R has to change by this factor before its feedback on the changes is told
_GROWN = 2.0  # times R₀: from here on growth has a shape
_HELD = 0.05  # of the changes' squares, in R²: below it the stream is held
_DIED = 0.05  # of R, in the last quarter's changes together
_TARGET = 0.5  # of R₀², in the displacement to first order: what λ = 1 gives a random ReLU loop
_CORNERS = {
    "independent": (0, 0),
    "coherent": (1, 0),
    "exponential, independent": (0, 1),
    "exponential, coherent": (1, 1),
}


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


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` answers; `print` shows it whole. R = ‖h‖/√d; intervals have confidence `level`.

    law, why: one of LAWS, and the evidence in a sentence.
    steps, unit: how many steps the stream was followed over, and whether a step is a visit or a loop.
    norms: R before the first step and after each.
    exponent: d log R / d log step over the later half.
    rate, displacement_exponent: d log R / d step and d log S / d log step there.
    cosine: mean cosine between the changes of two different steps.
    alignment, alignment_exponent: κ = ‖Σ Δ‖²/Σ ‖Δ‖² over all steps, and γ, its exponent in the later half.
    direction_exponent, late_exponent: γ of the changes' directions, Δ/‖Δ‖, which a growth in size leaves alone: from
      one step to all, and over the later half.
    feedback: s in ‖Δ‖ ∝ R^s: 1 where branches are homogeneous, 0 behind a norm; [0, 1] where R hardly moved.
    misfit: of each law fitted to log(‖h_k − h_0‖²) with one free constant, the root mean square residual.
    residual_scale: the multiplier of today's ε recommended at today's count; forecasts hold those at more loops.
    backtest: log of R forecast from the first half alone over R seen.
    assumed, untested: what the answer rests on, and what nobody looked at.
    """

    law: Law
    why: str
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
    alignment: Estimate
    alignment_exponent: Estimate
    direction_exponent: Estimate
    late_exponent: Estimate
    feedback: Estimate
    misfit: dict[str, float]
    residual_scale: float
    backtest: float
    forecasts: tuple[Forecast, ...]
    assumed: tuple[str, ...]
    untested: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """Every field, nested, for JSON: None where a number is not finite."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def __str__(self) -> str:
        lines = [f"law: {self.law} ({MEANING[self.law]})", f"why: {self.why}"]
        percent = f"{self.level:.0%} intervals"
        lines.append(
            f"over {self.steps} {self.unit}s R went from {self.norms[0]:.4g} to {self.norms[-1]:.4g}; {percent}:"
        )
        lines += [
            f"  growth exponent, d log R / d log {self.unit}    {self.exponent}",
            f"  growth rate, d log R / d {self.unit}            {self.rate}",
            f"  coherence, mean cosine of changes       {self.cosine}",
            f"  alignment κ = ‖ΣΔ‖²/Σ‖Δ‖²               {self.alignment}, of {self.steps} at most",
            f"  its exponent γ                          {self.alignment_exponent}",
            f"  γ of directions; over the later half    {self.direction_exponent}; {self.late_exponent}",
            f"  feedback s in ‖Δ‖ ∝ R^s                 {self.feedback}",
        ]
        if self.forecasts:
            lines.append(f"recommended: ε × {self.residual_scale:.3g} as it is; with more loops, extrapolated:")
            for each in self.forecasts:
                lines.append(
                    f"  {each.factor}× ({each.visits} visits): R = {each.same} at the same ε; "
                    f"at ε × {each.scale:.3g}, R = {each.recommended}, learning rate in blocks × {each.learning_rate:.3g}"
                )
        for title, entries in (("assumed", self.assumed), ("untested", self.untested)):
            lines.append(f"{title}:")
            for entry in entries:
                lines += textwrap.wrap(entry, 110, initial_indent="  - ", subsequent_indent="    ")
        return "\n".join(lines)


def diagnose(
    probed: xr.Dataset, *, loops: int | None = None, unique_layers: int | None = None, level: float = 0.95
) -> Diagnosis:
    """Which law the residual stream of a probed model follows, where more loops take it, and what scale bounds it.

    With h_k the stream after step k (a loop where there are five or more, else a visit), Δ_k = h_k − h_{k−1} and
    S_k = ‖h_k − h_0‖²/d, one model holds every law: S = u^(1+γ), du/dk = w R^(2s/(1+γ)), R² = R₀² + 2 x R₀ √S + S. Independent
    changes have γ = 0, coherent ones γ = 1; homogeneous branches s = 1 (exponential growth), branches behind a norm
    s = 0. γ is the exponent of κ_k = ‖Σ e_j‖²/k, e_j = Δ_j/‖Δ_j‖, over the later half, s the slope of log ‖Δ‖ on log R.
    A law is named only if the interval of what tells it lies wholly on one side; else it is undecided.

    The points of one trajectory are correlated, so intervals leave out blocks of consecutive steps in turn (a jackknife
    over at most 10 blocks, Student with blocks − 1 degrees of freedom); if covariance has a dimension more, such as
    probes of several initialisations joined by `xarray.concat`, they leave out its members and the wider one is taken.
    Forecasts span the intervals of γ and s and the error of forecasting the second half from the first.

    Arguments:
      probed: a Dataset of `probe` or `simulate`, with covariance (visit, visit_other).
      loops, unique_layers: N and L, if the attributes do not say or group them otherwise; N·L visits.
      level: of the intervals.
    Returns: a Diagnosis. Fewer than five steps are undecided.
    Raises: InputError for a Dataset without covariance, for one visit only, for a stream that is not finite (naming the
      first visit), and for loops and unique_layers that do not make the visits.
    Source: theory.md, §1 and §3; arXiv:2607.13491 for κ.

    >>> from residual_theory.theory.forward import predict
    >>> from residual_theory.stack import Stack
    >>> found = diagnose(predict(Stack(loops=32, residual_scale="1", weight_variance=0.5)))
    >>> found.law, round(found.feedback.value, 1), found.forecasts[0].visits
    ('exponential', 1.0, 64)
    """
    if not 0 < level < 1:
        raise InputError("level", level, "must lie between 0 and 1")
    covariances = _covariances(probed)  # (member, visit, visit_other)
    loops, layers = _counts(probed, covariances.shape[1] - 1, loops, unique_layers)
    stride = layers if loops >= FEWEST else 1
    members = [Trajectory.of(each[::stride, ::stride]) for each in covariances]
    path = Trajectory(np.mean([member.gram for member in members], axis=0))
    unit = "loop" if stride == layers else "visit"
    known: dict[str, Any] = {
        "loops": loops, "unique_layers": layers, "samples": int(probed.get("samples", 0)), "level": level,
        "steps": path.steps, "unit": unit, "norms": tuple(map(float, np.sqrt(path.squares))),
    }  # fmt: skip
    untested = _untested(probed, len(covariances))
    if reason := _cannot_tell(path, unit):
        return Diagnosis(
            law="undecided", why=reason, **known, **dict[str, Any](dict.fromkeys(MEASURES, Estimate(math.nan))), misfit={},
            residual_scale=math.nan, backtest=math.nan, forecasts=(), assumed=(), untested=untested,
        )  # fmt: skip
    found = estimates(path, members, level)
    misfit = {name: GrowthModel.through(path, *corner).misfit(path) for name, corner in _CORNERS.items()}
    across = path.across_loops(loops, level) if stride == 1 and layers > 2 and loops > 1 else None
    law, why = _judge(path, found, misfit, unit, across)
    scale, backtest, forecasts = _outlook(path, law, found, loops, layers)
    return Diagnosis(
        law=law, why=why, **known, **dict[str, Any](found), misfit=misfit, residual_scale=scale, backtest=backtest,
        forecasts=forecasts, assumed=_assumed(law, loops, layers), untested=untested,
    )  # fmt: skip


def _covariances(probed: object) -> Array:
    """(member, visit, visit_other); one member unless covariance has a dimension more."""
    if not isinstance(probed, xr.Dataset):
        raise InputError("probed", probed, "give a Dataset of probe or simulate")
    if "covariance" not in probed:
        raise InputError("probed", sorted(map(str, probed.data_vars)), "lacks covariance (visit, visit_other)")
    covariance = probed.covariance
    if covariance.ndim not in (2, 3) or not {"visit", "visit_other"} <= set(covariance.dims):
        raise InputError(
            "probed", covariance.dims, "needs covariance (visit, visit_other), and one dimension more at most"
        )
    values = covariance.transpose(..., "visit", "visit_other").values.astype(np.float64)
    values = values.reshape(-1, *values.shape[-2:])
    if values.shape[1] < 3:
        visits = values.shape[1] - 1
        raise InputError("probed", f"{visits} visit", "has no growth to diagnose; probe a block that is visited again")
    bad = np.flatnonzero(~np.isfinite(np.diagonal(values, axis1=1, axis2=2)).all(0))
    if len(bad) or not np.isfinite(values).all():
        visit = int(bad[0]) if len(bad) else "some"
        mend = "holds an infinity or a NaN from here on; probe fewer loops, smaller weights or a wider dtype"
        raise InputError("probed", f"the stream after visit {visit}", mend)
    return values


def _counts(probed: xr.Dataset, visits: int, loops: int | None, layers: int | None) -> tuple[int, int]:
    """N and L, from the arguments, else the attributes, else the loops counted by increment_cosine."""
    if loops is None and layers is None:
        loops = int(probed.attrs.get("loops", probed.sizes.get("loop", visits)))
    for name, count in (("loops", loops), ("unique_layers", layers)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= visits):
            raise InputError(name, count, f"must be an integer from 1 to the {visits} visits")
    given_loops = loops if loops is not None else visits // (layers or 1)
    given_layers = layers if layers is not None else visits // given_loops
    if given_loops * given_layers != visits:
        raise InputError("loops", given_loops, f"times unique_layers = {given_layers} is not the {visits} visits")
    return given_loops, given_layers


def _cannot_tell(path: Trajectory, unit: str) -> str:
    if path.steps < FEWEST:
        return f"{path.steps} {unit}s are too few to tell laws apart; probe {FEWEST} at least"
    still = np.flatnonzero(path.sizes <= 1e-9 * np.sqrt(path.squares[:-1]))
    if len(still) == path.steps:
        return f"no {unit} changes the stream"
    return f"{unit} {still[0] + 1} leaves the stream as it is, which has no direction" if len(still) else ""


def _judge(
    path: Trajectory, found: Mapping[str, Estimate], misfit: Mapping[str, float], unit: str, across: Estimate | None
) -> tuple[Law, str]:
    """The law whose mark is surely there, and that mark in words."""
    squares, sizes = path.squares, path.sizes
    gain, held = np.abs(np.diff(squares[1:])), _HELD * sizes[1:] ** 2
    if (gain <= held + 1e-6 * squares[1:-1]).all() and sizes[1:].max() > 1e-4 * math.sqrt(squares[-1]):
        return "normalised", f"no {unit} after the first changes R² by more than {_HELD:.0%} of ‖Δ‖²/d"
    last = sizes[-max(1, path.steps // 4) :]
    if last.sum() < _DIED * math.sqrt(squares.max()) and sizes[-1] <= sizes.max() / 4:
        return (
            "bounded",
            f"the last {len(last)} {unit}s together move the stream by {last.sum() / math.sqrt(squares.max()):.1%} of R",
        )
    if found["rate"].high < 0:
        return "bounded", f"R falls: d log R / d {unit} = {found['rate']}"
    if found["displacement_exponent"].high < 0.5 and found["exponent"].inside(-0.25, 0.25):
        return "bounded", f"‖h − h_0‖² ∝ {unit}s^p over the later half, p = {found['displacement_exponent']}"
    way, marks = _coherence(found, unit, across)
    if math.sqrt(squares[-1]) < _GROWN * math.sqrt(squares[1:3].min()):
        return way, marks
    feedback = found["feedback"]
    marks += f"; ‖Δ‖ ∝ R^s, s = {feedback}"
    kind = "independent" if way == "independent" else "coherent"
    constant, growing = misfit[kind], misfit[f"exponential, {kind}"]
    if feedback.inside(0.5, 1.6) or (feedback.value > 0.5 and growing < constant / 2):
        return "exponential", marks
    if not (feedback.high < 0.5 or (feedback.value < 0.5 and constant < growing / 2)):
        return "undecided", f"{marks}: neither constant nor ∝ R"
    return "linear" if way == "coherent" else way, marks


def _coherence(found: Mapping[str, Estimate], unit: str, across: Estimate | None) -> tuple[Law, str]:
    """How the changes' directions add up; with a few loops, from one layer's changes in different loops."""
    if across is not None:
        marks = f"a layer's changes in different loops have cosine {across}"
        way: Law = "coherent" if across.low > 0.2 else "independent" if across.inside(-0.2, 0.2) else "undecided"
        return way, marks
    directions, late = found["direction_exponent"], found["late_exponent"]
    marks = f"directions align as {unit}s^γ, γ = {directions}, over the later half {late}"
    if late.inside(0.5, 1.6) and directions.low > 0.2:
        return "coherent", marks
    if directions.inside(-0.35, 0.35) and late.low < 0.5:
        return "independent", marks
    if late.inside(0.1, 0.9) and directions.inside(0.1, 0.9):
        return "partly coherent", marks
    return "undecided", f"{marks}: too wide, or at odds; probe more loops"


def _ranges(law: Law, found: Mapping[str, Estimate]) -> tuple[Estimate, Estimate]:
    """γ and s of the law, with the range of either that the data leave open."""
    directions, late, feedback = (found[name] for name in ("direction_exponent", "late_exponent", "feedback"))
    if law in ("coherent", "linear") or (law in ("exponential", "normalised") and late.value > 0.5):
        gamma = Estimate(1.0, float(np.clip(late.low, 0.5, 1)), 1.0)
    elif law == "partly coherent":
        gamma = Estimate(*(float(np.clip(value, 0, 1)) for value in (late.value, late.low, late.high)))
    else:
        gamma = Estimate(0.0, 0.0, float(np.clip(directions.high, 0, 0.5)))
    if law == "exponential":
        return gamma, Estimate(1.0, float(np.clip(feedback.low, 0.5, 1)), 1.0)
    if law == "linear":
        return gamma, Estimate(0.0, 0.0, float(np.clip(feedback.high, 0, 0.5)))
    low, value, high = (float(np.clip(value, 0, 1)) for value in (feedback.low, feedback.value, feedback.high))
    return gamma, Estimate(value, low, high)


def _outlook(
    path: Trajectory, law: Law, found: Mapping[str, Estimate], loops: int, layers: int
) -> tuple[float, float, tuple[Forecast, ...]]:
    """The scale recommended today, the error of the second half forecast from the first, and the forecasts."""
    if law == "undecided":
        return math.nan, math.nan, ()
    gamma, feedback = _ranges(law, found)
    fixed = law in ("normalised", "bounded")
    model = GrowthModel.through(path, gamma.value, feedback.value)
    half = GrowthModel.through(path.first(path.steps // 2), gamma.value, feedback.value)
    seen = math.sqrt(path.squares[-1])
    backtest = 0.0 if fixed else math.log(float(half.norm(half.displaced(path.steps))) / seen)
    today = 1.0 if fixed else min(1.0, math.sqrt(_TARGET / model.drive))
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
    return today, backtest, tuple(forecasts)


def _bounds(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.low, estimate.value, estimate.high


def _forecast(
    path: Trajectory, model: GrowthModel, corners: list[GrowthModel], factor: int, scale: float, backtest: float
) -> Estimate:
    """R after factor times the steps, between the corners' and, in log R, as far off as the backtest was, twice."""
    steps = np.asarray(factor * path.steps)
    value, *others = (float(each.norm(each.displaced(steps, scale))) for each in (model, *corners))
    grown = abs(math.log(path.squares[-1] / path.squares[path.steps // 2]) / 2)
    ahead = abs(math.log(value / model.norm_reached)) if 0 < value < math.inf else math.inf
    off = 2 * abs(backtest) * max(math.log2(factor), ahead / max(grown, 1e-12)) if backtest else 0.0
    if scale < 1:
        off = 2 * abs(backtest)
    spread = math.exp(min(off, 700.0))
    return Estimate(value, min([value, *others]) / spread, max([value, *others]) * spread)


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


def _assumed(law: Law, loops: int, layers: int) -> tuple[str, ...]:
    notes = [
        "Further visits do as those seen did; forecasts are extrapolations, at the same weights.",
        f"Intervals leave out blocks of consecutive {'loops' if loops >= FEWEST else 'visits'} in turn; they do not "
        "cover what another draw of the weights would do, unless draws were joined.",
        "A branch's output is proportional to ε, and the branches keep their law at another ε.",
    ]
    if law == "undecided":
        return tuple(notes[1:2])
    notes.append(
        f"At today's count ε is cut until S/R₀² to first order is {_TARGET:g} at most, a random ReLU loop's at λ = 1; "
        "at m times the loops ε ∝ m^(-(1+γ)/2) and Adam's rate in the blocks ∝ m^(-(1-γ)/2), γ = 1 being ε = λ/(N√L)."
    )
    notes += recommend(loops, layers).scope if law in ("coherent", "linear", "exponential") else ()
    return tuple(notes)


def _untested(probed: xr.Dataset, members: int) -> tuple[str, ...]:
    """What this probe did not vary or cannot see."""
    attrs = probed.attrs
    notes = []
    if int(probed.get("samples", 0)) <= 1:
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
