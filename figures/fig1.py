"""Two walks of the stream: independent increments, and the same ones again and again (the paper's Fig. 1)."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.arrays import Array
from residual_theory.errors import MissingResultError
from residual_theory.report.drawing import Figure
from residual_theory.report.first_steps import GUIDE, NEEDS, STYLE, TEXT, Runs, details, plain_numbers
from residual_theory.report.results import Results

KINDS: dict[bool, dict[str, Any]] = {  # by tying
    False: {"color": "#2166ac", "ls": "-", "marker": "o", "label": "independent weights"},
    True: {"color": "#b2182b", "ls": (0, (4, 1.5)), "marker": "s", "label": "the same weights"},
}


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """Left: both walks seen in one random plane. Right: their norms."""
    runs = Runs.read(results)
    both = [loops for loops in runs.loops[1:] if all(runs.of(loops, "1", tied=tied) for tied in KINDS)]
    if not both:
        raise MissingResultError(f"{results.folder} has no N both tied and untied yet: let verify first-updates go on")
    tables = []
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(TEXT, 2.5))
        left, right = canvas.subplots(1, 2)
        for tied, style in KINDS.items():
            measurement, result = runs.of(both[-1], "1", tied=tied)[0]
            products = result.covariance.values[0]
            walk, norm = seen_in_a_plane(products), np.sqrt(np.diagonal(products))
            left.plot(*walk, ms=2, lw=0.9, **style)
            left.plot(*walk[:, -1:], color=style["color"], marker=style["marker"], ms=5)
            right.plot(np.arange(1, len(norm)), norm[1:], ms=2.5, markevery=4, **style)
            right.plot(np.arange(1, len(norm)), norm[1] * np.arange(1, len(norm)) ** (1.0 if tied else 0.5), **GUIDE)
            cells = {"tied": tied, "passes": np.arange(len(norm)), "x": walk[0], "y": walk[1], "R": norm}
            tables.append(pd.DataFrame({"seed": measurement.seed, **cells}))
        left.set(
            xlabel="one random direction",
            ylabel="another",
            aspect="equal",
            title="the stream after each pass, in a plane",
        )
        left.set_adjustable("datalim")
        right.set(
            xlabel="passes through the stack",
            ylabel="R",
            xscale="log",
            yscale="log",
            title="its norm, with lines ∝ √N and ∝ N",
        )
        for axis, ends in ((right.xaxis, right.get_xlim()), (right.yaxis, right.get_ylim())):
            plain_numbers(axis, *ends)
        right.legend(loc="upper left")
        runs.note(canvas)
    return canvas, pd.concat(tables, ignore_index=True)


def seen_in_a_plane(products: Array) -> Array:
    """The coordinates (2, N + 1) of a walk along two random Gaussian directions, from its inner products.

    The coordinates along a Gaussian direction are jointly Gaussian with these inner products as covariance, so that
    they are drawn without the streams themselves. The numbers that stand for the directions are the same for all walks.
    """
    values, vectors = np.linalg.eigh(products)
    steps = np.diff(vectors * np.sqrt(values.clip(0)) @ vectors.T, axis=0, prepend=0.0)  # of the symmetric root
    directions = np.random.default_rng(1).standard_normal((2, len(products)))
    return np.asarray(directions @ np.cumsum(steps, axis=0).T)


FIGURE = Figure(
    id="fig1",
    title="Independent increments make a random walk, repeated ones a straight line",
    paper="Fig. 1",
    caption=(
        "The stream of a Transformer at initialisation under ε = 1 after each pass through its L-block stack, with "
        "weights of its own in every pass or the same in all. Left: its coordinates along two random directions, drawn "
        "from the inner products of the streams. Right: its rms norm over tokens, with lines ∝ √N and ∝ N through the "
        "first pass. The paper draws a schematic; this is data, and ours."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
    details=details,
    partial=True,
)
