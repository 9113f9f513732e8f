"""What training does to the stream against N: one-step updates, trained norms, alignment (the paper's Fig. 4, 7, 9)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from residual_theory.claims import Observations, Training, runs_of, visit_alignment
from residual_theory.report.drawing import RULE_COLOURS, RULES, Figure
from residual_theory.report.results import Results

NEEDS = (("update-size", "model"), ("trained-norm", "model"))
TICKS = (1, 2, 4, 8, 16, 32, 64)
COLOURS = dict(zip(RULES, RULE_COLOURS, strict=True))


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """Left: one-step updates. Middle: R after training. Right: visit alignment, before and after."""
    one, trained = results.of(*NEEDS[0], Training), results.of(*NEEDS[1], Training)
    canvas = Canvas(figsize=(12, 3.7))
    left, middle, right = canvas.subplots(1, 3)
    tables = []
    for rule in ("1/sqrt(N)", "1/N"):
        style = {"color": COLOURS[rule], "label": RULES[rule]}
        tables.append(_line(left, one, rule, True, lambda run, _: float(run.stream_update[-1, -1]), "update", **style))
        norm = _line(
            middle, trained, rule, True, lambda run, _: float(run.second_moment[-1, -1]) ** 0.5, "trained_R", **style
        )
        tables.append(norm)
    for rule, tied, name in (("1/N", True, "tied, ε = 1/N"), ("1/sqrt(N)", False, "untied, ε = 1/√N")):
        for at, when, line in ((0, "at the start", "--"), (-1, "after training", "-")):

            def alignment(run: xr.Dataset, loops: int, at: int = at) -> float:
                return float(visit_alignment(run.covariance.values, loops)[at])

            style = {"color": COLOURS[rule], "label": f"{name}, {when}", "ls": line}
            tables.append(_line(right, trained, rule, tied, alignment, f"alignment {when}", **style))
    for panel, label in (
        (left, "rms change of h after one step"),
        (middle, "rms norm R after training"),
        (right, "κ = ‖ΣΔ‖²/Σ‖Δ‖² over visits"),
    ):
        panel.set(xscale="log", yscale="log", xlabel="loops N", ylabel=label)
        shown = [tick for tick in TICKS if tick <= panel.dataLim.x1]
        panel.set_xticks(shown, [str(tick) for tick in shown])
        panel.set_xticks([], minor=True)
        panel.legend()
    return canvas, pd.concat(tables, ignore_index=True)


def _line(
    panel: Axes,
    runs: Observations,
    rule: str,
    tied: bool,
    measure: Callable[[xr.Dataset, int], float],
    name: str,
    **style: Any,
) -> pd.DataFrame:
    """Draw the mean over seeds with its standard error, and return it."""
    rows = []
    for run in runs_of(runs, residual_scale=rule, tied=tied):
        loops = run.measurement.model.loops
        rows.append({"loops": loops, "value": measure(run.result, loops)})
    table = pd.DataFrame(rows).groupby("loops").value.agg(["mean", "sem", "count"]).reset_index()
    panel.errorbar(table["loops"], table["mean"], yerr=table["sem"], marker="o", ms=3.5, capsize=2, **style)
    return table.assign(quantity=name, residual_scale=rule, tied=tied).rename(columns={"count": "seeds"})


FIGURE = Figure(
    id="training-streams",
    title="What training does to the stream of a looped Transformer, against its loops",
    paper=("Fig. 4", "Fig. 7"),
    caption=(
        "One block looped N times. Left: how much one AdamW step changes the stream at the end of the stack. Middle: "
        "its norm after a short training. Right: how far the changes made by different visits point the same way; "
        "κ = N is complete alignment, κ = 1 none. Means over seeds with standard errors."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
)
