"""Training and validation losses of the looped Transformers, rule by rule."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.claims import Training, runs_of
from residual_theory.report.drawing import RULE_COLOURS, RULES, Figure
from residual_theory.report.results import Results

NEEDS = (("loss-advantage", "model"),)
SMOOTH = 15  # steps in the running mean of the training loss


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """Left: training loss at the largest N. Right: final validation loss of every run against N."""
    runs = results.of(*NEEDS[0], Training)
    counts = sorted({run.measurement.model.loops for run in runs})
    canvas = Canvas(figsize=(9.2, 3.8))
    left, right = canvas.subplots(1, 2)
    tables = []
    for number, ((rule, symbols), colour) in enumerate(zip(RULES.items(), RULE_COLOURS, strict=True)):
        largest = runs_of(runs, loops=counts[-1], residual_scale=rule)
        kernel = np.ones(SMOOTH) / SMOOTH
        curve = np.mean([np.convolve(run.result.train_loss.values, kernel, "valid") for run in largest], axis=0)
        left.plot(np.arange(len(curve)) + SMOOTH // 2, curve, color=colour, label=f"{symbols} ({len(largest)} seeds)")
        for loops in counts:
            cell = runs_of(runs, loops=loops, residual_scale=rule if loops > 1 else "1")
            losses = np.array([float(run.result.validation_loss) for run in cell])
            x = counts.index(loops) + 0.18 * (number - 1) * (loops > 1)
            kept = losses[np.isfinite(losses)]
            right.plot(np.full(len(kept), x), kept, "o", ms=3, alpha=0.5, color=colour if loops > 1 else "0.4")
            if len(kept):
                label = symbols if loops == counts[-1] else None
                right.plot(x, kept.mean(), "_", ms=16, mew=2, color=colour if loops > 1 else "0.4", label=label)
            if loops > 1 or number == 0:
                seeds = [run.measurement.training.seed for run in cell]
                known = {"loops": loops, "residual_scale": rule if loops > 1 else "any", "seed": seeds}
                diverged = [bool(run.result.diverged) for run in cell]
                tables.append(pd.DataFrame({**known, "validation_loss": losses, "diverged": diverged}))
    left.set(
        xlabel="step", ylabel=f"training loss, nats a byte (mean of {SMOOTH} steps)", title=f"N = {counts[-1]} loops"
    )
    left.legend()
    right.set_xticks(range(len(counts)), [str(loops) for loops in counts])
    right.set(xlabel="loops N (at N = 1 the rules coincide)", ylabel="validation loss, nats a byte", title="at the end")
    right.legend(title="bar: mean over seeds")
    return canvas, pd.concat(tables, ignore_index=True)


FIGURE = Figure(
    id="training-losses",
    title="Losses of a looped Transformer on real text under the three scale rules",
    paper="§5.2",
    caption=(
        "One block looped N times, trained on the bytes of a text with AdamW at one learning rate for all rules; the "
        "same seed means the same initial weights and the same order of data. Lines: means over seeds. Dots: runs. "
        "Diverged runs are counted in the CSV and left out of the right panel."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
)
