"""Growth exponents: slopes of log value against log size, with intervals that notice when points are not straight."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from residual_theory.errors import InputError
from residual_theory.statistics.findings import Finding, equivalence, within

FEWEST_SIZES = 5
MISFIT = 0.05  # residuals with a χ² less probable than that are not explained by the standard errors


class Points(NamedTuple):
    """Log sizes, log values and the standard errors of these (point)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    error: NDArray[np.float64]


class Slope(NamedTuple):
    """An exponent, its standard error, and the degrees of freedom of that."""

    value: float
    stderr: float
    degrees: float


def growth_exponent(
    label: str, sizes: Sequence[float], values: ArrayLike, stderrs: ArrayLike, *, predicted: float, margin: float
) -> Finding:
    """Does a positive quantity grow as size^p with p = predicted ± margin, at every size of the range?

    The local exponent is d log value / d log size. The slope of the weighted straight line is a mean of local exponents
    with positive weights: where it surely lies outside the margin, so does some local exponent, and the law is refuted.
    It is confirmed only if the line *and* both ends of a weighted parabola surely lie within the margin
    (intersection–union; the local exponent is taken as linear in log size). So curved data, such as 1 − 1/N with local
    exponents 1/(N − 1), pass for a power law only if the margin holds all their local exponents: let it hold what the
    power law leaves out at the sizes tried. Where an end lies beyond it the label says so.

    Weights are 1/s², s = stderr/value being the standard error of log value; s has to be small (the logarithm is biased
    by −s²/2). The interval is the parametric bootstrap's for normal log values with these s, in closed form, with
    degrees = ∞. Where the residuals' χ² exceeds its 95 % point, s does not explain them; then the standard error is
    HC3's if that is larger, with points − terms degrees of freedom. Slope and residuals of normal errors are
    independent, so that this choice costs no coverage if s is right; of s half as large as it should be, 5 points
    often show nothing.

    Arguments:
      sizes: positive, at least 5 distinct ones. values, stderrs: one for each, of independent samples.
    Returns: a Finding on the line's slope; samples is the number of points. A value or standard error that is not
      positive and finite decides nothing.
    Raises: InputError for fewer distinct sizes, sizes that are not positive, or lengths that differ.
    Source: MacKinnon & White, J. Econometrics 29 (1985), for HC3.

    >>> sizes = (4, 8, 16, 32, 64)
    >>> found = growth_exponent("R", sizes, [3 * n**0.5 for n in sizes], [0.01] * 5, predicted=0.5, margin=0.05)
    >>> round(found.value, 9), found.degrees, found.confirm_p < 1e-9
    (0.5, inf, True)
    """
    points = _points(sizes, values, stderrs)
    ends = [_slope(points, degree=2, at=float(at)) for at in (points.x.min(), points.x.max())]
    if max(abs(end.value - predicted) for end in ends) > margin:
        label += f" (local exponents {ends[0].value:.3g} at {min(sizes):g}, {ends[1].value:.3g} at {max(sizes):g})"
    found, *others = (
        equivalence(
            label, slope.value, slope.stderr,
            predicted=predicted, margin=margin, samples=len(points.x), degrees=slope.degrees,
        )
        for slope in (_slope(points), *ends)
    )  # fmt: skip
    return replace(found, confirm_p=max(item.confirm_p for item in (found, *others)))


def bounded(
    label: str,
    sizes: Sequence[float],
    values: ArrayLike,
    stderrs: ArrayLike,
    samples: int | None = None,
    *,
    margin: float,
) -> Finding:
    """Does growth come to an end? The exponent over the larger half of the sizes lies below a small margin.

    The exponent is a weighted slope, so a mean of local exponents with positive weights, however curved the data; its
    standard error is that of the given ones, and it is on their being right that the interval rests.
    No finite range can tell a bound from growth slower than size^margin, such as a logarithm's where 1/log size is
    below it; a bounded quantity still on its way, as 1 − 1/N, needs sizes at which what is left is below the margin.

    Arguments, raises: as `growth_exponent`; the exponent is the slope over the larger half of the distinct sizes, three
      at least. samples: the fewest that a value is a mean of, so that its standard error has samples − 1 degrees of
      freedom, which the interval then has; without, standard errors count as exact. margin: the largest exponent that
      still counts as bounded.
    Returns: a one-sided Finding on that exponent: confirmed is bounded, refuted is not.

    >>> sizes = (8, 16, 32, 64, 128, 256)
    >>> bounded("R", sizes, [2 - 2 / n for n in sizes], [1e-3] * 6, margin=0.05).confirm_p < 1e-9
    True
    """
    return _side(label, _points(sizes, values, stderrs), samples, high=margin)


def unbounded(
    label: str,
    sizes: Sequence[float],
    values: ArrayLike,
    stderrs: ArrayLike,
    samples: int | None = None,
    *,
    margin: float,
) -> Finding:
    """Does growth go on? The exponent over the larger half of the sizes lies above a small margin: see `bounded`.

    >>> sizes = (8, 16, 32, 64, 128)
    >>> unbounded("R", sizes, [n**0.2 for n in sizes], [1e-3] * 5, margin=0.05).confirm_p < 1e-9
    True
    """
    return _side(label, _points(sizes, values, stderrs), samples, low=margin)


