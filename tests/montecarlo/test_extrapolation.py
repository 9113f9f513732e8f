"""Extrapolation to infinite width: exact curves, NumPy's fit, the spread of the estimates, and what is refused."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo.extrapolation import (
    at_infinite_width,
    extrapolate,
    width_bias,
)
from residual_theory.montecarlo.simulate import simulate
from residual_theory.observables import dataset
from residual_theory.stack import Stack
from residual_theory.theory.forward import predict

# Extrapolation

WIDTHS = [16, 24, 40, 64, 100, 160]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_line_in_the_inverse_width_is_found_exactly(count: int) -> None:
    widths = np.array(WIDTHS[:count])
    value, _ = extrapolate(WIDTHS[:count], 1.7 - 3.0 / widths, np.linspace(0.01, 0.2, count))
    assert value == pytest.approx(1.7, rel=1e-12)
    bent, _ = extrapolate(WIDTHS[:count], 1.7 - 3.0 / widths + 20.0 / widths**2, [0.1] * count)
    assert abs(bent - 1.7) > 1e-3  # no parabola below five widths


@pytest.mark.parametrize("count", [5, 6])
def test_a_parabola_is_found_exactly_from_five_widths_on(count: int) -> None:
    widths = np.array(WIDTHS[:count])
    means = 1.7 - 3.0 / widths + 20.0 / widths**2
    value, _ = extrapolate(WIDTHS[:count], means, np.linspace(0.01, 0.2, count))
    assert value == pytest.approx(1.7, rel=1e-10)


def test_one_width_is_taken_as_it_is() -> None:
    assert extrapolate([8], [1.25], [0.5]) == pytest.approx((1.25, 0.5))


@pytest.mark.parametrize("count", [3, 6])
def test_the_fit_is_numpys_weighted_fit(count: int) -> None:
    rng = np.random.default_rng(4)
    inverse, stderrs = 1 / np.array(WIDTHS[:count]), rng.uniform(0.01, 1.0, count)
    means = rng.normal(size=count)
    coefficients, covariance = np.polyfit(inverse, means, 2 if count >= 5 else 1, w=1 / stderrs, cov="unscaled")
    value, stderr = extrapolate(WIDTHS[:count], means, stderrs)
    assert value == pytest.approx(coefficients[-1], rel=1e-9)
    assert stderr == pytest.approx(math.sqrt(covariance[-1, -1]), rel=1e-9)


def test_a_width_known_badly_hardly_counts() -> None:
    means = [1.0 + 2 / width for width in WIDTHS[:3]]
    value, stderr = extrapolate([*WIDTHS[:3], 200], [*means, 55.0], [0.01, 0.01, 0.01, 1e6])
    assert value == pytest.approx(1.0, abs=1e-6)
    assert stderr == pytest.approx(extrapolate(WIDTHS[:3], means, [0.01] * 3)[1], rel=1e-6)


@pytest.mark.parametrize("count", [3, 6])
def test_the_standard_error_is_the_spread_of_the_estimates(count: int) -> None:
    rng = np.random.default_rng(5)
    widths = np.array(WIDTHS[:count])
    stderrs = np.geomspace(0.02, 0.3, count)
    exact, repeats = 1.7 - 3.0 / widths, 4000
    fits = [extrapolate(WIDTHS[:count], rng.normal(exact, stderrs), stderrs) for _ in range(repeats)]
    estimates, stated = np.array(fits).T
    assert np.ptp(stated) < 1e-12
    assert abs(estimates.mean() - 1.7) < 4 * stated[0] / math.sqrt(repeats)
    assert estimates.std(ddof=1) / stated[0] == pytest.approx(1.0, abs=4 / math.sqrt(2 * repeats))


LINEAR = Stack(loops=2, residual_scale=0.8, activation="linear", weight_variance=1.5)
NARROW = (4, 6, 9, 16, 30)


@pytest.fixture(scope="module")
def linear() -> list[xr.Dataset]:
    return [simulate(LINEAR, width=width, samples=20_000, seed=5) for width in NARROW]


def test_the_bias_of_a_linear_stack_is_its_exact_coefficient(linear: list[xr.Dataset]) -> None:
    """With a = ε²σ_w² and N = 2: 1 + 4a + a² + 2a/d + 2a²/d², by Wick's theorem."""
    means, stderrs = ([float(part[name][-1]) for part in linear] for name in ("second_moment", "second_moment_stderr"))
    bias, stderr = width_bias(NARROW, means, stderrs, limit=float(predict(LINEAR).second_moment[-1]))
    assert abs(bias - 2 * 0.8**2 * 1.5) < 4 * stderr
    assert stderr < 0.4


