"""Minima by several fits, and the jackknife, on curves and samples whose answers are known."""

import math

import numpy as np
import pytest

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.statistics.optima import CENTRAL, FITS, NARROW, OCTAVE, WIDE, jackknife, minimum

OCTAVES = np.linspace(-3 * OCTAVE, 3 * OCTAVE, 7)
HALVES = np.linspace(-3 * OCTAVE, 3 * OCTAVE, 13)


@pytest.mark.parametrize("x", [OCTAVES, HALVES], ids=["octaves", "half octaves"])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("place", [-0.3, 0.05, 0.4])
def test_a_parabolas_minimum_is_found_by_all(x: Array, fit: str, place: float) -> None:
    assert minimum(x, 2 + 0.3 * (x - place) ** 2, fit) == pytest.approx(place, abs=1e-9)


@pytest.mark.parametrize("cube", [-0.02, 0.02])
def test_a_cubics_minimum_is_found_by_cubics_and_splines_and_missed_by_parabolas(cube: float) -> None:
    curve = np.polynomial.Polynomial([2.0, 0.0, 0.2, cube])
    found = {fit: minimum(HALVES, curve(HALVES - 0.2), fit) - 0.2 for fit in FITS}
    assert found[CENTRAL] == pytest.approx(0.0, abs=1e-9)
    assert found["spline, knots an octave apart"] == pytest.approx(0.0, abs=1e-9)
    wide, narrow = found["parabola, ±2 octaves"], found["parabola, ±1 octave"]
    assert wide * cube < narrow * cube < 0  # steep on the right where cube > 0, so pulled to the left
    assert abs(wide) > 2 * abs(narrow) > 0.02


def test_windows_hold_octaves_and_never_fewer_points_than_fits_need() -> None:
    at = [int(window.around(HALVES, 6).sum()) for window in (NARROW, WIDE)]
    assert at == [5, 9]
    coarse = np.linspace(0, 16 * OCTAVE, 5)
    assert [int(window.around(coarse, 2).sum()) for window in (NARROW, WIDE)] == [3, 5]


def test_what_is_not_placed_is_nan() -> None:
    rising, shelf = np.arange(7.0), np.array([2.201, 2.2, 2.5, 2.6, 2.61])
    assert all(math.isnan(minimum(OCTAVES, curve, fit)) for fit in FITS for curve in (rising, -rising))
    assert math.isnan(minimum(OCTAVES[:3], [1.0, 0.0, 1.0]))
    assert math.isnan(minimum(OCTAVES[:5], shelf, "parabola, ±2 octaves"))
    gap = np.array([0.0, 0.1, 0.2, 0.3, 7.0, 7.1])  # no point between the spline's knots
    assert math.isnan(minimum(gap, (gap - 0.2) ** 2, "spline, knots an octave apart"))


def test_the_jackknife_of_a_mean_is_its_standard_error_exactly() -> None:
    sample = np.random.default_rng(3).standard_normal((7, 2))
    left_out = (sample.sum(0) - sample) / 6
    assert jackknife(left_out) == pytest.approx(sample.std(0, ddof=1) / math.sqrt(7), rel=1e-12)
    assert np.isnan(jackknife(left_out[:1])).all()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: minimum(OCTAVES, OCTAVES**2, "quartic"), "fit"),
        (lambda: minimum(OCTAVES, OCTAVES[1:]), "y"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=rf"^{named} = "):
        call()
