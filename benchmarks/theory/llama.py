"""Real Transformers at initialisation beside their prediction, with no fitted constant; one run, one table.

.venv/bin/python benchmarks/theory/llama.py [--results results/benchmarks] [--quick]

Each row draws Llama-like models, runs each under ε = 1, 1/√N and 1/N with the same weights, and compares the root mean
square of the stream before the final norm with predict(). The models' values are kept in llama-models.jsonl and used
again as long as the code that measured them is the same, so an interrupted run goes on where it stopped. The whole
table takes some twenty minutes on two idle cores (on busy ones set OMP_WAIT_POLICY=PASSIVE); llama.csv beside this
script is one such table.
"""

import argparse
import csv
import functools
import hashlib
import inspect
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

import residual_theory as rt
from residual_theory import description, scaling
from residual_theory.claims import transformer
from residual_theory.report.drawing import RULE_COLOURS, RULES, STYLE
from residual_theory.transformer import config as transformer_config
from residual_theory.transformer import model as transformer_model
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import Block, LoopedTransformer

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

ROOT = Path(__file__).parents[2]
WITHIN = 1.0  # per cent, what the last line asks of every row
QUICK_MODELS = 20
VERSIONS = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "numpy": np.__version__,
    "device": "cpu",
    "dtype": "float32",
}


@dataclass(frozen=True)
class Architecture:
    """One architecture, how many models are drawn, and how many sequences of distinct tokens each of them reads.

    The counts follow from a pilot and from the time that a row takes, not from its results: one sequence's mean square
    varies by about 7 %, nearly independently of the others that the same weights read.
    """

    loops: int
    layers: int
    models: int
    sequences: int = 8
    tokens: int = 32
    width: int = 768
    mlp_width: int = 2048
    heads: int = 12

    @property
    def rules(self) -> list[str]:
        """The rules of the residual scale; at N = 1 they coincide."""
        return list(RULES) if self.loops > 1 else ["1"]

    @property
    def label(self) -> str:
        """In a few words."""
        return f"d = {self.width}, T = {self.tokens}, N = {self.loops}, L = {self.layers}"

    def config(self, rule: str) -> ModelConfig:
        """The model under a rule; its vocabulary holds exactly the tokens read."""
        return ModelConfig(
            vocabulary=self.sequences * self.tokens,
            width=self.width,
            heads=self.heads,
            mlp_width=self.mlp_width,
            unique_layers=self.layers,
            loops=self.loops,
            residual_scale=rule,
            context=self.tokens,
            init_std=0.02,
        )

    def key(self, index: int) -> dict[str, Any]:
        """What the values of model `index` depend on; how many models there are is no part of it."""
        parameters = {name: value for name, value in asdict(self).items() if name != "models"}
        return {**parameters, "index": index, "code": fingerprint()}


ROWS = (
    Architecture(1, 1, models=80),
    Architecture(4, 1, models=80),
    Architecture(16, 1, models=80),
    Architecture(64, 1, models=36),
    Architecture(8, 4, models=32),
    Architecture(8, 12, models=16),
    Architecture(16, 1, models=100, sequences=2, tokens=128),
    Architecture(16, 1, models=32, width=1024, mlp_width=2728, heads=16),
    Architecture(16, 1, models=24, width=1536, mlp_width=4096, heads=24),
    Architecture(64, 12, models=4),
)


@functools.cache
def fingerprint() -> str:
    """A digest of the code that measures, taken once: an edit during a run is of no account to that run."""
    modules = [inspect.getsource(module) for module in (transformer_model, transformer_config, scaling, description)]
    own = [inspect.getsource(function) for function in (measured, streams, Architecture.config)]
    return hashlib.sha256("\0".join([*modules, *own, torch.__version__]).encode()).hexdigest()[:16]


@torch.no_grad()
def measured(row: Architecture, index: int) -> dict[str, Any]:
    """Model `index` of a row under every rule: ‖h‖²/d where each loop ends, and the cosine of the outermost loops."""
    entropy = [row.width, row.tokens, row.loops, row.layers, index]
    weights = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
    network = LoopedTransformer(row.config(row.rules[0]), weights)
    tokens = torch.arange(row.sequences * row.tokens).view(row.sequences, row.tokens)
    found: dict[str, Any] = {}
    for rule in row.rules:
        ends = streams(network, tokens, row.config(rule).epsilon)
        first, last = ((ends[n] - ends[n - 1]).flatten(1).double() for n in (1, row.loops))
        found[rule] = {
            "second_moment": [float(h.double().square().mean()) for h in ends],
            "increment_cosine": float(functional.cosine_similarity(first, last).mean()),
        }
    return found


