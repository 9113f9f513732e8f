"""How large the stream of a model is at fixed inputs, and how far training has moved it."""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from residual_theory.errors import InputError
from residual_theory.measure.blocks import call_arguments
from residual_theory.measure.mask import wide
from residual_theory.measure.running import running
from residual_theory.measure.streams import StreamFinder, floating, identical
from residual_theory.measure.visits import Seen, Visits


@torch.no_grad()
def sizes_and_changes(
    model: nn.Module, blocks: Iterable[nn.Module], inputs: Any, start: list[Tensor]
) -> tuple[list[float], list[float]]:
    """The rms of h_0, of the stream after every visit and of the output, and the rms of their change since `start`.

    Arguments:
      model: in either mode; it is measured in evaluation mode, as what dropout changes is no update.
      blocks: what is visited; the stream that enters the first visit is h_0. inputs: as `called` takes them.
      start: what was read the first time, in the same order; filled if empty.
    """
    with ExitStack() as modes:
        for module in model.modules():
            modes.callback(setattr, module, "training", module.training)  # as it was, also after an error
        model.eval()
        sizes = _Sizes({block: type(block).__name__ for block in blocks}, start)
        with running(model), sizes.watching():
            output = called(model, inputs)
        sizes.require_told()
        sizes.read(first_tensor(output))
    return sizes.sizes, sizes.changes


class _Sizes(Visits):
    """The rms of every stream, and of its change since `start`."""

    def __init__(self, layers: dict[nn.Module, str], start: list[Tensor]) -> None:
        super().__init__(layers, StreamFinder())
        self.start = start
        self.sizes: list[float] = []
        self.changes: list[float] = []
        self._left: Tensor | None = None

    def entered(self, seen: Seen) -> None:
        """Read what enters the first visit."""
        if not self.sizes:
            self.read(seen.kept)

    def left(self, seen: Seen) -> None:
        """Read what leaves each."""
        self._left = seen.tensor
        self.read(seen.kept)

    def is_what_was_left(self, stream: Tensor) -> bool:
        """By the object, else by its numbers."""
        return self._left is not None and (stream is self._left or identical(stream, self._left))

    def read(self, tensor: Tensor) -> None:
        """Note one tensor's size and change."""
        index = len(self.sizes)
        if index == len(self.start):
            self.start.append(tensor.detach().clone())
        self.sizes.append(_rms(tensor))
        self.changes.append(_rms(wide(tensor) - wide(self.start[index])))


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's output: a mapping of inputs is passed by keyword, a tuple by position."""
    args, kwargs = call_arguments(inputs)
    return model(*args, **kwargs)


def first_tensor(structure: object) -> Tensor:
    """The first floating-point tensor of an output, depth first. Raises: InputError when there is none."""
    found = next(floating(structure), None)
    if found is None:
        raise InputError("make", type(structure).__name__, "the model's output has no floating-point tensor")
    return found.tensor


def _rms(values: Tensor) -> float:
    return math.sqrt(wide(values).square().mean().item())
