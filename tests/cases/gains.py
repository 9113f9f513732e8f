"""Blocks with gains inside their branches, and branches in unusual places."""

import torch
from torch import Tensor, nn

from tests.cases.shared_weights import WIDTH, Block


class LayerScale(nn.Module):
    """A learned gain of each channel."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gain)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Scaled(Block):
    """h + ε LayerScale(f(norm(h)))."""

    def __init__(self, gain: float | Tensor, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.gain = LayerScale(gain if isinstance(gain, Tensor) else torch.full((WIDTH,), gain))

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.scale * self.gain(self.narrow(self.wide(self.norm(h)).relu()))
        return out


class Vector(Block):
    """h + ε γ f(norm(h)), γ a parameter of the block itself, as in CaiT's later forms."""

    def __init__(self, gain: Tensor, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.gamma = nn.Parameter(gain)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.scale * self.gamma * self.narrow(self.wide(self.norm(h)).relu())
        return out


class ReZero(Vector):
    """A single learned number, zero at the start (ReZero, SkipInit)."""

    def __init__(self, gain: float, scale: float = 1.0) -> None:
        super().__init__(torch.tensor(gain), scale)


class DropPath(nn.Module):
    """Stochastic depth by a module of its own, which no list of dropout classes holds."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(len(x), *[1] * (x.ndim - 1)) < 0.5) / 0.5


class Dropped(Block):
    """h + ε DropPath(f(norm(h)))."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.drop_path = DropPath()

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.scale * self.drop_path(self.narrow(self.wide(self.norm(h)).relu()))
        return out


class AddsInside(nn.Module):
    """A sublayer that adds the stream itself, as BLOOM's attention and MLP do."""

    def __init__(self, scale: float, seed: int) -> None:
        super().__init__()
        inner = Block(scale, seed)
        self.wide, self.dense, self.scale = inner.wide, inner.narrow, scale

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = residual + self.scale * self.dense(self.wide(x).relu())
        return out


class Bloom(nn.Module):
    """Two such sublayers, each behind a norm."""

    def __init__(self, scale: float, seed: int = 0) -> None:
        super().__init__()
        self.attention, self.mlp = AddsInside(scale, 2 * seed), AddsInside(scale, 2 * seed + 1)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        h = self.attention(self.first(h), h)
        out: Tensor = self.mlp(self.second(h), h)
        return out


class Sandwich(Block):
    """h + ε norm(f(norm(h))): a norm on either side, as in Gemma and Huginn."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.after = nn.RMSNorm(WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.scale * self.after(self.narrow(self.wide(self.norm(h)).relu()))
        return out


class PostNorm(Sandwich):
    """norm(h + ε f(h)), as in the first Transformer."""

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.after(h + self.scale * self.narrow(self.wide(h).relu()))
        return out


class Macaron(nn.Module):
    """One feed-forward visited twice within a block, around another branch."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        inner, other = Block(1.0, 1), Block(1.0, 2)
        self.ffn = nn.Sequential(inner.norm, inner.wide, nn.ReLU(), inner.narrow)
        self.mixer = nn.Sequential(other.norm, other.wide, nn.ReLU(), other.narrow)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.scale * self.ffn(h)
        h = h + self.scale * self.mixer(h)
        out: Tensor = h + self.scale * self.ffn(h)
        return out


class Looped(nn.Module):
    """`loops` visits to one block."""

    def __init__(self, block: nn.Module, loops: int = 5) -> None:
        super().__init__()
        self.block, self.loops = block, loops

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.loops):
            h = self.block(h)
        return h
