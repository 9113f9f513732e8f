"""How the best learning rate moves with a model's size: exponents with a statistical and a systematic error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.statistics.optima import CENTRAL, FITS, jackknife, minimum


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
        """Such as −0.51 ± 0.05 (seeds) ± 0.22 (fit)."""
        return f"{self.value:.2f} ± {self.stderr:.2f} (seeds) ± {self.systematic:.2f} (fit)".replace("-", "−")


@dataclass(frozen=True)
class Movement:
    """How the best rate moves over some sizes.

    Attributes: over_all: the exponent of the least-squares line through all sizes. local: those between neighbouring
      sizes; where they differ, the rate moves by no power law. by_fit: the exponent over all sizes by each of
      `residual_theory.statistics.optima.FITS`. optima: log best rates (size,) by the same. seeds: how many.
    """

    over_all: Exponent
    local: tuple[Exponent, ...]
    by_fit: Mapping[str, float]
    optima: Mapping[str, Array]
    seeds: int


def movement(rates: Sequence[float], curves: Mapping[int, Array]) -> Movement:
    """Exponents of the best rate in size, of the optima that `optima.minimum` finds in the mean losses.

    The value is by the cubic within ±2 octaves of the least mean loss. Its statistical error is the jackknife's over
    seeds, which are paired across rates and sizes. Its systematic error is the largest difference to a parabola within
    ±1 and within ±2 octaves and to a spline through all rates: a bound that was tested on curves like the measured ones
    and not proved (`residual_theory.calibration.rates`).

    Arguments: rates: rising. curves: losses (rate, seed) by size, the same seeds at every size; not finite where a run
      diverged. A rate is used only if every seed survived it.
    Returns: exponents, NaN where the grid does not place an optimum, or not without each one of the seeds.
    Raises: InputError for fewer than two sizes and shapes that do not agree.

    >>> rates = np.geomspace(1e-3, 16e-3, 9)
    >>> bowls = {n: 3 + (np.log(rates / 4e-3 * n**0.25)[:, None] + [0.0, 0.01, -0.01]) ** 2 for n in (1, 2, 4)}
    >>> str(movement(rates, bowls).over_all)
    '−0.25 ± 0.00 (seeds) ± 0.00 (fit)'
    """
    x, sizes = np.log(np.asarray(rates, dtype=np.float64)), np.log(list(curves))
    if len(sizes) < 2:
        raise InputError("curves", list(curves), "an exponent needs two sizes")
    seeds = _seeds(x, curves)
    weights = (sizes - sizes.mean()) / ((sizes - sizes.mean()) ** 2).sum()
    steps = np.diff(np.eye(len(sizes)), axis=0) / np.diff(sizes)[:, None]
    contrasts = np.concatenate([weights[None], steps])  # (exponent, size)
    optima = {fit: _optima(x, curves, fit) for fit in FITS}
    found = {fit: contrasts @ places for fit, places in optima.items()}
    value = found[CENTRAL]
    without = [contrasts @ _optima(x, curves, CENTRAL, leave_out=seed) for seed in range(seeds)]
    errors = jackknife(without)
    spread = np.max([np.abs(other - value) for other in found.values()], axis=0)
    over_all, *local = (Exponent(*map(float, of)) for of in zip(value, errors, spread, strict=True))
    return Movement(over_all, tuple(local), {fit: float(of[0]) for fit, of in found.items()}, optima, seeds)


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