def paired_exponent(
    label: str, sizes: Sequence[float], values: ArrayLike, *, predicted: float, margin: float
) -> Finding:
    """Does a positive quantity grow as size^p with p = predicted ± margin, in runs whose seeds are paired across sizes?

    Straight lines in log size are fitted to each seed, through all sizes and through the larger half of them (three at
    least); errors are those over seeds (Student). Confirmed if both slopes surely lie within the margin, refuted if
    that of all sizes surely does not: growth that sets in late is not confirmed. `growth_exponent` asks as much of the
    smallest sizes, where a rule that is right for N → ∞ still leaves terms of order 1/N; here the smaller half's slope
    is only noted, in the label.

    Arguments: sizes: at least 5 distinct ones, rising. values: (seed, size), positive; others decide nothing.
    Returns: a Finding on the line's slope; samples is the number of seeds.
    Raises: InputError for fewer sizes, or values of another shape.

    >>> values = [[3 * n**0.5, 2 * n**0.51, 4 * n**0.49] for n in (4, 8, 16, 32, 64)]
    >>> found = paired_exponent("R", (4, 8, 16, 32, 64), np.transpose(values), predicted=0.5, margin=0.1)
    >>> round(found.value, 9), found.samples, found.confirm_p < 0.01
    (0.5, 3, True)
    """
    x, given = np.log(sizes), np.asarray(values, dtype=np.float64)
    if len(np.unique(x)) < FEWEST_SIZES or given.ndim != 2 or given.shape[1] != len(x):
        raise InputError("values", given.shape, f"must be (seed, size) with {FEWEST_SIZES} distinct sizes or more")
    y = np.log(np.where(np.isfinite(given) & (given > 0), given, np.nan))  # (seed, size)
    half = max(3, math.ceil(len(x) / 2))
    parts = (slice(None), slice(half), slice(-half, None))
    slopes = np.array([y[:, part] @ np.linalg.pinv(np.vander(x[part], 2))[0] for part in parts])  # (part, seed)
    count = slopes.shape[1]
    errors = slopes.std(1, ddof=1) / math.sqrt(count) if count > 1 else np.full(len(parts), math.nan)
    line, first, last = (
        equivalence(label, float(mean), float(error), predicted=predicted, margin=margin, samples=count)
        for mean, error in zip(slopes.mean(1), errors, strict=True)
    )
    ends = f"{first.value:.2f} to {sizes[half - 1]:g}, {last.value:.2f} from {sizes[-half]:g}"
    return replace(line, label=f"{label} ({ends})" if label else ends, confirm_p=max(line.confirm_p, last.confirm_p))


def _side(label: str, points: Points, samples: int | None, **bound: float) -> Finding:
    """On which side of a bound the exponent at the larger half of the sizes lies."""
    distinct = np.unique(points.x)
    largest = points.x >= distinct[-max(3, math.ceil(len(distinct) / 2))]
    slope, count = _slope(Points(*(array[largest] for array in points)), misfit=0.0), int(largest.sum())
    degrees = slope.degrees if samples is None else min(slope.degrees, samples - 1)
    what = f"exponent of {label} at the {count} largest sizes"
    return within(what, slope.value, slope.stderr, samples=samples or count, degrees=degrees, **bound)


def _points(sizes: Sequence[float], values: ArrayLike, stderrs: ArrayLike) -> Points:
    """The logarithms and their standard errors; NaN where a value or its standard error is not positive and finite."""
    size, value, stderr = (np.asarray(given, dtype=np.float64) for given in (sizes, values, stderrs))
    if size.ndim != 1 or not (np.isfinite(size) & (size > 0)).all() or len(np.unique(size)) < FEWEST_SIZES:
        raise InputError("sizes", sizes, f"an exponent needs {FEWEST_SIZES} distinct sizes, all positive")
    for name, array in (("values", value), ("stderrs", stderr)):
        if array.shape != size.shape:
            raise InputError(name, array.tolist(), f"give one for each of the {len(size)} sizes")
    usable = np.isfinite(value) & np.isfinite(stderr) & (value > 0) & (stderr > 0)
    value, stderr = np.where(usable, value, np.nan), np.where(usable, stderr, np.nan)
    return Points(np.log(size), np.log(value), stderr / value)


def _slope(points: Points, degree: int = 1, at: float = 0.0, misfit: float = MISFIT) -> Slope:
    """The derivative at log size `at` of the weighted polynomial through the points.

    The standard error is HC3's if that is larger and the residuals are less probable than `misfit`.
    """
    degrees = len(points.x) - degree - 1
    if not np.isfinite(points.y).all():
        return Slope(math.nan, math.nan, degrees)
    design = np.vander(points.x - at, degree + 1, increasing=True) / points.error[:, None]  # (point, term), whitened
    inverse = np.linalg.pinv(design)
    observed = points.y / points.error
    residuals = observed - design @ (inverse @ observed)
    row = inverse[1]
    value, stderr = float(row @ observed), float(np.linalg.norm(row))
    if residuals @ residuals <= special.chdtri(degrees, misfit):
        return Slope(value, stderr, math.inf)
    spare = np.maximum(1 - np.einsum("pt,tp->p", design, inverse), np.finfo(np.float64).eps)  # 1 − leverage
    return Slope(value, max(stderr, float(np.linalg.norm(row * residuals / spare))), degrees)
