"""Running moments and control variates against NumPy and their own spread, tails and pooling."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from residual_theory.arrays import Array
from residual_theory.montecarlo.estimate import (
    GROUP,
    ControlledMoments,
    Moments,
    is_heavy_tailed,
    largest_share,
    pool,
)
from residual_theory.observables import dataset


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


def test_equal_samples_have_exactly_their_mean() -> None:
    moments = moments_of(*np.split(np.full((1000, 2), 0.1), [3, 700]))
    np.testing.assert_array_equal(moments.mean, [0.1, 0.1])
    np.testing.assert_array_equal(moments.stderr, [0.0, 0.0])


# The same bits, however samples arrive

SHAPES = [(), (3,), (31, 45), (300, 300)]  # groups of 256, 256, 46 and 1 samples


def bits(*arrays: Array) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


@pytest.mark.parametrize("shape", SHAPES)
@given(cuts=st.lists(st.integers(0, 2 * GROUP + 9), max_size=5), last=st.integers(1, 2 * GROUP + 9))
@settings(max_examples=12, deadline=None)
def test_chunks_change_no_bit(shape: tuple[int, ...], cuts: list[int], last: int) -> None:
    """Reading the results on the way, and a chunk that is overwritten once it is added, change none either."""
    last = min(last, 20) if shape == SHAPES[-1] else last
    samples = np.random.default_rng(last).gamma(0.3, size=(last, *shape))
    control = np.random.default_rng(last + 1).gamma(2.0, size=last)
    whole, parts = moments_of(samples), Moments()
    controlled_whole, controlled_parts = controlled(samples, control, 2.0), ControlledMoments(2.0)
    for start, end in itertools.pairwise([0, *sorted(min(cut, last) for cut in cuts), last]):
        chunk = samples[start:end].copy()
        parts.add(chunk)
        controlled_parts.add(chunk, control[start:end])
        assert parts.mean.shape == parts.stderr.shape
        assert controlled_parts.mean.shape == controlled_parts.stderr.shape
        chunk[:] = np.nan
    assert parts.count == controlled_parts.count == last
    assert bits(parts.mean, parts.stderr) == bits(whole.mean, whole.stderr)
    expected = bits(controlled_whole.mean, controlled_whole.stderr)
    assert bits(controlled_parts.mean, controlled_parts.stderr) == expected


def test_merging_chunk_by_chunk_would_change_bits() -> None:
    """The twin: Chan's update of each chunk as it comes."""
    samples = np.random.default_rng(6).gamma(0.3, size=(500, 3))
    merged = []
    for size in (50, 125):
        moments = Moments()
        for part in np.split(samples, 500 // size):
            moments.merge(size, part.mean(axis=0), part.var(axis=0) * size)
        merged.append(bits(moments.mean, moments.stderr))
    assert merged[0] != merged[1]


@pytest.mark.parametrize("shape", [(1000, 100), (2, 200, 200)])
def test_memory_stays_bounded(shape: tuple[int, ...]) -> None:
    moments, samples = Moments(), np.ones(shape)
    tracemalloc.start()
    for _ in range(50):  # over 30 MB in all
        moments.add(samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6


# Control variates


def skewed(rng: np.random.Generator, samples: int) -> tuple[Array, Array]:
    """X (sample, 3) of means 2, 1, 0 and a control of mean 1: nonlinear, linear with noise, independent."""
    control, noise = rng.exponential(size=samples), rng.normal(size=samples)
    return np.stack([control**2, control + 0.3 * noise, noise], axis=1), control


SKEWED_MEAN = np.array([2.0, 1.0, 0.0])


def controlled(samples: Array, control: Array, known_mean: float) -> ControlledMoments:
    moments = ControlledMoments(known_mean)
    moments.add(samples, control)
    return moments


def same_sample_control(samples: Array, control: Array, known_mean: float) -> Array:
    """The usual, biased control variate: the coefficient comes from the samples it is used on."""
    deviations = control - control.mean()
    coefficient = deviations @ samples / (deviations @ deviations)
    return np.asarray(samples.mean(axis=0) - coefficient * (control.mean() - known_mean))


@pytest.mark.parametrize("count", [8, 9, 700])
def test_controlled_moments_are_numpys_halves(count: int) -> None:
    samples, control = skewed(np.random.default_rng(7), count)
    mean, variance = np.zeros(3), np.zeros(3)
    for start in (0, 1):
        x, c, other, other_c = samples[start::2], control[start::2], samples[1 - start :: 2], control[1 - start :: 2]
        coefficient = np.polyfit(other_c, other, 1)[0]
        residual = x - coefficient * (c[:, None] - 1)
        mean += residual.mean(axis=0) * len(x) / count
        variance += residual.var(axis=0, ddof=1) / len(x) * (len(x) / count) ** 2
    moments = controlled(samples, control, 1.0)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.stderr, np.sqrt(variance), rtol=1e-11)
    assert moments.count == count


def test_the_coefficient_of_the_other_half_leaves_no_bias() -> None:
    """At 8 samples; that of the same samples is off by far more, and so is a known mean that is wrong."""
    rng, repeats = np.random.default_rng(8), 6000
    draws = [skewed(rng, 8) for _ in range(repeats)]

    def bias(estimates: list[Array]) -> Array:
        """In standard errors."""
        return np.asarray((np.mean(estimates, axis=0) - SKEWED_MEAN) / stats.sem(estimates))

    assert (abs(bias([controlled(*draw, 1.0).mean for draw in draws])) < 4).all()
    assert abs(bias([same_sample_control(*draw, 1.0) for draw in draws])[0]) > 20
    assert abs(bias([controlled(*draw, 1.2).mean for draw in draws])[1]) > 20


@pytest.mark.parametrize("count", [16, 200])
def test_the_stated_error_is_the_spread_of_controlled_means(count: int) -> None:
    """Of Gaussian control, where the halves have no covariance; it explains 0.9, 0.5 and 0 of the variance."""
    rng, repeats = np.random.default_rng(9), 3000
    loading = np.sqrt([0.9, 0.5, 0.0])
    estimates, stated, plain = [], [], []
    for _ in range(repeats):
        control = rng.normal(5.0, 1.0, size=count)
        samples = loading * (control[:, None] - 5.0) + np.sqrt(1 - loading**2) * rng.normal(size=(count, 3))
        moments = controlled(samples, control, 5.0)
        estimates.append(moments.mean)
        stated.append(moments.stderr**2)
        plain.append(samples.var(axis=0, ddof=1) / count)
    squares = np.square(estimates)

    def excess(claimed: list[Array]) -> Array:
        """Of the mean square over the claimed one, in standard errors of their difference."""
        return np.asarray((squares - claimed).mean(axis=0) / stats.sem(squares - claimed))

    assert (abs(excess(stated)) < 4).all()
    assert (excess(plain)[:2] < -10).all()  # the twin: errors of the plain mean
    expected = (1 - loading**2) / count * (1 + 1 / (count / 2 - 3))
    assert (abs(np.mean(stated, axis=0) - expected) < 4 * stats.sem(stated)).all()
    if count == 200:
        covered = (np.abs(estimates) < stats.norm.ppf(0.975) * np.sqrt(stated)).mean(axis=0)
        assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / repeats))


