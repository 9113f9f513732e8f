"""Fig. 4 at each of the first optimizer steps (the paper's Fig. 9)."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.report.drawing import Figure
from residual_theory.report.first_steps import NEEDS, STYLE, TEXT, Runs, details, growth_panel
from residual_theory.report.results import Results


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """One panel a step."""
    runs = Runs.read(results)
    steps = max(run.measurement.steps for run in runs.done)
    rows = -(-steps // 5)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(TEXT, 0.7 + 1.65 * rows))
        panels = canvas.subplots(rows, 5, sharex=True, sharey=True, squeeze=False)
        tables = []
        for step, panel in enumerate(panels.flat, start=1):
            if step > steps:
                panel.set_axis_off()
                continue
            tables.append(growth_panel(panel, runs, step))
            panel.set_title(f"step {step}")
            if step <= steps - 5:
                panel.set_xlabel("")
        for row in panels:
            row[0].set_ylabel("rms change")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper center", ncols=3)
        runs.note(canvas)
    return canvas, pd.concat(tables, ignore_index=True)


FIGURE = Figure(
    id="fig9",
    title="How far each of the first optimizer steps moves the final state",
    paper="Fig. 9",
    caption=(
        "As fig4, at every step: the rms change of the stream before the last RMSNorm, means over seeds with standard "
        "errors. Grey lines: N and √N, through the value at N = 1. Dotted: a factor 2 either way. All data are ours."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
    details=details,
    partial=True,
)
