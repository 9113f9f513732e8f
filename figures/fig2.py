"""The norm of the stream against depth and loops in the first optimizer steps (the paper's Fig. 2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure as Canvas

from residual_theory.report.drawing import RULES, Figure
from residual_theory.report.first_steps import NEEDS, STYLE, TEXT, Runs, details, loop_axis, plain_numbers
from residual_theory.report.results import Results

PAPER_N = 64
PAPER = {  # read off the plots at N = 64, to about 15 %: lowest and highest, by tying and rule
    (True, "1"): (60 / 1.15, 60 * 1.15),
    (True, "1/sqrt(N)"): (8 / 1.15, 8 * 1.15),
    (True, "1/N"): (1 / 1.15, 1.15),
    (False, "1/N"): (0.2, 0.5),
}


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """Top: untied copies of the stack. Bottom: the stack looped. One column a rule, one line a number of steps done."""
    runs = Runs.read(results)
    steps = max(run.measurement.steps for run in runs.done)
    colours = [mpl.colormaps["cividis_r"](0.15 + 0.85 * step / max(steps, 1)) for step in range(steps + 1)]
    tables = []
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(TEXT, 4.2))
        panels = canvas.subplots(2, 3, sharex=True)
        for row, tied in zip(panels, (False, True), strict=True):
            for panel, (rule, symbols) in zip(row, RULES.items(), strict=True):
                tables.append(with_prediction(runs, rule, tied=tied))
                lines(panel, tables[-1], colours)
                if runs.is_of_the_paper:
                    mark_paper(panel, rule, tied=tied)
                finish(panel, runs)
                panel.set_title(f"looped, {symbols}" if tied else f"untied, {symbols.replace('N', 'n')}")
            row[0].set_ylabel("R at the end of the stack")
            row[1].set_xlabel("loops N" if tied else "copies n of the stack")
        handles = dict(zip(*reversed(panels[1, 0].get_legend_handles_labels()), strict=True))
        canvas.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
        scale = ScalarMappable(BoundaryNorm(np.arange(-0.5, steps + 1), steps + 1), ListedColormap(colours))
        bar = canvas.colorbar(scale, ax=panels, shrink=0.6, aspect=30, pad=0.01)
        bar.set_label("optimizer steps done")
        bar.set_ticks(range(0, steps + 1, 2))
        bar.minorticks_off()
        runs.note(canvas)
    return canvas, pd.concat(tables, ignore_index=True)


def lines(panel: Axes, table: pd.DataFrame, colours: Sequence[Any]) -> None:
    """A line for each number of steps done, and the prediction."""
    for step, line in table.groupby("step"):
        style = {"color": colours[int(str(step))], "lw": 1.0, "elinewidth": 0.6}
        panel.errorbar(line.loops, line["mean"], line.stderr.fillna(0), marker="o", ms=2, **style)
    law = table[(table.step == 0) & table.predicted.notna()]
    panel.plot(law.loops, law.predicted, ls=(0, (3, 2)), lw=1.2, color="k", zorder=5, label="predicted, step 0")


def finish(panel: Axes, runs: Runs) -> None:
    """Logarithmic axes with plain numbers, R over a factor 3 at least."""
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    room = max(1.0, (3 * low / high) ** 0.5)
    panel.set_ylim(low / room, high * room)
    plain_numbers(panel.yaxis, low / room, high * room)
    loop_axis(panel, runs.loops, "")


def with_prediction(runs: Runs, rule: str, *, tied: bool) -> pd.DataFrame:
    """R by loops and steps done, beside what LlamaStack predicts at step 0."""
    table = runs.table(rule, tied=tied, measure=lambda run: np.sqrt(run.covariance.values[:, -1, -1]), first=0)
    laws = {loops: runs.prediction(loops, rule, tied=tied) for loops in runs.loops}
    known = {loops: float(law.second_moment[-1]) ** 0.5 for loops, law in laws.items() if law is not None}
    at_start = table.loops.map(known).where(table.step == 0)
    return table.assign(predicted=at_start)


def mark_paper(panel: Axes, rule: str, *, tied: bool) -> None:
    """A bar for the paper's level, as wide as the error of reading it."""
    if (tied, rule) in PAPER:
        low, high = PAPER[tied, rule]
        middle = (low * high) ** 0.5
        reach = [[middle - low], [high - middle]]
        panel.errorbar(
            PAPER_N,
            middle,
            reach,
            fmt="D",
            ms=4.5,
            mfc="w",
            color="#b2182b",
            capsize=3,
            label="paper, N = 64",
            zorder=6,
        )


FIGURE = Figure(
    id="fig2",
    title="The norm of the stream in the first optimizer steps: untied stacks and looped ones",
    paper="Fig. 2",
    caption=(
        "The rms norm R of the stream at the end of a Transformer as in the paper's tables, over tokens, a mean over "
        "seeds (bars: standard error), for each number of optimizer steps done. Top: n untied copies of the L-block "
        "stack; those too deep for the optimizer's state are at step 0 only, their weights drawn, used and dropped. "
        "Bottom: the stack looped N times. Dashed: LlamaStack's prediction at step 0, for distinct tokens. Diamonds, "
        "at the paper's sizes alone: its values at N = 64, read off its plots to about 15 % (untied under 1/n: the "
        "range it shows). Everything else is ours."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
    details=details,
    partial=True,
)