def test_what_the_stated_error_leaves_out_is_small() -> None:
    """Skewed control: the halves' covariance is (E β(C̄ − μ))², at 64 samples a few per cent of the variance."""
    rng, repeats = np.random.default_rng(10), 3000
    draws = [skewed(rng, 64) for _ in range(repeats)]
    moments = [controlled(*draw, 1.0) for draw in draws]
    squares = np.square([moment.mean - SKEWED_MEAN for moment in moments])
    stated = np.square([moment.stderr for moment in moments])
    bias_of_half = np.mean([same_sample_control(x[::2], c[::2], 1.0) for x, c in draws], axis=0) - SKEWED_MEAN
    left_out = bias_of_half**2 / 2
    assert (abs((squares - stated).mean(axis=0) - left_out) < 4 * stats.sem(squares - stated)).all()
    assert (left_out < 0.1 * stated.mean(axis=0)).all()


def test_few_samples_are_averaged_plainly() -> None:
    """Until a half has four samples, which give the other half its coefficient."""
    samples, control = skewed(np.random.default_rng(11), 6)
    for count in range(1, 7):
        moments = controlled(samples[:count], control[:count], 1.0)
        np.testing.assert_allclose(moments.mean, samples[:count].mean(axis=0), rtol=1e-14)
        assert np.isnan(moments.stderr).all() == np.isnan(moments.stderr).any() == (count < 4)
    assert np.isnan(ControlledMoments(1.0).mean)
    assert np.isnan(ControlledMoments(1.0).stderr)


@pytest.mark.parametrize("constant", [0.0, 0.1, 3e5])
def test_a_constant_control_changes_nothing(constant: float) -> None:
    """Constant but for its rounding, and with a known mean that is not rounded the same way."""
    samples = skewed(np.random.default_rng(12), 600)[0]
    rounded = constant * (1 + np.finfo(np.float64).eps * np.tile([0, 1, 2], 200))
    for control in (np.full(600, constant), rounded):
        moments = controlled(samples, control, constant)
        np.testing.assert_allclose(moments.mean, samples.mean(axis=0), rtol=1e-13)
        # the halves' own means take the place of the common one: (z² − 1)/600 of the variance, z ~ N(0, 1)
        np.testing.assert_allclose(moments.stderr, samples.std(axis=0, ddof=1) / math.sqrt(600), rtol=4**2 / 600)


