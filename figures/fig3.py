"""Cosines between the changes that passes through the stack make, untied and looped (the paper's Fig. 3)."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from residual_theory.arrays import Array
from residual_theory.errors import MissingResultError
from residual_theory.measurements.alignment import change_cosines
from residual_theory.report.drawing import Figure
from residual_theory.report.first_steps import NEEDS, STYLE, TEXT, Runs, details
from residual_theory.report.results import Results

PAPER = {False: (-0.037, 0.034), True: (0.027, 0.995)}  # the ranges that its text gives


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """Left: untied copies. Right: loops. Each at the largest N that is there, of the first seed."""
    runs = Runs.read(results)
    tables = []
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(TEXT, 3.2))
        for panel, tied in zip(canvas.subplots(1, 2), (False, True), strict=True):
            found = [cell for loops in runs.loops[1:] for cell in runs.of(loops, "1", tied=tied)[:1]]
            if not found:
                kind = "looped" if tied else "untied"
                raise MissingResultError(
                    f"{results.folder} has no {kind} run at ε = 1 yet: let verify first-updates go on"
                )
            measurement, result = found[-1]
            loops, steps = measurement.model.loops, measurement.steps
            cosine = change_cosines(result.covariance.values[-1], loops)
            others = off_diagonal(cosine)
            top = 1.0 if tied else float(np.abs(others).max())
            masked = np.ma.array(cosine, mask=np.eye(loops, dtype=bool))
            image = panel.imshow(
                masked, cmap="cividis", vmin=0.0 if tied else -top, vmax=top, origin="lower", interpolation="nearest"
            )
            panel.set_facecolor("0.85")
            when = f"after {steps} steps" if steps else "at initialisation"
            ranges = f"range [{others.min():.3f}, {others.max():.3f}]"
            if runs.is_of_the_paper:
                ranges += "\npaper, N = 64: [{}, {}]".format(*PAPER[tied])
            panel.set_title(f"{'looped' if tied else 'untied'}, N = {loops}, ε = 1, {when}\n{ranges}")
            panel.set_xlabel("pass through the stack")
            panel.set_ylabel("pass through the stack")
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(MaxNLocator(5, integer=True))
            panel.grid(visible=False)
            canvas.colorbar(image, ax=panel, label="cosine", shrink=0.85)
            row, column = np.indices(cosine.shape).reshape(2, -1)
            cells = {"pass": row, "pass_other": column, "cosine": cosine.ravel()}
            tables.append(
                pd.DataFrame({"tied": tied, "loops": loops, "steps": steps, "seed": measurement.seed, **cells})
            )
        runs.note(canvas)
    return canvas, pd.concat(tables, ignore_index=True)


def off_diagonal(cosine: Array) -> Array:
    """The cosines between different passes."""
    return np.asarray(cosine[~np.eye(len(cosine), dtype=bool)])


def of_blocks(products: Array) -> Array:
    """Cosines between the changes of single blocks' visits, from ⟨Δ_k, Δ_l⟩/d."""
    length = np.sqrt(np.diagonal(products))
    return np.asarray(products / length[:, None] / length[None, :])


def describe(results: Results) -> str:
    """The caption's details, and the ranges over single blocks."""
    runs = Runs.read(results)
    words = []
    for tied in (False, True):
        found = [cell for loops in runs.loops[1:] for cell in runs.of(loops, "1", tied=tied)[:1]]
        if found:
            others = off_diagonal(of_blocks(found[-1].result.increment_product.values.astype(np.float64)))
            kind = "looped" if tied else "untied"
            words.append(f"{kind} [{others.min():.3f}, {others.max():.3f}], median {np.median(others):.3f}")
    return f"Between single blocks' changes the cosines are: {'; '.join(words)}. {details(results)}"


FIGURE = Figure(
    id="fig3",
    title="Passes through a looped stack change the stream the same way, untied copies do not",
    paper="Fig. 3",
    caption=(
        "Cosines between the changes that any two passes through the L-block stack make to the stream (over all "
        "tokens), at ε = 1, one seed; the diagonal, which is 1, is left out. Left: untied copies of the stack, at "
        "initialisation where their optimizer state would not fit. Right: the same stack looped. The colour scales "
        "differ. The paper's ranges, at N = 64, are those of its text; the data are ours."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
    details=describe,
    partial=True,
)