def streams(network: LoopedTransformer, tokens: Tensor, epsilon: float) -> list[Tensor]:
    """The N + 1 streams (sequence, token, width) where loops begin and end, with ε put in place of the model's own."""
    ends: list[Tensor] = []
    for block in network.blocks:
        assert isinstance(block, Block)
        block.epsilon.fill_(epsilon)
    last = network.blocks[len(network.blocks) - 1]
    hooks = [part.register_forward_hook(lambda *call: ends.append(call[-1])) for part in (network.embedding, last)]
    network(tokens)
    for hook in hooks:
        hook.remove()
    return ends


def kept(file: Path) -> dict[str, dict[str, Any]]:
    """What earlier runs measured, by key; a line that an interruption cut short is left out."""
    values = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        values[json.dumps(record["key"], sort_keys=True)] = record["values"]
    return values


def samples(row: Architecture, file: Path) -> list[dict[str, Any]]:
    """The values of all models of a row, those that are missing in the file measured and appended to it."""
    known, values, began = kept(file), [], time.perf_counter()
    for index in range(row.models):
        key = row.key(index)
        value = known.get(json.dumps(key, sort_keys=True))
        if value is None:
            value = measured(row, index)
            with file.open("a") as out:
                out.write("\n" * _is_cut_short(file) + json.dumps({"key": key, "values": value}) + "\n")
        values.append(value)
    sys.stderr.write(f"{row.label}: {row.models} models, {time.perf_counter() - began:.0f} s\n")
    sys.stderr.flush()
    return values


def _is_cut_short(file: Path) -> bool:
    content = file.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def mean(values: Sequence[float] | Sequence[Sequence[float]]) -> tuple[Any, Any]:
    """Mean over models and its standard error."""
    array = np.array(values)
    return array.mean(0), array.std(0, ddof=1) / len(array) ** 0.5


@dataclass(frozen=True)
class Compared:
    """One row under one rule, at the ends of its loops: R measured, its standard error, R predicted."""

    row: Architecture
    rule: str
    models: int
    rms: np.ndarray  # (N + 1,)
    stderr: np.ndarray
    predicted: np.ndarray
    cosine: tuple[float, float, float]  # between the first loop and the last: measured, standard error, predicted

    @property
    def difference(self) -> float:
        """Measured against predicted at the end of the stack, in per cent."""
        return float(100 * (self.rms[-1] / self.predicted[-1] - 1))

    @property
    def uncertainty(self) -> float:
        """The standard error of the difference, in per cent."""
        return float(100 * self.stderr[-1] / self.predicted[-1])

    @property
    def quantile(self) -> float:
        """How many standard errors a 95 % interval reaches, by Student's t."""
        return float(stats.t.ppf(0.975, self.models - 1))

    def record(self) -> dict[str, object]:
        """The line of the table."""
        row, looped = self.row, self.row.loops > 1
        cosines = [f"{value:.5f}" if looped else "" for value in self.cosine]
        return {
            "width": row.width,
            "mlp_width": row.mlp_width,
            "heads": row.heads,
            "tokens": row.tokens,
            "loops": row.loops,
            "layers": row.layers,
            "rule": self.rule,
            "seeds": self.models,
            "sequences_per_seed": row.sequences,
            "rms": f"{self.rms[-1]:.6g}",
            "rms_stderr": f"{self.stderr[-1]:.2g}",
            "rms_predicted": f"{self.predicted[-1]:.6g}",
            "difference_percent": f"{self.difference:.3f}",
            "stderr_percent": f"{self.uncertainty:.3f}",
            **dict(zip(("cosine", "cosine_stderr", "cosine_predicted"), cosines, strict=True)),
            **VERSIONS,
        }


