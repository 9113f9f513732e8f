"""The norm of a real looped Transformer's stream at initialisation, loop by loop, beside its prediction."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from residual_theory.claims import Prediction, Probe, has, pooled
from residual_theory.report.drawing import RULE_COLOURS, RULES, Figure
from residual_theory.report.results import Results

NEEDS = (("norm-at-init", "model"),)
LAYERED = {"1": "ε = 1", "1/sqrt(N*L)": "ε = 1/√(NL)", "1/(N*sqrt(L))": "ε = 1/(N√L)"}


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """One panel for each size but a single visit; a line and points for each rule."""
    probes = pooled(Probe, results.of(*NEEDS[0], Probe))
    predictions = results.of(*NEEDS[0], Prediction)
    models = [item.measurement.model for item in probes]
    sizes = sorted({(model.unique_layers, model.loops) for model in models} - {(1, 1)})
    canvas = Canvas(figsize=(4.4 * len(sizes), 3.6))
    tables = []
    for panel, (layers, loops) in zip(np.atleast_1d(canvas.subplots(1, len(sizes))), sizes, strict=True):
        named = RULES if layers == 1 else LAYERED
        for (rule, symbols), colour in zip(named.items(), RULE_COLOURS, strict=True):
            cell = {"loops": loops, "unique_layers": layers, "residual_scale": rule}
            (probed,) = (item for item in probes if has(item.measurement.model, **cell))
            laws = [item.result for item in predictions if has(item.measurement.stack, **cell, tied=True)]
            law = np.mean([predicted.second_moment.values for predicted in laws], axis=0)
            norm = np.sqrt(probed.result.second_moment.values)
            spread = probed.result.second_moment_stderr.values / (2 * norm)
            visits = np.arange(len(law))
            panel.plot(visits, np.sqrt(law), color=colour, label=symbols)
            panel.errorbar(visits, norm, yerr=1.96 * spread, fmt="o", ms=3.5, color=colour, capsize=2, lw=1)
            numbers = {"visit": visits, "predicted_R": np.sqrt(law), "measured_R": norm, "measured_R_stderr": spread}
            tables.append(pd.DataFrame({**cell, **numbers, "models": int(probed.result.samples)}))
        blocks = "one block" if layers == 1 else f"L = {layers} blocks"
        panel.set_title(f"{blocks} looped N = {loops} times, d = {probed.measurement.model.width}")
        panel.set_xlabel("visit k")
        panel.set_ylabel("rms norm of the stream, R = ‖h‖/√d")
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        panel.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend above the curves
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend(title="line: predicted; points: measured")
    return canvas, pd.concat(tables, ignore_index=True)


FIGURE = Figure(
    id="transformer-norms",
    title="A real looped Transformer at initialisation follows the prediction, with no fitted constant",
    paper="Fig. 2",
    caption=(
        "RMSNorm, causal attention with RoPE and SwiGLU, L blocks looped N times, reading windows of validation text. "
        "Lines: the token recursion at infinite width, for the very tokens read. Points: mean of R² over freshly "
        "initialised models, with 95 % intervals (smaller than the points)."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
)
