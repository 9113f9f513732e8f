"""How long the command takes to start, as multiples of `python -c "import torch"`.

    python benchmarks/start.py [--rounds 7]

In each round every command runs once, right after torch's import; the table has medians of these paired ratios.
Exit status: 1 if a median is above its limit.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.table import Table

from residual_theory.console import say, show

ROOT = Path(__file__).parents[1]
TORCH = ("-c", "import torch")
COMMAND = ("-m", "residual_theory")
STARTS: dict[str, tuple[tuple[str, ...], float]] = {  # what is run, and the largest multiple allowed
    "import residual_theory": (("-c", "import residual_theory"), 0.25),
    "--version": ((*COMMAND, "--version"), 0.25),
    "--help": ((*COMMAND, "--help"), 0.25),
    "train --help": ((*COMMAND, "train", "--help"), 0.35),
    "list": ((*COMMAND, "list"), 0.5),
    "predict --loops 8 --scale 1/N": ((*COMMAND, "predict", "--loops", "8", "--scale", "1/N"), 0.8),
    "derive relu-kernel": ((*COMMAND, "derive", "relu-kernel"), 1.5),
}


def seconds(arguments: tuple[str, ...]) -> float:
    """The time that one Python process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for arguments in (TORCH, *(arguments for arguments, _ in STARTS.values())):
        seconds(arguments)  # once, so that all is compiled and in the cache
    imports: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(rounds):
        for name, (arguments, _) in STARTS.items():
            imports.append(seconds(TORCH))
            ratios[name].append(seconds(arguments) / imports[-1])
    table = Table("", "median", "least", "most", "limit", title="Start, in multiples of torch's import")
    slow = False
    for name, (_, limit) in STARTS.items():
        median = statistics.median(ratios[name])
        slow |= median > limit
        cells = (median, min(ratios[name]), max(ratios[name]), limit)
        table.add_row(name, *(f"{cell:.2f}" for cell in cells))
    show(table)
    say(f"torch's import: {statistics.median(imports):.2f} s, the median of {len(imports)} on {sys.platform}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
