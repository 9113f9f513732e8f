"""The stream at every visit to a block, kept within a given memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from residual_theory.errors import InputError
from residual_theory.measure.mask import Mask
from residual_theory.measure.sketch import Sketch, halved
from residual_theory.measure.streams import Stream, StreamFinder, floating, identical
from residual_theory.measure.updates import Update, update_outside
from residual_theory.measure.visits import Seen, Visits

_LEAST_DIMENSION = 256  # of a sketch: a cosine's standard error is 1/16 there, and no less memory says much


class Junction(NamedTuple):
    """A stream that is not what the last visit left: how it was made, where that is recognised, and its numbers.

    updated_square: the mean square over the positions that took the block's output, where others did not.
    """

    update: Update | None
    squares: Tensor | None
    edge: GradientEdge | None
    updated_square: float


class Recorder(Visits):
    """The stream before and after every visit, as snapshots that a later change in place cannot reach.

    before, after: one tensor a visit, (sample, …) in the stream's own dtype; where the input of a visit is what the
      visit before it left, the two are one object. Beyond `memory` bytes they are sketches, (sample, dimension).
    squares: the mean squares of h_0 … h_V for each sample, kept only beside sketches.
    edges: where the gradient of h_0 … h_V is to be had, with `with_gradients`; None where the model cuts it.
    junctions: by the visit before it (from 0). followed: those by which the stream after a visit is the model's own.
    """

    def __init__(
        self,
        layers: dict[nn.Module, str],
        *,
        stream: Stream = None,
        mask: Tensor | None = None,
        memory: int | None = None,
        seed: int = 0,
        with_gradients: bool = False,
    ) -> None:
        super().__init__(layers, StreamFinder(stream), with_gradients=with_gradients)
        self.memory, self.seed, self.mask = memory, seed, Mask(mask)
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.edges: list[GradientEdge | None] = []
        self.junctions: dict[int, Junction] = {}
        self.followed: dict[int, Junction] = {}
        self.sketch: Sketch | None = None
        self.first = self.last = (torch.device("cpu"), torch.float32)  # device and dtype of h_0 and of the last stream
        self.held = self.most_held = 0  # bytes
        self._given: tuple[Tensor, int] | None = None  # what entered the last visit, and its version
        self._left: tuple[Tensor, int] | None = None  # what it left

    def entered(self, seen: Seen) -> None:
        """Keep the stream that enters a visit."""
        if not self.before:
            self.mask.check(self.shape)
            self.first = (seen.tensor.device, seen.tensor.dtype)
        snapshot = self.after[-1] if self.is_what_was_left(seen.kept, seen.tensor) else self._snapshot(seen)
        if self.after and snapshot is not self.after[-1]:
            self.junctions[len(self.after) - 1] = self._junction(seen)
        self.before.append(snapshot)
        if len(self.before) == 1:
            self._note(seen)
        self._given = _versioned(seen.tensor)
        self._make_room()

    def left(self, seen: Seen) -> None:
        """Keep the stream that leaves it."""
        self.last = (seen.tensor.device, seen.tensor.dtype)
        self.after.append(self._snapshot(seen))
        self._note(seen)
        self._left = _versioned(seen.tensor)
        self._make_room()

    def finish(self, output: object) -> None:
        """After the model's run: the stream follows the model where that, not the block, makes the next visit's.

        Raises: InputError where nothing told the stream, or a block was never called.
        """
        self.require_told()
        self.followed = self._to_follow()
        first = self.junctions.get(0)
        if self.followed:
            self._follow_last(output)
        elif first is not None and first.update is not None and len(self.after) == 2:
            self.followed = {0: first}
            self._follow_last(output)
            self.followed = self.followed if 1 in self.followed else {}
        for place, junction in self.followed.items():
            if place + 1 < len(self.before):
                self.held -= self.after[place].nbytes
                self.after[place] = self.before[place + 1]
            if junction.squares is not None:
                self.squares[place + 1] = junction.squares
            if self.with_gradients:
                self.edges[place + 1] = junction.edge
        self._left = self._given = None

    def release(self) -> None:
        """Let go of the graph, too."""
        super().release()
        self.edges.clear()

    def is_what_was_left(self, stream: Tensor, given: Tensor | None = None) -> bool:
        """By the object, else by its numbers."""
        if not self.after:
            return False
        given = stream if given is None else given
        if self._left is not None and given is self._left[0] and given._version == self._left[1]:
            return True
        if self.sketch is None:
            return identical(self.mask(stream.detach()), self.after[-1])
        return identical(self.sketch(self.mask(stream.detach()).flatten(1)), self.after[-1])

    def _junction(self, seen: Seen) -> Junction:
        """How the stream that enters was made from the last visit's."""
        stream = self.mask(seen.kept)
        before, after = self._last_visit()
        update = None if before is None or after is None else update_outside(before, after, stream)
        square = 0.0
        if update is not None and update.kind == "masked" and before is not None:
            square = self.mask.updated_square(before, stream)
            update = update._replace(updated=update.updated / self.mask.share(self.shape))
        squares = self.mask.mean_square(stream) if self.sketch is not None else None
        return Junction(update, squares, seen.edge, square)

    def _last_visit(self) -> tuple[Tensor | None, Tensor | None]:
        """The stream before and after the last visit, whole, as far as it can still be had."""
        if self.sketch is None:
            return self.before[-1], self.after[-1]
        kept = (self._given, self._left)
        whole = (self.mask(e[0].detach()) if e is not None and e[0]._version == e[1] else None for e in kept)
        return next(whole), next(whole)

    def _to_follow(self) -> dict[int, Junction]:
        """Masked updates, if some position ever took a block's output there, gates and mixtures.

        A single mixture after the first visit is none: it may add what entered the first visit, an injection.
        """
        made = {place: each.update for place, each in self.junctions.items() if each.update is not None}
        masked = [place for place, update in made.items() if update.kind == "masked"]
        mixed = [place for place, update in made.items() if update.kind == "mixed"]
        gated = [place for place, update in made.items() if update.kind == "gated"]
        if not any(made[place].updated for place in masked):
            masked = []
        if not any(mixed):
            mixed = []
        return {place: self.junctions[place] for place in sorted(masked + mixed + gated)}

    def _follow_last(self, output: object) -> None:
        """The last visit's output was taken so, too, where the model's output shows it, or all before were alike."""
        place = len(self.after) - 1
        updates = [each.update for each in self.followed.values() if each.update is not None]
        for _, tensor in floating(output):
            if tuple(tensor.shape) != self.shape or tensor.layout != torch.strided:
                continue
            if self.is_what_was_left(tensor):
                return
            seen = self._seen(tensor, copy=False)
            junction = self._junction(seen)
            update = junction.update
            if update is not None and any(update.is_like(e) if place == 1 else update.kind == e.kind for e in updates):
                self._take_last(place, seen, junction)
                return
        first, last = self._last_visit()
        alike = len(updates) == place > 1 and all(each.is_like(updates[0]) for each in updates)
        if alike and updates[0].kind == "mixed" and not self.with_gradients and first is not None and last is not None:
            made = updates[0].kept * first + updates[0].taken * last
            seen = Seen(made, made, None)
            self._take_last(place, seen, self._junction(seen)._replace(update=updates[0]))

    def _take_last(self, place: int, seen: Seen, junction: Junction) -> None:
        self.followed[place] = junction
        self.held -= self.after[place].nbytes
        self.after[place] = self._snapshot(seen)

    def _snapshot(self, seen: Seen) -> Tensor:
        kept = self.mask(seen.kept)
        if self.sketch is not None:
            kept = self.sketch(kept.flatten(1))
        elif kept.data_ptr() == seen.tensor.data_ptr():
            kept = kept.clone()
        self.held += kept.nbytes
        return kept

    def _note(self, seen: Seen) -> None:
        """What is wanted of each of h_0 … h_V besides a snapshot."""
        if self.sketch is not None:
            self.squares.append(self.mask.mean_square(seen.kept))
        if self.with_gradients:
            self.edges.append(seen.edge)

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
        self.squares = [self.mask.mean_square(snapshot) for snapshot in (*self.before[:1], *self.after)]
        for place, junction in self.junctions.items():
            entered = self.before[place + 1] if place + 1 < len(self.before) else None
            squares = None if entered is None else self.mask.mean_square(entered)
            self.junctions[place] = junction._replace(squares=squares)
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


def _versioned(stream: Tensor) -> tuple[Tensor, int] | None:
    return None if stream.is_inference() else (stream, stream._version)
