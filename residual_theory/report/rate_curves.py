"""Validation loss against learning rate for models of several sizes, one panel a rule (the paper's Fig. 5)."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.arrays import Array
from residual_theory.claims.trainings import losses
from residual_theory.measurements.kinds import Training
from residual_theory.measurements.measurement import Observation
from residual_theory.sweeps.movement import movement
from residual_theory.sweeps.transfer import BestRate, best_rate


def draw(
    panels: Mapping[str, Sequence[Observation[Training]]], size: str, symbol: str, label: str
) -> tuple[Canvas, pd.DataFrame]:
    """One panel a rule, one line a size; a mark at the best rate, with its interval; losses seed by seed in the table.

    Under each title stands how the best rate moves with size: the exponent ± its error over seeds ± that between fits.

    Arguments: panels: the training runs by title, those of size 1, where all rules coincide, in each. size: the field
      of the model that differs within a panel, and its symbol. label: of the rate.
    """
    counts = sorted({getattr(run.measurement.model, size) for runs in panels.values() for run in runs})
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(counts)))
    canvas = Canvas(figsize=(1 + 3 * len(panels), 3.9))
    tables = []
    for panel, (title, runs) in zip(canvas.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        rates = sorted({run.measurement.training.learning_rate for run in runs})
        curves = {count: losses(runs, **{size: count}) for count in counts}  # each (rate, seed)
        for (count, curve), colour in zip(curves.items(), colours, strict=True):
            mean, error = curve.mean(1), curve.std(1, ddof=1) / math.sqrt(curve.shape[1])
            panel.errorbar(
                rates, mean, yerr=error, fmt="o-", ms=3, color=colour, capsize=2, label=f"{symbol} = {count}"
            )
            best = best_rate(np.log(rates), curve)
            place, ends = math.exp(best.log_rate), np.exp([best.low, best.high])
            known = np.isfinite(ends).all()
            panel.errorbar(
                [place], [best.loss], xerr=np.abs(ends - place)[:, None] if known else None,
                fmt="v", ms=7, color=colour, mec="black", mew=0.6, elinewidth=0.8,
            )  # fmt: skip
            tables.append(_table(title if count > 1 else "any", size, count, rates, curve, best))
        moved = movement(rates, curves).over_all
        panel.set(xscale="log", xlabel=label)
        panel.set_title(f"{title}\nbest ∝ {symbol}^({moved})", fontsize="medium")
    canvas.axes[0].set_ylabel("validation loss, nats a byte")
    canvas.axes[-1].legend(title="mark: best rate")
    return canvas, pd.concat(tables).drop_duplicates(ignore_index=True)


def _table(panel: str, size: str, count: int, rates: Sequence[float], curve: Array, best: BestRate) -> pd.DataFrame:
    """One row for each rate and seed, seeds numbered from 0."""
    seeds = curve.shape[1]
    low, high = np.exp([best.low, best.high])
    return pd.DataFrame(
        {
            "panel": panel, size: count, "learning_rate": np.repeat(rates, seeds),
            "seed": np.tile(np.arange(seeds), len(rates)), "validation_loss": curve.ravel(),
            "best_rate": math.exp(best.log_rate), "edge": best.edge, "best_rate_low": low, "best_rate_high": high,
        }
    )  # fmt: skip
