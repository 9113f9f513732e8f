"""A random projection that keeps products of long vectors in little memory."""

import torch
from torch import Tensor

_NUMBERS_AT_ONCE = 2**22


class Sketch:
    """A count sketch: entries get random signs and are added up in random buckets, of equal sizes.

    For vectors x and y of n entries and their sketches x', y' of m, E⟨x', y'⟩ = ⟨x, y⟩ with variance at most
    (‖x‖²‖y‖² + ⟨x, y⟩²)/m, and the cosine of x' and y' has a standard error of about (1 − c²)/√m around c = cos(x, y).
    Samples have signs of their own and share the buckets, so that their errors are uncorrelated.
    Source: Charikar, Chen and Farach-Colton, Finding frequent items in data streams (2002).

    Arguments: samples and entries of a stream, m = `dimension` a power of two, and the seed of signs and buckets.

    >>> x = torch.tensor([[3.0, 0.0, -4.0, 0.0]])
    >>> float(Sketch(1, 4, 4, seed=5)(x).square().sum())  # with as many buckets as entries nothing is lost
    25.0
    """

    def __init__(self, samples: int, entries: int, dimension: int, *, seed: int, device: torch.device | str = "cpu"):
        generator = torch.Generator().manual_seed(seed)
        self.dimension = dimension
        self.order = torch.randperm(entries, generator=generator).int().to(device)
        sign = torch.randint(0, 2, (samples, entries), generator=generator, dtype=torch.int8)
        self.sign = sign.mul_(2).sub_(1).to(device)

    @property
    def nbytes(self) -> int:
        """The bytes that signs and buckets take."""
        return self.order.nbytes + self.sign.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        """The sketches (sample, m) in float64 of vectors (sample, entry)."""
        samples, entries = rows.shape
        short = -entries % self.dimension
        step = max(1, _NUMBERS_AT_ONCE // entries)
        sketches = []
        for start in range(0, samples, step):
            part = rows[start : start + step].to(self.order.device).index_select(1, self.order).double()
            part *= self.sign[start : start + step]
            sketches.append(torch.nn.functional.pad(part, (0, short)).view(len(part), -1, self.dimension).sum(1))
        return torch.cat(sketches)

    def halve(self) -> None:
        """Go on with half the buckets; `halved` brings the sketches made so far along."""
        self.dimension //= 2


def halved(sketch: Tensor) -> Tensor:
    """A sketch in half as many buckets, as if it had been made so."""
    return sketch.view(len(sketch), 2, -1).sum(1)
