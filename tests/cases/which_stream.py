"""Blocks that are given or put out several tensors, one of which is the stream."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.cases.shared_weights import WIDTH


def change(seed: int = 0) -> nn.Module:
    """A branch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh())


class Rotary(nn.Module):
    """Called by keyword, cosines first, as decoder layers of libraries are."""

    def __init__(self) -> None:
        super().__init__()
        self.f = change()

    def forward(self, position_embeddings: tuple[Tensor, Tensor], hidden_states: Tensor) -> Tensor:
        out: Tensor = hidden_states + self.f(hidden_states) * position_embeddings[0].mean()
        return out


class Looped(nn.Module):
    """`loops` visits to a block that is called as `call` says."""

    def __init__(self, layer: nn.Module, loops: int = 6, wide: int = WIDTH) -> None:
        super().__init__()
        self.layer, self.loops, self.wide = layer, loops, wide

    def forward(self, h: Tensor) -> Tensor:
        cos = torch.linspace(0, 1, self.wide).cos().expand(*h.shape[:-1], self.wide).contiguous()
        for _ in range(self.loops):
            h = self.layer(position_embeddings=(cos, cos), hidden_states=h)
        return h


class Injected(nn.Module):
    """core(h, e) with e as wide as h and given first, recomputed for every visit."""

    def __init__(self, loops: int = 5, normed: bool = False) -> None:
        super().__init__()
        self.core, self.loops, self.normed = Injects(), loops, normed

    def forward(self, e: Tensor) -> Tensor:
        h = torch.zeros_like(e)
        for _ in range(self.loops):
            h = self.core(e * 1.0, nn.functional.layer_norm(h, (WIDTH,)) if self.normed else h)
        return h


class Injects(nn.Module):
    """h + f(h + e)."""

    def __init__(self) -> None:
        super().__init__()
        self.f = change()

    def forward(self, e: Tensor, h: Tensor) -> Tensor:
        out: Tensor = h + self.f(h + e)
        return out


class FusedPair(nn.Module):
    """(x, residual) in and out, as serving code fuses the addition with the next norm: the stream is their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.f = change()

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        residual = residual + x
        return self.f(residual), residual


class Fused(nn.Module):
    """A loop over such a pair."""

    def __init__(self, loops: int = 4) -> None:
        super().__init__()
        self.layer, self.loops = FusedPair(), loops

    def forward(self, h: Tensor) -> Tensor:
        x, residual = h, torch.zeros_like(h)
        for _ in range(self.loops):
            x, residual = self.layer(x, residual)
        return x + residual


class Named(NamedTuple):
    """An output with names, the stream last."""

    attention: Tensor
    states: Tensor


@dataclass
class Answer:
    """The same as a dataclass."""

    attention: Tensor
    states: Tensor


class Answers(nn.Module):
    """Puts out a tensor as large as the stream before it."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.f, self.wrap = change(), wrap

    def forward(self, h: Tensor) -> Any:
        added = self.f(h)
        return self.wrap(added, h + added)


class ReadsAnswers(nn.Module):
    """A loop over it; `take` finds the stream in the answer."""

    def __init__(self, wrap: Any, take: Any, loops: int = 4) -> None:
        super().__init__()
        self.layer, self.take, self.loops = Answers(wrap), take, loops

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.loops):
            h = self.take(self.layer(h))
        return h


class InPlace(nn.Module):
    """Adds to the tensor it was given and hands the same one back."""

    def __init__(self) -> None:
        super().__init__()
        self.f = change()

    def forward(self, h: Tensor) -> Tensor:
        h += 0.25 * self.f(h)
        return h


class Repeats(nn.Module):
    """A loop over a block that takes the stream alone."""

    def __init__(self, layer: nn.Module, loops: int = 4) -> None:
        super().__init__()
        self.layer, self.loops = layer, loops

    def forward(self, h: Tensor) -> Tensor:
        h = h * 1.0
        for _ in range(self.loops):
            h = self.layer(h)
        return h


class Streams(nn.Module):
    """Hyper-connections: n streams (sample, token, n, WIDTH), mixed into one for the branch, which is added to each."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.f = change()
        self.read, self.write = nn.Parameter(torch.full((count,), 1 / count)), nn.Parameter(torch.ones(count))

    def forward(self, h: Tensor) -> Tensor:
        added = self.f(torch.einsum("...nd,n->...d", h, self.read))
        out: Tensor = h + 0.25 * self.write[:, None] * added[..., None, :]
        return out
