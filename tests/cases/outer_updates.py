"""Models that make the next stream themselves from the stream and a block's output."""

import torch
from torch import Tensor, nn

from tests.cases.shared_weights import WIDTH, Block


class Outer(nn.Module):
    """`loops` visits; what becomes of each output is the subclass's."""

    def __init__(self, block: nn.Module, loops: int = 8) -> None:
        super().__init__()
        self.block, self.loops = block, loops

    def update(self, h: Tensor, out: Tensor, loop: int) -> Tensor:
        raise NotImplementedError

    def forward(self, h: Tensor) -> Tensor:
        for loop in range(self.loops):
            h = self.update(h, self.block(h), loop)
        return h


class Interpolates(Outer):
    """h + s (block(h) − h): damped fixed-point iteration, as deep-equilibrium solvers do."""

    def __init__(self, block: nn.Module, step: float, loops: int = 8) -> None:
        super().__init__(block, loops)
        self.step = step

    def update(self, h: Tensor, out: Tensor, loop: int) -> Tensor:
        return h + self.step * (out - h)


class Adds(Interpolates):
    """h + s block(h), the block being the branch."""

    def update(self, h: Tensor, out: Tensor, loop: int) -> Tensor:
        return h + self.step * out


class Halts(Outer):
    """Universal Transformer: halted positions keep their state."""

    def update(self, h: Tensor, out: Tensor, loop: int) -> Tensor:
        halted = torch.arange(h.shape[1])[None, :, None] % 2 == 0
        return torch.where(halted & (loop >= 3), h, out)


class HaltsNormed(Halts):
    """The same; a norm comes before the output, so that the model shows no last stream."""

    def forward(self, h: Tensor) -> Tensor:
        return nn.functional.layer_norm(super().forward(h), (WIDTH,))


class Gates(Outer):
    """A highway: h + g (block(h) − h) with a gate for each channel."""

    def __init__(self, block: nn.Module, loops: int = 8) -> None:
        super().__init__(block, loops)
        self.gate = nn.Parameter(torch.linspace(-1, 1, WIDTH))

    def update(self, h: Tensor, out: Tensor, loop: int) -> Tensor:
        return h + self.gate.sigmoid() * (out - h)


class GatesPositions(Gates):
    """A gate for each position, read from the stream, as routers weigh tokens."""

    def update(self, h: Tensor, out: Tensor, loop: int) -> Tensor:
        return h + h[..., :1].sigmoid() * (out - h)


class Scheduled(Outer):
    """An interpolation whose step shrinks from loop to loop."""

    def update(self, h: Tensor, out: Tensor, loop: int) -> Tensor:
        return h + (out - h) / (loop + 2)


class Decays(Outer):
    """0.8 out + 0.2 x₀ (Parcae): an injection between visits, and no update of the stream."""

    def forward(self, h: Tensor) -> Tensor:
        first = h
        for _ in range(self.loops):
            h = 0.8 * self.block(h) + 0.2 * first
        return h


class Routes(Outer):
    """Mixture of depths: the block is handed half of the positions only, which are put back."""

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.loops):
            chosen = h.square().sum(-1).topk(h.shape[1] // 2).indices.sort().values[..., None].expand(-1, -1, WIDTH)
            h = h.scatter(1, chosen, self.block(h.gather(1, chosen)))
        return h


class Shrinks(Outer):
    """Mixture of recursions: fewer positions go on with every recursion."""

    def forward(self, h: Tensor) -> Tensor:
        for loop in range(self.loops):
            left = h.shape[1] - 2 * loop
            h = torch.cat([self.block(h[:, :left]), h[:, left:]], 1)
        return h


class Branch(nn.Module):
    """W₂ relu(W₁ h): a block that puts out its contribution."""

    def __init__(self) -> None:
        super().__init__()
        inner = Block(1.0)
        self.wide, self.narrow = inner.wide, inner.narrow

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.narrow(self.wide(h).relu())
        return out
