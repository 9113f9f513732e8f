"""The bounds of Theorems 1, 2 and 6 with measured constants, the exact values, and what is measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from residual_theory.claims import Assumptions, Observation, Prediction, StepAssumptions, pooled
from residual_theory.report.drawing import RULE_COLOURS, Figure
from residual_theory.report.results import Results
from residual_theory.stack import Stack
from residual_theory.theory.constants import theorem_1, theorem_6

NEEDS = (("bound-looseness", "simulation"),)
RED, ORANGE, BLUE = RULE_COLOURS
STYLES = {"upper bound": ("--", ""), "exact": ("-", ""), "measured": ("", "o"), "lower bound": (":", "")}
Row = dict[str, Any]


def draw(results: Results) -> tuple[Canvas, pd.DataFrame]:
    """One panel a theorem: bounds dashed and dotted, exact values as lines, measured ones as points."""
    exact = {item.measurement.stack: item.result for item in results.of(*NEEDS[0], Prediction)}
    forward = pooled(Assumptions, results.of(*NEEDS[0], Assumptions))
    steps = pooled(StepAssumptions, results.of(*NEEDS[0], StepAssumptions))
    single = [_of_1(item, exact) for item in forward if not item.measurement.redraw]
    layered = [_of_6(item, exact) for item in forward if item.measurement.redraw]
    moved = [_of_2(item, exact) for item in steps]
    canvas = Canvas(figsize=(6.75, 3.0))
    one, two, six = canvas.subplots(1, 3)
    _show(one, single, {"pre-norm, ε = 1": (RED, "o"), "raw, ε = 1/N": (BLUE, "s")}, "N")
    _show(two, moved, {"random step": (ORANGE, "D"), "sign step": (BLUE, "s")}, "N")
    _show(six, layered, {"raw, ε = 1/(N√L)": (BLUE, "s")}, "L")
    for axes, title, quantity in (
        (one, "Theorem 1", "R after N loops"),
        (two, "Theorem 2, ε = 1/N", "‖Δh‖/(η√d) after N loops"),
        (six, "Theorem 6, N = 4", "E‖ΣG‖²/(dN²L)"),
    ):
        axes.set_title(title)
        axes.set_ylabel(quantity)
    one.set_yscale("log")
    two.set_yscale("log")
    two.legend(loc="center", bbox_to_anchor=(0.5, 0.47), fontsize=8, handlelength=1)
    six.set_ylim(0.3, 0.8)
    lines = [Line2D([], [], color="0.3", ls=style, marker=marker, mfc="white") for style, marker in STYLES.values()]
    canvas.legend(lines, list(STYLES), loc="outside lower center", ncols=4)
    return canvas, pd.DataFrame(single + moved + layered)


def _row(theorem: str, kind: str, stack: Stack, bounds: tuple[float, float], exact: float) -> Row:
    sizes = {"N": stack.loops, "L": stack.unique_layers}
    return {"theorem": theorem, "kind": kind, **sizes, "lower": bounds[0], "upper": bounds[1], "exact": exact}


def _measured(item: Observation[Any], name: str, unit: float = 1.0) -> Row:
    value, stderr = float(item.result[name]) / unit, float(item.result[f"{name}_stderr"]) / unit
    return {"measured": value, "stderr": stderr, "width": item.measurement.width, "samples": int(item.result.samples)}


def _of_1(item: Observation[Assumptions], exact: dict[Any, Any]) -> Row:
    stack, found = item.measurement.stack, item.result
    gain, mean, square = (float(found[name][0]) for name in ("gain", "input_mean", "input_square"))
    bounds = theorem_1(stack, input_mean=mean, input_square=square, gains=(gain, gain))
    kind = "raw, ε = 1/N" if stack.normalization == "none" else "pre-norm, ε = 1"
    norm = float(exact[stack].second_moment[-1]) ** 0.5
    return _row("Theorem 1", kind, stack, bounds, norm) | _measured(item, "end_norm")


def _of_2(item: Observation[StepAssumptions], exact: dict[Any, Any]) -> Row:
    stack, update, rate = item.measurement.stack, item.measurement.update, item.measurement.rate
    size = float(exact[stack].tangent_kernel) ** 0.5 if update == "random" else np.nan  # of a sign step no law is known
    bounds = (np.nan, float(item.result.bound_2) / rate)
    return _row("Theorem 2", f"{update} step", stack, bounds, size) | _measured(item, "change", rate)


def _of_6(item: Observation[Assumptions], exact: dict[Any, Any]) -> Row:
    stack, found = item.measurement.stack, item.result
    squares = found.output_square.values
    change = float(found.redraw_change.values[~np.eye(len(squares), dtype=bool)].max())
    bounds = theorem_6(
        stack, output_square=(float(squares.min()), float(squares.max())), own_product=0.0, other_change=change
    )
    low, high = (bound / (stack.loops**2 * stack.unique_layers) for bound in bounds)
    gain = float(exact[stack].second_moment[-1]) - stack.initial_variance
    size = gain / (stack.unique_layers * (stack.epsilon * stack.loops) ** 2)
    row = _row("Theorem 6", "raw, ε = 1/(N√L)", stack, (low, high), size)
    return row | _measured(item, "total_square", stack.unique_layers)


def _show(axes: Axes, rows: Sequence[Row], kinds: dict[str, tuple[str, str]], size: str) -> None:
    for kind, (colour, marker) in kinds.items():
        table = pd.DataFrame([row for row in rows if row["kind"] == kind]).sort_values(size)
        at = table[size]
        low = table.lower.where(table.lower > 0)  # a bound of 0 says nothing
        axes.plot(at, table.upper, "--", color=colour, lw=1)
        axes.plot(at, low, ":", color=colour, lw=1.2)
        axes.plot(at, table.exact, "-", color=colour)
        axes.errorbar(
            at, table.measured, yerr=1.96 * table.stderr, fmt=marker, ms=4, color=colour, mfc="white", capsize=2, lw=1,
            label=kind,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    ticks = sorted({row[size] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"{'loops' if size == 'N' else 'layers'} {size}")
    axes.legend(loc="upper left", fontsize=8, handlelength=1, handletextpad=0.4)


FIGURE = Figure(
    id="bound-looseness",
    title="How loose the bounds of Theorems 1, 2 and 6 are with measured constants",
    paper=("Theorem 1", "Theorem 2", "Theorem 6"),
    caption=(
        "Random ReLU stacks. Dashed: the paper's upper bounds, dotted: its lower ones where they are above 0, both "
        "with the constants measured on the same stacks (c_W = C_W is the gain at the sum of the inputs, C_0 = 0). "
        "Lines: exact at infinite width; of a sign step none is known. Points: measured means, 95 % intervals; widths "
        "are in the CSV. The bounds are the paper's, Theorem 6's with its constants followed through by us; the rest "
        "is ours."
    ),
    needs=NEEDS,
    draw=draw,
    script=Path(__file__),
)
