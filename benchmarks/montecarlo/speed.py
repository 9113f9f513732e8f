"""What a random stack costs without matrices, beside dense samplers; one run, one table, one plot.

.venv/bin/python benchmarks/montecarlo/speed.py [--quick] [--device cuda] [--peer peer/bin/python]

Seconds a sample (one tied ReLU stack with ε = 1/N, drawn and visited N times) against width and against loops, in
float64, and at a few widths in float32. The samplers of one size take turns, call by call; processes of ours are
started before the clock. Takes less than ten minutes on two idle cores. neural-tangents takes part if there is an
environment for it; benchmarks/theory/peer.py says how to make one. Writes montecarlo.csv (all rows),
montecarlo-summary.csv (ratios, exponents, targets), montecarlo.json (both, and on what they were measured) and the
plot, of float64.
"""

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cost import Rates, machine, measure_rates, predicted_seconds
from race import Race, SamplerTimes
from rich.table import Table
from samplers import SAMPLERS, Settings
from summary import draw, summarize

from residual_theory.console import say, show
from residual_theory.store import provenance

ROOT = Path(__file__).parents[2]
PEER = "neural-tangents"
DTYPES = ("float64", "float32")
COLUMNS = {  # of the printed table; the files have more
    "sampler": "sampler",
    "dtype": "dtype",
    "width": "width",
    "loops": "loops",
    "seconds_median": "s/sample",
    "seconds_min": "least",
    "seconds_predicted": "predicted",
    "measured_over_predicted": "ratio",
    "calls": "calls",
    "samples_per_call": "samples\na call",
    "peak_gib": "peak\nGiB",
    "libraries_gib": "libraries\nGiB",
    "device_peak_gib": "device\nGiB",
    "threads": "threads",
}
Entrants = list[tuple[str, Settings]]


