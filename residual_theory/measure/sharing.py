"""Which visits use the same weights: told by the storage of the parameters, not by the objects that hold them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

_SAME = 0.5  # of the parameters have to be common for two visits to count as one layer
_WORTH_SAYING = 0.01  # of the parameters: a smaller share between layers is not mentioned
_GLANCE = 64  # numbers compared first

_OF_TORCH = set(vars(nn.Module()))

Key = tuple[Any, ...]
Holder = tuple[str, Mapping[str, Tensor | None]]  # the dotted name of a module, and its parameters
Weights = dict[Key, tuple[int, str]]  # a parameter's storage: its numbers and its name within the block


class Sharing(NamedTuple):
    """The visits by the layer whose weights they use.

    visits: the layer of every visit, numbered from 0 by their first visits.
    loops: N where the order is whole loops, or every layer is visited N times; None where counts differ.
    whole: N where the order is one pattern N times over, or each layer once.
    words: what a reader should know of the weights, by attribute name; empty where each block is a layer of its own.
    """

    visits: tuple[int, ...]
    loops: int | None
    whole: int | None
    words: dict[str, str]

    @property
    def layers(self) -> int:
        """L."""
        return max(self.visits) + 1

    def count(self, visit: int) -> int:
        """How often the layer of a visit (from 0) is visited."""
        return self.visits.count(self.visits[visit])


class WeightLog:
    """Notes at every visit which storages its parameters have."""

    def __init__(self) -> None:
        self._visits: list[tuple[nn.Module, Weights]] = []
        self._held: dict[nn.Module, list[Holder]] = {}
        self._last: dict[nn.Module, tuple[list[tuple[int, int]], Weights]] = {}
        self._storages: dict[int, StorageWeakRef] = {}  # held, so that no later storage gets the same number

    def note(self, block: nn.Module, args: object) -> None:
        """Before a visit: the parameters the block holds, registered or not, and those among its arguments."""
        holders = self._held.get(block)
        if holders is None:
            holders = self._held[block] = list(_holders(block))
        found = [(start + name, each) for start, own in holders for name, each in own.items() if each is not None]
        found += [("argument", each) for each in _parameters(args)]
        fixed = all(isinstance(each, nn.Parameter) for _, each in found)
        glance = [(id(each), _address(each)) for _, each in found] if fixed else []
        if fixed and block in self._last and self._last[block][0] == glance:
            weights = self._last[block][1]
        else:
            weights = {self._key(each): (each.numel(), name) for name, each in found}
            self._last[block] = (glance, weights)
        self._visits.append((block, weights))

    def _key(self, tensor: Tensor) -> Key:
        try:
            storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        except (RuntimeError, NotImplementedError):  # a subclass without one
            return ("object", id(tensor))
        return (self._storages.setdefault(storage.cdata, storage).cdata, tensor.storage_offset(), tensor.numel())

    def sharing(self, names: Mapping[nn.Module, str]) -> Sharing:
        """The visits noted, grouped. `names`: of the blocks."""
        firsts: list[tuple[nn.Module, Weights]] = []
        seen: dict[tuple[int, int], int] = {}
        visits = []
        for block, weights in self._visits:
            place = (id(block), id(weights))
            if place not in seen:
                own = [_common(block, weights, *first) for first in firsts]
                best = max(own, default=0.0)
                seen[place] = own.index(best) if best >= _SAME else len(firsts)
                if seen[place] == len(firsts):
                    firsts.append((block, weights))
            visits.append(seen[place])
        whole = whole_loops(visits)
        counts = {visits.count(layer) for layer in set(visits)}
        even = counts.pop() if len(counts) == 1 else None
        words = self._words(visits, firsts, names)
        if whole is None:
            words["order"] = " ".join(map(str, visits))
        return Sharing(tuple(visits), whole or even, whole, words)

    def _words(
        self, visits: list[int], firsts: list[tuple[nn.Module, Weights]], names: Mapping[nn.Module, str]
    ) -> dict[str, str]:
        members: dict[int, list[tuple[nn.Module, Weights]]] = {}
        for layer, (block, weights) in zip(visits, self._visits, strict=True):
            members.setdefault(layer, []).append((block, weights))
        said: list[str] = []
        for layer, own in members.items():
            blocks = list(dict.fromkeys(block for block, _ in own))
            if len(blocks) > 1:
                common = [_common(*firsts[layer], block, weights) for block, weights in own]
                apart = sorted({name for _, weights in own for name in _apart(weights, firsts[layer][1])})
                text = f"{len(blocks)} blocks ({names[blocks[0]]} … {names[blocks[-1]]}) are one layer: "
                text += f"{min(common):.3g} of their parameters are shared"
                said.append(text + (f"; own: {', '.join(apart[:6])}{' …' * (len(apart) > 6)}" if apart else ""))
        for block in dict.fromkeys(block for block, _ in self._visits):
            layers = {layer for layer, own in members.items() if any(block is other for other, _ in own)}
            if len(layers) > 1:
                said.append(f"{names[block]} is {len(layers)} layers: it is given other weights from visit to visit")
        between = max((_common(*one, *two) for i, one in enumerate(firsts) for two in firsts[:i]), default=0.0)
        if between > _WORTH_SAYING:
            said.append(f"layers counted apart have up to {between:.3g} of their parameters shared")
        words = {"sharing": "; ".join(said)} if said else {}
        if equal := _equal(firsts, names):
            words["equal_not_shared"] = equal
        return words


def whole_loops(calls: Sequence[object]) -> int | None:
    """N when the calls are one pattern N times over, or each block once (N = 1); None when they are no whole loops.

    >>> whole_loops("abab"), whole_loops("abbabb"), whole_loops("abc"), whole_loops("abbbc")
    (2, 2, 1, None)
    """
    visits = len(calls)
    for period in range(1, visits // 2 + 1):
        if visits % period == 0 and calls[period:] == calls[:-period]:
            return visits // period
    return 1 if len(set(calls)) == visits else None


def _common(one: nn.Module, weights: Weights, other: nn.Module, others: Weights) -> float:
    """The share of parameters two visits have in common; of blocks without any, whether they are one block."""
    if not weights or not others:
        return float(one is other)
    if weights is others:
        return 1.0
    shared = sum(weights[key][0] for key in weights.keys() & others.keys())
    return shared / max(sum(count for count, _ in weights.values()), sum(count for count, _ in others.values()))


def _apart(weights: Weights, others: Weights) -> list[str]:
    return [weights[key][1] for key in weights.keys() - others.keys()]


def _equal(firsts: list[tuple[nn.Module, Weights]], names: Mapping[nn.Module, str]) -> str:
    """Blocks that are different layers, but whose matrices are equal number by number."""
    alike: dict[str, list[str]] = {}
    first = dict(firsts[0][0].named_parameters())
    for block, _ in firsts[1:]:
        equal = [
            name
            for name, each in block.named_parameters()
            if name in first and each is not first[name] and _is_copy(each, first[name])
        ]
        if equal:
            alike.setdefault(", ".join(equal[:4]) + " …" * (len(equal) > 4), []).append(names[block])
    said = []
    for parameters, blocks in alike.items():
        several = f"{blocks[0]} … {blocks[-1]}" if len(blocks) > 1 else blocks[0]
        said.append(f"{parameters} of {several} equal those of {names[firsts[0][0]]} but are not shared: a lost alias?")
    return "; ".join(said)


def _is_copy(one: Tensor, other: Tensor) -> bool:
    """Whether two matrices of other storage hold the same numbers, not all alike."""
    if one.ndim < 2 or one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.is_meta or _address(one) == _address(other):
        return False
    with torch.no_grad():
        short = [each.reshape(-1)[:_GLANCE] if each.is_contiguous() else each.flatten() for each in (one, other)]
        return torch.equal(*short) and bool((short[0] != short[0][0]).any()) and torch.equal(one, other)


def _address(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # a subclass without storage
        return 0


def _holders(block: nn.Module) -> Iterator[Holder]:
    """The dicts of parameters of a block and of all it holds."""
    for name, part in inner_modules(block):
        start = f"{name}." if name else ""
        yield start, part._parameters
        for attribute, value in _plain(part):
            yield f"{start}{attribute}", {f" {place}": each for place, each in enumerate(_parameters(value))}


def inner_modules(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A block and all modules it holds with their dotted names, also those in plain attributes and lists."""
    yield from _inner(block, "", block, set())


def _inner(part: nn.Module, name: str, block: nn.Module, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    seen.add(part)
    yield name, part
    inner = [(own, each) for own, each in part._modules.items() if each is not None]
    for attribute, value in _plain(part):
        outside = [each for each in _modules(value) if block not in set(each.modules())]  # not what holds the block
        inner += [(f"{attribute}{f'.{place}' if place else ''}", each) for place, each in enumerate(outside)]
    for own, each in inner:
        if each not in seen:
            yield from _inner(each, f"{name}.{own}" if name else own, block, seen)


def _plain(part: nn.Module) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(part).items() if name not in _OF_TORCH]


def _modules(structure: object) -> Iterator[nn.Module]:
    if isinstance(structure, nn.Module):
        yield structure
    elif isinstance(structure, list | tuple):
        for member in structure:
            yield from _modules(member)


def _parameters(structure: object) -> Iterator[nn.Parameter]:
    if isinstance(structure, nn.Parameter):
        yield structure
    elif isinstance(structure, list | tuple):
        for member in structure:
            yield from _parameters(member)
    elif isinstance(structure, Mapping):
        yield from _parameters(tuple(structure.values()))
