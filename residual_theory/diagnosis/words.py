"""A diagnosis in words: three lines to act on, and all of it."""

import math
import textwrap
from typing import TYPE_CHECKING

from residual_theory.diagnosis.laws import MEANING
from residual_theory.diagnosis.trajectory import Estimate

if TYPE_CHECKING:
    from residual_theory.diagnosis.diagnose import Diagnosis
    from residual_theory.diagnosis.outlook import Forecast

_STABLE = 2.0  # times today's size: below it a stream is called stable
_ALIGNED, _PART = 0.5, 0.15  # mean cosine between changes


def summary(found: "Diagnosis") -> str:
    """Three lines: what the stream does, why we say so, what to do."""
    lines = [_does(found), f"Why: {_because(found)}.", f"Do: {_advice(found)}."]
    return "\n".join(lines + ([f"Beware: {found.warning}."] if found.warning else []))


def _does(found: "Diagnosis") -> str:
    now = f"size {found.norms[-1]:.3g} now"
    if found.no_more:
        return f"Not forecast, because {found.no_more}; {now}."
    if not found.forecasts:
        return f"Cannot tell what the stream does: {found.why.rstrip('?')}."
    farthest = found.forecasts[-1].same
    stable = farthest.told and farthest.high <= _STABLE * found.norms[-1]
    if stable:
        how = {"normalised": "; a norm on the stream holds its size", "bounded": "; the stream settles"}
        start = f"Stable at {found.forecasts[-1].factor} times {_count(found)}"
        return f"{start}: {now}, {farthest} then{how.get(found.law, '')}."
    if found.law == "bounded":
        start = "The stream shrinks" if found.rate.high < 0 else "The stream comes to rest"
    elif found.law == "undecided" or found.norms[-1] < found.norms[0]:
        start = "Cannot tell how fast the stream grows, if it does"
    else:
        start = "Explodes with more loops" if found.law == "exponential" else "Grows with more loops"
    sizes = [(_size(each.same, found.norms[-1]), f"{each.factor}×") for each in found.forecasts]
    said = {size: [at for other, at in sizes if other == size] for size, _ in sizes}
    ahead = ", ".join(f"{size} at {', '.join(at)}" for size, at in said.items())
    return f"{start}: {now}, {ahead} {_count(found)}."


def _count(found: "Diagnosis") -> str:
    return f"the {found.loops} loops" if found.loops > 1 else f"the {found.unique_layers} layers"


def _size(same: Estimate, now: float) -> str:
    """A forecast, or the end of it that is worth saying."""
    if same.told:
        return str(same)
    if math.isfinite(same.low) and same.low > now:
        return f"more than {same.low:.2g}"
    return f"at most {same.high:.3g}" if same.high < _STABLE * now else "cannot tell"


def _because(found: "Diagnosis") -> str:
    if not found.misfit:
        return f"size {found.norms[0]:.3g} at first and {found.norms[-1]:.3g} after {found.steps} {found.unit}s"
    cosine = found.cosine.value
    way = (
        "point the same way" if cosine > _ALIGNED
        else "point partly the same way" if cosine > _PART
        else "point in unrelated directions" if cosine > -_PART
        else "point against one another"
    )  # fmt: skip
    if found.turning < -_PART:
        way, cosine = "go to and fro, each against the one before", found.turning
    went = f"its size (root mean square of the entries) went from {found.norms[0]:.3g} to {found.norms[-1]:.3g}"
    text = f"over {found.steps} {found.unit}s {went}, and the changes of different {found.unit}s {way}"
    return f"{text} (cosine {cosine:.2g}); law: {found.law}{f'; {found.regime}' if found.regime else ''}"


