"""Validation loss against base learning rate for several layer counts, with and without the L-factors (Fig. 5c, d)."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.claims import Training
from residual_theory.report import rate_curves
from residual_theory.report.drawing import Figure
from residual_theory.report.results import Results

NEEDS = (("lr-transfer-layers", "model"),)
PANELS = {  # the rule of the blocks' rate
    "ε = 1/√L, rate η/√L in blocks": "paper",
    "ε = 1/√L, rate η": "none",
    "ε = 1/L, rate η": "completep",
}


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """One panel a rule, one line a layer count; a mark at the best rate, with its interval."""
    runs = [(run, run.measurement) for run in results.of(*NEEDS[0], Training)]
    panels = {
        title: [run for run, made in runs if made.model.unique_layers == 1 or made.training.block_rule == rule]
        for title, rule in PANELS.items()
    }
    return rate_curves.draw(panels, "unique_layers", "L", "base learning rate η")


FIGURE = Figure(
    id="layer-transfer",
    title="Where the best learning rate of a Transformer goes as it has more layers",
    paper="Fig. 5",
    caption=(
        "Blocks of their own, not looped, trained on the bytes of a text with AdamW; the same seed means the same "
        "initial weights and order of data. Points: mean validation loss over seeds with its standard error. Marks: "
        "optimum of a cubic in log rate, with a 95 % interval for noise and for how far other fits differ. Above: how "
        "it moves with L, the exponent ± its standard error over seeds ± the largest difference to other fits. "
        "At L = 1 the rules coincide. Middle: without the factor on the rate; right: the rival that the paper does not "
        "try (CompleteP)."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
)
