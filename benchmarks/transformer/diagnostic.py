"""The diagnostic beside a loop written by hand: seconds of processor time and peak memory, at the paper's sizes.

.venv/bin/python benchmarks/transformer/diagnostic.py [--loops 8] [--steps 2] [--rounds 3] [--threads 2]

Each contestant runs in a process of its own, by turns: it builds the Transformer of the paper's tables at ε = 1, takes
AdamW steps on the same 128 random tokens, and reads R at the end of every loop, the change of the final state and, at
the end, the cosines between all visits. Processor time is compared, as other work on the machine changes it less than
the clock's. Writes diagnostic.json.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import BY_HAND, OURS, LoopByHand, Shape
from torch.nn import functional

from residual_theory.console import say
from residual_theory.store import provenance
from residual_theory.transformer.first_steps import first_steps
from residual_theory.transformer.model import LoopedTransformer

ROOT = Path(__file__).parents[2]
SHAPE = Shape(width=768, heads=12, mlp_width=2048, layers=12, context=128, batch=1, vocabulary=128_256)
RATE = 1e-4


WORDS = [int(word >> np.uint64(1)) for word in np.random.SeedSequence(0).generate_state(2, np.uint64)]


def build_by_hand() -> LoopByHand:
    """The user's model, with the library's weights."""
    model = LoopByHand(SHAPE)
    model.load_state_dict(LoopByHand.from_ours(LoopedTransformer(SHAPE.config(), WORDS[0])))
    return model


def by_hand(model: LoopByHand, loops: int, steps: int) -> list[float]:
    """The loop that a user writes, on the library's tokens; R at the end before and after each step."""
    generator = torch.Generator().manual_seed(WORDS[1])
    ids = torch.randint(SHAPE.vocabulary, (1, SHAPE.context + 1), generator=generator)
    gains = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8, fused=True)
    found, last = [], None
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            h, sizes, changes = model.embedding(ids[:, :-1]), [], []
            for _ in range(loops):
                for layer in model.layers:
                    before = h
                    h = h + layer.attend(layer.norm1(h), model.cosine, model.sine)
                    h = h + layer.mlp(layer.norm2(h))
                    if step == steps:
                        changes.append((h - before).flatten())
                sizes.append(h.detach().square().mean().sqrt().item())
            loss = functional.cross_entropy((model.norm(h) @ model.embedding.weight.T)[0], ids[0, 1:])
        found.append(sizes[-1])
        if last is not None:
            (h.detach() - last).square().mean().sqrt().item()
        last = h.detach()
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    stacked = functional.normalize(torch.stack(changes), dim=1)
    stacked @ stacked.T
    return found


def alone(who: str, loops: int, steps: int) -> dict[str, Any]:
    """One contestant: processor seconds and seconds without those of building the model, peak MiB, what it found."""
    built = [time.perf_counter(), time.process_time()]
    model = build_by_hand() if who == BY_HAND else LoopedTransformer(SHAPE.config(loops), WORDS[0])
    began = [time.perf_counter(), time.process_time()]
    if who == OURS:  # builds it once more
        del model
        result = first_steps(SHAPE.config(loops), steps=steps, learning_rate=RATE, seed=0)
        found = np.sqrt(result.covariance.values[:, -1, -1]).tolist()
        building = [after - before for before, after in zip(built, began, strict=True)]
    else:
        found, building = by_hand(model, loops, steps), [0.0, 0.0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    seconds = time.perf_counter() - began[0] - building[0]
    return {"processor": time.process_time() - began[1] - building[1], "seconds": seconds, "peak": peak, "found": found}


def main() -> None:
    """Measure by turns, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=ROOT / "results/benchmarks")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.alone:
        say(json.dumps(alone(given.alone, given.loops, given.steps)))
        return
    sizes = ["--loops", str(given.loops), "--steps", str(given.steps), "--threads", str(given.threads)]
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], BY_HAND: []}
    for turn in range(given.rounds):
        for who in (OURS, BY_HAND) if turn % 2 else (BY_HAND, OURS):
            command = [sys.executable, __file__, "--alone", who, *sizes]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[who].append(json.loads(done.stdout))
    ratios = {
        what: [ours[what] / hand[what] for ours, hand in zip(runs[OURS], runs[BY_HAND], strict=True)]
        for what in ("processor", "seconds", "peak")
    }
    for what, values in ratios.items():
        say(f"{what}: ours over by hand {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    differ = max(abs(a / b - 1) for a, b in zip(runs[OURS][0]["found"], runs[BY_HAND][0]["found"], strict=True))  # of R
    say(f"R differs by at most {differ:.2g}, relative")
    given.results.mkdir(parents=True, exist_ok=True)
    document = {"provenance": provenance(), "given": vars(given) | {"results": None}, "ratios": ratios, "runs": runs}
    (given.results / "diagnostic.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
