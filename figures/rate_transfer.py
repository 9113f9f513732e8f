"""Validation loss against learning rate for several loop counts, rule by rule (the paper's Fig. 5a, b)."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.claims import Training
from residual_theory.report import rate_curves
from residual_theory.report.drawing import Figure
from residual_theory.report.results import Results

NEEDS = (("lr-transfer-loops", "model"),)
PANELS = {  # residual scale, and whether a norm follows every loop
    "ε = 1/N": ("1/N", False),
    "ε = 1/√N": ("1/sqrt(N)", False),
    "ε = 1": ("1", False),
    "ε = 1, norms between loops": ("1", True),
}


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """One panel a rule, one line a loop count; a mark at the best rate, with its interval."""
    runs = [(run, run.measurement.model) for run in results.of(*NEEDS[0], Training)]
    panels = {
        title: [run for run, m in runs if m.loops == 1 or (m.residual_scale, m.loop_normalization) == rule]
        for title, rule in PANELS.items()
    }
    return rate_curves.draw(panels, "loops", "N", "learning rate η")


FIGURE = Figure(
    id="rate-transfer",
    title="Where the best learning rate of a looped Transformer goes as it is looped more",
    paper="Fig. 5",
    caption=(
        "One block trained on the bytes of a text with AdamW; the same seed means the same initial weights and order "
        "of data. Points: mean validation loss over seeds with its standard error. Marks: optimum of a cubic in log "
        "rate, with a 95 % interval for noise and for how far other fits differ. Above: how it moves with N, the "
        "exponent ± its standard error over seeds ± the largest difference to other fits. At N = 1 the rules coincide."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
)
