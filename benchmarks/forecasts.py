"""How often forecasts hold: random small models of many kinds, diagnosed, then run at 2, 4 and 8 times the loops.

    python benchmarks/forecasts.py [--seeds 12] [--first-seed 0] [--csv benchmarks/forecasts.csv]

For each kind: how many forecasts were told (an interval within a factor of ten), how many of these held the norm of the
same weights run on, and how many of all others ("more than", "at most") were right. A few CPU minutes.
"""

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from residual_theory import probe
from residual_theory.console import say
from residual_theory.diagnosis.diagnose import diagnose

WIDTH, TOKENS, SAMPLES = 32, 4, 8
COUNTS = (6, 8, 12, 16, 24)


class Branch(nn.Module):
    """A matrix, a nonlinearity, a matrix; optionally with a norm before and after."""

    def __init__(self, activation: nn.Module, *, before: bool = False, after: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        nn.init.normal_(self.first.weight, std=gain * WIDTH**-0.5)
        nn.init.normal_(self.second.weight, std=gain * (2 * WIDTH) ** -0.5)
        self.before = nn.RMSNorm(WIDTH) if before else nn.Identity()
        self.after = nn.RMSNorm(WIDTH) if after else nn.Identity()
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.after(self.second(self.activation(self.first(self.before(h)))))
        return out


class Residual(nn.Module):
    """h ← carry ⊙ h + ε f(h)."""

    def __init__(self, branch: nn.Module, scale: float, carry: Tensor | float = 1.0) -> None:
        super().__init__()
        self.branch, self.scale, self.carry = branch, scale, carry

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.carry * h + self.scale * self.branch(h)
        return out


class Rotating(nn.Module):
    """h ← Q h + ε f(h), Q orthogonal times a number."""

    def __init__(self, branch: nn.Module, scale: float, radius: float) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale
        self.matrix = nn.Parameter(radius * nn.init.orthogonal_(torch.empty(WIDTH, WIDTH)))

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h @ self.matrix + self.scale * self.branch(h)
        return out


class Gate(nn.Module):
    """h ← z h + (1 − z) f(h), z = σ(W h + b)."""

    def __init__(self, branch: nn.Module, bias: float) -> None:
        super().__init__()
        self.branch, self.gate, self.bias = branch, nn.Linear(WIDTH, WIDTH), bias

    def forward(self, h: Tensor) -> Tensor:
        z = torch.sigmoid(self.gate(h) + self.bias)
        out: Tensor = z * h + (1 - z) * self.branch(h)
        return out


class Mixer(nn.Module):
    """Tokens, then channels, each behind a norm."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.tokens, self.channels = nn.Linear(TOKENS, TOKENS), Branch(nn.GELU(), before=True)
        self.norm, self.scale = nn.LayerNorm(WIDTH), scale

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.scale * self.tokens(self.norm(h).mT).mT
        out: Tensor = h + self.scale * self.channels(h)
        return out


class Convolution(nn.Module):
    """A residual block of two convolutions along the tokens, with group norms."""

    def __init__(self, scale: float, norm: bool) -> None:
        super().__init__()
        parts = [nn.ReLU(), nn.Conv1d(WIDTH, WIDTH, 3, padding=1)] * 1
        self.branch = nn.Sequential(*([nn.GroupNorm(4, WIDTH)] if norm else []), *parts)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.scale * self.branch(h.mT).mT
        return out


class Root(nn.Module):
    """h ← tanh(W h + U e), a fixed point's iteration; e is the first h."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.own, self.input = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(self.own.weight, std=gain * WIDTH**-0.5)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        return torch.tanh(self.own(h) + self.input(e))


class Carried(nn.Module):
    """h ← a ⊙ h + b e + ε f(h + e), as in Parcae; e is the first h."""

    def __init__(self, carry: Tensor, injection: float, scale: float) -> None:
        super().__init__()
        self.branch, self.carry = Branch(nn.ReLU(), before=True), carry
        self.injection, self.scale = injection, scale

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        out: Tensor = self.carry * h + self.injection * e + self.scale * self.branch(h + e)
        return out


class Looped(nn.Module):
    """Blocks in turn, `loops` times; between loops perhaps a norm, an injection, or an adapter of stream and input."""

    def __init__(self, blocks: list[nn.Module], between: str = "") -> None:
        super().__init__()
        self.blocks, self.between, self.loops = nn.ModuleList(blocks), between, 1
        self.adapter = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, e: Tensor) -> Tensor:
        h = e
        for loop in range(self.loops):
            if self.between == "norm" and loop:
                h = h / h.square().mean(-1, keepdim=True).sqrt()
            if self.between == "injection" and loop:
                h = h + e
            if self.between == "adapter":
                h = self.adapter(torch.cat((h, e), -1))
            for block in self.blocks:
                h = block(h, e) if isinstance(block, Root | Carried) else block(h)
        return h


def encoder(norm_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, norm_first=norm_first)


def scaled(random: np.random.Generator, loops: int) -> float:
    """A residual scale that is right, too large, or none."""
    return float(random.choice([1.0, loops**-0.5, 1 / loops, 0.3]))