def _advice(found: "Diagnosis") -> str:
    if found.no_more:
        return (
            "give loops= and unique_layers= if the visits are loops of the same layers, or probe the looped part alone"
        )
    if not found.forecasts:
        return "probe more loops, or other inputs"
    if found.law == "normalised":
        return "nothing; the residual scale only decides how much of the stream each block replaces"
    if found.law == "bounded":
        return "nothing, if the size above is wanted"
    if found.moves_alone:
        return f"bound {found.moves_alone}: it moves the stream at any residual scale, so that none is recommended"
    factors = ", ".join(f"{each.scale:.2g}" for each in found.forecasts)
    rates = ", ".join(f"{each.learning_rate:.2g}" for each in found.forecasts)
    counts = ", ".join(f"{each.factor}×" for each in found.forecasts)
    keep = "keep" if found.residual_scale == 1 else f"multiply by {found.residual_scale:.2g}"
    learning = "keep the blocks' learning rate" if rates == "1, 1, 1" else f"the blocks' learning rate by {rates}"
    most = max((each.recommended.high for each in found.forecasts if each.recommended.told), default=math.nan)
    stays = f"; the size then stays below {most:.2g}" if math.isfinite(most) else ""
    return (
        f"{keep} the residual scale (the factor on what a block adds) now, and multiply today's by {factors} "
        f"at {counts} {_count(found)}; {learning}{stays}"
    )


def explain(found: "Diagnosis") -> str:
    """All of it: the law and its evidence, every number with its interval, what is assumed, and what is untested."""
    lines = [f"law: {found.law} ({MEANING[found.law]})", f"why: {found.why}"]
    lines += [f"certain: {found.certain}"] if found.certain else []
    lines += [f"loop map: {found.regime}"] if found.regime else []
    lines += [f"beware: {found.warning}"] if found.warning else []
    lines.append(f"over {found.steps} {found.unit}s R went from {found.norms[0]:.4g} to {found.norms[-1]:.4g}")
    if math.isfinite(found.exponent.value):
        lines += _measured(found)
    if found.forecasts:
        scale = f"recommended: ε × {found.residual_scale:.3g} as it is; "
        if math.isnan(found.residual_scale):
            scale = f"no ε is recommended, because {found.moves_alone} moves the stream at any ε; "
        lines.append(f"{scale}with more loops, extrapolated:")
        lines += [_forecast(each, found.norms[-1]) for each in found.forecasts]
    for title, entries in (("assumed", found.assumed), ("untested", found.untested)):
        lines += [f"{title}:"] if entries else []
        for entry in entries:
            lines += textwrap.wrap(entry, 110, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def _forecast(each: "Forecast", now: float) -> str:
    line = f"  {each.factor}× ({each.visits} visits): R = {_size(each.same, now)} at the same ε"
    if math.isnan(each.scale):
        return line
    rate = f"learning rate in blocks × {each.learning_rate:.3g}"
    return f"{line}; at ε × {each.scale:.3g}, R = {_size(each.recommended, now)}, {rate}"


def _measured(found: "Diagnosis") -> list[str]:
    unit, steps = found.unit, found.steps
    return [
        f"with {found.level:.0%} intervals:",
        f"  growth exponent, d log R / d log {unit}    {found.exponent}",
        f"  growth rate, d log R / d {unit}            {found.rate}",
        f"  coherence, mean cosine of changes       {_possible(found.cosine, -1, 1)}",
        f"  alignment κ = ‖ΣΔ‖²/Σ‖Δ‖²               {_possible(found.alignment, 0, steps)}, of {steps} at most",
        f"  its exponent γ                          {found.alignment_exponent}",
        f"  γ of directions; over the later half    {found.direction_exponent}; {found.late_exponent}",
        f"  feedback s in ‖Δ‖ ∝ R^s; later half     {found.feedback}; {found.late_feedback}",
    ]


def _possible(estimate: Estimate, least: float, most: float) -> str:
    """An estimate, without its interval where that spans all that can be."""
    told = estimate.high - estimate.low < 0.9 * (most - least)
    return str(estimate) if told else f"{estimate.value:.3g} (too few steps for an interval)"
