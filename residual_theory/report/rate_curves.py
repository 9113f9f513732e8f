"""Validation loss against learning rate for models of several sizes, one panel a rule (the paper's Fig. 5)."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.claims.trainings import losses
from residual_theory.measurements.kinds import Training
from residual_theory.measurements.measurement import Observation
from residual_theory.sweeps.transfer import best_rate


def draw(
    panels: Mapping[str, Sequence[Observation[Training]]], size: str, symbol: str, label: str
) -> tuple[Canvas, pd.DataFrame]:
    """One panel a rule, one line a size; a mark at the best rate, whose interval over seeds is in the table.

    Arguments: panels: the training runs by title, those of size 1, where all rules coincide, in each. size: the field
      of the model that differs within a panel, and its symbol. label: of the rate.
    """
    counts = sorted({getattr(run.measurement.model, size) for runs in panels.values() for run in runs})
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(counts)))
    canvas = Canvas(figsize=(1 + 3 * len(panels), 3.7))
    tables = []
    for panel, (title, runs) in zip(canvas.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        rates = sorted({run.measurement.training.learning_rate for run in runs})
        for count, colour in zip(counts, colours, strict=True):
            curve = losses(runs, **{size: count})  # (rate, seed)
            mean, error = curve.mean(1), curve.std(1, ddof=1) / math.sqrt(curve.shape[1])
            panel.errorbar(
                rates, mean, yerr=error, fmt="o-", ms=3, color=colour, capsize=2, label=f"{symbol} = {count}"
            )
            best = best_rate(np.log(rates), curve)
            panel.plot([math.exp(best.log_rate)], [best.loss], marker="v", ms=7, color=colour, mec="black", mew=0.6)
            known = {"panel": title if count > 1 else "any", size: count, "learning_rate": rates}
            found = {"best_rate": math.exp(best.log_rate), "edge": best.edge, "seeds": curve.shape[1]}
            found |= dict(zip(("best_rate_low", "best_rate_high"), np.exp([best.low, best.high]), strict=True))
            tables.append(pd.DataFrame({**known, "validation_loss": mean, "stderr": error, **found}))
        panel.set(xscale="log", xlabel=label, title=title)
    canvas.axes[0].set_ylabel("validation loss, nats a byte")
    canvas.axes[-1].legend(title="mark: best rate")
    return canvas, pd.concat(tables).drop_duplicates(ignore_index=True)
