"""What a caller names: which modules of a model are its blocks, and how the model is called."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from residual_theory.errors import InputError

Block: TypeAlias = nn.Module | str | Sequence[nn.Module | str]
Inputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}  # parts of names that torch adds


def unwrapped(model: object) -> nn.Module:
    """The module that torch.compile, DistributedDataParallel or DataParallel was given, or the model itself.

    Raises: InputError for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", model, "give a torch.nn.Module")
    inner: object = None
    if isinstance(model, DistributedDataParallel | DataParallel):
        inner = model.module
    elif "_orig_mod" in model._modules:
        inner = model._modules["_orig_mod"]
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def call_arguments(inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments that `inputs` stands for. Raises: InputError for another type."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple):
        return inputs, {}
    if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
        return (), dict(inputs)
    raise InputError("inputs", inputs, "give a tensor, a tuple of positional or a mapping of keyword arguments")


def layers_of(model: nn.Module, block: object) -> dict[nn.Module, str]:
    """The distinct modules that `block` stands for, in order, each with its dotted name.

    Arguments:
      block: a module, its dotted name, a pattern of names, or a sequence of these. In a pattern `*`, `?` and `[…]`
        stand for letters within one part of a name: "layers.*" finds layers.2 before layers.10, and no layers.2.norm;
        `**` stands for any number of parts: "**.layers.*" finds encoder.stage.layers.0, too.
        A ModuleList or ModuleDict stands for its members.
    Raises: InputError for what is not in the model.

    >>> model = nn.ModuleDict({"layers": nn.ModuleList(nn.Sequential(nn.ReLU()) for _ in range(11))})
    >>> list(layers_of(model, "layers.?*").values())[-2:]
    ['layers.9', 'layers.10']
    """
    # A shared module is found under each of its names and called by its first; the model itself has none but its class.
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            modules.setdefault(name, module)
            modules.setdefault(without_wrappers(name), module)
    names = {model: type(model).__name__}
    for name, module in modules.items():
        if name == without_wrappers(name):
            names.setdefault(module, name)
    for name, module in modules.items():
        names.setdefault(module, name)
    layers: dict[nn.Module, str] = {}

    def collect(item: object) -> None:
        if isinstance(item, str):
            name = next((name for name in _spellings(item) if name in modules), item)
            found = [modules[name]] if name in modules else [modules[name] for name in _matches(item, modules)]
            if not found:
                raise InputError("block", item, f"the model has no module of this name{_did_you_mean(item, modules)}")
            item = found if len(found) > 1 else found[0]
        if isinstance(item, nn.ModuleList | list | tuple):
            for member in item:
                collect(member)
        elif isinstance(item, nn.ModuleDict):
            for member in item.values():
                collect(member)
        elif not isinstance(item, nn.Module):
            raise InputError("block", item, "give a module of the model, its name, a pattern, or a list of these")
        elif item not in names:
            raise InputError("block", item, "is not a module of this model; pick one from model.named_modules()")
        else:
            layers[item] = names[item]

    collect(block)
    if not layers:
        raise InputError("block", block, "holds no module; give at least one")
    return layers


def without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _spellings(name: str) -> Iterator[str]:
    """A name as given, and as it is within what a wrapper was given."""
    yield name
    yield without_wrappers(name)
    yield without_wrappers(name).removeprefix("module.")


def _matches(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern finds part by part, numbers in order of their size."""
    if not set("*?[") & set(pattern):
        return []
    parts = pattern.split(".")
    found = [name for name in names if _fits(name.split("."), parts)]
    return sorted(found, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def _fits(name: list[str], pattern: list[str]) -> bool:
    """Whether the parts of a name fit those of a pattern, where ** stands for any number of parts.

    >>> _fits(["a", "b", "c"], ["**", "?"]), _fits(["a", "b", "c"], ["*", "c"])
    (True, False)
    """
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_fits(name[start:], pattern[1:]) for start in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _fits(name[1:], pattern[1:])


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    if "*" in name and _matches(f"**.{name.removeprefix('*.')}", known):
        return f"; a star is one part of a name, two stars are any number: **.{name.removeprefix('*.')}"
    endings = [other for other in known if other.endswith(f".{name}")]
    close = (endings or difflib.get_close_matches(name, known))[:3]
    return f"; did you mean {' or '.join(close)}?" if close else "; pick one from model.named_modules()"
