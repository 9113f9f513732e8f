"""Where a curve that was tried at a few points has its minimum, by fits of several orders and windows.

No fit is right: curves of loss against log rate fall and rise at different speeds, and bend back where training fails.
How far the fits differ says how far that matters.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import make_lsq_spline

from residual_theory.arrays import Array
from residual_theory.errors import InputError

OCTAVE = math.log(2)
_CUBIC = 3


class Window(NamedTuple):
    """The points that a polynomial is fitted to: within so many octaves of the least, or so many on each side."""

    octaves: float
    points: int

    def around(self, x: Array, least: int) -> Array:
        """Which points, (point,) of bool."""
        near = np.abs(x - x[least]) <= self.octaves * OCTAVE * (1 + 1e-6)
        found: Array = near | (np.abs(np.arange(len(x)) - least) <= self.points)
        return found


NARROW, WIDE = Window(1, 1), Window(2, 2)


def _lowest(slope: Array, bend: Array, cube: Array) -> Array:
    """Where slope u + bend u² + cube u³ has its minimum; NaN where it has none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(bend**2 - 3 * slope * cube)  # half the second derivative there
        found: Array = np.where(bend >= 0, -slope / (bend + root), (root - bend) / (3 * cube))
    return np.where(root > 0, found, np.nan)


def _polynomial(order: int, window: Window) -> Callable[[Array, Array, int], float]:
    def minimum(x: Array, y: Array, least: int) -> float:
        kept = window.around(x, least)
        at = x[kept] - x[least]
        if len(at) <= order:
            return math.nan
        terms = np.zeros(_CUBIC + 1)
        terms[: order + 1] = np.linalg.lstsq(np.vander(at, order + 1, increasing=True), y[kept], rcond=None)[0]
        turn = float(_lowest(*terms[1:]))
        return float(x[least]) + turn if at[0] <= turn <= at[-1] else math.nan

    return minimum


def _spline(x: Array, y: Array, _: int) -> float:
    inner = np.arange(x[0] + 2 * OCTAVE, x[-1] - 2 * OCTAVE * (1 - 1e-6), OCTAVE)
    if len(x) <= _CUBIC + len(inner):
        return math.nan
    breaks = np.array([x[0], *inner, x[-1]])
    try:
        spline = make_lsq_spline(x, y, np.pad(breaks, _CUBIC, mode="edge"), _CUBIC)
    except (ValueError, np.linalg.LinAlgError):  # a gap between points is wider than the knots allow
        return math.nan
    left = breaks[:-1]
    turns = left + _lowest(*(spline(left, order) / math.factorial(order) for order in (1, 2, 3)))
    turns = turns[(turns >= left) & (turns <= breaks[1:])]
    return float(turns[np.argmin(spline(turns))]) if turns.size else math.nan


CENTRAL = "cubic, ±2 octaves"  # the least biased on curves like the measured ones (docs/rate-coverage.csv)
FITS: dict[str, Callable[[Array, Array, int], float]] = {
    CENTRAL: _polynomial(3, WIDE),
    "parabola, ±1 octave": _polynomial(2, NARROW),
    "parabola, ±2 octaves": _polynomial(2, WIDE),
    "spline, knots an octave apart": _spline,
}
FEWEST_POINTS = 4  # three lie on a parabola, whatever the curve is, and so say nothing of the misfit


def minimum(x: ArrayLike, y: ArrayLike, fit: str = CENTRAL) -> float:
    """The place of the least value of a curve, by one of FITS.

    Polynomials are fitted within ±1 or ±2 octaves of the least point (a ratio of 2 or 4 in e^x), and to one or two
    points at least on each side of it; the spline, of least squares, to all points.

    Arguments: x: (point,), rising, such as log rates. y: (point,), finite. fit: a name of FITS.
    Returns: x of the minimum. NaN for fewer than four points, where the least is the first or last, and where the fit
      does not turn within its window.
    Raises: InputError for a name that is no fit, and arrays of other shapes.

    >>> x = np.log([1e-3, 2e-3, 4e-3, 8e-3, 16e-3])
    >>> [round(math.exp(minimum(x, (x - math.log(3e-3)) ** 2, fit)), 9) for fit in FITS]
    [0.003, 0.003, 0.003, 0.003]
    """
    at, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if fit not in FITS:
        raise InputError("fit", fit, f"choose from {'; '.join(FITS)}")
    if at.ndim != 1 or values.shape != at.shape:
        raise InputError("y", values.shape, f"must be one for each x, {at.shape}")
    if len(at) < FEWEST_POINTS:
        return math.nan
    least = int(np.argmin(values))
    return math.nan if least in (0, len(at) - 1) else FITS[fit](at, values, least)


def jackknife(without: ArrayLike) -> Array:
    """The jackknife's standard error of an estimate: √((n − 1)/n Σ (θ_i − θ̄)²).

    Of a mean it is the usual standard error exactly; n times less under the root would be that of one left-out mean.

    Arguments: without: (sample, …), the estimate made without each of n independent samples.
    Returns: (…), NaN for one sample.
    Source: B. Efron & R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 11.

    >>> sample = np.array([1.0, 2.0, 4.0, 9.0])
    >>> left_out = (sample.sum() - sample) / 3
    >>> bool(np.isclose(jackknife(left_out), sample.std(ddof=1) / 2))
    True
    """
    estimates = np.asarray(without, dtype=np.float64)
    count = len(estimates)
    if count < 2:
        return np.full(estimates.shape[1:], math.nan)
    spread = ((estimates - estimates.mean(0)) ** 2).sum(0)
    return np.asarray(np.sqrt((count - 1) / count * spread))
