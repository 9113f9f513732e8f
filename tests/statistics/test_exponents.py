"""Growth exponents: the coverage of their intervals, what curved data are called, and bounds that are no bounds.

A rate measured over n repetitions at a nominal level a may lie four of its standard errors, √(a(1 − a)/n), off.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from residual_theory.errors import InputError
from residual_theory.statistics.exponents import bounded, growth_exponent, paired_exponent, unbounded
from residual_theory.statistics.findings import Finding

ALPHA, REPEATS = 0.05, 3000
SLACK = 4 * math.sqrt(ALPHA * (1 - ALPHA) / REPEATS)
SIZES = (4, 8, 16, 32, 64)
MANY = (3, 5, 8, 13, 21, 34, 55, 89)


def relative_errors(sizes: Sequence[int]) -> np.ndarray:
    """As different as those of few samples at large sizes are."""
    return np.geomspace(0.002, 0.03, len(sizes))


def drawn(
    judge: Callable[..., Finding],
    law: Callable[[np.ndarray], np.ndarray],
    sizes: Sequence[int] = SIZES,
    understated: float = 1.0,
    error: float | None = None,
    repeats: int = REPEATS,
    **numbers: float,
) -> list[Finding]:
    """Findings on values exp(normal) about a law, whose standard errors are those stated times `understated`."""
    rng, true = np.random.default_rng(5), law(np.array(sizes, dtype=float))
    stated = relative_errors(sizes) if error is None else error
    found = []
    for _ in range(repeats):
        values = true * np.exp(understated * stated * rng.normal(size=len(sizes)))
        found.append(judge("R", sizes, values, values * stated, **numbers))
    return found


def coverage(found: Sequence[Finding], exponent: float) -> float:
    intervals = [finding.interval(1 - ALPHA) for finding in found]
    return float(np.mean([low <= exponent <= high for low, high in intervals]))


def power_law(size: np.ndarray) -> np.ndarray:
    return 3 * size**0.5


def approaching(size: np.ndarray) -> np.ndarray:
    """Bounded, with local exponents 1/(N − 1)."""
    return 1 - 1 / size


# Intervals


@pytest.mark.parametrize("sizes", [SIZES, MANY])
def test_intervals_cover_the_exponent_at_their_level(sizes: tuple[int, ...]) -> None:
    found = drawn(growth_exponent, power_law, sizes, predicted=0.5, margin=0.1)
    covered = coverage(found, 0.5)
    assert 1 - ALPHA - SLACK <= covered <= 1 - ALPHA + 0.01 + SLACK  # the misfits, one in 20, get wider ones
    misfits = np.mean([finding.degrees < math.inf for finding in found])
    assert misfits == pytest.approx(0.05, abs=SLACK)
    assert {finding.degrees for finding in found} == {math.inf, len(sizes) - 2}


@pytest.mark.parametrize("understated", [3.0, 10.0])
def test_intervals_widen_where_the_points_scatter_more_than_they_say(understated: float) -> None:
    """Trusting such errors would cover 2 Φ(1.96/understated) − 1: 49 % and 16 %."""
    found = drawn(growth_exponent, power_law, MANY, understated, predicted=0.5, margin=0.1)
    assert coverage(found, 0.5) >= 1 - ALPHA - SLACK


def test_errors_too_small_by_half_are_often_not_noticed_at_five_sizes() -> None:
    """The documented limit of the test of the residuals."""
    found = drawn(growth_exponent, power_law, SIZES, 2.0, predicted=0.5, margin=0.1)
    assert 0.8 < coverage(found, 0.5) < 1 - ALPHA - SLACK


def test_the_slope_is_weighted_least_squares() -> None:
    values, error = np.array([2.1, 2.7, 4.1, 5.4, 8.3]), relative_errors(SIZES)
    found = growth_exponent("R", SIZES, values, values * error, predicted=0.5, margin=0.1)
    expected, covariance = np.polyfit(np.log(SIZES), np.log(values), 1, w=1 / error, cov="unscaled")
    assert found.value == pytest.approx(expected[0], rel=1e-9)
    assert found.stderr >= math.sqrt(covariance[0, 0]) * (1 - 1e-9)
    assert (found.samples, found.predicted, found.margin) == (5, 0.5, 0.1)


def test_hc3_is_that_of_leaving_one_out() -> None:
    """MacKinnon & White: up to (n − 1)/n and the centring, HC3 is the jackknife: Σ (slope_(−i) − slope)²."""
    x, y = np.log(MANY), 0.7 * np.log(MANY) + np.array([0.3, -0.2, 0.1, 0.4, -0.5, 0.2, -0.1, 0.15])
    found = growth_exponent("R", MANY, np.exp(y), np.exp(y) * 1e-3, predicted=0.7, margin=0.1)
    without = [np.polyfit(np.delete(x, i), np.delete(y, i), 1)[0] for i in range(len(x))]
    assert found.stderr == pytest.approx(math.sqrt(sum((slope - found.value) ** 2 for slope in without)), rel=1e-6)
    assert found.degrees == 6


# Words


def test_a_power_law_is_confirmed_and_a_wrong_exponent_refuted() -> None:
    right, wrong = (
        drawn(growth_exponent, power_law, MANY, predicted=predicted, margin=0.1, repeats=200)
        for predicted in (0.5, 1.0)
    )
    assert np.mean([finding.confirm_p <= ALPHA for finding in right]) > 0.95
    assert np.mean([finding.refute_p <= ALPHA for finding in wrong]) > 0.95
    assert all("local exponents" in finding.label for finding in wrong)


@pytest.mark.parametrize("side", [-1, 1])
def test_at_the_edge_of_the_margin_either_word_errs_at_most_at_its_level(side: int) -> None:
    found = drawn(growth_exponent, power_law, predicted=0.5 + side * 0.1, margin=0.1)
    for name in ("confirm_p", "refute_p"):
        assert np.mean([getattr(finding, name) <= ALPHA for finding in found]) <= ALPHA + SLACK


def test_a_curve_whose_ends_leave_the_margin_is_confirmed_at_most_at_its_level() -> None:
    """The local exponent falls from 0.6, the edge, at the smallest size to 0.4 at the largest; the mean is right."""
    middle, half = math.log(16), math.log(4)

    def parabola(size: np.ndarray) -> np.ndarray:
        x = np.log(size) - middle
        return np.asarray(np.exp(0.5 * x - 0.1 / half * x**2 / 2))

    found = drawn(growth_exponent, parabola, error=0.03, predicted=0.5, margin=0.1)
    assert np.mean([finding.confirm_p <= ALPHA for finding in found]) <= ALPHA + SLACK
    line_alone = [abs(finding.value - 0.5) + 1.645 * finding.stderr <= 0.1 for finding in found]
    assert np.mean(line_alone) > 0.5  # mostly, a straight line alone would call it a power law


@pytest.mark.parametrize("error", [1e-2, 1e-3, 1e-5])
def test_a_bounded_curve_is_no_power_law_of_its_own_mean_slope(error: float) -> None:
    values = approaching(np.array(SIZES))
    slope = growth_exponent("R", SIZES, values, values * error, predicted=0.0, margin=1.0).value
    assert 0.05 < slope < 0.15
    found = growth_exponent("R", SIZES, values, values * error, predicted=slope, margin=0.05)
    assert found.confirm_p > 0.3
    assert "local exponents" in found.label
    wide = growth_exponent("R", SIZES, values, values * error, predicted=slope, margin=0.4)  # holds 1/3 to 1/63
    assert wide.confirm_p < 0.05
    assert "local exponents" not in wide.label


# Bounded or not


@pytest.mark.parametrize(
    ("law", "is_bounded"),
    [
        (lambda size: 2 - 1 / size, True),
        (lambda size: 1 + 0 * size, True),
        (np.log, False),
        (lambda size: size**0.3, False),
    ],
    ids=["approaching 2", "constant", "logarithm", "power"],
)
def test_bounded_and_unbounded_are_told_apart(law: Callable[[np.ndarray], np.ndarray], is_bounded: bool) -> None:
    for judge, word in ((bounded, is_bounded), (unbounded, not is_bounded)):
        found = drawn(judge, law, MANY, margin=0.1, repeats=200)
        sure, wrong = ("confirm_p", "refute_p") if word else ("refute_p", "confirm_p")
        assert np.mean([getattr(finding, sure) <= ALPHA for finding in found]) > 0.9
        assert np.mean([getattr(finding, wrong) <= ALPHA for finding in found]) == 0


def test_growth_exactly_at_the_margin_errs_at_its_level() -> None:
    for judge in (bounded, unbounded):
        found = drawn(judge, lambda size: size**0.1, margin=0.1)
        for name in ("confirm_p", "refute_p"):
            rate = np.mean([getattr(finding, name) <= ALPHA for finding in found])
            assert rate == pytest.approx(ALPHA, abs=SLACK)


def test_curvature_is_no_uncertainty_of_a_bound() -> None:
    """More exact values decide more surely: the slope is a mean of local exponents however curved they are."""
    values = approaching(np.array(MANY))
    p_values = [bounded("R", MANY, values, values * error, margin=0.05).confirm_p for error in (1e-2, 1e-3, 1e-4)]
    assert p_values[0] > p_values[1] >= p_values[2]
    assert p_values[2] < 1e-12
    shown = bounded("R", MANY, values, values * 1e-4, margin=0.05)
    x, y = np.log(MANY[-4:]), np.log(values[-4:])
    assert shown.value == pytest.approx(stats.linregress(x, y).slope, rel=1e-9)
    assert (shown.label, shown.samples) == ("exponent of R at the 4 largest sizes ≤ 0.05", 4)


# What cannot be fitted


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("judge", [growth_exponent, bounded, unbounded])
def test_a_value_or_error_that_is_not_positive_and_finite_decides_nothing(judge: Any, bad: float) -> None:
    numbers = {"margin": 0.1} | ({"predicted": 0.5} if judge is growth_exponent else {})
    good = list(power_law(np.array(SIZES)))
    for values, stderrs in (([*good[:4], bad], [0.01] * 5), (good, [0.01] * 4 + [bad])):
        found = judge("R", SIZES, values, stderrs, **numbers)
        assert (found.confirm_p, found.refute_p) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("sizes", "values", "stderrs", "argument"),
    [
        ((4, 8, 16, 32), [1.0] * 4, [0.1] * 4, "sizes"),
        ((4, 8, 16, 32, 32, 32), [1.0] * 6, [0.1] * 6, "sizes"),
        ((0, 8, 16, 32, 64), [1.0] * 5, [0.1] * 5, "sizes"),
        ((4, 8, 16, 32, math.inf), [1.0] * 5, [0.1] * 5, "sizes"),
        (SIZES, [1.0] * 4, [0.1] * 5, "values"),
        (SIZES, [1.0] * 5, [0.1] * 6, "stderrs"),
    ],
)
def test_too_few_or_unequal_points_are_named(sizes: Any, values: Any, stderrs: Any, argument: str) -> None:
    for judge in (bounded, unbounded, lambda *points, margin: growth_exponent(*points, predicted=0.5, margin=margin)):
        with pytest.raises(InputError) as caught:
            judge("R", sizes, values, stderrs, margin=0.1)
        assert caught.value.argument == argument
        assert len(str(caught.value).splitlines()) == 1


# Runs with paired seeds


def test_paired_slopes_are_tested_over_seeds() -> None:
    exponents = np.array([0.45, 0.52, 0.5, 0.55])
    values = np.array(SIZES) ** exponents[:, None]
    found = paired_exponent("R", SIZES, values, predicted=0.5, margin=0.2)
    expected = stats.ttest_1samp(exponents, 0.7, alternative="less")
    assert found.value == pytest.approx(exponents.mean())
    assert found.stderr == pytest.approx(float(stats.sem(exponents)))
    assert found.confirm_p == pytest.approx(float(expected.pvalue), rel=1e-6)


def test_paired_growth_that_sets_in_late_is_not_confirmed() -> None:
    late = np.array([1.0, 1.0, 1.0, 1.5, 2.2]) * np.array([[1.0], [1.01], [0.99]])
    late *= 1 + 0.01 * np.random.default_rng(1).standard_normal(late.shape)
    found = paired_exponent("R", SIZES, late, predicted=0.3, margin=0.1)
    assert abs(found.value - 0.3) < 0.03
    assert found.confirm_p > 0.5
