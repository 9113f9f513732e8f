"""How often intervals of best-rate exponents hold the truth, on curves like the measured ones whose optima are known.

A curve falls exponentially in log rate, as in training that is too slow, and rises like a sigmoid, as in training that
fails: skewed, steep on one side or bending back on the other, and no parabola, cubic or spline. Each seed adds a
constant to all its losses and shifts each of its curves; each run adds noise that grows with the rate.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from residual_theory.arrays import Array
from residual_theory.calibration.calibrate import CONFIDENCE, LEVEL, Rate
from residual_theory.claims.claim import seed_for
from residual_theory.claims.session import Progress
from residual_theory.errors import InputError
from residual_theory.parallel import each
from residual_theory.statistics.findings import holm
from residual_theory.statistics.optima import OCTAVE
from residual_theory.sweeps.movement import Exponent, movement

SIZES = (1, 2, 4, 8)
UNIT = 4e-3  # the rate at which x = log(η/4e-3) is 0
OF_SEED, SHIFT = 0.02, 0.1  # standard deviations: of a seed's constant, nats; of its shift of a curve, in log rate
OF_RUN, RISING, MOST_RISEN = 0.015, 0.8, 5.0  # of a run at the optimum, nats; times e^(0.8 x) to its right, 5 at most
PARABOLA = "parabola, ±2 octaves"  # on octaves, what exponents were fitted by before they had a systematic error
_BLOCK = 25  # runs that a process makes at a time


class Curve(NamedTuple):
    """floor + height e^(−fall x) + rise / (1 + e^(−(x − middle)/width)), losses in nats against x = log(η/4e-3)."""

    floor: float
    height: float
    fall: float
    rise: float
    middle: float
    width: float

    def __call__(self, x: Array) -> Array:
        """The loss."""
        found: Array = self.floor + self.height * np.exp(-self.fall * x) + self.rise * self._risen(x)
        return found

    def slope(self, x: Array) -> Array:
        """Its derivative."""
        risen = self._risen(x)
        falls = self.fall * self.height * np.exp(-self.fall * x)
        return np.asarray(self.rise / self.width * risen * (1 - risen) - falls)

    def _risen(self, x: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-(x - self.middle) / self.width)))

    @property
    def best(self) -> float:
        """Where the loss is least, to rounding."""
        grid = np.linspace(-4.0, 4.0, 801)
        least = int(np.argmin(self(grid)))
        return float(brentq(lambda x: float(self.slope(x)), grid[least - 1], grid[least + 1], xtol=1e-12))


_LOOPED = Curve(2.078, 0.099, 0.798, 0.434, 1.280, 0.640)  # N = 1, where the rules coincide
_LAYERED = Curve(2.100, 0.082, 0.897, 0.624, 1.714, 0.727)  # L = 1
WORLDS: dict[
    str, tuple[Curve, ...]
] = {  # at sizes 1, 2, 4, 8: through the means of docs/*-transfer.csv, by least squares
    "ε = 1/N": (
        _LOOPED,
        Curve(1.958, 0.157, 0.661, 0.707, 1.295, 0.534),
        Curve(1.967, 0.150, 0.675, 0.801, 1.693, 0.589),
        Curve(1.920, 0.187, 0.604, 0.429, 1.011, 0.556),
    ),
    "ε = 1/√N": (
        _LOOPED,
        Curve(1.932, 0.186, 0.618, 0.557, 0.746, 0.559),
        Curve(2.018, 0.149, 0.675, 0.529, 0.500, 0.480),
        Curve(2.009, 0.179, 0.613, 0.565, 0.153, 0.426),
    ),
    "ε = 1": (
        _LOOPED,
        Curve(2.083, 0.112, 0.772, 0.547, 1.066, 0.674),
        Curve(2.176, 0.101, 0.785, 0.387, 0.051, 0.626),
        Curve(2.262, 0.079, 0.845, 0.414, -0.629, 0.643),
    ),
    "ε = 1, norms between loops": (
        _LOOPED,
        Curve(2.021, 0.145, 0.677, 0.712, 1.054, 0.506),
        Curve(1.933, 0.224, 0.556, 1.163, 0.481, 0.426),
        Curve(1.456, 0.236, 0.718, 1.615, -1.022, 0.595),
    ),
    "ε = 1/√L, rate η/√L in blocks": (
        _LAYERED,
        Curve(1.856, 0.273, 0.462, 0.632, 1.443, 0.490),
        Curve(1.763, 0.378, 0.362, 0.844, 2.180, 0.550),
        Curve(1.967, 0.219, 0.512, 3.000, 3.327, 0.409),
    ),
    "ε = 1/√L, rate η": (
        _LAYERED,
        Curve(1.917, 0.174, 0.629, 0.718, 1.222, 0.554),
        Curve(1.919, 0.163, 0.636, 0.728, 1.342, 0.463),
        Curve(1.968, 0.139, 0.644, 0.723, 1.521, 0.399),
    ),
    "ε = 1/L, rate η": (
        _LAYERED,
        Curve(1.931, 0.160, 0.632, 0.670, 1.437, 0.411),
        Curve(1.907, 0.168, 0.603, 0.706, 1.938, 0.537),
        Curve(1.881, 0.178, 0.586, 0.530, 1.806, 0.688),
    ),
}


def truth(curves: Sequence[Curve]) -> float:
    """The exponent over all sizes: of the least-squares line through the true optima."""
    sizes = np.log(SIZES) - np.log(SIZES).mean()
    return float(sizes @ [curve.best for curve in curves] / (sizes @ sizes))


@dataclass(frozen=True)
class Grid:
    """Rates from 0.25e-3 to 32e-3, `step` octaves apart, and how many seeds."""

    step: float
    seeds: int

    def sample(self, curves: Sequence[Curve], random: np.random.Generator) -> tuple[Array, dict[int, Array]]:
        """Rates, shifted at random by up to half a step, and losses (rate, seed) by size."""
        x = OCTAVE * (np.arange(-4, 3 + self.step / 2, self.step) + random.uniform(-0.5, 0.5) * self.step)
        constant = random.normal(0, OF_SEED, self.seeds)
        losses = {}
        for size, curve in zip(SIZES, curves, strict=True):
            places = x[:, None] - random.normal(0, SHIFT, self.seeds)  # (rate, seed)
            risen = np.clip(np.exp(RISING * (x - curve.best)), 1.0, MOST_RISEN)[:, None]
            losses[size] = curve(places) + constant + OF_RUN * risen * random.standard_normal(places.shape)
        return UNIT * np.exp(x), losses


GRIDS = {
    "octaves, 10 seeds": Grid(1.0, 10),
    "half octaves, 8 seeds": Grid(0.5, 8),
    "half octaves, 5 seeds": Grid(0.5, 5),
}


@dataclass(frozen=True)
class Coverage:
    """Of one world and grid: how often 95 % intervals of the exponent miss the truth, of which at most 5 % are due.

    missed: with the systematic error. alone: without it. parabola: of parabolas within ±2 octaves, without it.
    undecided: runs that place some optimum nowhere, which do not count. bias: of the mean value. reach: mean half-width
    with the systematic error, reach_alone: without.
    """

    world: str
    grid: str
    truth: float
    bias: float
    undecided: int
    missed: Rate
    alone: Rate
    parabola: Rate
    reach: float
    reach_alone: float


@dataclass(frozen=True)
class Coverages:
    """All worlds and grids."""

    points: tuple[Coverage, ...]

    def off(self, which: str = "missed") -> list[Coverage]:
        """Where intervals miss more often than they may, Holm over all at 5 %; `which` is a rate of Coverage."""
        rates: list[Rate] = [getattr(point, which) for point in self.points]
        rejected = holm([1.0 if rate.p_value is None else rate.p_value for rate in rates], LEVEL)
        return [point for point, reject in zip(self.points, rejected, strict=True) if reject]

    def rows(self) -> list[dict[str, str]]:
        """One row a world and grid, in words; misses in % of the runs that decide."""
        found = []
        for point in self.points:
            shares = {name: f"{100 * getattr(point, name).value:.1f}" for name in ("missed", "alone", "parabola")}
            runs = point.missed.runs + point.undecided
            numbers = {"true": point.truth, "bias": point.bias, "±": point.reach, "± alone": point.reach_alone}
            shown = {name: f"{value:.3f}".replace("-", "−") for name, value in numbers.items()}
            counts = {"runs": str(runs), "undecided": str(point.undecided)}
            found.append({"losses like those of": point.world, "rates": point.grid, **shown, **shares, **counts})
        return found

    def csv(self) -> str:
        """The rows as CSV."""
        text = io.StringIO()
        rows = self.rows()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def measure(
    runs: int,
    *,
    seed: int = 0,
    worlds: Sequence[str] = tuple(WORLDS),
    grids: Sequence[str] = tuple(GRIDS),
    jobs: int = 1,
    progress: Progress = lambda *_: None,
) -> Coverages:
    """How often the intervals of `movement` hold the true exponent, over `runs` draws of every world and grid.

    Raises: InputError for fewer than 2 runs.
    """
    if runs < 2:
        raise InputError("runs", runs, "must be at least 2")
    cells = [(world, grid) for world in worlds for grid in grids]
    blocks = [(*cell, range(at, min(at + _BLOCK, runs)), seed) for cell in cells for at in range(0, runs, _BLOCK)]
    found: dict[tuple[str, str], list[_Pair]] = {cell: [] for cell in cells}
    progress(0, len(blocks))
    try:
        for done, (world, grid, pairs) in enumerate(each(_draw, blocks, jobs), start=1):
            found[world, grid] += pairs
            progress(done, len(blocks))
    except BaseException:
        progress(0, 0)  # leaves the terminal as it was
        raise
    return Coverages(tuple(_coverage(*cell, pairs) for cell, pairs in found.items()))


class _Pair(NamedTuple):
    """The exponent as `movement` gives it, and by parabolas."""

    ours: Exponent
    parabola: Exponent


def _draw(block: tuple[str, str, range, int]) -> tuple[str, str, list[_Pair]]:
    world, grid, numbers, seed = block
    found = []
    for number in numbers:
        random = np.random.default_rng(seed_for(seed, f"{world}, {grid}, run {number}"))
        rates, losses = GRIDS[grid].sample(WORLDS[world], random)
        found.append(_Pair(movement(rates, losses).over_all, movement(rates, losses, fit=PARABOLA).over_all))
    return world, grid, found


def _coverage(world: str, grid: str, pairs: Sequence[_Pair]) -> Coverage:
    true = truth(WORLDS[world])
    fields = np.array(
        [[(one.value, one.stderr, one.systematic) for one in pair] for pair in pairs]
    )  # (run, fit, field)
    fields = fields[np.isfinite(fields).all((1, 2))]
    count = len(fields)
    if not count:
        raise InputError("runs", len(pairs), f"none of them placed every optimum of {world}; make more")
    value, stderr, systematic = np.moveaxis(fields, 2, 0)  # each (run, fit)
    reach = stderr * float(stats.t.ppf((1 + CONFIDENCE) / 2, GRIDS[grid].seeds - 1))
    off, most = np.abs(value - true), 1 - CONFIDENCE
    missed = [(off - reach - systematic)[:, 0], *(off - reach).T]
    bias, alone = float(value[:, 0].mean()) - true, float(reach[:, 0].mean())
    rates = [Rate(int((beyond > 0).sum()), count, most=most) for beyond in missed]
    mean = alone + float(systematic[:, 0].mean())
    return Coverage(world, grid, true, bias, len(pairs) - count, rates[0], rates[1], rates[2], mean, alone)
