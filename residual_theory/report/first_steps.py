"""What the figures of the paper's diagnostic have in common: their runs, and a style for a page of two columns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from residual_theory.errors import InputError
from residual_theory.measurements.kinds import Diagnostic, Prediction
from residual_theory.measurements.measurement import Observation
from residual_theory.report.drawing import RULE_COLOURS, RULES
from residual_theory.report.results import Results
from residual_theory.stack import LlamaStack
from residual_theory.transformer.config import ModelConfig

NEEDS = (("first-updates", "model"),)
PAPER_SIZES = (12, 768, 12, 2048, 128_256)  # L, d, heads, MLP width, vocabulary
COLUMN, TEXT = 3.25, 6.75  # inches
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "lines.linewidth": 1.1, "lines.markersize": 3.5, "legend.handlelength": 2.6,
    "axes.linewidth": 0.6,
}  # fmt: skip
MARKS: dict[str, dict[str, Any]] = {  # told apart in grey too
    rule: {"color": colour, "marker": marker, "ls": dashes, "label": RULES[rule]}
    for rule, colour, marker, dashes in zip(RULES, RULE_COLOURS, "os^", ("-", (0, (4, 1.5)), (0, (1, 1))), strict=True)
}
GUIDE: dict[str, Any] = {"color": "0.45", "lw": 0.8, "ls": "-", "zorder": 1}


@dataclass(frozen=True)
class Runs:
    """The runs planned, those that are there, and the predictions that are there."""

    planned: Sequence[Diagnostic]
    done: Sequence[Observation[Diagnostic]]
    predictions: Sequence[Observation[Prediction]]

    @classmethod
    def read(cls, results: Results) -> "Runs":
        """Those of a folder. Raises: InputError when runs of several protocols are listed."""
        planned = results.planned(*NEEDS[0], Diagnostic)
        protocols = {(run.learning_rate, run.device, _without_loops(run.model)) for run in planned}
        if len(protocols) > 1:
            raise InputError(
                "results", str(results.folder), "lists runs of several protocols; verify first-updates again"
            )
        done = results.of(*NEEDS[0], Diagnostic, partial=True)
        return cls(planned, done, results.of(*NEEDS[0], Prediction, partial=True))

    @property
    def model(self) -> ModelConfig:
        """The model of the first run; others differ in N, ε and tying."""
        return self.done[0].measurement.model

    @property
    def is_of_the_paper(self) -> bool:
        """Whether the model has the paper's sizes, so that its values can be set beside the paper's."""
        model = self.model
        return (model.unique_layers, model.width, model.heads, model.mlp_width, model.vocabulary) == PAPER_SIZES

    @property
    def loops(self) -> list[int]:
        """The loop counts of all runs planned, rising."""
        return sorted({run.model.loops for run in self.planned})

    def of(self, loops: int, rule: str, *, tied: bool) -> list[Observation[Diagnostic]]:
        """The runs of a cell, by seed. At one loop all rules and tyings are the same model."""
        wanted = (loops, "1", True) if loops == 1 else (loops, rule, tied)
        found = [run for run in self.done if _cell(run.measurement.model) == wanted]
        return sorted(found, key=lambda run: run.measurement.seed)

    def prediction(self, loops: int, rule: str, *, tied: bool) -> xr.Dataset | None:
        """The prediction for a cell, if it is there."""
        wanted = (loops, "1", True) if loops == 1 else (loops, rule, tied)
        stacks = ((one.measurement.stack, one.result) for one in self.predictions)
        return next((law for stack, law in stacks if isinstance(stack, LlamaStack) and _cell(stack) == wanted), None)

    def table(
        self, rule: str, *, tied: bool, measure: Callable[[xr.Dataset], Sequence[float] | np.ndarray], first: int
    ) -> pd.DataFrame:
        """Mean, standard error and number of seeds of what is measured at every step: rows by loops and step.

        Arguments: measure: the numbers of one run, by step. first: the number of the first step.
        """
        rows = []
        for loops in self.loops:
            runs = self.of(loops, rule, tied=tied)
            for step in range(first, first + max((len(measure(run.result)) for run in runs), default=0)):
                values = [
                    float(measure(run.result)[step - first]) for run in runs if len(measure(run.result)) > step - first
                ]
                error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
                row = {
                    "loops": loops,
                    "step": step,
                    "mean": float(np.mean(values)),
                    "stderr": error,
                    "seeds": len(values),
                }
                rows.append({"residual_scale": rule, "tied": tied, **row})
        return pd.DataFrame(rows, columns=["residual_scale", "tied", "loops", "step", "mean", "stderr", "seeds"])

    def note(self, canvas: Canvas) -> None:
        """Say on the figure that runs are missing, if any are."""
        if len(self.done) < len(self.planned):
            words = f"partial: {len(self.done)} of {len(self.planned)} runs"
            canvas.supxlabel(words, x=0.995, ha="right", fontsize=6, style="italic", color="0.3")  # has its own line


def details(results: Results) -> str:
    """Model, sizes, seeds and protocol, for the caption."""
    runs = Runs.read(results)
    model, run = runs.model, runs.done[0].measurement
    seeds = [len(runs.of(loops, "1", tied=True)) for loops in runs.loops]
    steps = max(one.measurement.steps for one in runs.done)
    count = f"{min(seeds)}" if len(set(seeds)) == 1 else f"{min(seeds)} to {max(seeds)}"
    words = (
        f"Model: L = {model.unique_layers}, d = {model.width}, {model.heads} heads, MLP width {model.mlp_width}, "
        f"vocabulary {model.vocabulary}, initial standard deviation {model.init_std:g}; N up to {max(runs.loops)}; "
        f"{model.context} random tokens, one sequence; AdamW (0.9, 0.95, 1e-8, weight decay 0.1) at "
        f"{run.learning_rate:g} for {steps} steps without warm-up; seeds a point: {count}."
    )
    done, planned = len(runs.done), len(runs.planned)
    return f"{words} Partial: {done} of {planned} runs." if done < planned else words


def loop_axis(panel: Axes, loops: Sequence[int], label: str = "loops N") -> None:
    """A logarithmic axis with a tick at every loop count, or every other one."""
    panel.set_xscale("log", base=2)
    shown = list(loops)[:: 2 if len(loops) > 5 else 1]
    panel.set_xticks(shown, [str(tick) for tick in shown])
    panel.set_xticks([], minor=True)
    panel.set_xlabel(label)


def plain_numbers(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as 0.5, 1, 20; between powers of ten too where the range is small."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 30 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def growth_panel(panel: Axes, runs: Runs, step: int) -> pd.DataFrame:
    """The update at one step against N under every rule, with lines of slope 1 and ½ through its value at N = 1."""
    tables = []
    for rule, style in MARKS.items():
        table = runs.table(rule, tied=True, measure=lambda run: run.state_change.values, first=1)
        table = table[table.step == step]
        panel.errorbar(table.loops, table["mean"], yerr=table.stderr.fillna(0), capsize=1.5, elinewidth=0.7, **style)
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    if (joined.loops == 1).any():
        start = float(joined[joined.loops == 1]["mean"].iloc[0])
        loops = np.array(runs.loops, dtype=float)
        for power in (1.0, 0.5):
            panel.plot(loops, start * loops**power, **GUIDE)
        for factor in (0.5, 2.0):
            panel.axhline(start * factor, color="0.45", lw=0.6, ls=(0, (1, 2)), zorder=1)
    panel.set_yscale("log")
    plain_numbers(panel.yaxis, *panel.get_ylim())
    loop_axis(panel, runs.loops)
    return joined


def _cell(stack: ModelConfig | LlamaStack) -> tuple[int, str, bool]:
    return stack.loops, str(stack.residual_scale), stack.tied


def _without_loops(model: ModelConfig) -> str:
    return model.model_dump_json(exclude={"loops", "residual_scale", "tied"})
