"""Which tensor is the residual stream: the one that was named, or the only one that can be; never a guess."""

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from residual_theory.errors import InputError

Name: TypeAlias = int | str
Stream: TypeAlias = Name | tuple[Name | None, Name | None] | None
Path: TypeAlias = tuple[Name, ...]
_MOST_SHOWN = 8
_GLANCE = 16  # numbers compared first


class Found(NamedTuple):
    """A tensor that may be the stream, and where it is: argument or output, then what it is nested in."""

    path: Path
    tensor: Tensor

    def __str__(self) -> str:
        where = ".".join(map(str, self.path)) or "the output"
        return f"{where} {tuple(self.tensor.shape)}"


class StreamFinder:
    """Finds the stream among the arguments and outputs of blocks.

    stream: the argument's name or position, and the name or position of the output's member if it has one of another
      name: `"hidden_states"`, `1`, `("x", "states")`, `(None, 0)`; dots go into what is nested ("state.h").
    paths: what was settled, by the kind of block.
    """

    def __init__(self, stream: Stream = None) -> None:
        self._given = stream
        pair = stream if isinstance(stream, tuple) else (stream, None)
        if len(pair) != 2 or any(isinstance(each, bool) or not isinstance(each, int | str | None) for each in pair):
            raise InputError("stream", stream, "give a name or position, or a pair of them: of argument and output")
        self._argument, self._output = pair
        self._loose = not isinstance(stream, tuple)  # a name alone need not be one of the output's
        self.paths: dict[tuple[type, str], Path] = {}
        self._names: dict[nn.Module, list[str]] = {}

    def arguments(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], where: str) -> list[Found]:
        """The tensors that may be the stream that enters: one, if it was named or settled."""
        names = self._parameters(layer)
        given: dict[Name, Any] = dict(zip([*names, *range(len(names), len(args))], args, strict=False)) | kwargs
        if self._argument is not None:
            wanted = self._argument
            parts = str(wanted).split(".")
            if parts[0].isdigit():
                place = int(parts[0])
                parts[0] = names[place] if place < len(names) else parts[0]
            return [self._named(given, parts, f"{where} has no floating-point argument {wanted}", floating(given))]
        return self._settled(layer, "argument", list(floating(given)))

    def outputs(self, layer: nn.Module, output: object, where: str) -> list[Found]:
        """The tensors that may be the stream that leaves."""
        all_found = list(floating(output))
        wanted = self._output
        if wanted is None and self._loose and isinstance(self._argument, str) and isinstance(output, Mapping | tuple):
            name = self._argument.split(".")[-1]
            wanted = name if any(each.path == (name,) for each in all_found) else None
        if wanted is not None and all_found and all_found[0].path != ():
            mend = f"{where} has no floating-point output {wanted}"
            return [self._named(output, str(wanted).split("."), mend, all_found)]
        return self._settled(layer, "output", all_found)

    def settle(self, layer: nn.Module, side: str, path: Path) -> None:
        """Take what is at this path from now on in blocks of this kind."""
        self.paths[type(layer), side] = path

    def refuse(self, name: str, visit: int, side: str, found: Iterable[Found]) -> InputError:
        """The refusal that lists what may be the stream."""
        shown = [str(each) for each in found]
        listed = ", ".join(shown[:_MOST_SHOWN]) + " …" * (len(shown) > _MOST_SHOWN)
        spelled = '(None, "name or position")' if side == "output" else '"name" or a position'
        mend = f"visit {visit} to {name} has several tensors that may be the stream that {_SIDES[side]} it: {listed}"
        return InputError("stream", self._given, f"{mend}; name one, as stream={spelled}")

    def _settled(self, layer: nn.Module, side: str, found: list[Found]) -> list[Found]:
        path = self.paths.get((type(layer), side))
        settled = [each for each in found if each.path == path]
        return settled or found

    def _named(self, structure: object, parts: list[str], mend: str, others: Iterable[Found]) -> Found:
        member = structure
        for part in parts:
            member = _member(member, part)
        if not isinstance(member, Tensor) and member is not None:
            member = next((each.tensor for each in floating(member)), None)
        if not isinstance(member, Tensor) or not member.is_floating_point():
            has = ", ".join(map(str, others)) or "none"
            raise InputError("stream", self._given, f"{mend}; it has {has}")
        return Found(tuple(parts), member)

    def _parameters(self, layer: nn.Module) -> list[str]:
        """The names of the positional parameters of a block's forward."""
        if layer not in self._names:
            positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            try:
                signature = inspect.signature(layer.forward)
                self._names[layer] = [p.name for p in signature.parameters.values() if p.kind in positional]
            except (TypeError, ValueError):  # of a builtin
                self._names[layer] = []
        return self._names[layer]


_SIDES = {"argument": "enters", "output": "leaves"}


def floating(structure: object, path: Path = ()) -> Iterator[Found]:
    """The floating-point tensors of a nested structure, depth first, each object once where it comes first."""
    if isinstance(structure, Tensor):
        if structure.is_floating_point():
            yield Found(path, structure)
        return
    members: Iterable[tuple[Name, Any]] = ()
    if isinstance(structure, Mapping):
        members = structure.items()
    elif isinstance(structure, tuple) and hasattr(structure, "_fields"):
        members = zip(structure._fields, structure, strict=True)
    elif isinstance(structure, list | tuple):
        members = enumerate(structure)
    elif dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        members = ((field.name, getattr(structure, field.name)) for field in dataclasses.fields(structure))
    for name, member in members:
        yield from floating(member, (*path, name))


def different(found: Iterable[Found]) -> list[Found]:
    """Those that are not one tensor given twice."""
    return list({id(each.tensor): each for each in reversed(list(found))}.values())[::-1]


def identical(stream: Tensor, other: Tensor) -> bool:
    """Equal entry by entry, NaN to NaN."""
    if stream.dtype != other.dtype or stream.shape != other.shape:
        return False
    some, others = (each[(0,) * (each.ndim - 1)][:_GLANCE].to("cpu") for each in (stream, other))
    if not torch.allclose(some, others, rtol=0, atol=0, equal_nan=True):
        return False
    return torch.allclose(stream.to(other.device), other, rtol=0, atol=0, equal_nan=True)


def _member(structure: object, part: str) -> object:
    if isinstance(structure, Mapping):
        return structure.get(part, structure.get(int(part)) if part.isdigit() else None)
    if isinstance(structure, list | tuple) and part.lstrip("-").isdigit():
        return structure[int(part)] if -len(structure) <= int(part) < len(structure) else None
    return getattr(structure, part, None) if not isinstance(structure, Tensor) else None
