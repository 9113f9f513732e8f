"""What one probe of a model says of its residual stream: the law it follows, where it goes, and what to do about it."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.theory.recommend import recommend
from residual_theory.verify.outlook import TARGET, Forecast, Law, outlook
from residual_theory.verify.trajectory import MEASURES, Array, Estimate, GrowthModel, Trajectory, estimates

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
FEWEST = 5  # steps: three points and two parameters tell nothing
_GROWN = 2.0  # times R₀: from here on growth has a shape
_HELD = 0.05  # of the changes' squares, in R²: below it the stream is held
_DIED = 0.05  # of R, in the last quarter's changes together
_FALLEN = 0.7  # of R² at its highest; a stream that random changes happen to shorten falls less
_LEAST = 1e-7  # of R: a change below it is lost in the difference of float64 squares
_BACK = -0.35  # of the cosine between adjacent changes: −1/2 where states follow one another in any order
_CORNERS = {
    "independent": (0, 0),
    "coherent": (1, 0),
    "exponential, independent": (0, 1),
    "exponential, coherent": (1, 1),
}


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
    growth: the law as a curve through the last step; None where R is held or dies away.
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
    growth: GrowthModel | None
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
                    f"at ε × {each.scale:.3g}, R = {each.recommended}, "
                    f"learning rate in blocks × {each.learning_rate:.3g}"
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
    S_k = ‖h_k − h_0‖²/d, one model holds every law: S = u^(1+γ), du/dk = w R^(2s/(1+γ)), R² = R₀² + 2xR₀√S + S. Untied
    layers have γ = 0, coherent ones γ = 1; homogeneous branches s = 1 (exponential growth), branches behind a norm
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
        "loops": loops, "unique_layers": layers, "samples": _samples(probed), "level": level,
        "steps": path.steps, "unit": unit, "norms": tuple(map(float, np.sqrt(path.squares))),
    }  # fmt: skip
    untested = _untested(probed, len(covariances))
    if reason := _cannot_tell(path, unit):
        return Diagnosis(
            law="undecided", why=reason, **known, **dict[str, Any](dict.fromkeys(MEASURES, Estimate(math.nan))),
            misfit={}, growth=None,
            residual_scale=math.nan, backtest=math.nan, forecasts=(), assumed=(), untested=untested,
        )  # fmt: skip
    found = estimates(path, members, level)
    misfit = {name: GrowthModel.through(path, *corner).misfit(path) for name, corner in _CORNERS.items()}
    across = path.across_loops(loops, level) if stride == 1 and layers > 2 and loops > 1 else None
    law, why = _judge(path, found, misfit, unit, across)
    return Diagnosis(
        law=law, why=why, **known, **dict[str, Any](found), misfit=misfit,
        **outlook(path, law, found, loops, layers)._asdict(), assumed=_assumed(law, loops, layers), untested=untested,
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
    return np.asarray(values)


def _samples(probed: xr.Dataset) -> int:
    return int(probed.samples.sum()) if "samples" in probed else 0


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
    still = np.flatnonzero(path.sizes <= _LEAST * np.sqrt(path.squares[:-1]))
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
        moved = last.sum() / math.sqrt(squares.max())
        return "bounded", f"the last {len(last)} {unit}s together move the stream by {moved:.1%} of R"
    if path.adjacent_cosine < _BACK:
        return "undecided", f"each {unit} undoes the one before, cosine {path.adjacent_cosine:.2f}: is the order right?"
    if found["rate"].high < 0 and squares[-1] < _FALLEN * squares.max():
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
    if late.low > 0.5 and directions.low > 0.2:
        return "coherent", marks
    if directions.inside(-0.35, 0.35) and late.low < 0.5:
        return "independent", marks
    if late.inside(0.1, 0.9) and directions.inside(0.1, 0.9):
        return "partly coherent", marks
    return "undecided", f"{marks}: too wide, or at odds; probe more loops"


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
        f"At today's count ε is cut until S/R₀² to first order is {TARGET:g} at most, a random ReLU loop's at λ = 1; "
        "at m times the loops ε ∝ m^(-(1+γ)/2) and Adam's rate in the blocks ∝ m^(-(1-γ)/2), γ = 1 being ε = λ/(N√L)."
    )
    notes += recommend(loops, layers).scope if law in ("coherent", "linear", "exponential") else ()
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
