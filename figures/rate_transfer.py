"""Validation loss against learning rate for several loop counts, rule by rule (the paper's Fig. 5a, b)."""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from residual_theory.report.drawing import Figure
from residual_theory.report.results import Results
from residual_theory.transformer.transfer import best_rate
from residual_theory.verify.training_experiments import losses

NEEDS = (("lr-transfer-loops", "model"),)
PANELS = {
    "ε = 1/N": {"residual_scale": "1/N", "loop_normalization": False},
    "ε = 1/√N": {"residual_scale": "1/sqrt(N)", "loop_normalization": False},
    "ε = 1": {"residual_scale": "1", "loop_normalization": False},
    "ε = 1, norms between loops": {"residual_scale": "1", "loop_normalization": True},
}


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """One panel a rule, one line a loop count; a mark at the best rate, with its interval over seeds."""
    runs = results.of(*NEEDS[0], "train")
    counts = sorted({run.specification["model"]["loops"] for run in runs})
    rates = sorted({run.specification["training"]["learning_rate"] for run in runs})
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(counts)))
    canvas = Canvas(figsize=(13, 3.7))
    tables = []
    for place, (title, fields) in zip(canvas.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        for loops, colour in zip(counts, colours, strict=True):
            curve = losses(runs, loops=loops, **fields if loops > 1 else PANELS["ε = 1"])  # (rate, seed)
            mean, error = curve.mean(1), curve.std(1, ddof=1) / math.sqrt(curve.shape[1])
            place.errorbar(rates, mean, yerr=error, fmt="o-", ms=3, color=colour, capsize=2, label=f"N = {loops}")
            best = best_rate(np.log(rates), curve)
            _mark(place, math.exp(best.log_rate), best.loss, colour)
            known = {"panel": title if loops > 1 else "any", "loops": loops, "learning_rate": rates}
            found = {"best_rate": math.exp(best.log_rate), "edge": best.edge, "seeds": curve.shape[1]}
            found |= dict(zip(("best_rate_low", "best_rate_high"), np.exp([best.low, best.high]), strict=True))
            tables.append(pd.DataFrame({**known, "validation_loss": mean, "stderr": error, **found}))
        place.set(xscale="log", xlabel="learning rate η", title=title)
    canvas.axes[0].set_ylabel("validation loss, nats a byte")
    canvas.axes[-1].legend(title="mark: best rate")
    return canvas, pd.concat(tables).drop_duplicates(ignore_index=True)


def _mark(place: Axes, rate: float, loss: float, colour: object) -> None:
    place.plot([rate], [loss], marker="v", ms=7, color=colour, mec="black", mew=0.6, ls="none")


FIGURE = Figure(
    id="rate-transfer",
    title="Where the best learning rate of a looped Transformer goes as it is looped more",
    caption=(
        "One block trained on the bytes of a text with AdamW; the same seed means the same initial weights and order "
        "of data. Points: mean validation loss over seeds with its standard error. Marks: optimum of a parabola in log "
        "rate; its interval over seeds is in the CSV. At N = 1 the rules coincide."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
)
