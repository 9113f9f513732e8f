"""The figure of a coordinate check: sizes against loops or layers, against the visit, and the slopes judged."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from residual_theory.coordinate.check import CoordinateCheck, Row
from residual_theory.errors import InputError
from residual_theory.report.drawing import STYLE

_COLOURS = {"confirmed": "#2166ac", "refuted": "#b2182b", "inconclusive": "#888888"}
_TITLES = {"stream": "stream", "stream_update": "update of the stream", "output": "output"}
_TITLES |= {"output_update": "update of the output"}
_LETTERS = {"loops": "loops N", "unique_layers": "unique layers L"}
_COLORMAP = colormaps["viridis"]


def draw(check: CoordinateCheck, axis: str | None = None, fixed: int | None = None) -> Canvas:
    """One figure: rms values against the size, one line a step; against the visit, one line a size; and the slopes.

    Arguments:
      axis, fixed: "loops" or "unique_layers", and the other's size; the first that has slopes unless given.
    Returns: a matplotlib figure. Points are means over seeds with bars of two standard errors; the bars of the slopes
      are the check's joint intervals, the shaded band its margin.
    Raises: InputError for an axis, or a size of the other, without slopes.
    """
    along = [row for row in check.rows if axis in (None, row.axis) and fixed in (None, row.fixed)]
    if not along:
        raise InputError(
            "axis", (axis, fixed), "has no slopes; choose an axis of at least 5 sizes, and a size measured"
        )
    axis, fixed = along[0].axis, along[0].fixed
    rows = [row for row in along if (row.axis, row.fixed) == (axis, fixed)]
    other = "unique_layers" if axis == "loops" else "loops"
    dataset = check.dataset.sel({other: fixed})
    last = int(dataset.step[-1])
    height = 1.2 + 0.14 * max(len(rows), 15)  # inches, of the slopes
    with rc_context(STYLE):
        canvas = Canvas(figsize=(11, 2.8 + height))
        halves: Any = canvas.subfigures(2, 1, height_ratios=(2.8, height))
        upper, lower = halves
        panels = upper.subplots(1, 4)
        for panel, name in zip(panels, _TITLES, strict=True):
            _against_size(panel, dataset[name], axis, dataset.visit_fraction)
            panel.set(title=_TITLES[name] + (", end of the stack" if name.startswith("stream") else ""))
        panels[0].set_ylabel("rms")
        panels[2].legend(title="step", fontsize=7, title_fontsize=7)
        panels = lower.subplots(1, 3, width_ratios=(1, 1, 1.6))
        for panel, name in zip(panels[:2], ("stream", "stream_update"), strict=True):
            _against_visit(panel, dataset[name].sel(step=last), axis, dataset.visit_fraction)
            panel.set(title=f"{_TITLES[name]}, step {last}", xlabel="visit k/V")
        panels[0].set_ylabel("rms")
        panels[0].legend(title=_LETTERS[axis], fontsize=7, title_fontsize=7)
        _slopes(panels[2], rows, check)
        canvas.suptitle(f"Coordinate check: {check.verdict} ({_LETTERS[other]} = {fixed})")
    return canvas


def _against_size(panel: Axes, values: xr.DataArray, axis: str, fraction: xr.DataArray) -> None:
    if "visit" in values.dims:
        values = values.where(fraction == 1).max("visit")  # one visit a size, the last
    steps = values.step.values
    for step in steps["update" in str(values.name) :]:
        colour = _COLORMAP(0.9 * step / steps[-1])
        mean, error = _over_seeds(values.sel(step=step))
        panel.errorbar(values[axis], mean, yerr=2 * error, marker="o", ms=3, capsize=2, color=colour, label=f"{step}")
    panel.set_xscale("log", base=2)
    panel.set_xticks(values[axis].values, [str(size) for size in values[axis].values])
    panel.set_xlabel(_LETTERS[axis])
    _one_decade(panel)


def _against_visit(panel: Axes, values: xr.DataArray, axis: str, fraction: xr.DataArray) -> None:
    for index, size in enumerate(values[axis].values):
        colour = _COLORMAP(0.9 * index / (values.sizes[axis] - 1))
        mean, _ = _over_seeds(values.sel({axis: size}))
        panel.plot(fraction.sel({axis: size}), mean.where(mean > 0), color=colour, marker=".", ms=3, label=f"{size}")
    _one_decade(panel)


def _over_seeds(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    return values.mean("seed", skipna=False), values.std("seed", ddof=1, skipna=False) / np.sqrt(values.sizes["seed"])


def _one_decade(panel: Axes) -> None:
    """Logarithmic, and at least a factor of ten, so that small changes look small."""
    if not np.isfinite(panel.dataLim.minposy):  # nothing positive is drawn, so no logarithm
        return
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    middle, half = np.sqrt(low * high), max(np.sqrt(high / low), np.sqrt(10))
    panel.set_ylim(middle / half, middle * half)


def _slopes(panel: Axes, rows: list[Row], check: CoordinateCheck) -> None:
    panel.axvspan(-check.margin, check.margin, color="#2166ac", alpha=0.08, lw=0)
    panel.axvline(0, color="0.6", lw=0.8)
    for height, row in enumerate(rows):
        low, high = row.finding.interval(check.level)
        panel.plot([low, high], [height, height], color=_COLOURS[row.word], lw=1.6)
        panel.plot(row.finding.value, height, "o", ms=3.5, color=_COLOURS[row.word])
    panel.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=6.5)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set(xlabel=f"d log rms / d log {_LETTERS[rows[0].axis][-1]}, joint intervals", title="slopes")
    for word, colour in _COLOURS.items():
        if any(row.word == word for row in rows):
            panel.plot([], [], color=colour, label=word)
    panel.legend(fontsize=7)


def _name(row: Row) -> str:
    place = "" if row.place in ("output", "end of the stack") else f", {row.place}"
    return f"{_TITLES[row.quantity]}{place}, step {row.step}"