def test_a_perfect_control_leaves_no_error() -> None:
    control = np.random.default_rng(13).gamma(2.0, size=100)
    moments = controlled(np.stack([7.0 - 3.0 * control, np.full(100, 0.1)], axis=1), control, 2.0)
    assert moments.mean == pytest.approx([1.0, 0.1], rel=1e-13)
    assert moments.stderr == pytest.approx([0.0, 0.0], abs=1e-7)  # the root of what rounding leaves of the squares


def test_an_overflow_stays_visible_under_control() -> None:
    samples, control = skewed(np.random.default_rng(14), 20)
    samples[3, 0] = np.inf
    moments = controlled(samples, control, 1.0)
    np.testing.assert_array_equal(np.isfinite(moments.mean), [False, True, True])
    np.testing.assert_array_equal(np.isfinite(moments.stderr), [False, True, True])
    control[3] = np.inf
    assert np.isnan(controlled(samples, control, 1.0).mean).all()


# Heavy tails


def flagged(samples: Array) -> float:
    """The share of the rows (repeat, sample) that are called heavy-tailed."""
    count = samples.shape[1]
    rows = zip(samples.mean(axis=1), samples.std(axis=1, ddof=1) / math.sqrt(count), samples.max(axis=1), strict=True)
    return float(np.mean([is_heavy_tailed(mean, error, count, largest) for mean, error, largest in rows]))


@pytest.mark.parametrize(("count", "hits"), [(16, 0.58), (32, 0.77), (64, 0.90), (1000, 0.999), (100_000, 1.0)])
def test_light_tails_are_rarely_flagged_and_log_normal_ones_often(count: int, hits: float) -> None:
    rng = np.random.default_rng(15)
    size = (min(4000, 4_000_000 // count), count)

    def slack(rate: float) -> float:
        return 4 * math.sqrt(rate * (1 - rate) / size[0])

    assert flagged(rng.standard_normal(size)) <= 0.001 + slack(0.001)
    assert flagged(rng.standard_gamma(8.0, size)) <= 0.017 + slack(0.017)
    assert flagged(np.exp(2 * rng.standard_normal(size))) == pytest.approx(hits, abs=0.01 + slack(hits))


def test_the_largest_share_is_that_of_the_squared_deviations() -> None:
    samples = np.random.default_rng(16).lognormal(0.0, 1.0, size=50)
    moments = moments_of(samples)
    share = (samples.max() - samples.mean()) ** 2 / ((samples - samples.mean()) ** 2).sum()
    stated = largest_share(float(moments.mean), float(moments.stderr), 50, float(samples.max()))
    assert stated == pytest.approx(share, rel=1e-12)
    assert largest_share(1.0, 0.0, 50, 1.0) == 0.0
    assert math.isnan(largest_share(1.0, math.nan, 1, 1.0))
    assert largest_share(1e199, 1e199, 100, 1e200) == pytest.approx(81 / 9900)  # the squares would overflow
    assert not is_heavy_tailed(math.nan, math.nan, 100, math.inf)


def test_fifteen_samples_are_too_few_to_tell() -> None:
    for count, told in ((15, False), (16, True)):
        samples = np.eye(1, count)[0]
        assert is_heavy_tailed(samples.mean(), samples.std(ddof=1) / math.sqrt(count), count, 1.0) is told


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


def test_a_pool_looks_at_the_tails_anew() -> None:
    """An outlier among too few samples to tell counts among many; a part's own flag does not outlive it."""
    samples = np.random.default_rng(17).normal(10.0, 1.0, size=(400, 2))
    samples[7, 1] = 25.0
    parts = [
        measured(part, largest_second_moment=float(part[:, -1].max()), heavy_tailed=0)
        for part in np.split(samples, [8, 100])
    ]
    assert pool(parts).attrs == {"largest_second_moment": 25.0, "heavy_tailed": 1}
    light = pool([part.assign_attrs(heavy_tailed=1) for part in parts[1:]])
    assert light.attrs == {"largest_second_moment": samples[8:, 1].max(), "heavy_tailed": 0}
    controlled_parts = [measured(part, largest_second_moment=25.0) for part in np.split(samples, 2)]
    assert pool(controlled_parts).attrs == {"largest_second_moment": 25.0}


def test_a_pool_takes_any_observables() -> None:
    rng = np.random.default_rng(18)
    parts = []
    for _ in range(2):
        values = {"log_second_moment": rng.normal(size=3), "input_covariance": rng.normal(size=(3, 2, 2))}
        errors = {name: np.ones_like(value) for name, value in values.items()}
        parts.append(dataset(values, stderr=errors, samples=5, attrs={"largest_second_moment": 2.0}))
    pooled = pool(parts)
    np.testing.assert_allclose(pooled.input_covariance, (parts[0].input_covariance + parts[1].input_covariance) / 2)
    assert set(pooled) == set(parts[0])
