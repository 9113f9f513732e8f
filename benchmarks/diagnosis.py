"""How often a diagnosis is wrong: random stacks of known law, probed, diagnosed, and run on for their forecasts.

    python benchmarks/diagnosis.py [--seeds 20] [--first-seed 0] [--visits 16 32] [--width 128]

Prints, for each family of stacks, how often each law was named, how often it was a law that the family follows, and how
often forecasts' intervals held R of the same stack at more visits and at the scale recommended; then the same with the
order of the visits shuffled, which follows none of the laws of growth.
"""

import argparse
from collections import Counter

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from residual_theory import probe
from residual_theory.console import say
from residual_theory.diagnosis.diagnose import Diagnosis, diagnose

# tied layers (0: all distinct), ε, norm, and the laws that are right: near R₀ growth shows its coherence alone
FAMILIES: dict[str, tuple[int, str, str, tuple[str, ...]]] = {
    "untied, ε = 1": (0, "1", "none", ("exponential",)),
    "untied, ε = 1/√V": (0, "1/sqrt", "none", ("independent",)),
    "untied, ε = 1/V": (0, "1/V", "none", ("independent",)),
    "untied, pre-norm, ε = 1": (0, "1", "pre", ("independent",)),
    "untied, pre-norm, ε = 1/√V": (0, "1/sqrt", "pre", ("independent",)),
    "tied, ε = 1": (1, "1", "none", ("exponential",)),
    "tied, ε = 1/√V": (1, "1/sqrt", "none", ("exponential",)),
    "tied, ε = 1/V": (1, "1/V", "none", ("coherent",)),
    "tied, pre-norm, ε = 1": (1, "1", "pre", ("linear",)),
    "tied, pre-norm, ε = 1/√V": (1, "1/sqrt", "pre", ("linear", "coherent")),
    "tied, pre-norm, ε = 1/V": (1, "1/V", "pre", ("coherent",)),
    "four tied layers, ε = 1": (4, "1", "none", ("exponential",)),
    "four tied layers, ε = 1/V": (4, "1/V", "none", ("coherent",)),
    "untied, post-norm, ε = 1": (0, "1", "post", ("normalised",)),
    "tied, post-norm, ε = 1/√V": (1, "1/sqrt", "post", ("normalised",)),
    "tied, decaying": (1, "0.2", "decay", ("bounded",)),
    "tied pre-norm encoder layer": (1, "1", "encoder, pre", ("linear",)),
    "untied pre-norm encoder layers": (0, "1", "encoder, pre", ("independent",)),
    "tied post-norm encoder layer": (1, "1", "encoder, post", ("normalised",)),
    "tied tanh MLP": (1, "1", "saturating", ("linear",)),
}
ORDINARY = ("encoder, pre", "encoder, post", "saturating")


def unit(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt()


class Step(nn.Module):
    """h ← h + ε W relu(h), with a norm before the branch, after the sum, or a carry below 1."""

    def __init__(self, width: int, scale: float, norm: str, generator: torch.Generator) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5)
        self.scale, self.norm = scale, norm

    def forward(self, h: Tensor) -> Tensor:
        x = unit(h) if self.norm in ("pre", "decay") else h
        carry = 0.6 if self.norm == "decay" else 1.0
        u = carry * h + self.scale * torch.relu(x) @ self.matrix.T
        return unit(u) if self.norm == "post" else u


class Saturating(nn.Module):
    """h ← h + ε B tanh(A h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, 4 * width), nn.Tanh(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)  # type: ignore[no-any-return]


def ordinary(width: int, scale: float, kind: str, generator: torch.Generator) -> nn.Module:
    """A layer as PyTorch initialises it, in evaluation mode, its branches multiplied by `scale`."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        if kind == "saturating":
            layer: nn.Module = Saturating(width)
            ends = ["branch"]
        else:
            layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=kind.endswith("pre"))
            ends = ["dropout1", "dropout2"]
    for end in ends:
        layer.get_submodule(end).register_forward_hook(lambda module, inputs, branch: scale * branch)
    return layer.to(torch.float64).eval()