def test_repeated_widths_bring_no_terms() -> None:
    bias, _ = width_bias([10, 10, 10], [1.2, 1.3, 1.4], [0.1] * 3, limit=1.0)
    assert bias == pytest.approx(3.0)
    value, _ = extrapolate([10, 20] * 3, [1.3, 1.15] * 3, [0.1] * 6)
    assert value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        *(("widths", bad) for bad in ([], [0, 8], [-4, 8], [math.inf, 8], 8, ["x", 8])),
        *((name, bad) for name in ("means", "stderrs") for bad in ([1.0], [1.0, math.nan], [1.0, math.inf])),
        *(("stderrs", [1.0, bad]) for bad in (0.0, -1.0)),
        *(("limit", bad) for bad in (math.nan, math.inf, [1.0, 2.0], 10**400)),
    ],
)
def test_what_cannot_be_fitted_is_named(argument: str, bad: object) -> None:
    arguments: dict[str, Any] = {"widths": [4, 8], "means": [1.0, 2.0], "stderrs": [0.1, 0.1], argument: bad}
    fits: list[Callable[..., Any]] = [width_bias] if argument == "limit" else [extrapolate, width_bias]
    for fit in fits:
        given = {"limit": 1.0} | arguments if fit is width_bias else arguments
        with pytest.raises(InputError) as caught:
            fit(**given)
        assert caught.value.argument == argument


# Every observable at infinite width


def at_width(width: int, seed: int = 19, **attrs: object) -> xr.Dataset:
    """Random means and standard errors: a scalar, and a matrix with an exact diagonal."""
    rng = np.random.default_rng([seed, width])
    cosine, error = rng.normal(size=(3, 3)), rng.uniform(0.1, 1.0, size=(3, 3))
    np.fill_diagonal(cosine, 1.0)
    np.fill_diagonal(error, 0.0)
    return dataset(
        {"increment_cosine": cosine, "tangent_kernel": np.array(rng.normal())},
        stderr={"increment_cosine": error, "tangent_kernel": np.array(0.3)},
        samples=width,
        attrs={"seed": seed, "width": width, "description": "a stack"} | attrs,
    )


@pytest.mark.parametrize("widths", [[16, 24], [16, 24, 40, 64], [16, 24, 40, 64, 100, 160], [16, 16, 24]])
def test_each_element_is_extrapolated_by_itself(widths: list[int]) -> None:
    parts = [at_width(width, 20 + index) for index, width in enumerate(widths)]
    limit = at_infinite_width(parts)
    for name in ("increment_cosine", "tangent_kernel"):
        means, errors = (np.stack([part[key] for part in parts], -1) for key in (name, f"{name}_stderr"))
        for index in np.ndindex(means.shape[:-1]):
            found = float(limit[name].values[index]), float(limit[f"{name}_stderr"].values[index])
            if name == "increment_cosine" and index[0] == index[1]:
                assert found == (1.0, 0.0)
            else:
                assert found == pytest.approx(extrapolate(widths, means[index], errors[index]), rel=1e-12)
    assert limit.increment_cosine.dims == ("loop", "loop_other")
    assert int(limit.samples) == sum(widths)
    assert limit.attrs == {"description": "a stack", "widths": json.dumps(widths)}


