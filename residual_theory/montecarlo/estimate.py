"""Running means and standard errors, and extrapolation to infinite width."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from residual_theory.errors import InputError
from residual_theory.observables import DIMENSIONS, dataset

Array = NDArray[np.float64]


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of arrays, merged by Chan's update (never a sum of squares)."""

    count: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(()))
    deviations: Array = field(default_factory=lambda: np.zeros(()))

    def merge(self, count: int, mean: Array, deviations: Array) -> None:
        """Take in the moments of `count` further samples."""
        total = self.count + count
        with np.errstate(invalid="ignore", over="ignore"):  # inf − inf: an overflowing stack stays visible as NaN
            shift = mean - self.mean
            self.deviations = self.deviations + deviations + shift**2 * (self.count * count / total)
            self.mean = self.mean + shift * (count / total)
        self.count = total

    def add(self, samples: Array) -> None:
        """Take in samples (sample, ...)."""
        with np.errstate(invalid="ignore", over="ignore"):
            mean = samples.mean(axis=0)
            self.merge(len(samples), mean, ((samples - mean) ** 2).sum(axis=0))

    @property
    def stderr(self) -> Array:
        """Standard error of the mean; NaN with fewer than two samples."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.sqrt(self.deviations / (self.count - 1) / self.count))


def pool(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """The Dataset that the samples of all parts together would have given; each part needs two samples or more."""
    if len(parts) == 1:
        return parts[0]
    names = [name for name in DIMENSIONS if name in parts[0]]
    pooled = {name: Moments() for name in names}
    for part in parts:
        count = int(part.samples)
        for name, moments in pooled.items():
            variance = part[f"{name}_stderr"].values ** 2 * count
            moments.merge(count, part[name].values, variance * (count - 1))
    nonfinite = [part.attrs["first_nonfinite_visit"] for part in parts if "first_nonfinite_visit" in part.attrs]
    return dataset(
        {name: moments.mean for name, moments in pooled.items()},
        stderr={name: moments.stderr for name, moments in pooled.items()},
        samples=sum(int(part.samples) for part in parts),
        attrs=parts[0].attrs | ({"first_nonfinite_visit": min(nonfinite)} if nonfinite else {}),
    )


def extrapolate(widths: Sequence[int], means: ArrayLike, stderrs: ArrayLike) -> tuple[float, float]:
    """The d → ∞ value of means that obey value + b/d + c/d², and its standard error.

    Weighted least squares with the given standard errors; the 1/d² term enters from five widths on, below that
    the fit is a straight line in 1/d; there are never more terms than distinct widths.

    Raises: InputError naming the argument: no width or one that is not positive, unequal lengths, means that are not
      finite, standard errors that are not positive and finite.

    >>> value, _ = extrapolate([10, 20, 40], [1.3, 1.15, 1.075], [0.1, 0.1, 0.1])
    >>> round(value, 12)
    1.0
    """
    inverse, values, errors = _points(widths, means, stderrs)
    terms = 3 if len(inverse) >= 5 else 2
    design = np.vander(inverse, min(terms, len(np.unique(inverse))), increasing=True)
    return _first_coefficient(design, values, errors)


def width_bias(widths: Sequence[int], means: ArrayLike, stderrs: ArrayLike, limit: float) -> tuple[float, float]:
    """The coefficient b of means that obey limit + b/d + c/d², the limit being known, and its standard error.

    Weighted least squares with the given standard errors; the 1/d² term enters from three distinct widths on.

    Raises: InputError as `extrapolate`, and for a limit that is not finite.

    >>> bias, _ = width_bias([10, 20, 40], [1.31, 1.1525, 1.075625], [0.1, 0.1, 0.1], limit=1.0)  # 1 + 3/d + 1/d²
    >>> round(bias, 12)
    3.0
    """
    inverse, values, errors = _points(widths, means, stderrs)
    known = _floats("limit", limit, dimensions=0)
    design = np.stack([inverse, inverse**2][: 2 if len(np.unique(inverse)) >= 3 else 1], axis=1)
    return _first_coefficient(design, values - known, errors)


def _points(widths: Sequence[int], means: ArrayLike, stderrs: ArrayLike) -> tuple[Array, Array, Array]:
    """1/d, the means and their standard errors, once they are known to be usable."""
    sizes, values, errors = _floats("widths", widths), _floats("means", means), _floats("stderrs", stderrs)
    if sizes.size == 0 or (sizes <= 0).any():
        raise InputError("widths", widths, "give at least one width, and positive ones only")
    for name, given, array in (("means", means, values), ("stderrs", stderrs, errors)):
        if len(array) != len(sizes):
            raise InputError(name, given, f"give one for each of the {len(sizes)} widths")
    if (errors <= 0).any():
        raise InputError("stderrs", stderrs, "standard errors must be positive; draw more samples")
    return 1.0 / sizes, values, errors


def _floats(name: str, given: ArrayLike, dimensions: int = 1) -> Array:
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.array(np.nan)
    if array.ndim != dimensions or not np.isfinite(array).all():
        raise InputError(name, given, f"must be {'a sequence of finite numbers' if dimensions else 'a finite number'}")
    return array


def _first_coefficient(design: Array, means: Array, errors: Array) -> tuple[float, float]:
    weighted = design / errors[:, None]
    covariance = np.linalg.inv(weighted.T @ weighted)
    value = covariance[0] @ weighted.T @ (means / errors)
    return float(value), float(np.sqrt(covariance[0, 0]))
