"""Coordinate check of looped models: do the stream and its updates keep their size across loops and layers?"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor, nn
from torch.optim import Optimizer

from residual_theory.coordinate.runs import AXES, QUANTITIES, Request, loss_of, run
from residual_theory.errors import InputError
from residual_theory.statistics.exponents import FEWEST_SIZES, paired_exponent
from residual_theory.statistics.findings import Finding, Word, decide, equivalence

_ROUNDING = 1e-6  # of a slope of float32 numbers
FRACTIONS = (0.25, 0.5, 0.75, 1.0)  # of the visits, where slopes are judged


@dataclass(frozen=True)
class Row:
    """One slope: of which quantity, after how many steps, at which place, along which axis, and what it says."""

    quantity: str
    step: int
    place: str
    axis: str
    fixed: int
    finding: Finding
    word: Word


@dataclass(frozen=True)
class Zero:
    """A quantity that is exactly zero in some runs up to a step, as behind a read-out or a gate that starts at zero.

    moves_from: the first step at which it is zero in no run, from which on it is judged; None where there is none.
    """

    quantity: str
    place: str
    axis: str
    fixed: int
    moves_from: int | None

    def __str__(self) -> str:
        told = "at every step; nothing that is trained reaches it"
        if self.moves_from is not None:
            told = f"before step {self.moves_from}, and judged from there on"
        where = "" if self.place == "output" else f" at {self.place}"
        return f"exactly zero: {self.quantity}{where}, {told}"


@dataclass(frozen=True)
class CoordinateCheck:
    """What a coordinate check found; `dataset` holds every visit of every run, `rows` the slopes that were judged.

    zeros: what is exactly zero at first, as at a read-out initialised to zero, and has no slope until it moves.
    """

    verdict: Word
    rows: tuple[Row, ...]
    zeros: tuple[Zero, ...]
    dataset: xr.Dataset
    margin: float
    alpha: float

    @property
    def level(self) -> float:
        """The confidence of one interval, such that all hold together with 1 − alpha (Bonferroni)."""
        return 1 - self.alpha / len(self.rows)

    @property
    def table(self) -> pd.DataFrame:
        """One line a slope."""
        return pd.DataFrame(
            [
                {"quantity": row.quantity, "at": row.place, "step": row.step, "axis": row.axis, "fixed": row.fixed}
                | {"slope": row.finding.value, "stderr": row.finding.stderr}
                | dict(zip(("low", "high"), row.finding.interval(self.level), strict=True))
                | {"verdict": row.word, "local slopes": row.finding.label}
                for row in self.rows
            ]
        )

    @property
    def diverged(self) -> list[dict[str, int]]:
        """The runs (loops, unique_layers, seed, step) in which something was not finite, with the first such step."""
        where = self.dataset.first_nonfinite_step
        cells = where.where(where >= 0).to_series().dropna()
        return [dict(zip((*where.dims, "step"), (*cell, int(step)), strict=True)) for cell, step in cells.items()]

    @property
    def _undecided(self) -> str:
        if any(zero.moves_from is None for zero in self.zeros):
            return "something never moves in some run; give more steps, or look why it is not trained"
        return "some slopes stay undecided; give more seeds, or sizes further from 1"

    def __str__(self) -> str:
        worst = max(self.rows, key=lambda row: (row.word == self.verdict, _reach(row.finding)))
        low, high = worst.finding.interval(self.level)
        what = {
            "confirmed": "all sizes transfer: no slope leaves the margin",
            "refuted": "sizes do not transfer",
            "inconclusive": self._undecided,
        }[self.verdict]
        other = AXES[worst.axis == AXES[0]]
        lines = [
            f"{self.verdict}: {what} (|d log rms / d log size| ≤ {self.margin:g}; {len(self.rows)} slopes, "
            f"wrong with probability ≤ {self.alpha:g})",
            f"steepest: {worst.quantity} at {worst.place} after step {worst.step}, along {worst.axis} at {other} = "
            f"{worst.fixed}: {worst.finding.value:.3f} [{low:.3f}, {high:.3f}]",
        ]
        lines += [
            f"not finite: loops {cell['loops']}, unique_layers {cell['unique_layers']}, seed {cell['seed']} "
            f"from step {cell['step']} on"
            for cell in self.diverged
        ]
        lines += dict.fromkeys(map(str, self.zeros))  # each once, whatever the other axis
        return "\n".join((*lines, self.table.to_string(index=False, float_format="{:.3f}".format)))


def coordinate_check(
    make: Callable[..., nn.Module],
    *,
    block: str | Sequence[str],
    loops: Sequence[int],
    unique_layers: Sequence[int] = (1,),
    inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
    targets: Tensor | None = None,
    loss: Callable[[nn.Module], Tensor] | None = None,
    optimizer: Callable[[nn.Module, int, int], Optimizer],
    steps: int = 4,
    seeds: Sequence[int] = tuple(range(8)),
    margin: float = 0.25,
    alpha: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> CoordinateCheck:
    """Train models of several loops N and layers L for a few steps; does what they compute stay of the same size?

    With h_k^t the stream after visit k of V = N·L (k = 0: the input of the first visit) once t optimizer steps were
    made, always at the same inputs, and y^t the model's output,

      stream = rms h_k^t,  stream_update = rms(h_k^t − h_k^0),  output = rms y^t,  output_update = rms(y^t − y^0),

    each a root mean square over all entries, one row a visit, loops never pooled. Their slopes d log rms / d log N (and
    L) are fitted at the visit fractions k/V of ¼, ½, ¾ and 1 that are whole visits at every size, and held against
    ± margin by `exponents.paired_exponent`; Holm over all of them.

    Arguments:
      make: make(N, L) builds a fresh model on torch's generator, which is seeded for it; a parameter named `seed` gets
        the seed. Everything runs with torch's random state set aside, and leaves it as it was.
      block: the L blocks of one loop by name, as `probe` takes them; each is called N times.
      inputs: what the model is called with, as `probe` takes them.
      targets or loss: one of them. loss(model) is a scalar to minimise. targets are class ids (cross-entropy of the
        output's last axis) or numbers of the output's shape (mean squared error).
      optimizer: optimizer(model, N, L) holds the model's parameters, at the rates that the rule gives to N and L.
      loops, unique_layers: the sizes; slopes run along each axis of at least 5, at every size of the other. Begin
        where the rates are tuned.
      steps ≥ 1; seeds: at least 2 different ones.
      margin: the largest |slope| that counts as transfer. The default is half of the ½ that lies between the known
        rules; a power ¼ is a factor 2 over sixteenfold N.
      alpha: the chance that any verdict is wrong, at most. progress: called with the runs done and all of them.
    Returns: a CoordinateCheck; str() is its table. Its dataset has the dimensions (loops, unique_layers, step, visit,
      seed), NaN beyond a model's visits, and `loss` before each step. A run that is not finite is named, stays NaN,
      and leaves undecided the slopes it belongs to. What is exactly zero in some run at first (behind a read-out or a
      gate initialised to zero) is noted in `zeros`, and judged from the first step at which it is zero in none.
    Raises: InputError for bad arguments, a model whose weights are not those of its seed, a block that is not visited
      N·L times, an optimizer that holds none of the model's parameters.
    Source: arXiv:2606.18524, Theorem 2 and Figure 4; for coordinate checks, arXiv:2203.03466.

    >>> import torch
    >>> class Looped(torch.nn.Module):
    ...     def __init__(self, loops, layers):
    ...         super().__init__()
    ...         self.loops, self.layer = loops, torch.nn.Linear(32, 32)
    ...     def forward(self, x):
    ...         for _ in range(self.loops):
    ...             x = x + self.layer(x.relu()) / self.loops
    ...         return x
    >>> x = torch.randn(16, 32, generator=torch.Generator().manual_seed(5))
    >>> adam = lambda model, loops, layers: torch.optim.Adam(model.parameters(), lr=1e-3)
    >>> found = coordinate_check(
    ...     Looped, block="layer", loops=(4, 8, 16, 32, 64), inputs=x, targets=0 * x, optimizer=adam, steps=1)
    >>> found.verdict
    'confirmed'
    """
    given = {"loops": loops, "unique_layers": unique_layers}
    sizes = {name: tuple(sorted(_whole(name, numbers, least=1))) for name, numbers in given.items()}
    if max(map(len, sizes.values())) < FEWEST_SIZES:
        raise InputError("loops", loops, f"a slope needs {FEWEST_SIZES} sizes; give as many loops or unique layers")
    seeds = _whole("seeds", seeds, least=0)
    if len(seeds) < 2:
        raise InputError("seeds", seeds, "give at least 2; the interval of a slope is over seeds")
    _whole("steps", (steps,), least=1)
    _require_numbers(margin=(margin, math.inf), alpha=(alpha, 1.0))
    _require_makers(make=(make, "a model"), optimizer=(optimizer, "an optimizer"))
    request = Request(make, block, inputs, loss_of(inputs, targets, loss), optimizer, steps)
    dataset = run(request, sizes["loops"], sizes["unique_layers"], seeds, progress)
    series = list(_series(dataset))
    judged = [row for each in series for row in _judged(each, margin)]
    words = decide([row.finding for row in judged], alpha)
    rows = tuple(replace(row, word=word) for row, word in zip(judged, words, strict=True))
    verdict: Word = "refuted" if "refuted" in words else "confirmed" if set(words) == {"confirmed"} else "inconclusive"
    zeros = tuple(zero for each in series for zero in _zeros(each))
    return CoordinateCheck(verdict, rows, zeros, dataset, float(margin), float(alpha))


def _require_numbers(**given: tuple[object, float]) -> None:
    """Raises: InputError for what is no number between 0 and the bound beside it."""
    for name, (number, most) in given.items():
        if isinstance(number, bool) or not isinstance(number, int | float | np.number) or not 0 < number < most:
            mend = "must be a number above 0" + (" and below 1" if most == 1 else ", and finite")
            raise InputError(name, number, mend)


def _require_makers(**given: tuple[object, str]) -> None:
    """Raises: InputError for what builds nothing; a module can be called, but is no builder."""
    for name, (function, what) in given.items():
        if not callable(function) or isinstance(function, nn.Module):
            raise InputError(name, function, f"give a function that builds {what}")


def _whole(name: str, given: object, least: int) -> tuple[int, ...]:
    numbers = tuple(given) if isinstance(given, Sequence | np.ndarray) else ()
    sound = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= least for n in numbers)
    if not numbers or not sound or len(set(numbers)) < len(numbers):
        raise InputError(name, given, f"give different whole numbers from {least} on")
    return tuple(int(number) for number in numbers)


class _Series(NamedTuple):
    """One quantity at one place, along one axis, over the steps at which it can be judged."""

    quantity: str
    place: str
    axis: str
    fixed: int
    values: xr.DataArray  # (step, axis, seed)

    @property
    def moving(self) -> list[int]:
        """The steps from the first on at which nothing is exactly zero."""
        zero = (self.values == 0).any([self.axis, "seed"])
        moved = np.flatnonzero(~zero.values)
        return [int(step) for step in self.values.step.values[moved[0] if len(moved) else len(zero) :]]


def _series(dataset: xr.Dataset) -> Iterator[_Series]:
    for axis, other in (AXES, AXES[::-1]):
        if dataset.sizes[axis] < FEWEST_SIZES:
            continue
        for fixed in dataset[other].values.tolist():
            line = dataset.sel({other: fixed})
            visits = dataset[axis].values * fixed
            places = [fraction for fraction in FRACTIONS if not (fraction * visits % 1).any()]
            for name in QUANTITIES:
                values = line[name].isel(step=slice(int(name.endswith("_update")), None))
                if not name.startswith("stream"):
                    yield _Series(name, "output", axis, fixed, values)
                    continue
                for fraction in places:
                    at = xr.DataArray((fraction * visits).astype(int), dims=axis)
                    place = "end of the stack" if fraction == 1 else f"visit {fraction:g} V"
                    yield _Series(name, place, axis, fixed, values.sel(visit=at))


def _judged(series: _Series, margin: float) -> Iterator[Row]:
    """Its slopes, not judged yet: after each step from which on it moves; one without a value where it never does."""
    name, place, axis, fixed, values = series
    for step in series.moving or [int(values.step[-1])]:
        yield Row(name, step, place, axis, fixed, _slope(values.sel(step=step), axis, margin), "inconclusive")


def _zeros(series: _Series) -> Iterator[Zero]:
    moving = series.moving
    if len(moving) < series.values.sizes["step"]:
        yield Zero(series.quantity, series.place, series.axis, series.fixed, moving[0] if moving else None)


def _slope(values: xr.DataArray, axis: str, margin: float) -> Finding:
    """The slope of one quantity after one step; where all seeds agree on it exactly, it is known as well as rounding.

    So it is where branches start at zero, and the stream of every model is its input.
    """
    found = paired_exponent(
        "", values[axis].values.tolist(), values.transpose("seed", axis).values, predicted=0.0, margin=margin
    )
    if not found.stderr < _ROUNDING:
        return found
    return equivalence(found.label, found.value, _ROUNDING, predicted=0.0, margin=margin, samples=found.samples)


def _reach(finding: Finding) -> float:
    return abs(finding.value) if math.isfinite(finding.value) else -1.0
