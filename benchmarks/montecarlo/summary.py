"""Ratios, exponents, predictions and targets from the rows of a race, and its plot."""

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from cost import bytes_per_sample
from race import SamplerTimes
from samplers import COPIED

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

OURS, DENSE = "matrix-free", "torch dense"
FASTER = {("float64", 4096): 60.0, ("float64", 8192): 300.0, ("float32", 8192): 200.0}  # times, against dense torch
LARGE, LARGE_SECONDS, LARGE_GIB = 10**6, 60.0, 4.0
WIDE = 65536  # from here on the stored vectors are far beyond a cache
BANDWIDTH, WIDTH_EXPONENT, LOOPS_EXPONENT = 0.5, 1.1, 2.1
PRECISION = 0.01
COLOURS = {
    OURS: "C0",
    DENSE: "C3",
    "numpy dense": "C1",
    "library dense": "C2",
    "neural-tangents": "C4",
}


class Fact(NamedTuple):
    """One line of the summary; a target is a number at least or at most to be reached, and is never asserted."""

    what: str
    value: float
    unit: str = ""
    spread: str = ""
    least: float | None = None
    most: float | None = None

    def record(self) -> dict[str, str]:
        """One line of the table."""
        target = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}" if self.most is not None else ""
        reached = (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)
        return {
            "what": self.what,
            "value": f"{self.value:.4g}",
            "unit": self.unit,
            "spread": self.spread,
            "target": target,
            "reached": ("yes" if reached else "no") if target else "",
        }


def summarize(rows: Sequence[SamplerTimes]) -> list[Fact]:
    """Everything that the rows say beyond themselves."""
    return [*_ratios(rows), *_large(rows), *_exponents(rows), *_bandwidth(rows), *_precision(rows), *_agreement(rows)]


def along(rows: Sequence[SamplerTimes], sweep: str, sampler: str) -> dict[int, SamplerTimes]:
    """The rows of one sampler by what varies."""
    return {getattr(row.settings, sweep): row for row in rows if (row.sweep, row.sampler) == (sweep, sampler)}


def _by_turn(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, str]:
    """The median of the ratios of calls made in the same turn, and their range."""
    ratios = [top / bottom for top, bottom in zip(numerator, denominator, strict=True)]
    return statistics.median(ratios), f"{min(ratios):.3g} … {max(ratios):.3g}"


def _ratios(rows: Sequence[SamplerTimes]) -> Iterator[Fact]:
    ours = along(rows, "width", OURS)
    for width, row in ours.items():
        others = {name: along(rows, "width", name).get(width) for name in COLOURS if name != OURS}
        present = {name: other for name, other in others.items() if other is not None}
        if DENSE in present:
            times, spread = _by_turn(present[DENSE].seconds, row.seconds)
            yield Fact(
                f"{DENSE} / {OURS}, width {width}",
                times,
                "times",
                spread,
                least=FASTER.get((row.settings.dtype, width)),
            )
        if len(present) > 1:
            name = min(present, key=lambda name: present[name].median)
            times, spread = _by_turn(present[name].seconds, row.seconds)
            yield Fact(f"fastest other ({name}) / {OURS}, width {width}", times, "times", spread)


def _large(rows: Sequence[SamplerTimes]) -> Iterator[Fact]:
    row = along(rows, "width", OURS).get(LARGE)
    if row is not None:
        memory = row.answers.get("device_peak_gib", row.answers["peak_gib"])
        spread = f"{min(row.seconds):.3g} … {max(row.seconds):.3g}"
        yield Fact(f"{OURS}, width {LARGE}: seconds a sample", row.median, "s", spread, most=LARGE_SECONDS)
        yield Fact(f"{OURS}, width {LARGE}: peak memory", memory, "GiB", most=LARGE_GIB)


def exponent(points: dict[int, SamplerTimes]) -> float:
    """Of seconds in what varies, by least squares in logarithms."""
    return float(np.polyfit(np.log(list(points)), np.log([row.median for row in points.values()]), 1)[0])


def _exponents(rows: Sequence[SamplerTimes]) -> Iterator[Fact]:
    widths = along(rows, "width", OURS)
    wide = {width: row for width, row in widths.items() if width >= WIDE}
    for name, points, most in (("from", wide, WIDTH_EXPONENT), ("all, from", widths, None)):
        if len(points) > 1:
            what = f"{OURS}: exponent of seconds in width, {name} {min(points)} to {max(points)}"
            yield Fact(what, exponent(points), most=most)
    loops = along(rows, "loops", OURS)
    if len(loops) > 1:
        width = next(iter(loops.values())).settings.width
        what = f"{OURS}: exponent of seconds in loops, {min(loops)} to {max(loops)}, width {width}"
        yield Fact(what, exponent(loops), most=LOOPS_EXPONENT)
        (fewer, before), (more, after) = list(pairwise(loops.items()))[-1]
        steep = math.log(after.median / before.median) / math.log(more / fewer)
        yield Fact(f"{OURS}: the same between {fewer} and {more} loops", steep)


