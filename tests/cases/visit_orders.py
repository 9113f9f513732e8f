"""Models that visit blocks in other orders than whole loops."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.cases.shared_weights import WIDTH, Block


class Ordered(nn.Module):
    """Blocks in any order; the scale of each visit to block b is `scales[b]`."""

    def __init__(self, order: Sequence[int], scales: Sequence[float]) -> None:
        super().__init__()
        self.order = order
        self.blocks = nn.ModuleList(Block(scale, seed) for seed, scale in enumerate(scales))

    def forward(self, h: Tensor) -> Tensor:
        for block in self.order:
            h = self.blocks[block](h)
        return h


CONSECUTIVE = (0, 0, 1, 1, 2, 2, 3, 3)  # MobileLLM: each block immediately repeated
VIRTUAL = (0, 1, 2, 0, 1, 2, 3)  # virtual layers as a schedule names them
MIDDLE_CYCLE = (0, 1, 2, 1, 2, 1, 2, 3)  # mixture of recursions: first and last layer of their own
REUSE_MAP = (0, 0, 1, 2, 3)  # intra-layer recurrence: reuse map [2, 1, 1, 1]
PALINDROME = (0, 1, 2, 2, 1, 0)  # there and back


class EarlyExit(nn.Module):
    """Built for `built` loops, whose scale it has, but run for `run`, as when a halting rule stops sooner."""

    def __init__(self, built: int, run: int) -> None:
        super().__init__()
        self.block, self.run = Block(1 / built), run

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.run):
            h = self.block(h)
        return h


class Skips(nn.Module):
    """A U-Net over one block: what the first half left is added again in the second."""

    def __init__(self, scale: float, half: int = 3) -> None:
        super().__init__()
        self.block, self.depth = Block(scale), half

    def forward(self, h: Tensor) -> Tensor:
        kept = []
        for _ in range(self.depth):
            h = self.block(h)
            kept.append(h)
        for _ in range(self.depth):
            h = self.block(h + 0.5 * kept.pop())
        return h


class Lambdas(nn.Module):
    """x ← a x + b x₀ before each block, as speed-run GPTs have it with learned a and b."""

    def __init__(self, scale: float, loops: int = 5) -> None:
        super().__init__()
        self.block, self.loops = Block(scale), loops
        self.mix = nn.Parameter(torch.tensor([0.9, 0.2]))

    def forward(self, h: Tensor) -> Tensor:
        first = h
        for _ in range(self.loops):
            h = self.block(self.mix[0] * h + self.mix[1] * first)
        return h


class TwoStates(nn.Module):
    """One network for two states in turn, as the Tiny Recursive Model: z ← net(x + y + z), then y ← net(y + z)."""

    def __init__(self, cycles: int = 2, inner: int = 3) -> None:
        super().__init__()
        self.net, self.cycles, self.inner = Block(0.5), cycles, inner

    def forward(self, x: Tensor) -> Tensor:
        y, z = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(self.cycles):
            for _ in range(self.inner):
                z = self.net(x + y + z)
            y = self.net(y + z)
        return y


class ModeDependent(nn.Module):
    """More loops in training than in evaluation, as where the number of loops is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(0.25)

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(6 if self.training else 4):
            h = self.block(h)
        return h


def inputs(samples: int = 16) -> Tensor:
    """Standard normal, (sample, WIDTH)."""
    return torch.randn(samples, WIDTH, generator=torch.Generator().manual_seed(1))
