"""What passes at every visit to a block: the stream before and after it, kept within a given memory."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from residual_theory.errors import InputError
from residual_theory.measure.sketch import Sketch, halved

_LEAST_DIMENSION = 256  # of a sketch: a cosine's standard error is 1/16 there, and no less memory says much


class Recorder:
    """The stream before and after every visit, as snapshots that a later change in place cannot reach.

    before, after: one tensor a visit, (sample, …) in the stream's own dtype; where the input of a visit is what the
      visit before it left, the two are one object. Beyond `memory` bytes they are sketches, (sample, dimension).
    squares: the mean squares of h_0 … h_V for each sample, kept only beside sketches. calls: the visits' blocks.
    edges: where the gradient of h_0 … h_V is to be had, with `with_gradients`; None where the model cuts it.
    """

    def __init__(
        self, layers: dict[nn.Module, str], *, memory: int | None = None, seed: int = 0, with_gradients: bool = False
    ) -> None:
        self.layers, self.memory, self.seed, self.with_gradients = layers, memory, seed, with_gradients
        self.calls: list[str] = []
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.edges: list[GradientEdge | None] = []
        self.sketch: Sketch | None = None
        self.first = self.last = (torch.device("cpu"), torch.float32)  # device and dtype of h_0 and of the last stream
        self.shape: tuple[int, ...] = ()
        self.held = self.most_held = 0  # bytes
        self._left: tuple[Tensor, int] | None = None  # what the last visit left, and its version
        self._asked: Tensor | None = None  # the input that was made to require a gradient

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the calls within; afterwards the model is as it was."""
        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(layer.register_forward_pre_hook(self.enter, with_kwargs=True))
                hooks.enter_context(layer.register_forward_hook(self.leave))
            yield
        self._left = None

    def enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook."""
        name = self.layers[layer]
        if len(self.calls) > len(self.after):
            raise InputError("block", name, f"is called inside {self.calls[-1]}; give blocks that do not nest")
        self.calls.append(name)
        stream = self._stream((args, kwargs), "arguments")
        if len(self.calls) == 1:
            self.first = (stream.device, stream.dtype)
            self._ask_for_gradient(stream)
        self.before.append(self.after[-1] if self._is_what_was_left(stream) else self._snapshot(stream))
        if len(self.calls) == 1:
            self._note(stream)
        self._make_room()

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """A forward hook."""
        stream = self._stream(output, "output")
        self.last = (stream.device, stream.dtype)
        self.after.append(self._snapshot(stream))
        self._note(stream)
        self._left = None if stream.is_inference() else (stream, stream._version)
        self._make_room()

    def require_all_called(self) -> None:
        """Raises: InputError for a block that was never called, or a visit that did not end."""
        for name in self.layers.values():
            if name not in self.calls:
                mend = "was never called; name a block that the model calls (not by .forward(), nor scripted)"
                raise InputError("block", name, mend)
        if len(self.after) < len(self.calls):
            raise InputError(
                "block", self.calls[len(self.after)], "raised, or its stream could not be read, in one visit"
            )

    def loops(self) -> int:
        """N. Raises: InputError unless every block is called, and the calls are whole loops."""
        self.require_all_called()
        loops = whole_loops(self.calls)
        if loops is None:
            raise InputError("block", self.calls, "are visited in this order, not in whole loops; give those that are")
        return loops

    def _is_what_was_left(self, stream: Tensor) -> bool:
        if not self.after:
            return False
        if self._left is not None and stream is self._left[0] and stream._version == self._left[1]:
            return True
        if self.sketch is None:
            return _identical(stream, self.after[-1])
        return _identical(self._snapshot(stream, count=False), self.after[-1])

    def _snapshot(self, stream: Tensor, *, count: bool = True) -> Tensor:
        stream = stream.detach()
        kept = stream.clone() if self.sketch is None else self.sketch(stream.flatten(1))
        self.held += kept.nbytes * count
        return kept

    def _note(self, stream: Tensor) -> None:
        """What is wanted of each of h_0 … h_V besides a snapshot."""
        if self.sketch is not None:
            self.squares.append(_mean_square(stream))
        if self.with_gradients:
            self.edges.append(get_gradient_edge(stream) if stream.requires_grad else None)

    def _ask_for_gradient(self, stream: Tensor) -> None:
        if self.with_gradients and torch.is_grad_enabled() and not stream.requires_grad:
            self._asked = stream.requires_grad_(True)

    def release(self) -> None:
        """Let go of the graph; the input requires a gradient no more, if it was made to."""
        self.edges.clear()
        if self._asked is not None:
            self._asked.requires_grad_(False)

    def _make_room(self) -> None:
        """Keep what is held within the memory, by sketches in as few buckets as it takes."""
        self.most_held = max(self.most_held, self.held)
        while self.memory is not None and self.held > self.memory:
            if self.sketch is None:
                self._start_sketching(self.memory)
            elif self.sketch.dimension > _LEAST_DIMENSION:
                self.sketch.halve()
                self._replace(halved)
            else:
                self._refuse()

    def _start_sketching(self, memory: int) -> None:
        samples, entries = self.shape[0], torch.Size(self.shape[1:]).numel()
        half = memory // (16 * samples * len(self._snapshots()))  # numbers of 8 bytes, in half the memory
        fitting = min(entries // 2, half)
        if fitting < _LEAST_DIMENSION or (4 + samples) * entries > memory // 2:
            self._refuse()
        device = self.first[0] if self.first[0].type == "cuda" else "cpu"
        self.squares = [_mean_square(snapshot) for snapshot in (*self.before[:1], *self.after)]
        self.sketch = Sketch(samples, entries, 2 ** (fitting.bit_length() - 1), seed=self.seed, device=device)
        sketch = self.sketch
        self._replace(lambda snapshot: sketch(snapshot.flatten(1)))

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Every snapshot by another, one after the other, those that are one object staying so."""
        assert self.sketch is not None
        shared = [visit > 0 and entered is self.after[visit - 1] for visit, entered in enumerate(self.before)]
        for visit in range(len(self.before)):
            self.before[visit] = self.after[visit - 1] if shared[visit] else change(self.before[visit])
            if visit < len(self.after):
                self.after[visit] = change(self.after[visit])
        self.held = self.sketch.nbytes + sum(kept.nbytes for kept in self._snapshots())

    def _snapshots(self) -> list[Tensor]:
        """Each once."""
        return list({id(kept): kept for kept in (*self.before, *self.after)}.values())

    def _refuse(self) -> None:
        samples, entries = self.shape[0], torch.Size(self.shape[1:]).numel()
        mend = f"cannot hold {len(self.calls)} visits of {samples} samples × {entries} entries, not even their sketches"
        raise InputError("memory", self.memory, f"{mend}; raise it, or give fewer samples")

    def _stream(self, structure: object, where: str) -> Tensor:
        name, visit = self.calls[-1], len(self.calls)
        stream = next(floating_tensors(structure), None)
        if stream is None:
            raise InputError("block", name, f"visit {visit} has no floating-point tensor in its {where}")
        if stream.is_nested or stream.layout != torch.strided:
            raise InputError("block", name, f"visit {visit} has a nested or sparse stream; make it dense")
        shape = tuple(stream.shape)
        if len(shape) < 2 or not stream.numel():
            raise InputError("block", name, f"visit {visit} has a stream of shape {shape}; needs (samples, entries…)")
        self.shape = self.shape or shape
        if shape != self.shape:
            mend = f"visit {visit} has a stream of shape {shape} in its {where} where {self.shape} came first"
            raise InputError("block", name, f"{mend}; give blocks that keep the shape")
        return stream


