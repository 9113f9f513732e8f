"""Which parameters share a learning rate, an Adam ε and a weight decay: those inside the loops, and the others."""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from torch import nn

from residual_theory.errors import InputError

Blocks = str | nn.Module | Iterable[str | nn.Module]


def parameter_groups(
    model: nn.Module,
    *,
    blocks: Blocks,
    learning_rate: float,
    weight_decay: float,
    adam_epsilon: float = 1e-8,
    block_rate: float = 1.0,
    block_epsilon: float = 1.0,
    block_decay: float = 1.0,
    decay_gains: bool = False,
) -> list[dict[str, Any]]:
    """The parameters of any model in groups that torch.optim.AdamW takes.

    Weights, norms and biases inside the blocks have learning rate η · block_rate, Adam ε₀ · block_epsilon and decay
    λ · block_decay; embedding, final norm, head and all else have η, ε₀, λ. Matrices (two dimensions or more) are
    decayed; gains and biases are not, unless `decay_gains`.

    Arguments:
      model: the whole model. blocks: the looped part, as a module, the dotted name of one, a pattern such as
        "layers.*", or several of these.
      learning_rate, adam_epsilon, weight_decay: η > 0, ε₀ ≥ 0, λ ≥ 0.
      block_rate, block_epsilon, block_decay: factors > 0, > 0, ≥ 0; `scaling.block_factors` has the published ones.
    Returns: at most four groups, each {"name", "params", "lr", "eps", "weight_decay"}. Every parameter that requires a
      gradient is in exactly one, a shared one in that of the blocks if any of its places is there.
    Raises: InputError naming the argument: blocks that name nothing in the model, numbers out of range.
    Source: arXiv:2606.18524, §5 (its table of learning rates).

    >>> model = nn.ModuleDict({"embedding": nn.Embedding(5, 2), "core": nn.Linear(2, 2)})
    >>> groups = parameter_groups(model, blocks="core", learning_rate=0.1, weight_decay=0.3, block_rate=0.5)
    >>> [(group["name"], group["lr"], group["weight_decay"]) for group in groups]
    [('block matrices', 0.05, 0.3), ('block gains and biases', 0.05, 0.0), ('other matrices', 0.1, 0.3)]
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", model, "give a torch.nn.Module")
    numbers = {"learning_rate": learning_rate, "block_rate": block_rate, "block_epsilon": block_epsilon}
    _check(numbers, least="above 0")
    _check({"weight_decay": weight_decay, "adam_epsilon": adam_epsilon, "block_decay": block_decay}, least="at least 0")
    inside = {id(parameter) for module in _find_blocks(model, blocks) for parameter in module.parameters()}
    if not inside:
        raise InputError("blocks", blocks, "has no parameters; name modules that have")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = []
    for of_block, factors in ((True, (block_rate, block_epsilon, block_decay)), (False, (1.0, 1.0, 1.0))):
        for matrix in (True, False):
            members = [p for p in trained if (id(p) in inside) is of_block and (p.ndim >= 2) is matrix]
            group = {
                "name": f"{'block' if of_block else 'other'} {'matrices' if matrix else 'gains and biases'}",
                "params": members,
                "lr": learning_rate * factors[0],
                "eps": adam_epsilon * factors[1],
                "weight_decay": weight_decay * factors[2] if matrix or decay_gains else 0.0,
            }
            groups += [group] if members else []
    return groups


def _check(numbers: dict[str, Any], least: str) -> None:
    for name, value in numbers.items():
        if (
            not isinstance(value, int | float | np.number)
            or not math.isfinite(value)
            or value < 0
            or (value == 0 and least == "above 0")
        ):
            raise InputError(name, value, f"must be a finite number {least}")


def _find_blocks(model: nn.Module, blocks: Blocks) -> list[nn.Module]:
    if not isinstance(blocks, str | nn.Module | Iterable):
        raise InputError("blocks", blocks, "give a module of the model, its name, a pattern, or a list of these")
    named = dict(model.named_modules(remove_duplicate=False))
    chosen: list[nn.Module] = []
    for item in [blocks] if isinstance(blocks, str | nn.Module) else blocks:
        if isinstance(item, str):
            found = [module for name, module in named.items() if name and fnmatchcase(name, item)]
            some = ", ".join([name for name in named if name][:6])
            mend = f"matches no module; the model has {some}, …"
        else:
            found = [module for module in named.values() if module is item][:1]
            mend = "is no part of the model"
        if not found:
            raise InputError("blocks", item, mend)
        chosen += found
    return chosen
