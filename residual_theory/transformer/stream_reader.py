"""Reading the stream of a looped Transformer in the forward passes that are made anyway."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import Block, LoopedTransformer, amplify, draw


class StreamReader:
    """What one forward pass shows of the stream. The streams are kept, not copied, and reduced at the end.

    Arguments: model: the description. increments: whether the change at every visit is kept too, N·L streams more.
    Attributes:
      ends: the stream at the input and at the end of every loop, N + 1 of (batch, time, width).
      final: the stream before the last norm.
    """

    def __init__(self, model: ModelConfig, *, increments: bool = False) -> None:
        self.layers, self.total = model.unique_layers, model.loops * model.unique_layers
        self.visits = 0
        self.ends: list[Tensor] = []
        self.final = torch.empty(0)
        self._increments: Tensor | None = None
        self._with_increments = increments

    def visit(self, before: Tensor, after: Tensor) -> None:
        """Read one visit of a block."""
        if not self.visits:
            self.ends.append(before.detach())
        if self._with_increments:
            if self._increments is None:
                self._increments = before.new_empty(self.total, before.numel())
            torch.sub(after.detach().flatten(), before.detach().flatten(), out=self._increments[self.visits])
        self.visits += 1
        if self.visits % self.layers == 0:
            self.ends.append(after.detach())

    def covariance(self) -> Tensor:
        """⟨h_n, h_m⟩/d, a mean over tokens, of the streams at the ends of loops: float64 (N + 1, N + 1)."""
        streams = torch.stack([end.flatten() for end in self.ends]).double()
        return (streams @ streams.T / streams.shape[1]).cpu()

    def increment_products(self) -> Tensor:
        """⟨Δ_k, Δ_l⟩/d, a mean over tokens, of the changes made by visits: float32 (N·L, N·L)."""
        changes = torch.empty(0, 0) if self._increments is None else self._increments
        return (changes @ changes.T / max(changes.shape[1], 1)).cpu()


@contextlib.contextmanager
def reading(network: LoopedTransformer, reader: StreamReader, *, recomputed: int = 0) -> Iterator[None]:
    """Let the reader see one forward pass of the network.

    Arguments: recomputed: so many visits, from the first, keep nothing but their input for the backward pass.
    """

    def after_block(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        reader.visit(given[0], out)
        network.recompute = reader.visits < recomputed  # of the visit that comes next

    def before_norm(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        reader.final = given[0].detach()

    with contextlib.ExitStack() as stack:
        stack.callback(setattr, network, "recompute", network.recompute)
        network.recompute = recomputed > 0
        for block in network.blocks:
            stack.callback(block.register_forward_hook(after_block).remove)
        stack.callback(network.norm.register_forward_pre_hook(before_norm).remove)
        yield


@torch.no_grad()
def read_untied(model: ModelConfig, seed: int, tokens: Tensor, reader: StreamReader) -> None:
    """Let the reader see the forward pass of an untied network whose blocks are drawn, used once and dropped.

    The weights are those that `LoopedTransformer` draws from the seed; at most one block's are held at a time.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.empty(model.vocabulary, model.width)
    draw(embedding, model, generator)
    h = embedding[tokens.cpu()].to(tokens.device)
    del embedding
    entered = h
    for place in range(model.loops * model.unique_layers):
        block = Block(model, model.epsilon, place)
        for parameter in block.parameters():
            draw(parameter, model, generator)
        amplify(block, model)
        block.to(tokens.device)
        after = block(h, entered) if block.opens_loop else block(h)
        reader.visit(h, after)
        h = after
    reader.final = h
