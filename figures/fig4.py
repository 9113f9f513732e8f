"""How far one optimizer step moves the final state, against N (the paper's Fig. 4)."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.report.drawing import Figure
from residual_theory.report.first_steps import COLUMN, NEEDS, STYLE, Runs, details, growth_panel
from residual_theory.report.results import Results

STEP = 1


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """One line a rule."""
    runs = Runs.read(results)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(COLUMN, 2.6))
        panel = canvas.subplots()
        table = growth_panel(panel, runs, STEP)
        panel.set_ylabel("rms change of the final state")
        panel.legend(loc="upper left")
        runs.note(canvas)
    return canvas, table


FIGURE = Figure(
    id="fig4",
    title="How far the first optimizer step moves the final state, at one rate for all N",
    paper="Fig. 4",
    caption=(
        "The rms of what the first optimizer step changes in the stream before the last RMSNorm, at the tokens that it "
        "trains on; means over seeds with standard errors. Grey lines: N and √N, through the value at N = 1. Dotted: a "
        "factor 2 either way from it, 4 in all, which is what the paper states of 1/N. All data are ours."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
    details=details,
    partial=True,
)