def compared(row: Architecture, values: Sequence[Mapping[str, Any]]) -> Iterator[Compared]:
    """Every rule of a row, measured and predicted."""
    for rule in row.rules:
        square, square_stderr = mean([value[rule]["second_moment"] for value in values])
        cosine = mean([value[rule]["increment_cosine"] for value in values])
        law = rt.predict(transformer(row.config(rule), range(row.tokens)), with_gradients=False)
        rms = np.sqrt(square)
        expected = float(law.increment_cosine[0, -1])
        predicted = np.sqrt(law.second_moment.values[:: row.layers])
        cosines = (float(cosine[0]), float(cosine[1]), expected)
        yield Compared(row, rule, len(values), rms, square_stderr / (2 * rms), predicted, cosines)


def draw(results: Sequence[Compared], path: Path) -> None:
    """R against loop for the deepest tied block, and the difference in per cent for every row."""
    deepest = max((item.row for item in results), key=lambda row: (-row.layers, row.loops))
    rows = list(dict.fromkeys(item.row for item in results))
    with mpl.rc_context(STYLE):
        figure, (growth, difference) = plt.subplots(1, 2, figsize=(10, 4.4), width_ratios=(1, 1.15))
        for (rule, words), colour, shift in zip(RULES.items(), RULE_COLOURS, (-0.2, 0.0, 0.2), strict=True):
            style: dict[str, Any] = {"fmt": "o", "ms": 3.5, "color": colour, "capsize": 2, "lw": 1}
            own = [item for item in results if item.rule == rule]
            for item in own:
                if item.row == deepest:
                    loops = np.arange(len(item.rms))
                    growth.plot(loops, item.predicted, color=colour, label=words)
                    shown = loops[:: max(1, len(loops) // 16)]
                    growth.errorbar(shown, item.rms[shown], yerr=item.quantile * item.stderr[shown], **style)
            place = [rows.index(item.row) + shift * (item.row.loops > 1) for item in own]
            reach = [item.quantile * item.uncertainty for item in own]
            difference.errorbar([item.difference for item in own], place, xerr=reach, label=words, **style)
        growth.set(yscale="log", xlabel="loop k", ylabel="rms of the stream, R = ‖h‖/√d", title=deepest.label)
        growth.xaxis.set_major_locator(MaxNLocator(integer=True))
        growth.legend(title="line: predicted; points: measured", loc="upper left")
        low, high = growth.get_ylim()
        growth.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend above the curves
        difference.axvspan(-WITHIN, WITHIN, color="0.93", zorder=0)
        difference.axvline(0, color="0.4", lw=1)
        difference.set_yticks(range(len(rows)), [row.label for row in rows])
        difference.invert_yaxis()
        difference.set(xlabel="measured R / predicted R − 1, per cent; bars: 95 %", title="At the end of the stack")
        for suffix in ("png", "pdf"):
            figure.savefig(path.with_suffix(f".{suffix}"))
        plt.close(figure)


def say(item: Compared) -> None:
    """One line of the printed table."""
    measured_rms = f"{item.rms[-1]:10.5f} ± {item.stderr[-1]:.5f}"
    words = f"{item.row.label:34s} {RULES[item.rule]:9s} {item.models:4d} {measured_rms} {item.predicted[-1]:10.5f}"
    words += f" {item.difference:+7.2f} ± {item.uncertainty:.2f} %"
    if item.row.loops > 1:
        words += "  cosine {:+.4f} ± {:.4f}, predicted {:+.4f}".format(*item.cosine)
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, print, and write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/benchmarks")
    parser.add_argument("--quick", action="store_true", help="the first two rows, with fewer models: under a minute")
    arguments = parser.parse_args()
    folder, quick = arguments.results, arguments.quick
    folder.mkdir(parents=True, exist_ok=True)
    rows = [replace(row, models=QUICK_MODELS) for row in ROWS[:2]] if quick else ROWS
    results: list[Compared] = []
    for row in rows:
        for item in compared(row, samples(row, folder / "llama-models.jsonl")):
            say(item)
            results.append(item)
    path = folder / ("llama-quick.csv" if quick else "llama.csv")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(results[0].record()))
        writer.writeheader()
        writer.writerows(item.record() for item in results)
    draw(results, path)
    worst = max(results, key=lambda item: abs(item.difference))
    inside = sum(abs(item.difference) <= WITHIN for item in results)
    sys.stdout.write(
        f"largest difference {worst.difference:+.2f} ± {worst.uncertainty:.2f} % ({worst.row.label}, "
        f"{RULES[worst.rule]}); {inside} of {len(results)} within {WITHIN:g} %: {inside == len(results)}\n"
    )


if __name__ == "__main__":
    main()