def run(family: str, visits: int, more: int, scale: float, width: int, seed: int) -> xr.Dataset:
    """A probe of the family's stack of `visits`, run for `more` visits at `scale` times its ε."""
    layers, rule, norm, _ = FAMILIES[family]
    epsilon = {"1": 1.0, "1/sqrt": visits**-0.5, "1/V": 1 / visits, "0.2": 0.2}[rule]
    generator = torch.Generator().manual_seed(seed)
    shape = (8, 8, width) if norm in ORDINARY else (8, width)
    h = torch.randn(shape, generator=generator, dtype=torch.float64)
    make = ordinary if norm in ORDINARY else Step
    steps = [make(width, scale * epsilon, norm, generator) for _ in range(layers or more)]
    model = nn.Sequential(*(steps * (more // len(steps))))
    return probe(model, block=steps, inputs=h)


def shuffled(probed: xr.Dataset, seed: int) -> xr.Dataset:
    """The same with h_1, h_2, … in another order."""
    order = np.append(0, 1 + np.random.default_rng(seed).permutation(probed.sizes["visit"] - 1))
    return probed.assign(covariance=(("visit", "visit_other"), probed.covariance.values[np.ix_(order, order)]))


def held(found: Diagnosis, family: str, visits: int, width: int, seed: int) -> list[list[bool]]:
    """For each forecast at the same ε, then at the scale recommended: did the interval hold R?"""
    kept: list[list[bool]] = [[], []]
    for each in found.forecasts:
        for row, estimate, scale in zip(kept, (each.same, each.recommended), (1.0, each.scale), strict=True):
            seen = float(run(family, visits, each.visits, scale, width, seed).second_moment[-1]) ** 0.5
            row.append(estimate.low * (1 - 1e-9) <= seen <= estimate.high * (1 + 1e-9))
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--visits", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--forecasts", type=int, default=5, help="of the seeds, how many are run on")
    given = parser.parse_args()
    for visits in given.visits:
        wrong, undecided, total, confirmed, twin_laws = 0, 0, 0, 0, 0
        coverage: list[list[list[bool]]] = []
        say(f"{visits} visits, width {given.width}, {given.seeds} seeds")
        for family, (*_, right) in FAMILIES.items():
            laws: Counter[str] = Counter()
            twins: Counter[str] = Counter()
            mine: list[list[list[bool]]] = []
            for seed in range(given.first_seed, given.first_seed + given.seeds):
                probed = run(family, visits, visits, 1.0, given.width, seed)
                found = diagnose(probed)
                laws[found.law] += 1
                twins[diagnose(shuffled(probed, seed)).law] += 1
                if seed < given.first_seed + given.forecasts and found.forecasts:
                    mine.append(held(found, family, visits, given.width, seed))
            coverage += mine
            wrong += sum(count for law, count in laws.items() if law not in (*right, "undecided"))
            undecided += laws["undecided"]
            total += given.seeds
            confirmed += sum(twins[law] for law in right)
            twin_laws += given.seeds - twins["undecided"] - twins["normalised"]
            shares = " ".join(f"{share:4.0%}" for share in np.mean(mine, axis=0).ravel()) if mine else "-"
            say(f"  {family:28s} {dict(laws)!s:44s} shuffled {dict(twins)!s:60s} held {shares}")
        same, recommended = np.mean(coverage, axis=(0, 2))
        say(
            f"  wrong {wrong}/{total}, undecided {undecided}/{total}; shuffled: the same law {confirmed}/{total}, "
            f"a law of growth {twin_laws}/{total}"
        )
        say(f"  intervals held R at 2, 4, 8 times the visits: same ε {same:.0%}, recommended ε {recommended:.0%}\n")


if __name__ == "__main__":
    main()
