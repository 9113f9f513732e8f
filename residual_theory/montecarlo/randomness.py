"""Standard normal numbers of each trial, the same however trials are grouped and in whichever process."""

import concurrent.futures
from collections.abc import Callable, Sequence

import numpy as np
import torch

PIECE = 2**14  # entries of a vector that one thread takes at a time, and that share a generator
WHOLE = slice(None)  # the piece of a vector that is not divided


def allocate(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """An empty tensor; on the CPU in NumPy's memory: in large pages, four times as fast at its first use."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=like.numpy(force=True).dtype))


class Rows:
    """The entries of long vectors in pieces of a fixed size, worked on side by side when there is a pool of threads.

    Sums over pieces are added in order, so that the number of threads changes no bit.
    """

    def __init__(self, device: torch.device, pool: concurrent.futures.Executor | None = None) -> None:
        self._whole = device.type != "cpu"  # one call is enough for a GPU
        self._pool = pool

    def pieces(self, size: int) -> list[slice]:
        """Slices that cover 0 … size − 1."""
        if self._whole or size <= PIECE:
            return [WHOLE]
        return [slice(start, min(start + PIECE, size)) for start in range(0, size, PIECE)]

    def each(self, work: Callable[[slice], torch.Tensor | None], size: int) -> list[torch.Tensor | None]:
        """work(piece) for every piece, the results in order."""
        pieces = self.pieces(size)
        if self._pool is None or len(pieces) == 1:
            return [work(piece) for piece in pieces]
        return list(self._pool.map(work, pieces))

    def total(self, work: Callable[[slice], torch.Tensor], size: int) -> torch.Tensor:
        """The sum of work(piece) over the pieces."""
        first, *others = (part for part in self.each(work, size) if part is not None)
        for other in others:
            first = first + other
        return first


def cut(vectors: torch.Tensor, piece: slice) -> torch.Tensor:
    """A piece of vectors (…, n)."""
    return vectors if piece is WHOLE else vectors[..., piece]


class Normals:
    """Fills tensors (trial, …) with standard normal numbers, every trial from generators of its own.

    On the CPU float64 numbers are NumPy's and float32 ones torch's: each takes less than half of the other's time.
    Torch makes them from 24 random bits, so that none is beyond 5.8.
    """

    def __init__(
        self, seed: int, key: tuple[int, ...], trials: Sequence[int], rows: Rows, device: torch.device
    ) -> None:
        self._seed, self._keys = seed, [(*key, trial % 2**32, trial // 2**32) for trial in trials]  # words of 32 bits
        self._rows = rows
        self._on_cpu = device.type == "cpu"
        self._numpy: dict[tuple[int, int], np.random.Generator] = {}
        self._torch: dict[tuple[int, int], torch.Generator] = {}

    def fill(self, out: torch.Tensor) -> None:
        """Fill `out`, whose first axis is the trial; every out[trial] must be contiguous, or its last axis short."""
        if not self._on_cpu:
            for trial, row in enumerate(out):
                row.normal_(generator=self._of_torch(trial, 0, out.device))
            return
        size = out.shape[-1]
        of_numpy = out.dtype != torch.float32
        trials = list(out.numpy() if of_numpy else out)

        def draw(piece: slice) -> None:
            number = (piece.start or 0) // PIECE
            for trial, row in enumerate(trials):
                for vector in [row] if piece is WHOLE else row.reshape(-1, size)[:, piece]:
                    if of_numpy:
                        self._of_numpy(trial, number).standard_normal(out=vector)
                    else:
                        vector.normal_(generator=self._of_torch(trial, number, out.device))

        self._rows.each(draw, size)

    def _of_torch(self, trial: int, piece: int, device: torch.device) -> torch.Generator:
        if (trial, piece) not in self._torch:
            state = int(self._entropy(self._keys[trial], piece).generate_state(1, np.uint64)[0] >> np.uint64(1))
            self._torch[trial, piece] = torch.Generator(device=device).manual_seed(state)
        return self._torch[trial, piece]

    def _of_numpy(self, trial: int, piece: int) -> np.random.Generator:
        if (trial, piece) not in self._numpy:
            self._numpy[trial, piece] = np.random.Generator(np.random.SFC64(self._entropy(self._keys[trial], piece)))
        return self._numpy[trial, piece]

    def _entropy(self, key: tuple[int, ...], piece: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self._seed, spawn_key=(*key, piece))
