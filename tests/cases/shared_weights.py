"""Models that share weights in ways other than calling one module again, and models that only seem to share."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

WIDTH = 32


class Block(nn.Module):
    """h + ε W₂ relu(W₁ norm(h))."""

    def __init__(self, scale: float, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.norm = nn.LayerNorm(WIDTH)
            self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.scale * self.narrow(self.wide(self.norm(h)).relu())
        return out


class Stack(nn.Module):
    """Blocks one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h)
        return h


def tied_matrices(scale: float, count: int = 12) -> Stack:
    """One set of matrices in many block objects with norms of their own: mixture_of_recursions issues 12 and 17."""
    blocks = [Block(scale, seed) for seed in range(count)]
    for block in blocks[1:]:
        block.wide, block.narrow = blocks[0].wide, blocks[0].narrow
    return Stack([*blocks])


def tied_parameters(scale: float, count: int = 4) -> Stack:
    """Parameters assigned one by one, modules kept apart: fairseq issue 3261."""
    blocks = [Block(scale, seed) for seed in range(count)]
    for block in blocks[1:]:
        block.wide.weight, block.narrow.weight = blocks[0].wide.weight, blocks[0].narrow.weight
    return Stack([*blocks])


def lost_alias(scale: float, count: int = 4) -> Stack:
    """load_state_dict(assign=True) gives every name a tensor of its own: pytorch issue 188346."""
    model = tied_matrices(scale, count)
    separate = copy.deepcopy(tied_matrices(scale, count))
    for block in separate.layers[1:]:
        block.wide, block.narrow = copy.deepcopy(block.wide), copy.deepcopy(block.narrow)
    separate.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    return separate


class LowRank(Block):
    """A block whose matrices are shared, with an adapter of rank 2 at its own depth: relaxed recursive Transformers."""

    def __init__(self, scale: float, seed: int) -> None:
        super().__init__(scale, seed)
        self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        x = self.norm(h)
        out: Tensor = h + self.scale * (self.narrow(self.wide(x).relu()) + self.up(self.down(x)))
        return out


def adapters(scale: float, count: int = 6) -> Stack:
    """Shared matrices, an adapter each."""
    blocks = [LowRank(scale, seed) for seed in range(count)]
    for block in blocks[1:]:
        block.wide, block.narrow = blocks[0].wide, blocks[0].narrow
    return Stack([*blocks])


def adapters_of_zero(scale: float, count: int = 3) -> Stack:
    """Layers of their own that begin as copies (upcycling, a model grown in depth): equal, and meant to be."""
    block = Block(scale)
    return Stack([copy.deepcopy(block) for _ in range(count)])


class Hybrid(nn.Module):
    """A layer of its own around a block that all share, as Zamba2's hybrid layers."""

    def __init__(self, shared: nn.Module, scale: float) -> None:
        super().__init__()
        self.own, self.shared, self.scale = nn.Linear(WIDTH, 8 * WIDTH), shared, scale

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.scale * (self.own(h).unflatten(-1, (8, WIDTH)).mean(-2) + self.shared(h))
        return out


def mostly_own(scale: float = 0.1) -> Stack:
    """Layers that share a third of their parameters are layers of their own, and it is said."""
    shared = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))
    return Stack([Hybrid(shared, scale) for _ in range(3)])


class Stacked(nn.Module):
    """One template run with a slice of stacked weights at every visit, as with torch.func.stack_module_state."""

    def __init__(self, scale: float, layers: int, loops: int) -> None:
        super().__init__()
        self.template, self.layers, self.loops = Block(scale), layers, loops
        self.stacked = nn.ParameterDict()
        for name, value in self.template.named_parameters():
            self.stacked[name.replace(".", "_")] = torch.randn(layers, *value.shape) / WIDTH**0.5
        self.names = [name for name, _ in self.template.named_parameters()]

    def forward(self, h: Tensor) -> Tensor:
        for visit in range(self.layers * self.loops):
            weights = {name: self.stacked[name.replace(".", "_")][visit % self.layers] for name in self.names}
            h = functional_call(self.template, weights, (h,))
        return h


class Generated(nn.Module):
    """Weights made anew for every visit and thrown away, as by a hypernetwork: never the same, whatever their place."""

    def __init__(self, scale: float, visits: int) -> None:
        super().__init__()
        self.template, self.visits, self.seed = Block(scale), visits, 0

    def forward(self, h: Tensor) -> Tensor:
        for visit in range(self.visits):
            generator = torch.Generator().manual_seed(visit)
            named = self.template.named_parameters()
            weights = {name: torch.randn(each.shape, generator=generator) / WIDTH**0.5 for name, each in named}
            h = functional_call(self.template, weights, (h,))
        return h


class Swapped(nn.Module):
    """One module whose parameters are pointed at other weights before each visit, as in weight streaming."""

    def __init__(self, scale: float, layers: int, loops: int) -> None:
        super().__init__()
        self.block, self.loops = Block(scale), loops
        self.weights = [{n: p.detach() for n, p in Block(scale, seed).named_parameters()} for seed in range(layers)]

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.loops):
            for weights in self.weights:
                for name, parameter in self.block.named_parameters():
                    parameter.data = weights[name]
                h = self.block(h)
        return h


def normalised(scale: float, count: int = 4) -> Stack:
    """Shared matrices under a parametrization (weight norm), which computes the matrix anew at each use."""
    blocks = [Block(scale, seed) for seed in range(count)]
    for name in ("wide", "narrow"):
        parametrizations.weight_norm(getattr(blocks[0], name))
        for block in blocks[1:]:
            setattr(block, name, getattr(blocks[0], name))
    assert parametrize.is_parametrized(blocks[1].wide)
    return Stack([*blocks])


class Hidden(nn.Module):
    """A block that keeps the shared weights in a plain list, so that state_dict holds them once."""

    def __init__(self, inner: Block) -> None:
        super().__init__()
        self.inner = [inner]
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        inner = self.inner[0]
        out: Tensor = h + inner.scale * inner.narrow(inner.wide(self.norm(h)).relu())
        return out


def hidden(scale: float, count: int = 5) -> Stack:
    """Many objects, one unregistered set of weights."""
    inner = Block(scale)
    return Stack([Hidden(inner) for _ in range(count)])


class Given(nn.Module):
    """A block without weights, which is handed them at every visit."""

    def forward(self, h: Tensor, weight: nn.Parameter) -> Tensor:
        return h + 0.25 * (h @ weight).tanh()


class HandsWeights(nn.Module):
    """Weights as arguments: two matrices in turn, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Given()
        self.weights = nn.ParameterList(torch.randn(WIDTH, WIDTH) / WIDTH**0.5 for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(2):
            for weight in self.weights:
                h = self.block(h, weight)
        return h