def _bandwidth(rows: Sequence[SamplerTimes]) -> Iterator[Fact]:
    copies = along(rows, "width", "copy")
    for width, row in along(rows, "width", OURS).items():
        if width in copies:
            size = row.settings
            moved = bytes_per_sample(size.loops, width, size.itemsize)
            rates = [moved / seconds for seconds in row.seconds]
            fraction, spread = _by_turn(rates, [2 * COPIED / seconds for seconds in copies[width].seconds])
            what = f"{OURS}, width {width}: bytes a second over those of a copy"
            yield Fact(what, fraction, "", spread, least=BANDWIDTH if width >= WIDE else None)
    speeds = [2 * COPIED / seconds / 1e9 for row in copies.values() for seconds in row.seconds]
    if speeds:
        yield Fact("copy, read and written", max(speeds), "GB/s", f"{min(speeds):.3g} … {max(speeds):.3g}")


def _precision(rows: Sequence[SamplerTimes]) -> Iterator[Fact]:
    """Samples until ‖h_N‖²/d is known to 1 %, from its deviation as measured, and the time they take."""
    ours, dense = along(rows, "width", OURS), along(rows, "width", DENSE)
    for width, row in ours.items():
        alike = [other for name in COLOURS if (other := along(rows, "width", name).get(width)) and other.samples > 1]
        known = sum(other.samples - 1 for other in alike)
        if width > WIDE or not known:
            continue
        variance = sum((other.samples - 1) * (other.deviation / other.mean) ** 2 for other in alike) / known
        needed = max(2, math.ceil(variance / PRECISION**2))
        spread = f"σ {100 * variance**0.5:.2g} %, {known} d.o.f."
        yield Fact(f"samples for 1 % standard error of ‖h_N‖²/d, width {width}", needed, "", spread)
        yield Fact(f"  {OURS}", needed * row.median, "s")
        if width in dense:
            yield Fact(f"  {DENSE}", needed * dense[width].median, "s")
        elif dense and max(dense) < width:
            last = max(dense)
            yield Fact(f"  {DENSE}", needed * dense[last].median * (width / last) ** 2, "s", f"as d² from d = {last}")


def _agreement(rows: Sequence[SamplerTimes]) -> Iterator[Fact]:
    """How far the means of the others lie from ours, in standard errors of the difference."""
    ours = along(rows, "width", OURS)
    apart = [
        abs(row.mean - own.mean) / math.hypot(row.stderr, own.stderr)
        for row in rows
        if row.sweep == "width" and row.sampler != "copy" and (own := ours.get(row.settings.width)) not in (None, row)
    ]
    apart = [value for value in apart if math.isfinite(value)]
    if apart:
        what = f"largest of {len(apart)} differences of the mean ‖h_N‖²/d from {OURS}"
        yield Fact(what, max(apart), "standard errors")


def draw(rows: Sequence[SamplerTimes], path: Path) -> None:
    """Seconds against width and loops, and memory against width."""
    figure, (width_axes, loops_axes, memory_axes) = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    for name, colour in COLOURS.items():
        widths, loops = along(rows, "width", name), along(rows, "loops", name)
        for axes, points in ((width_axes, widths), (loops_axes, loops)):
            if not points:
                continue
            label = name if axes is width_axes else f"{name}, d = {next(iter(points.values())).settings.width}"
            label += f", slope {exponent(points):.2f}" if axes is loops_axes and len(points) > 1 else ""
            _errorbars(axes, points, colour, label)
            if name == OURS:
                axes.plot(list(points), [row.predicted for row in points.values()], "--", color=colour)
        memory = [row.answers.get("device_peak_gib", row.answers["peak_gib"]) for row in widths.values()]
        memory_axes.plot(list(widths), memory, "o-", ms=4, color=colour, label=name)
    width_axes.plot([], [], "--", color=COLOURS[OURS], label="predicted from bytes and draws")
    fixed = next(row.settings.loops for row in rows if row.sweep == "width")
    width_axes.set(xlabel="width d", ylabel="seconds a sample", title=f"Time at {fixed} loops")
    loops_axes.set(xlabel="loops N", ylabel="seconds a sample", title="Time against loops")
    memory_axes.set(xlabel="width d", ylabel="peak memory, GiB", title=f"Memory at {fixed} loops, libraries included")
    for axes in (width_axes, loops_axes, memory_axes):
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.25)
    loops_axes.set_xscale("log", base=2)
    loops_axes.xaxis.set_major_formatter("{x:g}")
    memory_axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    memory_axes.yaxis.set_major_formatter("{x:g}")
    memory_axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = loops_axes.get_ylim()
    loops_axes.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
    loops_axes.legend(fontsize=8, frameon=False, loc="upper left")
    figure.legend(*width_axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    settings = rows[0].settings
    figure.suptitle(f"One random tied ReLU stack, ε = 1/N, {settings.dtype}, {settings.device}")
    for suffix in ("png", "pdf"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=150)
    plt.close(figure)


def _errorbars(axes: Any, points: dict[int, SamplerTimes], colour: str, label: str) -> None:
    """Medians, with bars from the least to the most."""
    rows = points.values()
    below = [row.median - min(row.seconds) for row in rows]
    above = [max(row.seconds) - row.median for row in rows]
    axes.errorbar(
        list(points),
        [row.median for row in rows],
        yerr=[below, above],
        fmt="o-",
        ms=4,
        lw=1.2,
        capsize=2,
        color=colour,
        label=label,
    )
