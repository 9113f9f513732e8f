"""How large the stream of a model is at fixed inputs, and how far training has moved it."""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from residual_theory.errors import InputError
from residual_theory.measure.blocks import call_arguments
from residual_theory.measure.recorder import floating_tensors, wide


@torch.no_grad()
def sizes_and_changes(
    model: nn.Module, blocks: Iterable[nn.Module], inputs: Any, start: list[Tensor]
) -> tuple[list[float], list[float]]:
    """The rms of h_0, of the stream after every visit and of the output, and the rms of their change since `start`.

    Arguments:
      model: in either mode; it is measured in evaluation mode, as what dropout changes is no update.
      blocks: what is visited; the first tensor that the first visit gets is h_0. inputs: as `called` takes them.
      start: what was read the first time, in the same order; filled if empty.
    """
    sizes: list[float] = []
    changes: list[float] = []

    def read(structure: object) -> None:
        tensor, index = first_tensor(structure), len(sizes)
        if index == len(start):
            start.append(tensor.detach().clone())
        sizes.append(_rms(tensor))
        changes.append(_rms(wide(tensor) - wide(start[index])))

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not sizes:
            read((args, kwargs))

    with ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(setattr, module, "training", module.training)  # as it was, also after an error
        model.eval()
        for block in blocks:
            hooks.enter_context(block.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.enter_context(block.register_forward_hook(lambda module, args, output: read(output)))
        read(called(model, inputs))
    return sizes, changes


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's output: a mapping of inputs is passed by keyword, a tuple by position."""
    args, kwargs = call_arguments(inputs)
    return model(*args, **kwargs)


def first_tensor(structure: object) -> Tensor:
    """The first floating-point tensor of an output, depth first. Raises: InputError when there is none."""
    found = next(floating_tensors(structure), None)
    if found is None:
        raise InputError("make", type(structure).__name__, "the model's output has no floating-point tensor")
    return found


def _rms(values: Tensor) -> float:
    return math.sqrt(wide(values).square().mean().item())