def whole_loops(calls: Sequence[str]) -> int | None:
    """N when the calls are one pattern N times over, or each block once (N = 1); None when they are no whole loops.

    >>> whole_loops("abab"), whole_loops("abbabb"), whole_loops("abc"), whole_loops("abbbc")
    (2, 2, 1, None)
    """
    visits = len(calls)
    for period in range(1, visits // 2 + 1):
        if visits % period == 0 and calls[period:] == calls[:-period]:
            return visits // period
    return 1 if len(set(calls)) == visits else None


def floating_tensors(structure: object) -> Iterator[Tensor]:
    """The floating-point tensors of a nested structure, depth first."""
    if isinstance(structure, Tensor):
        if structure.is_floating_point():
            yield structure
    elif isinstance(structure, Mapping):
        yield from floating_tensors(tuple(structure.values()))
    elif isinstance(structure, list | tuple):
        for member in structure:
            yield from floating_tensors(member)
    elif dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        yield from floating_tensors([getattr(structure, field.name) for field in dataclasses.fields(structure)])


def _identical(stream: Tensor, other: Tensor) -> bool:
    """Equal entry by entry, NaN to NaN."""
    if stream.dtype != other.dtype:
        return False
    return torch.allclose(stream.to(other.device), other, rtol=0, atol=0, equal_nan=True)


def _mean_square(stream: Tensor) -> Tensor:
    """(sample,) in float64 on the CPU."""
    rows = stream.detach().flatten(1)
    some = max(1, 2**22 // rows.shape[1])  # at a time, for the memory of their float64
    return torch.cat([wide(part).square().mean(1).cpu() for part in torch.split(rows, some)])


def wide(values: Tensor) -> Tensor:
    """The values in float64, on their device or, where it has none (MPS), on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()