def swiglu(random: np.random.Generator, n: int) -> Looped:
    return Looped([Residual(Branch(nn.SiLU(), before=True, gain=1.4), scaled(random, n)) for _ in range(2)])


KINDS: dict[str, Callable[[np.random.Generator, int], Looped]] = {
    "pre-norm encoder layer": lambda r, n: Looped([encoder(True)]),
    "post-norm encoder layer": lambda r, n: Looped([encoder(False)]),
    "three pre-norm encoder layers": lambda r, n: Looped([encoder(True) for _ in range(3)]),
    "raw ReLU MLP": lambda r, n: Looped([Residual(Branch(nn.ReLU()), scaled(r, n))]),
    "raw tanh MLP": lambda r, n: Looped([Residual(Branch(nn.Tanh()), scaled(r, n))]),
    "pre-norm SiLU MLPs, two": swiglu,
    "norms before and after": lambda r, n: Looped([Residual(Branch(nn.GELU(), before=True, after=True), scaled(r, n))]),
    "layer scale": lambda r, n: Looped([Residual(Branch(nn.GELU(), before=True), float(r.choice([1e-4, 1e-2, 0.1])))]),
    "injection between loops": lambda r, n: Looped(
        [Residual(Branch(nn.ReLU(), before=True), scaled(r, n))], "injection"
    ),
    "adapter of stream and input": lambda r, n: Looped([encoder(True)], "adapter"),
    "norm between loops": lambda r, n: Looped([Residual(Branch(nn.ReLU()), scaled(r, n)) for _ in range(2)], "norm"),
    "decay and injection": lambda r, n: Looped(
        [Carried(torch.linspace(float(r.uniform(-1, 0.5)), float(r.uniform(0.5, 1)), WIDTH), 0.5, 0.2)]
    ),
    "decay": lambda r, n: Looped([Residual(Branch(nn.ReLU(), before=True), 0.3, float(r.uniform(0.5, 1)))]),
    "linear map that turns": lambda r, n: Looped([Rotating(Branch(nn.Tanh()), 0.1, float(r.uniform(0.9, 1.1)))]),
    "gated update": lambda r, n: Looped([Gate(Branch(nn.ReLU(), before=bool(r.integers(2))), float(r.uniform(-1, 3)))]),
    "fixed-point iteration": lambda r, n: Looped([Root(float(r.uniform(0.5, 2)))]),
    "mixer": lambda r, n: Looped([Mixer(scaled(r, n))]),
    "convolutions": lambda r, n: Looped([Convolution(scaled(r, n), bool(r.integers(2)))]),
}


def outcome(kind: str, seed: int) -> list[tuple[int, str, bool, bool]]:
    """For each forecast of one model: factor, law, told or not, and whether what was said is right."""
    random = np.random.default_rng((list(KINDS).index(kind), seed))
    loops = int(random.choice(COUNTS))
    with torch.random.fork_rng():
        torch.manual_seed(int(random.integers(2**31)))
        model = KINDS[kind](random, loops).double().eval()
        inputs = torch.randn(SAMPLES, TOKENS, WIDTH, dtype=torch.float64)
    model.loops = loops
    found = diagnose(probe(model, block="blocks", inputs=inputs))
    if not found.forecasts:
        return [(factor, found.law, False, True) for factor in (2, 4, 8)]
    model.loops = 8 * loops
    longer = probe(model, block="blocks", inputs=inputs).second_moment.values ** 0.5
    rows = []
    for each in found.forecasts:
        seen, same = float(longer[each.factor * loops * len(model.blocks)]), each.same
        low = same.low if same.told or same.low > found.norms[-1] else -math.inf
        high = same.high if same.told or same.high < 2 * found.norms[-1] else math.inf
        right = low * (1 - 1e-6) <= seen <= high * (1 + 1e-6) if math.isfinite(seen) else not same.told
        rows.append((each.factor, found.law, same.told, bool(right)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for kind in given.kinds:
        several = [outcome(kind, seed) for seed in range(given.first_seed, given.first_seed + given.seeds)]
        rows = [row for rows in several for row in rows]
        told = [right for _, _, told, right in rows if told]
        others = [right for _, _, told, right in rows if not told]
        laws = sorted({law for _, law, _, _ in rows})
        table.append((kind, len(several), len(rows), len(told), sum(told), len(others), sum(others)))
        wrong = [seed + given.first_seed for seed, rows in enumerate(several) if not all(right for *_, right in rows)]
        say(f"{kind:30s} told {len(told):3d} of {len(rows):3d}, held {sum(told):3d}; "
            f"others right {sum(others)}/{len(others)}; {', '.join(laws)} {wrong or ''}")  # fmt: skip
    total = ["all", *np.sum([row[1:] for row in table], axis=0).tolist()]
    say(f"all: {total[1]} models; told {total[3]} of {total[2]} forecasts, held {total[4] / total[3]:.1%}; "
        f"others right {total[6]}/{total[5]}")  # fmt: skip
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("kind", "models", "forecasts", "told", "held", "not told", "of these right"))
            writer.writerows([*table, total])


if __name__ == "__main__":
    main()