class Plan(NamedTuple):
    """Which sizes, how far each dense sampler goes, and how long."""

    widths: tuple[int, ...] = (256, 1024, 4096, 8192, 16384, 65536, 262144, 10**6)
    single: tuple[int, ...] = (4096, 8192)  # widths in float32 too
    loops: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    reach: tuple[tuple[str, int], ...] = (
        ("library dense", 4096),
        ("torch dense", 16384),
        ("numpy dense", 8192),
        (PEER, 4096),
    )
    all_loops: int = 64  # while the width varies
    long_width: int = 65536  # while loops vary, without matrices
    dense_width: int = 2048  # and with them
    rounds: int = 5
    long: tuple[float, int] = (4.0, 3)  # from so many seconds a call on, only so many rounds
    seconds: float = 1.0  # that a call should take; half of it while loops vary
    matrix_bytes: int = 2**30
    copies: int = 65536  # the least width at which a copy takes turns too

    def groups(self, device: str) -> Iterator[tuple[str, Entrants]]:
        """The sizes in order, each with those who take turns at it."""
        reach = {name: most for name, most in self.reach if device == "cpu" or name not in ("numpy dense", PEER)}

        def size(width: int, loops: int, matrix_bytes: int = self.matrix_bytes, dtype: str = "float64") -> Settings:
            return Settings(width, loops, dtype, device, matrix_bytes)

        for width in self.widths:
            names = ["matrix-free", *(name for name, most in reach.items() if width <= most)]
            names += ["copy"] if width >= self.copies else []
            yield "width", [(name, size(width, self.all_loops)) for name in names]
        for width in self.single:
            single = size(width, self.all_loops, dtype="float32")
            yield "width", [(name, single) for name in ("matrix-free", "torch dense")]
        for loops in self.loops:
            shorter = size(self.dense_width, loops, self.matrix_bytes // 4)  # fewer at once: calls grow with N
            dense = [(name, shorter) for name in ("torch dense", "numpy dense") if name in reach]
            yield "loops", [("matrix-free", size(self.long_width, loops)), *dense]


QUICK = Plan(
    widths=(256, 4096, 65536),
    single=(4096,),
    loops=(8, 32),
    reach=(("library dense", 256), ("torch dense", 4096), ("numpy dense", 256), (PEER, 256)),
    long_width=16384,
    dense_width=1024,
    rounds=3,
    seconds=0.3,
    matrix_bytes=2**27,
)


def measure(plan: Plan, rates: Mapping[str, Rates], device: str, peer: Path) -> tuple[list[SamplerTimes], list[str]]:
    """All rows, and notes on what could not be measured."""
    rows: list[SamplerTimes] = []
    notes: list[str] = []
    race = Race(plan.rounds, plan.long, rates, {PEER: str(peer)})
    if device == "cpu" and not peer.exists():
        notes.append(
            f"{PEER}: not measured, no environment for it (--peer); benchmarks/theory/peer.py says how to make one"
        )
    for sweep, entrants in plan.groups(device):
        there = [(name, settings) for name, settings in entrants if name != PEER or peer.exists()]
        found, missed = race.run(sweep, there, plan.seconds if sweep == "width" else plan.seconds / 2)
        rows += found
        notes += missed
        for row in found:
            size = row.settings
            say(f"{row.sampler:16s} {size.dtype}  width {size.width:8d}  loops {size.loops:4d}  {row.median:10.4g} s")
        for note in missed:
            say(note)
    return rows, notes


def table(records: Sequence[Mapping[str, Any]], columns: Mapping[str, str], title: str) -> Table:
    """Those columns that say something."""
    shown = {name: head for name, head in columns.items() if any(str(record[name]) for record in records)}
    result = Table(title=title)
    for name, head in shown.items():
        result.add_column(
            head, justify="left" if name in ("sampler", "dtype", "what") else "right", no_wrap=name == "what"
        )
    for record in records:
        result.add_row(*(str(record[name]) for name in shown))
    return result


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """As CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def versions(rows: Sequence[SamplerTimes]) -> dict[str, dict[str, str]]:
    """Libraries of each sampler's process."""
    return {row.sampler: row.answers["versions"] for row in rows if row.sampler in SAMPLERS}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/benchmarks")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes: under a minute")
    parser.add_argument("--device", default="cpu", help="cpu or cuda[:i]")
    parser.add_argument("--peer", type=Path, default=ROOT / "peer/bin/python", help="Python with neural-tangents")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device: no CUDA device is here; choose cpu")
    given.results.mkdir(parents=True, exist_ok=True)
    plan = QUICK if given.quick else Plan()
    began, load = time.perf_counter(), os.getloadavg()
    rates = {dtype: measure_rates(given.device, dtype) for dtype in DTYPES}
    for dtype, found in rates.items():
        say(
            f"{dtype}: copy {found.copy / 1e9:.3g} GB/s, products {found.operations / 1e9:.3g} GFLOP/s, "
            f"{1e9 / found.normals:.3g} ns a normal number"
        )
        for width in plan.widths if dtype == "float64" else plan.single:
            seconds = predicted_seconds(plan.all_loops, width, Settings(1, 1, dtype).itemsize, found)
            say(f"predicted without matrices, {dtype}, width {width}: {seconds:.3g} s a sample")
    rows, notes = measure(plan, rates, given.device, given.peer)
    records = [row.record() for row in rows if row.sampler != "copy"]
    facts = [
        {"dtype": dtype} | fact.record()
        for dtype in DTYPES
        for fact in summarize([row for row in rows if row.settings.dtype == dtype])
    ]
    show(table(records, COLUMNS, "One random stack: draw and N visits"))
    show(table(facts, {name: name for name in facts[0]}, "In short"))
    for note in notes:
        say(note)
    kind = given.device.partition(":")[0]
    name = "montecarlo" + "-quick" * given.quick + f"-{kind}" * (kind != "cpu")
    path = given.results / f"{name}.csv"
    write(path, records)
    write(path.with_name(f"{name}-summary.csv"), facts)
    document = {
        "provenance": provenance() | machine(given.device) | {"versions": versions(rows)},
        "seconds": round(time.perf_counter() - began, 1),
        "load_before": load,
        "plan": plan._asdict(),
        "rates": {dtype: found._asdict() for dtype, found in rates.items()},
        "samplers": {name: " ".join((make.__doc__ or "").split()) for name, make in SAMPLERS.items()},
        "rows": records,
        "calls": [{"sampler": row.sampler, **row.settings._asdict(), "seconds": row.seconds} for row in rows],
        "summary": facts,
        "notes": notes,
    }
    path.with_suffix(".json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    draw([row for row in rows if row.settings.dtype == "float64"], path)
    say(f"{document['seconds']} s; {path}")


if __name__ == "__main__":
    main()
