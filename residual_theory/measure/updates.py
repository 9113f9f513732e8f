"""What a model does with a block's output outside of the block: which positions it takes over, and how much of it."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

_GLANCE = 2**14  # entries looked at before all are
_ROUNDINGS = 2.0  # units in the last place of each term
_DEVIATES = 6.0  # standard errors of rounding
_SHOWS = 0.1  # of the change: what rounding may be
_CLOSE = 1e-4  # of factors whose sum is meant to be one
_PARALLEL = 1e-12  # 1 − cosine²
_LEAST = 8  # numbers: of fewer, two make any third
_FEWEST = 4  # numbers that have a gate in common


class Update(NamedTuple):
    """How the stream after a visit comes from the stream before it and the block's output.

    kind: "masked": some positions take the output, the others keep the stream, `updated` is the share that does;
      "mixed": stream ← kept · stream + taken · output, `taken` known to ± `reach`;
      "gated": stream ← stream + g (output − stream), g a factor for each channel or position, from `low` to `high`.
    """

    kind: str
    kept: float = 0.0
    taken: float = 1.0
    reach: float = 0.0
    updated: float = 1.0
    low: float = math.nan
    high: float = math.nan
    along: str = ""

    def __str__(self) -> str:
        if self.kind == "masked":
            return "some positions take the block's output, the others keep the stream"
        if self.kind == "gated":
            return (
                f"a gate from {self.low:.3g} to {self.high:.3g} for each {self.along} mixes stream and block's output"
            )
        if self.interpolates:
            return f"stream + {self.taken:.6g} (block's output - stream)"
        kept = "" if abs(self.kept - 1) < _CLOSE else f"{self.kept:.6g} · "
        return f"{kept}stream + {self.taken:.6g} · block's output"

    def is_like(self, other: "Update") -> bool:
        """Whether both are one update, as far as their factors are known."""
        reach = self.reach + other.reach + _CLOSE * abs(self.taken)
        if self.kind != "mixed":
            return self.kind == other.kind
        return self.kind == other.kind and abs(self.taken - other.taken) + abs(self.kept - other.kept) <= 2 * reach

    @property
    def interpolates(self) -> bool:
        """Whether the parts kept and taken come to one."""
        return self.kind == "mixed" and abs(self.kept + self.taken - 1) < _CLOSE * max(1.0, abs(self.taken))


def kinds(updates: Iterable[Update]) -> list[str]:
    """Those that differ, in words."""
    found: list[Update] = []
    for update in updates:
        if not any(update.is_like(other) for other in found):
            found.append(update)
    return [str(update) for update in found]


@torch.no_grad()
def update_outside(before: Tensor, output: Tensor, following: Tensor) -> Update | None:
    """The update that makes `following` of the other two, all (sample, …, channel); None where none is recognised.

    The output alone, also times a factor, is no update: nothing of the stream is kept.
    """
    if not before.shape == output.shape == following.shape or before.dtype != following.dtype:
        return None
    rows = [each.detach().to(following.device).flatten(0, -2) for each in (before, output, following)]
    if rows[0].numel() < _LEAST:
        return None
    stride = max(1, min(rows[0].numel() // _GLANCE, len(rows[0]) // 8))
    some = [each[::stride] for each in rows]  # (position, channel)
    if _is_masked(*some):
        return _masked(*rows)
    if not all(torch.isfinite(each).all() for each in some) or _is_multiple(*some[1:]):
        return None
    mixed = _mixed(*some)
    if mixed is not None:
        return mixed if _holds(mixed.kept, mixed.taken, rows) else None
    return _gated(some, rows)


def _is_masked(before: Tensor, output: Tensor, following: Tensor) -> bool:
    return bool(((following == before).all(1) | (following == output).all(1)).all())


def _masked(before: Tensor, output: Tensor, following: Tensor) -> Update | None:
    kept = (following == before).all(1)
    if not _is_masked(before, output, following) or not kept.any():
        return None
    return Update("masked", updated=float((~kept).double().mean()))


def _is_multiple(output: Tensor, following: Tensor) -> bool:
    """Whether the following stream is the output times a number."""
    one, other = output.double(), following.double()
    square = one.square().sum()
    rest = other - one * ((one * other).sum() / square) if square > 0 else other
    return _is_rounding(rest, float(other.norm()), following.dtype)


def _mixed(before: Tensor, output: Tensor, following: Tensor) -> Update | None:
    columns = torch.stack([each.flatten().double() for each in (before, output)], 1)
    target = following.flatten().double()
    lengths = columns.norm(dim=0)
    if not (lengths > 0).all():
        return None
    unit = columns / lengths
    gram = unit.mT @ unit
    if float(1 - gram[0, 1].square()) < _PARALLEL:
        return None  # the output is the stream times a number
    parts = torch.linalg.solve(gram, unit.mT @ target)
    rest = target - unit @ parts
    if not _is_rounding(rest, float(target.norm() + parts.abs().sum()), following.dtype):
        return None
    if float(rest.norm()) > _SHOWS * float((following.double() - before.double()).norm()):
        return None  # what changed is itself rounding
    spread = float(rest.norm()) / math.sqrt(max(1, len(target) - 2))
    reach = _DEVIATES * spread * torch.linalg.inv(gram).diagonal().sqrt() / lengths + 1e-13 * parts.abs() / lengths
    (kept, taken), (kept_reach, taken_reach) = (parts / lengths).tolist(), reach.tolist()
    if abs(kept) <= kept_reach:
        return None
    one = torch.finfo(following.dtype).eps
    kept = 1.0 if abs(kept - 1) <= kept_reach + one else kept
    taken = 1.0 if abs(taken - 1) <= taken_reach + one else taken
    return Update("mixed", kept=kept, taken=taken, reach=taken_reach + 2 * one * abs(taken))


def _gated(some: list[Tensor], rows: list[Tensor]) -> Update | None:
    for axis, along in ((0, "channel"), (1, "position")):
        gate = _gate(axis, *some)
        if gate is not None and axis == 1:
            gate = _gate(axis, *rows)
        if gate is not None and _holds(1 - gate, gate, rows):
            return Update("gated", low=float(gate.min()), high=float(gate.max()), along=along)
    return None


def _gate(axis: int, before: Tensor, output: Tensor, following: Tensor) -> Tensor | None:
    """The factors, one for all numbers along an axis, of the output's change in the change; None if there are none."""
    if before.shape[axis] < _FEWEST:
        return None  # as many factors as numbers fit anything
    b, out, then = (each.double() for each in (before, output, following))
    change, seen = out - b, then - b
    squares = change.square().sum(axis, keepdim=True)
    gate = (seen * change).sum(axis, keepdim=True) / squares.clamp(min=torch.finfo(torch.float64).tiny)
    rest = seen - gate * change
    if not _is_rounding(rest, float(then.norm() + b.norm() + out.norm()), following.dtype):
        return None
    return gate if float(rest.norm()) < _SHOWS * float(seen.norm()) else None


def _holds(kept: float | Tensor, taken: float | Tensor, rows: list[Tensor]) -> bool:
    """Whether what was found at a glance is so everywhere, up to the stream's own rounding."""
    before, output, following = rows
    if isinstance(kept, Tensor) and isinstance(taken, Tensor):
        kept, taken = kept.to(following.dtype), taken.to(following.dtype)
    first, second = before * kept, output * taken
    size = sum(
        float(each.norm(dtype=torch.promote_types(each.dtype, torch.float32))) for each in (first, second, following)
    )
    return _is_rounding(first.add_(second).sub_(following), 2 * size, following.dtype)


def _is_rounding(rest: Tensor, size: float, dtype: torch.dtype) -> bool:
    return (
        float(rest.norm(dtype=torch.promote_types(rest.dtype, torch.float32)))
        <= _ROUNDINGS * torch.finfo(dtype).eps * size
    )
