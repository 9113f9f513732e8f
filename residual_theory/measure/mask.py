"""Which positions of a stream count: padding and the like left out of every mean."""

import torch
from torch import Tensor

from residual_theory.errors import InputError

_ENTRIES_AT_ONCE = 2**22


class Mask:
    """Zeros what does not count and divides by what does. Without a mask all counts.

    mask: (sample, …), the stream's leading axes, such as (sample, token): True or 1 where a position counts.
    Raises: InputError for other values, for a sample without a position, and (at the first stream) for other sizes.
    """

    def __init__(self, mask: object = None) -> None:
        self._given = mask
        self.positions: Tensor | None = None
        if mask is None:
            return
        if not isinstance(mask, Tensor) or mask.ndim < 1:
            raise InputError("mask", mask, "give a tensor of the stream's leading axes, such as (samples, tokens)")
        if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
            raise InputError("mask", mask, "must hold True and False, or 1 and 0")
        positions = mask.detach().bool()
        empty = ~positions.flatten(1).any(1) if positions.ndim > 1 else ~positions
        if empty.any():
            raise InputError("mask", tuple(mask.shape), f"leaves nothing of sample {int(empty.nonzero()[0])}")
        self.positions = positions

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises: InputError unless the mask has the leading axes of a stream of this shape."""
        if self.positions is not None and tuple(self.positions.shape) != shape[: self.positions.ndim]:
            mend = f"must have the leading axes of the stream, which is {shape}"
            raise InputError("mask", tuple(self.positions.shape), mend)

    def __call__(self, stream: Tensor) -> Tensor:
        """The stream, zero where it does not count; the same tensor without a mask."""
        if self.positions is None:
            return stream
        return stream.masked_fill(~self._of(stream), 0)

    def entries(self, shape: tuple[int, ...]) -> Tensor:
        """(sample,) in float64: how many numbers count."""
        whole = torch.full((shape[0],), float(torch.Size(shape[1:]).numel()), dtype=torch.float64)
        if self.positions is None:
            return whole
        return whole * self.positions.reshape(shape[0], -1).double().mean(1).cpu()

    def share(self, shape: tuple[int, ...]) -> float:
        """How many of the positions (vectors along the last axis) count, of 1."""
        if self.positions is None:
            return 1.0
        counts = self.positions.any(-1) if self.positions.ndim == len(shape) else self.positions
        return float(counts.double().mean())

    def mean_square(self, stream: Tensor) -> Tensor:
        """(sample,) in float64 on the CPU."""
        rows = self(stream.detach()).flatten(1)
        some = max(1, _ENTRIES_AT_ONCE // rows.shape[1])  # at a time, for the memory of their float64
        sums = [wide(part).square().sum(1).cpu() for part in torch.split(rows, some)]
        return torch.cat(sums) / self.entries(tuple(stream.shape))

    def updated_square(self, before: Tensor, stream: Tensor) -> float:
        """Mean square over the positions (vectors along the last axis) that are not what they were before."""
        stream = self(stream.detach())
        moved = (stream != before).any(-1)
        return float(wide(stream[moved]).square().mean()) if moved.any() else 0.0

    def _of(self, stream: Tensor) -> Tensor:
        assert self.positions is not None
        missing = stream.ndim - self.positions.ndim
        return self.positions.to(stream.device).reshape(*self.positions.shape, *[1] * missing)


def wide(values: Tensor) -> Tensor:
    """The values in float64, on their device or, where it has none (MPS), on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()