def test_attributes_at_infinite_width() -> None:
    parts = [at_width(16, device="cpu"), at_width(24, first_nonfinite_visit=9), at_width(40)]
    shared = {"seed": 19, "description": "a stack"}
    assert at_infinite_width(parts).attrs == shared | {"widths": "[16, 24, 40]", "first_nonfinite_visit": 9}
    parts = [at_width(16, heavy_tailed=0), at_width(24, heavy_tailed=1, first_nonfinite_visit=7)]
    assert at_infinite_width(parts).attrs["heavy_tailed"] == 1
    assert at_infinite_width([at_width(40, first_nonfinite_visit=9), *parts]).attrs["first_nonfinite_visit"] == 7


def test_what_is_not_finite_at_one_width_is_nan_there_alone() -> None:
    parts = [at_width(width) for width in (16, 24, 40)]
    parts[1].increment_cosine.values[0, 1] = np.nan
    parts[2].increment_cosine_stderr.values[0, 2] = np.nan  # a single sample has no standard error
    parts[2].tangent_kernel_stderr.values[...] = np.inf
    limit = at_infinite_width(parts)
    nan = np.isin(np.arange(9), [1, 2]).reshape(3, 3)
    np.testing.assert_array_equal(np.isnan(limit.increment_cosine), nan)
    np.testing.assert_array_equal(np.isnan(limit.increment_cosine_stderr), nan)
    assert np.isnan(limit.tangent_kernel)


def test_errors_of_rounding_size_are_no_division_by_zero() -> None:
    """A cosine of a direction with itself: 1 up to rounding, with errors that are zero at some widths only."""
    parts = [at_width(width) for width in (16, 24, 40)]
    parts[1].increment_cosine.values[0, 0] += 2.0**-52
    parts[1].increment_cosine_stderr.values[0, 0] = 1e-17
    parts[2].increment_cosine.values[1, 1] = 0.9  # no error, but another value: a line all the same
    limit = at_infinite_width(parts)
    assert limit.increment_cosine.values[0, 0] == pytest.approx(1.0, abs=1e-14)
    assert 0 < limit.increment_cosine_stderr.values[0, 0] < 1e-14
    expected = np.polyfit(1 / np.array([16, 24, 40]), [1.0, 1.0, 0.9], 1)[1]
    assert limit.increment_cosine.values[1, 1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [2.0**-600, 2.0**600])
def test_tiny_and_huge_observables_are_extrapolated_alike(scale: float) -> None:
    parts = [at_width(width) for width in (16, 24, 40)]
    ordinary = at_infinite_width(parts)
    names = ["tangent_kernel", "tangent_kernel_stderr"]
    scaled = at_infinite_width([part.assign({name: part[name] * scale for name in names}) for part in parts])
    for name in names:
        np.testing.assert_allclose(scaled[name] / scale, ordinary[name], rtol=1e-12)


def test_a_linear_stack_reaches_its_prediction(linear: list[xr.Dataset]) -> None:
    """Moments of a linear stack of two loops are parabolas in 1/d, so five small widths leave no bias."""
    limit, predicted = at_infinite_width(linear), predict(LINEAR)
    assert (abs(limit.covariance - predicted.covariance) < 4 * limit.covariance_stderr).all()
    assert (abs(linear[0].covariance - predicted.covariance) > 4 * limit.covariance_stderr).any()
    assert json.loads(limit.attrs["widths"]) == list(NARROW)
    assert int(limit.samples) == 100_000


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        *(("width", parts) for parts in ([], [at_width(8)], [at_width(8), at_width(8, 2)], [at_width(8), at_width(0)])),
        ("width", [at_width(8), xr.Dataset(at_width(16).data_vars)]),
        ("parts", [at_width(8), at_width(16).isel(loop=[0, 1])]),
        ("parts", [at_width(8), at_width(16).drop_vars(["tangent_kernel"])]),
        ("parts", [at_width(width)[["tangent_kernel", "samples"]] for width in (8, 16)]),
    ],
)
def test_what_has_no_infinite_width_is_named(argument: str, parts: list[xr.Dataset]) -> None:
    with pytest.raises(InputError) as caught:
        at_infinite_width(parts)
    assert caught.value.argument == argument
