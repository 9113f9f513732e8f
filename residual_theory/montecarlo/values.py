"""Per-trial values of every observable from the streams of a block of trials."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from residual_theory.montecarlo.randomness import Rows, cut
from residual_theory.montecarlo.streams import Backward
from residual_theory.stack import Stack

Values = dict[str, np.ndarray]


def values(
    stack: Stack, streams: Sequence[torch.Tensor], backward: Backward | None, rows: Rows, *, between_inputs: bool
) -> Values:
    """The observables of each trial (trial, …), means over its inputs; float64.

    Everything is taken from the Gram matrix of h_0 and the changes from visit to visit, so that a change far smaller
    than the stream keeps its digits. From the visit of an overflow on, what depends on it is NaN.
    """
    width = streams[0].shape[2]
    changes = _gram(streams, rows) / width  # (trial, input, visit, visit_other)
    covariance = changes.cumsum(dim=2).cumsum(dim=3)
    squares = covariance.diagonal(dim1=2, dim2=3)
    ends = stack.loop_ends
    looped = slice(ends[0] + 1, ends[-1] + 1)
    found = {
        "second_moment": squares,
        "log_second_moment": squares.log(),
        "covariance": covariance,
        "increment_cosine": _increment_cosines(changes[:, :, looped, looped], ends),
    }
    found = {name: value.mean(dim=1) for name, value in found.items()}
    if between_inputs:
        found["input_covariance"] = _between_inputs(streams, rows) / width
    if backward is not None:
        found["gradient_second_moment"] = backward.gradients.double().mean(dim=2)
        found["tangent_kernel"] = backward.tangent_kernel.double().mean(dim=1)
    arrays = {name: value.numpy(force=True) for name, value in found.items()}
    spoil(arrays, ends)
    return arrays


def spoil(arrays: Values, ends: Sequence[int]) -> None:
    """Make NaN, in place and trial by trial, what comes at or after the first visit that is not finite."""
    first = first_nonfinite(arrays["second_moment"])
    for trial in np.flatnonzero(first < arrays["second_moment"].shape[1]):
        visit = first[trial]
        for name, value in arrays.items():
            if name in ("gradient_second_moment", "tangent_kernel"):
                value[trial] = np.nan
                continue
            start = int(np.searchsorted(ends[1:], visit)) if name == "increment_cosine" else visit
            value[trial, start:] = np.nan
            if name in ("covariance", "increment_cosine"):
                value[trial, :, start:] = np.nan


def first_nonfinite(second_moment: np.ndarray) -> np.ndarray:
    """The first visit of each trial whose second moment (trial, visit) is not finite; the number of visits if none."""
    spoilt = ~np.isfinite(second_moment)
    return np.asarray(np.where(spoilt.any(axis=1), spoilt.argmax(axis=1), spoilt.shape[1]))


def _gram(streams: Sequence[torch.Tensor], rows: Rows) -> torch.Tensor:
    """Products of h_0, h_1 − h_0, h_2 − h_1 … (trial, input, visit, visit_other)."""

    detached = [stream.detach() for stream in streams]

    def work(piece: slice) -> torch.Tensor:
        part = _double(torch.stack([cut(stream, piece) for stream in detached], dim=2))
        by_visit = part.unbind(dim=2)
        for before, after in reversed(list(pairwise(by_visit))):
            after.sub_(before)
        return part @ part.mT

    return rows.total(work, streams[0].shape[2])


def _between_inputs(streams: Sequence[torch.Tensor], rows: Rows) -> torch.Tensor:
    """Products of the inputs' streams (trial, visit, input, input_other)."""

    def work(piece: slice) -> torch.Tensor:
        part = _double(torch.stack([cut(stream.detach(), piece) for stream in streams], dim=1))
        return part @ part.mT

    return rows.total(work, streams[0].shape[2])


def _double(part: torch.Tensor) -> torch.Tensor:
    return part.cpu().double() if part.device.type == "mps" else part.double()


def _increment_cosines(changes: torch.Tensor, ends: Sequence[int]) -> torch.Tensor:
    """Cosines (trial, input, loop, loop_other) between the changes over each loop, from those over each visit."""
    loops, layers = len(ends) - 1, ends[1] - ends[0]
    products = changes.reshape(*changes.shape[:2], loops, layers, loops, layers).sum(dim=(3, 5))
    sizes = products.diagonal(dim1=2, dim2=3).sqrt()
    cosines: torch.Tensor = products / sizes[:, :, :, None] / sizes[:, :, None, :]
    return cosines


def average(runs: Sequence[Mapping[str, np.ndarray]]) -> Values:
    """The mean of the values of antithetic runs, trial by trial."""
    return {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
