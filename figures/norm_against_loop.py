"""The norm against the loop for the paper's six scale rules (Fig. 2), predicted and simulated, in two models."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from residual_theory.claims import Observation, Prediction, Simulation, has, pooled
from residual_theory.report.drawing import RULE_COLOURS, Figure
from residual_theory.report.results import Results

SYMBOLS = {"1": "1", "1/sqrt(N)": "1/√N", "1/N": "1/N", "1/sqrt(L)": "1/√L", "1/L": "1/L"}
MODELS = {"none": "raw, Var W = 1/d (Theorem 1)", "rms": "pre-norm, Var W = 2/d"}


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """Two rows (models) of two panels (untied, looped)."""
    predicted = results.of("norm-at-init", "simulation", Prediction)
    simulated = pooled(Simulation, results.of("norm-at-init", "simulation", Simulation))
    raw = next(item for item in simulated if item.measurement.stack.normalization == "none")  # drawn for this
    simulated = [item for item in simulated if item.measurement.width == raw.measurement.width]
    canvas = Canvas(figsize=(8.4, 6.4))
    axes = canvas.subplots(2, 2, sharex=True)
    tables = []
    for row, (normalization, model) in enumerate(MODELS.items()):
        for column, tied in enumerate((False, True)):
            panel = {"normalization": normalization, "tied": tied}
            lines = [item for item in predicted if has(item.measurement.stack, **panel)]
            points = [item for item in simulated if has(item.measurement.stack, **panel)]
            tables += _panel(axes[row, column], lines, points, panel)
            axes[row, column].set_title(f"{'one layer, looped' if tied else 'untied layers'} — {model}")
        axes[row, 0].set_ylabel("rms norm of the stream, R = ‖h‖/√d")
    axes[1, 0].set_xlabel("layer k")
    axes[1, 1].set_xlabel("loop k")
    return canvas, pd.concat(tables, ignore_index=True)


def _panel(
    axes: Axes,
    predicted: list[Observation[Prediction]],
    simulated: list[Observation[Simulation]],
    panel: dict[str, object],
) -> list[pd.DataFrame]:
    tables = []
    for line, points, colour in zip(predicted, simulated, RULE_COLOURS, strict=True):
        rule = str(line.measurement.stack.residual_scale)
        law = line.result.second_moment.values
        mean, stderr = points.result.second_moment.values, points.result.second_moment_stderr.values
        visits = np.arange(len(law))
        norm, spread = np.sqrt(mean), stderr / (2 * np.sqrt(mean))  # the delta method, from R² to R
        axes.plot(visits, np.sqrt(law), color=colour, label=f"ε = {SYMBOLS[rule]}")
        shown = np.unique(np.r_[0, np.geomspace(1, len(law) - 1, 10).round().astype(int)])
        axes.errorbar(
            shown, norm[shown], yerr=1.96 * spread[shown], fmt="o", ms=3.5, color=colour, ecolor=colour, capsize=2, lw=1
        )
        width, samples = points.measurement.width, int(points.result.samples)
        tables.append(
            pd.DataFrame(
                {**panel, "residual_scale": rule, "visit": visits, "predicted_R": np.sqrt(law), "simulated_R": norm}
                | {"simulated_R_stderr": spread, "width": width, "samples": samples}
            )
        )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend above the curves
    axes.legend(title=f"line: d → ∞; points: d = {width}", loc="upper left")
    return tables


FIGURE = Figure(
    id="norm-against-loop",
    title="The norm of the stream against the loop, under the six scale rules",
    paper="Fig. 2",
    caption=(
        "Lines: the exact recursion at infinite width. Points: random stacks at the width in the legend, mean of R² "
        "over samples, 95 % intervals. Top: the model of the paper's Theorem 1; bottom: a pre-norm stack with Var W = "
        "2/d, which has the levels of the paper's Fig. 2. Raw looped stacks with ε well above 1/N are heavy-tailed at "
        "finite width: there a sample mean of R² lies off the limit, mostly in a few large samples."
    ),
    needs=(("norm-at-init", "simulation"),),
    draw=draw,
    script=Path(__file__),
)
