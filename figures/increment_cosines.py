"""Heat maps of the cosines between the changes of any two loops (Fig. 3): random stacks and a real Transformer."""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure as Canvas

from residual_theory.claims import Probe, Simulation, pooled
from residual_theory.report.drawing import RULES, Figure
from residual_theory.report.results import Results

NEEDS = (("increment-cosine", "simulation"), ("increment-cosine", "model"))
MODELS = {"none": "raw, ε = 1/N", "rms": "pre-norm, ε = 1/√N"}


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """A row of random stacks, tied and untied, and a row of Transformers at initialisation."""
    panels: list[tuple[str, xr.Dataset]] = []
    for simulation, result in pooled(Simulation, results.of(*NEEDS[0], Simulation)):
        stack = simulation.stack
        what = f"random stack, {'tied' if stack.tied else 'untied'}\n{MODELS[stack.normalization]}"
        panels.append((f"{what}\nd = {simulation.width}, n = {int(result.samples)}", result))
    for probe, result in pooled(Probe, results.of(*NEEDS[1], Probe)):
        model = probe.model
        what = f"Transformer at init, real text\n{RULES[str(model.residual_scale)]}"
        panels.append((f"{what}\nd = {model.width}, n = {int(result.samples)}", result))
    canvas = Canvas(figsize=(9.6, 5.7))
    axes = canvas.subplots(2, 4)
    tables = []
    for panel, (title, result) in zip(axes.flat, panels, strict=False):
        cosine = result.increment_cosine.values
        image = panel.imshow(cosine, cmap="RdBu_r", vmin=-1, vmax=1, origin="lower")
        panel.set_title(title, fontsize=8.5)
        panel.set_xlabel("loop (0 = first)")
        panel.set_ylabel("loop")
        panel.set_xticks(np.arange(0, len(cosine), 3))
        panel.set_yticks(np.arange(0, len(cosine), 3))
        panel.grid(visible=False)
        row, column = np.indices(cosine.shape).reshape(2, -1)
        values = {"cosine": cosine.ravel(), "stderr": result.increment_cosine_stderr.values.ravel()}
        tables.append(pd.DataFrame({"panel": title.replace("\n", ", "), "loop": row, "loop_other": column, **values}))
    for panel in axes.flat[len(panels) :]:
        panel.set_axis_off()
    canvas.colorbar(image, ax=axes, label="cosine between the changes of two loops", shrink=0.7)
    return canvas, pd.concat(tables, ignore_index=True)


FIGURE = Figure(
    id="increment-cosines",
    title="Changes made by different loops point the same way when weights are tied",
    paper="Fig. 3",
    caption=(
        "Cosine between the changes of the stream over two loops, mean over n random stacks (top) and over n freshly "
        "initialised one-block Transformers reading the same windows of real text (bottom). Untied layers leave only "
        "the diagonal. The smaller ε is, the less the stream turns between loops, and the more alike their changes are."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
)
