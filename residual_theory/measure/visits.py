"""The visits to the blocks of a running model, and which tensor is the stream at each."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from residual_theory.errors import InputError
from residual_theory.measure.sharing import Sharing, WeightLog
from residual_theory.measure.streams import Found, StreamFinder, different, identical


class Seen(NamedTuple):
    """A stream, what it held when it was seen, and where its gradient is to be had."""

    tensor: Tensor
    kept: Tensor
    edge: GradientEdge | None


class _Choice(NamedTuple):
    """What may be the stream on one side of a visit."""

    layer: nn.Module
    visit: int
    found: list[Found]
    seen: list[Seen]


class Visits(ABC):
    """Hooks that tell `entered` and `left` the stream before and after every visit, in order.

    Where the first visit has several tensors that may be the stream, or any visit several outputs, they are told once a
    later visit shows which of them the model passes on, or which of its arguments does not stay the same.

    layers: the blocks and their names. calls: the visits' blocks. shape: of the stream, once it is known.
    """

    def __init__(self, layers: dict[nn.Module, str], finder: StreamFinder, *, with_gradients: bool = False) -> None:
        self.layers, self.finder, self.with_gradients = layers, finder, with_gradients
        self.calls: list[str] = []
        self.shape: tuple[int, ...] = ()
        self._weights = WeightLog()
        self._ended = 0  # visits
        self._asked: list[Tensor] = []  # inputs that were made to require a gradient
        self._entering: _Choice | None = None  # of the first visit, until it is told
        self._leaving: _Choice | None = None  # of the last visit
        self._earlier: dict[tuple[type, Any], Tensor] = {}  # arguments of unclear visits, by block and path

    @abstractmethod
    def entered(self, seen: Seen) -> None:
        """The stream that enters a visit; `kept` may be the tensor itself."""

    @abstractmethod
    def left(self, seen: Seen) -> None:
        """The stream that leaves it."""

    @abstractmethod
    def is_what_was_left(self, stream: Tensor) -> bool:
        """Whether a tensor is what the last visit left."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the calls within; afterwards the model is as it was."""
        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(layer.register_forward_pre_hook(self.enter, with_kwargs=True))
                hooks.enter_context(layer.register_forward_hook(self.leave))
            yield

    def enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook."""
        name = self.layers[layer]
        if len(self.calls) > self._ended:
            raise InputError("block", name, f"is called inside {self.calls[-1]}; give blocks that do not nest")
        self.calls.append(name)
        self._weights.note(layer, (args, kwargs))
        visit = len(self.calls)
        found = self._fitting(self.finder.arguments(layer, args, kwargs, f"visit {visit} to {name}"), "arguments")
        if len(found) > 1 or self._leaving is not None or self._entering is not None:
            found = self._told(layer, found)
        if len(found) == 1:
            self._begin(found[0].tensor)
            self.entered(self._seen(self._checked(found[0].tensor, "arguments"), copy=False))
        elif visit == 1:
            self._entering = self._choice(layer, found)
        else:
            raise self.finder.refuse(name, visit, "argument", found)

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """A forward hook."""
        where = f"visit {len(self.calls)} to {self.calls[-1]}"
        found = self._fitting(self.finder.outputs(layer, output, where), "output")
        if self._entering is not None:
            self._narrow_entering({tuple(each.tensor.shape) for each in found})
        self._ended += 1
        if len(found) > 1 or self._entering is not None:
            self._leaving = self._choice(layer, found)
        else:
            self.left(self._seen(self._checked(found[0].tensor, "output"), copy=False))

    def require_told(self) -> None:
        """Raises: InputError for a block that was never called, a visit that did not end, or an unclear stream."""
        for name in self.layers.values():
            if name not in self.calls:
                mend = "was never called; name a block that the model calls (not by .forward(), nor scripted)"
                raise InputError("block", name, mend)
        if self._ended < len(self.calls):
            raise InputError("block", self.calls[self._ended], "raised, or its stream could not be read, in one visit")
        for side, choice in (("argument", self._entering), ("output", self._leaving)):
            if choice is not None:
                raise self.finder.refuse(self.calls[choice.visit - 1], choice.visit, side, choice.found)
        self._earlier.clear()

    def sharing(self) -> Sharing:
        """The visits by the weights they use."""
        return self._weights.sharing(self.layers)

    def release(self) -> None:
        """The inputs require a gradient no more, if they were made to."""
        for asked in self._asked:
            asked.requires_grad_(False)
        self._asked.clear()

    def _told(self, layer: nn.Module, found: list[Found]) -> list[Found]:
        """What this visit and those before it tell of which argument is the stream, and of what was left unclear."""
        left = None
        if self._leaving is not None:
            alike = [(i, each) for i, seen in enumerate(self._leaving.seen) for each in found if _same(each, seen)]
            if len({i for i, _ in alike}) == 1:
                left, found = alike[0][0], [each for _, each in alike]
            elif len(self._leaving.seen) == 1:
                left = 0
        elif len(found) > 1:
            found = [each for each in found if self.is_what_was_left(each.tensor)] or found
        if len(found) > 1:
            moved = [each for each in found if not self._stayed(layer, each)]
            found = moved if len(moved) == 1 else found
        if self._entering is not None and (len(found) > 1 or not self._take_entering(layer, found[0])):
            choice = self._entering
            raise self.finder.refuse(self.calls[choice.visit - 1], choice.visit, "argument", choice.found)
        if self._leaving is not None:
            if left is None:
                choice = self._leaving
                raise self.finder.refuse(self.calls[choice.visit - 1], choice.visit, "output", choice.found)
            self._take_leaving(left)
        if len(found) == 1:
            self.finder.settle(layer, "argument", found[0].path)
        self._remember(layer, found)
        return found

    def _stayed(self, layer: nn.Module, found: Found) -> bool:
        earlier = self._earlier.get((type(layer), found.path))
        return earlier is not None and (earlier is found.tensor or identical(earlier, found.tensor))

    def _remember(self, layer: nn.Module, found: list[Found]) -> None:
        self._earlier |= {(type(layer), each.path): each.tensor for each in found}

    def _narrow_entering(self, shapes: set[tuple[int, ...]]) -> None:
        """What has the shape of no output is not the stream."""
        choice = self._entering
        assert choice is not None
        places = [i for i, each in enumerate(choice.found) if tuple(each.tensor.shape) in shapes]
        found, seen = [choice.found[i] for i in places], [choice.seen[i] for i in places]
        self._entering = _Choice(choice.layer, choice.visit, found, seen)
        if len(places) < 2:  # if none has it, the first shows the difference
            self._entering = choice
            self._take_entering(choice.layer, (found or choice.found)[0])

    def _take_entering(self, layer: nn.Module, found: Found) -> bool:
        """Take what entered the first visit where it is in this one, to such a block, too; False if it is not there."""
        choice = self._entering
        assert choice is not None
        places = [i for i, each in enumerate(choice.found) if each.path == found.path]
        if type(choice.layer) is not type(layer) or not places:
            return False
        self._entering = None
        self.finder.settle(choice.layer, "argument", found.path)
        self._checked(choice.seen[places[0]].tensor, "arguments")
        self.entered(choice.seen[places[0]])
        return True

    def _take_leaving(self, place: int) -> None:
        choice = self._leaving
        assert choice is not None
        self._leaving = None
        self.finder.settle(choice.layer, "output", choice.found[place].path)
        self._checked(choice.seen[place].tensor, "output")
        self.left(choice.seen[place])

    def _choice(self, layer: nn.Module, found: list[Found]) -> _Choice:
        for each in found:
            self._begin(each.tensor)
        seen = [self._seen(each.tensor, copy=True) for each in found]
        if len(self.calls) > self._ended:
            self._remember(layer, found)
        return _Choice(layer, len(self.calls), found, seen)

    def _begin(self, stream: Tensor) -> None:
        """Ask for the gradient of what enters the first visit."""
        first = len(self.calls) == 1 and not self._ended
        if first and self.with_gradients and torch.is_grad_enabled() and not stream.requires_grad:
            self._asked.append(stream.requires_grad_(True))

    def _seen(self, stream: Tensor, *, copy: bool) -> Seen:
        edge = get_gradient_edge(stream) if self.with_gradients and stream.requires_grad else None
        return Seen(stream, stream.detach().clone() if copy else stream.detach(), edge)

    def _fitting(self, found: list[Found], where: str) -> list[Found]:
        """Each tensor once; of several, those of the stream's shape, if any has it."""
        if not found:
            mend = f"visit {len(self.calls)} has no floating-point tensor in its {where}"
            raise InputError("block", self.calls[-1], mend)
        if len(found) == 1:
            return found
        shapes = {self.shape} if self.shape else set()
        if not shapes and self._entering is not None:
            shapes = {tuple(each.tensor.shape) for each in self._entering.found}
        return [each for each in different(found) if not shapes or tuple(each.tensor.shape) in shapes] or found[:1]

    def _checked(self, stream: Tensor, where: str) -> Tensor:
        name, visit = self.calls[-1], len(self.calls)
        if stream.is_nested or stream.layout != torch.strided:
            raise InputError("block", name, f"visit {visit} has a nested or sparse stream; make it dense")
        shape = tuple(stream.shape)
        if len(shape) < 2 or not stream.numel():
            raise InputError("block", name, f"visit {visit} has a stream of shape {shape}; needs (samples, entries…)")
        self.shape = self.shape or shape
        if shape != self.shape:
            mend = f"visit {visit} has a stream of shape {shape} in its {where} where {self.shape} came first"
            ends = len(shape) == len(self.shape) > 2 and (shape[0], shape[-1]) == (self.shape[0], self.shape[-1])
            if ends and torch.Size(shape).numel() < torch.Size(self.shape).numel():
                raise InputError("block", name, f"{mend}: it is given some positions only; name what is given all")
            raise InputError("block", name, f"{mend}; give blocks that keep the shape, or name the tensor by stream=")
        return stream


def _same(found: Found, seen: Seen) -> bool:
    return identical(found.tensor, seen.kept)
