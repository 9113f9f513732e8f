"""Tokens per second and memory of the looped Transformer beside two others of equal shape: one run, a table, a plot.

.venv/bin/python benchmarks/transformer/throughput.py [--quick] [--device cuda] [--threads 2] [--peak 989e12]

At one loop: training steps (forward, backward, AdamW) and forward passes of the library's model, of LlamaForCausalLM in
transformers, and of a loop written by hand, all with the same weights. Then what the blocks cost at 8 loops over 8
times what they cost at 1, and six small models trained together over one after another. Contestants take turns, round
by round; medians with the least and the most of the rounds. On a CUDA device also the model's FLOP utilisation at the
paper's 12 layers, in bfloat16 and compiled. Writes transformer.csv, transformer.json and the plot.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from contestants import BY_HAND, HUGGING_FACE, OURS, Contestant, Shape, build, disagreement, tokens_and_targets
from matplotlib.figure import Figure
from rich.table import Table

from residual_theory.console import say, show
from residual_theory.store import provenance
from residual_theory.transformer.model import LoopedTransformer

ROOT = Path(__file__).parents[2]
NAMES = (OURS, HUGGING_FACE, BY_HAND)
SHAPES = {
    "narrow": Shape(width=64, heads=4, mlp_width=176, layers=2, context=64, batch=8, vocabulary=256),
    "middle": Shape(width=256, heads=4, mlp_width=704, layers=4, context=128, batch=4, vocabulary=4096),
    "wide": Shape(width=768, heads=12, mlp_width=2048, layers=2, context=128, batch=2, vocabulary=4096),
}
PAPER = Shape(width=768, heads=12, mlp_width=2048, layers=12, context=1024, batch=16, vocabulary=128_256)
PEAKS = {  # dense bfloat16 operations per second, of the makers' data sheets
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12,
    "L40S": 362e12, "A10G": 70e12, "4090": 165e12, "3090": 71e12,
}  # fmt: skip
LOOPS = 8
Row = dict[str, Any]


def train_step(contestant: Contestant, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    """Forward, backward and one step of AdamW."""
    optimizer = torch.optim.AdamW(contestant.model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        contestant.loss(*batch).backward()
        optimizer.step()

    return step


def forward_pass(contestant: Contestant, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    """Logits, without gradients."""

    @torch.no_grad()
    def step() -> None:
        contestant.logits(batch[0])

    return step


def blocks_pass(shape: Shape, loops: int, device: str) -> Callable[[], None]:
    """Forward and backward through the blocks alone: no embedding, no head, no optimizer."""
    model = LoopedTransformer(shape.config(loops), 0).to(device)
    h = torch.randn(shape.batch, shape.context, shape.width, generator=torch.Generator().manual_seed(3)).to(device)

    def step() -> None:
        x = h
        for _ in range(loops):
            for block in model.blocks:
                x = block(x)
        x.sum().backward()

    return step


def race(
    entrants: Mapping[str, Callable[[], None]], rounds: int, seconds: float, device: str
) -> dict[str, list[float]]:
    """Seconds a call in every round. All take turns, in an order that rotates; calls repeat to fill `seconds`."""
    repeats = {}
    for name, call in entrants.items():
        timed(call, 1, device)  # warm
        repeats[name] = max(1, round(seconds / timed(call, 1, device)))
    times: dict[str, list[float]] = {name: [] for name in entrants}
    names = list(entrants)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(timed(entrants[name], repeats[name], device))
    return times


def timed(call: Callable[[], None], repeats: int, device: str) -> float:
    """Mean seconds of some calls in a row."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - began) / repeats


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def summary(what: str, name: str, values: Sequence[float], unit: str, **more: Any) -> Row:
    """A row: the median of the rounds, the least and the most."""
    return {
        "what": what, "who": name, "median": statistics.median(values), "least": min(values), "most": max(values),
        "rounds": len(values), "unit": unit, **more,
    }  # fmt: skip


