"""What a prediction costs, beside the triple loop that a user would write; one run, one table.

.venv/bin/python benchmarks/theory/speed.py [--results results/benchmarks]
"""

import argparse
import csv
import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np

from residual_theory.proofs.checking import check
from residual_theory.stack import LlamaStack, Stack
from residual_theory.theory.forward import predict

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[2]
SIZES = (64, 128, 256, 512, 1024, 2048)
LARGE = Stack(loops=4096, residual_scale="1/N")
LLAMA = LlamaStack(loops=64, residual_scale="1/N", width=768, mlp_width=2048, heads=12, tokens=128)
MEASURED_ALONE = {"one layer, 4096 loops": LARGE, "Llama block, 128 tokens, 64 loops": LLAMA}
# A process of its own, so that its peak memory is that of one prediction, Python and libraries included.
ALONE = """
import resource, sys, time
from residual_theory.stack import LlamaStack, Stack
from residual_theory.theory.forward import predict
stack = {"Stack": Stack, "LlamaStack": LlamaStack}[sys.argv[1]].model_validate_json(sys.argv[2])
began = time.perf_counter()
predict(stack, with_gradients=sys.argv[3] == "gradients")
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def triple_loop(loops: int, epsilon: float) -> float:
    """K(N, N) of a tied ReLU stack from the sum as it stands, K(a+1, b+1) = K(a+1, b) + ε² Σ_{a' ≤ a} F(a', b)."""
    K = [[1.0] * (loops + 1) for _ in range(loops + 1)]

    def kernel(a: int, b: int) -> float:
        size = math.sqrt(K[a][a] * K[b][b])
        cosine = min(1.0, K[a][b] / size)
        theta = math.acos(cosine)
        return size * (math.sin(theta) + (math.pi - theta) * cosine) / (2 * math.pi)

    for a in range(loops):
        for b in range(a + 1):
            K[a + 1][b + 1] = K[b + 1][a + 1] = K[a + 1][b] + epsilon**2 * sum(kernel(i, b) for i in range(a + 1))
    return K[loops][loops]


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """The best of a few."""
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def alone(stack: Stack | LlamaStack, mode: str) -> tuple[float, float]:
    """Seconds and peak GiB of one prediction in a process of its own."""
    words = [sys.executable, "-c", ALONE, type(stack).__name__, stack.model_dump_json(), mode]
    answer = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    took, peak = map(float, answer.split())
    return took, peak


def measure() -> list[dict[str, object]]:
    """All rows of the table."""
    rows: list[dict[str, object]] = []

    def note(what: str, value: float, unit: str) -> None:
        rows.append({"what": what, "value": f"{value:.4g}", "unit": unit})
        sys.stdout.write(f"{what:66s} {value:10.4g} {unit}\n")
        sys.stdout.flush()

    took = {}
    for loops in SIZES:
        took[loops] = seconds(lambda loops=loops: predict(Stack(loops=loops, residual_scale="1/N")))
        note(f"predict, gradients included, one layer, N = {loops}", took[loops], "s")
    slope = np.polyfit(np.log(SIZES), np.log(list(took.values())), 1)[0]
    note(f"exponent of the cost in N over {SIZES[0]} … {SIZES[-1]}", slope, "")
    steep = math.log(took[SIZES[-1]] / took[SIZES[-2]], 2)
    note("exponent between the two largest", steep, "")
    loop = seconds(lambda: triple_loop(256, 1 / 256), repeats=1)
    forward = seconds(lambda: predict(Stack(loops=256, residual_scale="1/N"), with_gradients=False))
    agreed = abs(triple_loop(32, 1 / 32) / float(predict(Stack(loops=32, residual_scale="1/N")).second_moment[-1]) - 1)
    note("triple loop in plain Python, N = 256", loop, "s")
    note("triple loop / predict without gradients, N = 256", loop / forward, "times")
    note("triple loop / predict with gradients, N = 256", loop / took[256], "times")
    note("relative difference of the two, N = 32", agreed, "")
    for name, stack in MEASURED_ALONE.items():
        for mode in ("streams", "gradients"):
            took_alone, peak = alone(stack, mode)
            note(f"{name}, {mode}: time", took_alone, "s")
            note(f"{name}, {mode}: peak memory of the process", peak, "GiB")
    began = time.perf_counter()
    for path in sorted((ROOT / "derivations").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        check(module.DERIVATION)
    note("all derivations, one after the other", time.perf_counter() - began, "s")
    tied = Stack(loops=64, residual_scale="1/sqrt(N)")
    with_ties, without = (predict(tied.model_copy(update={"tied": flag})) for flag in (True, False))
    for name in ("second_moment", "gradient_second_moment", "tangent_kernel"):
        largest = float(with_ties[name].max() / without[name].max())
        note(f"{name}, tied / untied kernel, N = 64, ε = 1/√N", largest, "times")
    return rows


def draw(rows: list[dict[str, object]], folder: Path) -> None:
    """Seconds against N, from the table."""
    times = [float(str(row["value"])) for row in rows[: len(SIZES)]]
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    axes.loglog(SIZES, times, "o-", label="predict, gradients included")
    axes.loglog(SIZES, [times[-1] * (n / SIZES[-1]) ** 2 for n in SIZES], "--", color="0.5", label="∝ N²")
    axes.set(xlabel="loops N", ylabel="seconds", title="Cost of an exact prediction, one tied ReLU layer")
    axes.legend(frameon=False)
    for suffix in ("png", "pdf"):
        figure.savefig(folder / f"theory.{suffix}", dpi=150)


def main() -> None:
    """Measure, print, and write theory.csv, theory.json and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/benchmarks")
    folder = parser.parse_args().results
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure()
    with (folder / "theory.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["what", "value", "unit"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "theory.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    draw(rows, folder)


if __name__ == "__main__":
    main()
