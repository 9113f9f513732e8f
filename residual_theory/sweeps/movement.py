"""How the best learning rate moves with a model's size: exponents with a statistical and a systematic error."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.statistics.optima import CENTRAL, FITS, jackknife, minimum

_PART = 0.1  # of a standard error, by which a mean is moved to see what that does


@dataclass(frozen=True)
class Exponent:
    """d log(best rate) / d log(size), over all sizes or between two.

    stderr: statistical, the jackknife's over seeds. systematic: how far other fits of the curves differ, at most; both
    NaN or infinite where an optimum is not placed.
    """

    value: float
    stderr: float
    systematic: float

    def __str__(self) -> str:
        """Such as −0.51 ± 0.05 ± 0.22, over seeds and between fits."""
        return f"{self.value:.2f} ± {self.stderr:.2f} ± {self.systematic:.2f}".replace("-", "−")


@dataclass(frozen=True)
class Movement:
    """How the best rate moves over some sizes.

    Attributes: over_all: the exponent of the least-squares line through all sizes. local: those between neighbouring
      sizes; where they differ, the rate moves by no power law. by_fit: the exponent over all sizes by each of
      `residual_theory.statistics.optima.FITS`. optima: log best rates (size,) by the same. seeds: how many; 0
      where only means were kept.
    """

    over_all: Exponent
    local: tuple[Exponent, ...]
    by_fit: Mapping[str, float]
    optima: Mapping[str, Array]
    seeds: int


def movement(rates: ArrayLike, curves: Mapping[int, Array], *, fit: str = CENTRAL) -> Movement:
    """Exponents of the best rate in size, of the optima that `optima.minimum` finds in the mean losses.

    The value is by the cubic within ±2 octaves of the least mean loss. Its statistical error is the jackknife's over
    seeds, which are paired across rates and sizes. Its systematic error is the largest difference to a parabola within
    ±1 and within ±2 octaves and to a spline through all rates: a bound that was tested on curves like the measured ones
    and not proved (`residual_theory.calibration.rates`).

    Arguments: rates: rising. curves: losses (rate, seed) by size, the same seeds at every size; not finite where a run
      diverged. A rate is used only if every seed survived it. fit: the one of FITS that gives the values.
    Returns: exponents, NaN where the grid does not place an optimum, or not without each one of the seeds.
    Raises: InputError for fewer than two sizes and shapes that do not agree.

    >>> rates = np.geomspace(1e-3, 16e-3, 9)
    >>> bowls = {n: 3 + (np.log(rates / 4e-3 * n**0.25)[:, None] + [0.0, 0.01, -0.01]) ** 2 for n in (1, 2, 4)}
    >>> str(movement(rates, bowls).over_all)
    '−0.25 ± 0.00 ± 0.00'
    """
    sizes, x = _log_sizes(curves), np.log(np.asarray(rates, dtype=np.float64))
    seeds = _seeds(x, curves)
    optima = {name: _optima(x, curves, name) for name in FITS}
    left_out = range(seeds) if seeds > 1 else (None,)  # of one seed nothing is known
    without = [_exponents(sizes, _optima(x, curves, fit, leave_out=seed)) for seed in left_out]
    return _movement(sizes, optima, fit, jackknife(without), seeds)


def movement_of_means(rates: ArrayLike, means: Mapping[int, Array], errors: Mapping[int, Array]) -> Movement:
    """As `movement`, where only means over seeds and their standard errors were kept.

    The statistical error supposes that means err independently; of seeds that are paired across rates it is as a rule
    too large, since what a seed adds to all its losses moves no optimum. It is that of small errors: each mean is moved
    by a tenth of its standard error.

    Arguments: means, errors: (rate,) by size, in nats; a rate is used only if both are finite.
    Returns: as `movement`; seeds is 0. Raises: as `movement`.

    >>> rates = np.geomspace(1e-3, 16e-3, 9)
    >>> bowls = {n: 3 + np.log(rates / 4e-3 * n**0.25) ** 2 for n in (1, 2, 4)}
    >>> str(movement_of_means(rates, bowls, {n: np.full(9, 0.02) for n in bowls}).over_all)
    '−0.25 ± 0.01 ± 0.00'
    """
    sizes, x = _log_sizes(means), np.log(np.asarray(rates, dtype=np.float64))
    curves = {size: np.where(np.isfinite(errors[size]), mean, np.nan)[:, None] for size, mean in means.items()}
    _seeds(x, curves)
    optima = {fit: _optima(x, curves, fit) for fit in FITS}
    changes = []
    for size, curve in curves.items():
        for place in np.flatnonzero(np.isfinite(curve[:, 0])):
            moved = curve.copy()
            moved[place] += _PART * errors[size][place]
            change = _optima(x, {size: moved}, CENTRAL)[0] - optima[CENTRAL][list(curves).index(size)]
            changes.append(_exponents(sizes, change / _PART * (np.array(list(curves)) == size)))
    return _movement(sizes, optima, CENTRAL, np.sqrt((np.array(changes) ** 2).sum(0)), 0)


def _log_sizes(curves: Mapping[int, Array]) -> Array:
    """Raises: InputError for fewer than two sizes."""
    if len(curves) < 2:
        raise InputError("curves", list(curves), "an exponent needs two sizes")
    return np.log(list(curves))


def _exponents(sizes: Array, optima: Array) -> Array:
    """Over all log sizes, then between neighbours, of log optima (size,)."""
    centred = sizes - sizes.mean()
    return np.concatenate([[centred @ optima / (centred @ centred)], np.diff(optima) / np.diff(sizes)])


def _movement(sizes: Array, optima: Mapping[str, Array], fit: str, errors: Array, seeds: int) -> Movement:
    found = {name: _exponents(sizes, places) for name, places in optima.items()}
    spread = np.max([np.abs(other - found[fit]) for other in found.values()], axis=0)
    over_all, *local = (Exponent(*map(float, of)) for of in zip(found[fit], errors, spread, strict=True))
    return Movement(over_all, tuple(local), {name: float(of[0]) for name, of in found.items()}, optima, seeds)


def _seeds(x: Array, curves: Mapping[int, Array]) -> int:
    """How many. Raises: InputError unless all curves have as many rates as there are, and equally many seeds."""
    shapes = {np.shape(curve) for curve in curves.values()}
    if len(shapes) != 1 or any(len(shape) != 2 or shape[0] != len(x) for shape in shapes):
        raise InputError("curves", sorted(shapes), f"must be (rate, seed) with {len(x)} rates and the same seeds")
    return int(shapes.pop()[1])


def _optima(x: Array, curves: Mapping[int, Array], fit: str, leave_out: int | None = None) -> Array:
    """The best log rate at each size, (size,)."""
    found = []
    for curve in curves.values():
        kept = curve if leave_out is None else np.delete(curve, leave_out, axis=1)
        usable = np.isfinite(kept).all(1)
        found.append(minimum(x[usable], kept[usable].mean(1), fit))
    return np.array(found)