def side_by_side(label: str, shape: Shape, given: argparse.Namespace) -> list[Row]:
    """Tokens per second at one loop; and, round by round, ours over each other's."""
    rows = []
    batch = tokens_and_targets(shape, given.device)
    tokens = shape.batch * shape.context
    contestants = {name: build(name, shape, given.device) for name in NAMES}
    for kind, make in (("training", train_step), ("forward", forward_pass)):
        calls = {name: make(contestant, batch) for name, contestant in contestants.items()}
        times = race(calls, given.rounds, given.seconds, given.device)
        for name, seconds in times.items():
            rows.append(summary(f"{label}: {kind}", name, [tokens / s for s in seconds], "tokens/s"))
        for name in NAMES[1:]:
            ratios = [other / ours for other, ours in zip(times[name], times[OURS], strict=True)]
            rows.append(summary(f"{label}: {kind}, speed of ours over", name, ratios, "times"))
    if given.device != "cpu" or Path("/proc/self/clear_refs").exists():
        for name in NAMES:
            rows.append(summary(f"{label}: peak memory of training", name, [peak_alone(name, label, given)], "MiB"))
    return rows


def peak_alone(name: str, label: str, given: argparse.Namespace) -> float:
    """MiB that three training steps add to a process of their own (model and optimizer included)."""
    command = [sys.executable, __file__, "--alone", name, label, "--device", given.device]
    done = subprocess.run([*command, "--threads", str(given.threads)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def alone(name: str, label: str, device: str) -> float:
    """What `peak_alone` asks of the other process."""
    shape = SHAPES[label]
    small = shape._replace(width=8, heads=2, mlp_width=8, layers=1, vocabulary=8)
    train_step(build(name, small, device), tokens_and_targets(small, device))()  # libraries are loaded, buffers made
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident("VmRSS")
    step = train_step(build(name, shape, device), tokens_and_targets(shape, device))
    for _ in range(3):
        step()
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident("VmHWM") - before


def resident(kind: str) -> float:
    """MiB of memory of this process, by the name that Linux gives it: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind))) / 2**10


def per_loop(label: str, shape: Shape, given: argparse.Namespace) -> Row:
    """Time of the blocks at 8 loops over 8 times that at 1."""
    calls = {str(loops): blocks_pass(shape, loops, given.device) for loops in (1, LOOPS)}
    times = race(calls, given.rounds, given.seconds, given.device)
    ratios = [many / LOOPS / one for one, many in zip(times["1"], times[str(LOOPS)], strict=True)]
    return summary(f"{label}: blocks, time({LOOPS}) / ({LOOPS} time(1))", OURS, ratios, "times")


def ensembles(given: argparse.Namespace) -> list[Row]:
    """Six small models one after another over all at once."""
    try:
        from residual_theory.transformer.ensemble import train_together
    except ModuleNotFoundError:
        say("six models at once: not measured, the library has no ensembles here")
        return []
    from residual_theory.transformer.config import ModelConfig, TrainConfig
    from residual_theory.transformer.data import load_corpus
    from residual_theory.transformer.train import train

    corpus = load_corpus(None)
    steps = 10 if given.quick else 30
    rows = []
    for width, loops in ((64, 1), (64, 4), (64, 8), (128, 1)):
        models = [ModelConfig(width=width, mlp_width=width * 11 // 4, loops=loops)] * 6
        trainings = [TrainConfig(steps=steps, evaluation_sequences=8, learning_rate=1e-3 * 2**k) for k in range(6)]
        calls = {
            "one by one": lambda m=models, t=trainings: [train(*pair, corpus) for pair in zip(m, t, strict=True)],
            "together": lambda m=models, t=trainings: train_together(m, t, corpus),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(min(given.rounds, 5)):
            for name, call in calls.items():
                times[name].append(timed(call, 1, "cpu"))
        ratios = [one / all_ for one, all_ in zip(times["one by one"], times["together"], strict=True)]
        rows.append(
            summary(f"six models, d = {width}, N = {loops}: speed together over", "one by one", ratios, "times")
        )
    return rows


def utilisation(given: argparse.Namespace) -> list[Row]:
    """Model FLOP utilisation of training steps at the paper's shape: operations of the formula over the peak."""
    name = torch.cuda.get_device_name(given.device)
    peak = given.peak or next((peak for part, peak in PEAKS.items() if part in name), 0.0)
    if not peak:
        say(f"utilisation: not measured, no bfloat16 peak is known of {name}; give it with --peak")
        return []
    shape = PAPER._replace(batch=given.batch)
    model = build(OURS, shape, given.device).model
    compiled = torch.compile(model)
    batch = tokens_and_targets(shape, given.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = Contestant(model, compiled).loss(*batch)
        loss.backward()
        optimizer.step()

    seconds = race({OURS: step}, given.rounds, max(given.seconds, 3.0), given.device)[OURS]
    tokens = shape.batch * shape.context
    used = [tokens * shape.operations_per_token() / s / peak for s in seconds]
    return [
        summary("paper, L = 12, bfloat16, compiled: training", OURS, [tokens / s for s in seconds], "tokens/s"),
        summary(f"paper, L = 12: model FLOPs over the peak of {peak:.4g}/s ({name})", OURS, used, "times"),
    ]


def draw(rows: Sequence[Row], path: Path) -> None:
    """The speed of ours over the others', one group a shape, with the range of the rounds."""
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for panel, kind in zip(figure.subplots(1, 2, sharey=True), ("training", "forward"), strict=True):
        for offset, name, colour in ((-0.1, HUGGING_FACE, "#e08214"), (0.1, BY_HAND, "#2166ac")):
            ratios = [row for row in rows if f": {kind}, speed" in row["what"] and row["who"] == name]
            labels = [row["what"].partition(":")[0] for row in ratios]
            median = [row["median"] for row in ratios]
            reach = [[abs(row[end] - row["median"]) for row in ratios] for end in ("least", "most")]
            places = [place + offset for place in range(len(ratios))]
            panel.errorbar(places, median, yerr=reach, fmt="o", capsize=3, color=colour, label=f"over {name}")
            panel.set_xticks(range(len(labels)), labels)
        panel.axhline(1, color="0.5", lw=0.8)
        panel.set_title(kind)
    figure.axes[0].set_ylabel("tokens/s of ours over theirs, a round")
    figure.axes[1].legend(fontsize=8)
    for ending in ("png", "pdf"):
        figure.savefig(path.with_suffix(f".{ending}"), dpi=150)


def table(rows: Sequence[Row]) -> Table:
    """For the screen."""
    shown = Table("what", "who", "median", "least", "most", "unit", title="Looped Transformer, one loop unless said")
    for row in rows:
        shown.add_row(row["what"], row["who"], *(f"{row[key]:.4g}" for key in ("median", "least", "most")), row["unit"])
    return shown


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/benchmarks")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the two smaller shapes: about a minute")
    parser.add_argument("--device", default="cpu", help="cpu or cuda[:i]")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=None, help="9, or 3 when quick")
    parser.add_argument("--seconds", type=float, default=0.5, help="that a timed call should fill")
    parser.add_argument("--batch", type=int, default=PAPER.batch, help="sequences at the paper's shape")
    parser.add_argument("--peak", type=float, help="the device's dense bfloat16 operations per second")
    parser.add_argument("--alone", nargs=2, metavar=("WHO", "SHAPE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        parser.error("--device: no CUDA device is here; choose cpu")
    given.rounds = given.rounds or (3 if given.quick else 9)
    return given


def main() -> None:
    """Measure, print and write."""
    given = arguments()
    torch.set_num_threads(given.threads)
    if given.alone:
        say(str(alone(*given.alone, given.device)))
        return
    began, load = time.perf_counter(), os.getloadavg()
    labels = list(SHAPES)[: 2 if given.quick else None]
    differences = disagreement(SHAPES["middle"])
    for name in NAMES[1:]:
        say(f"logits of {name} differ from ours by at most {differences[name]:.2g} of their standard deviation")
    rows: list[Row] = []
    for label in labels:
        rows += side_by_side(label, SHAPES[label], given)
        rows.append(per_loop(label, SHAPES[label], given))
    rows += ensembles(given)
    if given.device != "cpu":
        rows += utilisation(given)
    show(table(rows))
    kind = given.device.partition(":")[0]
    path = given.results / f"transformer{'-quick' * given.quick}{f'-{kind}' * (kind != 'cpu')}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    seconds = round(time.perf_counter() - began, 1)
    document = {
        "provenance": provenance(), "device": given.device, "threads": given.threads, "load_before": load,
        "seconds": seconds, "shapes": {label: SHAPES[label]._asdict() for label in labels},
        "disagreement": differences, "rows": rows,
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    draw(rows, path)
    say(f"{seconds} s; {path}")


if __name__ == "__main__":
    main()
