"""Running moments against NumPy on awkward data, pooling, and extrapolation against exact curves and simulation."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from residual_theory.errors import InputError
from residual_theory.montecarlo.dense import simulate
from residual_theory.montecarlo.estimate import Array, Moments, extrapolate, pool, width_bias
from residual_theory.observables import dataset
from residual_theory.stack import Stack
from residual_theory.theory.forward import predict


def moments_of(*parts: Array) -> Moments:
    moments = Moments()
    for part in parts:
        moments.add(part)
    return moments


def test_moments_are_numpys() -> None:
    samples = np.random.default_rng(0).gamma(0.3, size=(501, 2, 3))
    moments = moments_of(samples[:1], samples[1:7], samples[7:])
    assert moments.count == 501
    np.testing.assert_allclose(moments.mean, samples.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.stderr, samples.std(axis=0, ddof=1) / math.sqrt(501), rtol=1e-12)


def test_a_large_offset_costs_no_digits() -> None:
    """Dyadic numbers around 2³⁰: the offset is exact, and a sum of squares would lose all digits of the deviations."""
    small = np.random.default_rng(1).integers(-512, 512, size=(1000, 4)) / 256.0
    moments = moments_of(*np.array_split(small + 2.0**30, 13))
    np.testing.assert_allclose(moments.mean - 2.0**30, small.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(moments.stderr, small.std(axis=0, ddof=1) / math.sqrt(1000), rtol=1e-7)


@given(cuts=st.lists(st.integers(1, 39), unique=True, max_size=6), order=st.randoms(use_true_random=False))
def test_parts_merge_in_any_order_and_grouping(cuts: list[int], order: object) -> None:
    samples = np.random.default_rng(2).standard_cauchy(size=(40, 2))
    parts = np.split(samples, sorted(cuts))
    order.shuffle(parts)  # type: ignore[attr-defined]
    merged = Moments()
    for half in (parts[::2], parts[1::2]):
        group = moments_of(*half)
        if group.count:
            merged.merge(group.count, group.mean, group.deviations)
    assert merged.count == 40
    np.testing.assert_allclose(merged.mean, samples.mean(axis=0), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(merged.stderr, samples.std(axis=0, ddof=1) / math.sqrt(40), rtol=1e-11)


def test_fewer_than_two_samples_have_no_standard_error() -> None:
    moments = moments_of(np.array([[3.0, 4.0]]))
    np.testing.assert_array_equal(moments.mean, [3.0, 4.0])
    assert np.isnan(moments.stderr).all()
    np.testing.assert_array_equal(moments_of(np.full((2, 1), 3.0)).stderr, [0.0])


def test_an_overflow_stays_visible() -> None:
    moments = moments_of(np.array([[1.0, np.inf], [3.0, np.inf]]), np.array([[2.0, np.inf]]))
    assert moments.mean[0] == 2.0
    assert not np.isfinite(moments.mean[1])
    np.testing.assert_array_equal(np.isfinite(moments.stderr), [True, False])


# Pooling


def measured(second_moments: Array, **attrs: object) -> xr.Dataset:
    moments = moments_of(second_moments)
    return dataset(
        {"second_moment": moments.mean}, stderr={"second_moment": moments.stderr}, samples=moments.count, attrs=attrs
    )


def test_pooled_parts_are_the_whole() -> None:
    samples = 1e6 + np.random.default_rng(3).normal(size=(30, 4))
    whole = measured(samples, seed=5)
    parts = [measured(part, seed=5) for part in np.split(samples, [2, 13])]
    for order in itertools.permutations(parts):
        pooled = pool(order)
        assert int(pooled.samples) == 30
        np.testing.assert_allclose(pooled.second_moment, whole.second_moment, rtol=1e-15)
        np.testing.assert_allclose(pooled.second_moment_stderr, whole.second_moment_stderr, rtol=1e-9)
        assert pooled.attrs == {"seed": 5}
        assert set(pooled.data_vars) == set(whole.data_vars)
    assert pool([whole]).identical(whole)


def test_a_pool_names_the_first_overflow_of_any_part() -> None:
    samples = np.ones((2, 9))
    parts = [measured(samples), measured(samples, first_nonfinite_visit=7), measured(samples, first_nonfinite_visit=4)]
    assert pool(parts).attrs["first_nonfinite_visit"] == 4
    assert "first_nonfinite_visit" not in pool([parts[0], parts[0]]).attrs


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


def test_the_bias_of_a_linear_stack_is_its_exact_coefficient() -> None:
    """N = 2, σ_w = 1: 1 + 4ε² + ε⁴ + 2ε²/d + 2ε⁴/d², by Wick's theorem."""
    stack = Stack(loops=2, residual_scale=0.8, activation="linear")
    drawn = [simulate(stack, width=width, samples=20_000, seed=4) for width in (4, 8, 16)]
    means, stderrs = ([float(part[name][-1]) for part in drawn] for name in ("second_moment", "second_moment_stderr"))
    bias, stderr = width_bias([4, 8, 16], means, stderrs, limit=float(predict(stack).second_moment[-1]))
    assert abs(bias - 2 * 0.8**2) < 4 * stderr
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
