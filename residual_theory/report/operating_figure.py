"""Operating curves drawn: how often claims are confirmed and refuted against how far inside their margin they lie."""

from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from residual_theory.calibration.operating import Curve, Point
from residual_theory.report.drawing import STYLE

_COLOURS = {"confirmed": "#2166ac", "refuted": "#b2182b"}
_APART = {"confirmed": 0.05, "refuted": -0.05}  # so that one does not hide the other
_COLUMNS = 5
_LOWEST = 1e-4  # of the rates shown


def draw(curve: Curve) -> Canvas:
    """One panel a situation: measured rates with their intervals, pale where none was seen; behind them what is due."""
    panels: dict[str, list[Point]] = {}
    for point in curve.points:
        panels.setdefault(point.situation, []).append(point)
    rows = -(-len(panels) // _COLUMNS)
    with rc_context(STYLE):
        canvas = Canvas(figsize=(11, 0.5 + 2.3 * rows))
        axes: Any = canvas.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
        for place, (name, points) in zip(axes.flat, panels.items(), strict=False):
            _panel(place, points, curve.alpha)
            place.set_title(f"{name}\n{points[0].through}", fontsize=7.5)
        for place in axes.flat[len(panels) :]:
            place.set_axis_off()
        for place in axes[:, 0]:
            place.set_ylabel("share of runs")
        axes[0, 0].set(yscale="log", ylim=(_LOWEST, 1), xlim=(-2.3, 2.3), xticks=(-2, -1, 0, 1, 2))
        axes[0, 0].legend(fontsize=7, loc="upper center")
        canvas.supxlabel("standard errors that the truth lies inside the margin (negative: outside)", fontsize=9)
    return canvas


def _panel(place: Axes, points: list[Point], alpha: float) -> None:
    inside = [point.inside for point in points]
    place.axvline(0, color="0.6", lw=0.8)
    place.axhline(alpha, color="0.4", lw=0.8, ls="--")
    for name, colour in _COLOURS.items():
        rates = [point.rates[name] for point in points]
        least = [max(rate.least or 0.0, _LOWEST / 10) for rate in rates]
        most = [max(rate.most or 0.0, _LOWEST / 10) for rate in rates]
        if len(points) > 1:
            place.fill_between(inside, least, most, color=colour, alpha=0.2, lw=1)
        else:
            place.vlines(inside, least, most, color=colour, alpha=0.2, lw=9)
        for x, rate in zip(inside, rates, strict=True):
            low, high = rate.interval
            ends = [max(low, _LOWEST / 10), high]
            place.plot([x + _APART[name]] * 2, ends, color=colour, lw=1.2, alpha=1.0 if rate.count else 0.3)
        seen = [(x + _APART[name], rate.value) for x, rate in zip(inside, rates, strict=True) if rate.count]
        place.plot(*zip(*seen, strict=True) if seen else ([], []), "o", ms=3.5, color=colour, label=name)
