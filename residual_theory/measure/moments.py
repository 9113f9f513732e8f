"""Means and standard errors over samples of what a recorder kept."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from residual_theory.measure.mask import wide
from residual_theory.measure.recorder import Recorder

_ENTRIES_AT_ONCE = 2**24  # float64 numbers held while averaging: 128 MiB, whatever the size of the model
Estimates = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]  # means and standard errors, by observable


def stream_statistics(recorder: Recorder, loops: int) -> Estimates:
    """Second moments, covariances between visits and cosines between the changes of `loops` loops."""
    rows = [stream.flatten(1) for stream in (recorder.before[0], *recorder.after)]  # each (sample, entry)
    layers = len(recorder.after) // loops
    starts = [stream.flatten(1) for stream in recorder.before[::layers]]
    squares = torch.stack(recorder.squares, 1) if recorder.sketch is not None else None  # (sample, visit)
    entries = recorder.mask.entries(recorder.shape)
    averages: dict[str, _Average] = {}
    samples = len(rows[0])
    together = max(1, _ENTRIES_AT_ONCE // (3 * len(rows) ** 2))
    for first in range(0, samples, together):
        some = slice(first, first + together)
        products, changes = _products([row[some] for row in rows], [start[some] for start in starts], layers)
        products /= entries[some, None, None]
        if squares is not None:
            products = _with_lengths(products, squares[some])
        per_sample = {
            "second_moment": products.diagonal(dim1=1, dim2=2),
            "covariance": products,
            "increment_cosine": _cosines(changes),
        }
        for name, each in per_sample.items():
            averages.setdefault(name, _Average()).add(each)
    return {name: found.mean for name, found in averages.items()}, {n: a.stderr for n, a in averages.items()}


def gradient_statistics(gradients: list[Tensor]) -> Estimates:
    """The squared norms of the gradients of h_0 … h_V, each (sample, …)."""
    each = torch.stack([wide(gradient.detach().flatten(1)).square().sum(1).cpu() for gradient in gradients], 1)
    average = _Average()
    average.add(each)
    return {"gradient_second_moment": average.mean}, {"gradient_second_moment": average.stderr}


def _products(rows: list[Tensor], starts: list[Tensor], layers: int) -> tuple[Tensor, Tensor]:
    """⟨h_k, h_m⟩ (sample, visit, visit_other) and ⟨Δ_n, Δ_m⟩ (sample, loop, loop_other), in float64."""
    samples = len(rows[0])
    products: Tensor | float = 0.0
    changes: Tensor | float = 0.0
    for h, begun in _pieces(rows, starts, max(1, _ENTRIES_AT_ONCE // (samples * len(rows)))):
        change = h[:, layers::layers] - begun  # Δ_n
        products += h @ h.mT
        changes += change @ change.mT
    assert isinstance(products, Tensor)
    assert isinstance(changes, Tensor)
    return products.cpu(), changes.cpu()


def _pieces(rows: list[Tensor], starts: list[Tensor], step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Some entries of all streams at a time: (sample, stream, entry), in float64, where the streams are if it can."""
    device = rows[0].device if rows[0].device.type == "cuda" else "cpu"
    for start in range(0, rows[0].shape[1], step):
        h, begun = (
            torch.stack([stream[:, start : start + step].to(device, torch.float64) for stream in streams], dim=1)
            for streams in (rows, starts)
        )
        yield h, begun


def _cosines(products: Tensor) -> Tensor:
    length = products.diagonal(dim1=1, dim2=2).sqrt()  # (sample, loop)
    return products / length[:, :, None] / length[:, None, :]


def _with_lengths(products: Tensor, squares: Tensor) -> Tensor:
    """The cosines of sketched streams times the lengths that are known exactly."""
    length = squares.sqrt()
    exact = _cosines(products) * length[:, :, None] * length[:, None, :]
    exact = torch.where((length == 0)[:, :, None] | (length == 0)[:, None, :], 0.0, exact)
    exact.diagonal(dim1=1, dim2=2).copy_(squares)
    return exact


class _Average:
    """Mean and standard error over samples that come in groups."""

    def __init__(self) -> None:
        self._count, self._mean, self._deviation = 0, torch.zeros(()), torch.zeros(())

    def add(self, each: Tensor) -> None:
        """Samples along the first axis."""
        count, mean = len(each), each.mean(0)
        deviation = each.std(0) if count > 1 else torch.zeros_like(mean)
        if self._count:
            total, step = self._count + count, mean - self._mean
            scatter = self._deviation.square() * (self._count - 1) + deviation.square() * (count - 1)
            deviation = ((scatter + step.square() * (self._count * count / total)) / (total - 1)).sqrt()
            mean = self._mean + step * (count / total)
        self._mean, self._deviation, self._count = mean, deviation, self._count + count

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self._mean.numpy())

    @property
    def stderr(self) -> np.ndarray:
        if self._count < 2:
            return np.full(self._mean.shape, np.nan)
        return np.asarray((self._deviation / self._count**0.5).numpy())
