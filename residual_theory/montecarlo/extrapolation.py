"""Extrapolation of simulations at several widths to infinite width."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.montecarlo.estimate import earliest_nonfinite
from residual_theory.observables import DIMENSIONS, dataset


def at_infinite_width(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Every observable at d → ∞, from simulations at several widths: the fit of `extrapolate`, element by element.

    An element that is the same at all widths, without error, stays so; one that is not finite in some part is NaN.

    Arguments: parts: Datasets of simulate, of the same observables and shapes, with their "width" in attrs.
    Returns: a Dataset like the parts; samples are those of all. attrs: what the parts share, "widths" (JSON), the
      smallest first_nonfinite_visit of any part, and heavy_tailed if any part is.
    Raises: InputError: for "width", fewer than two distinct ones; for "parts", observables or shapes that differ.

    >>> part = {d: dataset({"tangent_kernel": np.array(1.5 + 3 / d)}, stderr={"tangent_kernel": np.array(0.1)},
    ...                    samples=7, attrs={"width": d, "seed": 2}) for d in (10, 20, 40)}
    >>> limit = at_infinite_width(list(part.values()))
    >>> round(float(limit.tangent_kernel), 12), int(limit.samples), limit.attrs
    (1.5, 21, {'seed': 2, 'widths': '[10, 20, 40]'})
    """
    widths = [int(part.attrs.get("width", 0)) for part in parts]
    if len(set(widths)) < 2 or min(widths) < 1:
        raise InputError("width", widths, "give simulations of at least two widths")
    names = [name for name in DIMENSIONS if f"{name}_stderr" in parts[0]]
    if not names or any(set(part) != set(parts[0]) or part.sizes != parts[0].sizes for part in parts):
        raise InputError("parts", widths, "give simulations of the same observables and stack at every width")
    design = _terms(1.0 / np.array(widths))
    fits = {
        name: _limits(design, *(np.stack([part[key].values for part in parts], -1) for key in (name, f"{name}_stderr")))
        for name in names
    }
    shared = {
        key: value
        for key, value in parts[0].attrs.items()
        if all(key in part.attrs and np.array_equal(part.attrs[key], value) for part in parts)
    }
    heavy: dict[str, Any] = {"heavy_tailed": 1} if any(part.attrs.get("heavy_tailed") for part in parts) else {}
    for part in parts:
        if "fallback" in part.attrs:
            heavy["fallback"] = part.attrs["fallback"]
    return dataset(
        {name: value for name, (value, _) in fits.items()},
        stderr={name: error for name, (_, error) in fits.items()},
        samples=sum(int(part.samples) for part in parts),
        attrs=shared | {"widths": json.dumps(widths)} | heavy | earliest_nonfinite(parts),
    )


def _limits(design: Array, means: Array, errors: Array) -> tuple[Array, Array]:
    """Limits (...) and their standard errors (...) from those (..., part) at the widths of the design (part, term)."""
    exact = (errors == 0).all(axis=-1) & (means == means[..., :1]).all(axis=-1)
    usable = np.isfinite(means).all(axis=-1) & np.isfinite(errors).all(axis=-1) & ~exact
    value, error = np.where(exact, means[..., 0], np.nan), np.where(exact, 0.0, np.nan)
    rounding = np.finfo(np.float64).eps * np.abs(means[usable]).max(axis=-1, keepdims=True)
    value[usable], error[usable] = _first_coefficient(design, means[usable], np.maximum(errors[usable], rounding))
    return value, error


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
    value, error = _first_coefficient(_terms(inverse), values, errors)
    return float(value), float(error)


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
    bias, error = _first_coefficient(design, values - known, errors)
    return float(bias), float(error)


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


def _terms(inverse: Array) -> Array:
    """Columns 1, 1/d and, from five widths on, 1/d²: no more than there are distinct widths."""
    return np.vander(inverse, min(3 if len(inverse) >= 5 else 2, len(np.unique(inverse))), increasing=True)


def _first_coefficient(design: Array, means: Array, errors: Array) -> tuple[Array, Array]:
    """Weighted least squares of means (..., point) on the design (point, term): first coefficient, standard error."""
    unit = errors.max(axis=-1, keepdims=True)  # so that squares of small errors do not underflow
    relative = errors / unit
    weighted = design / relative[..., None]
    transposed = np.swapaxes(weighted, -1, -2)
    covariance = np.linalg.inv(transposed @ weighted)
    value = covariance[..., :1, :] @ transposed @ (means / relative)[..., None]
    return value[..., 0, 0], np.sqrt(covariance[..., 0, 0]) * unit[..., 0]
