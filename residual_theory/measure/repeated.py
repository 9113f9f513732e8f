"""The block of a model where nobody names it: the outermost modules that are called again and again."""

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from residual_theory.errors import InputError
from residual_theory.measure.streams import floating

_MOST_SHOWN = 8


def find_block(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[nn.Module]:
    """Run the model once and return the one module, or the members of the one list, called more than once.

    Looked at are modules with a matrix among their parameters that put out a tensor of a shape they were given, outside
    of any other such module. Raises: InputError unless that leaves one choice.
    """
    names = {module: name for name, module in model.named_modules() if name}
    calls: list[tuple[nn.Module, tuple[nn.Module, ...]]] = []  # each with the modules it was called inside of
    inside: list[nn.Module] = []
    keeps_shape: dict[nn.Module, bool] = {}

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((module, tuple(inside)))
        inside.append(module)

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        inside.pop()
        given = {each.tensor.shape for each in floating((args, kwargs)) if each.tensor.ndim > 1}
        kept = any(each.tensor.shape in given for each in floating(output))
        keeps_shape[module] = keeps_shape.get(module, True) and kept

    with ExitStack() as hooks, torch.no_grad():
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(leave, with_kwargs=True))
        model(*args, **kwargs)
    counts = Counter(module for module, _ in calls)
    again = {
        module
        for module, count in counts.items()
        if count > 1 and keeps_shape.get(module) and any(each.ndim > 1 for each in module.parameters())
    }
    outer = list(dict.fromkeys(module for module, around in calls if module in again and not again & set(around)))
    if not outer:
        raise InputError("block", None, "no module is called more than once with a stream; name the blocks")
    lists = {names[module].rpartition(".")[0] for module in outer}
    if len(outer) > 1 and (len(lists) > 1 or not all(names[module].split(".")[-1].isdigit() for module in outer)):
        listed = ", ".join(f"{names[module]} ({counts[module]} times)" for module in outer[:_MOST_SHOWN])
        raise InputError("block", None, f"several modules are called more than once: {listed}; name one, or a list")
    return outer
