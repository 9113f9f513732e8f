"""The rates that are due, against tests made on samples."""

import math

import numpy as np
import pytest
from scipy import stats

from residual_theory.statistics.power import TOO_CAREFUL, Between, EdgeTest, passing
from residual_theory.statistics.sequential import doubling, shares


@pytest.mark.parametrize("inside", [-1.0, 0.0, 2.0])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_passing_is_what_samples_pass(inside: float, factor: float) -> None:
    count, level, runs = 6, 0.05, 40_000
    samples = np.random.default_rng(1).standard_normal((runs, count)) + inside / math.sqrt(count)
    value = samples.mean(1) / (factor * samples.std(1, ddof=1) / math.sqrt(count))
    passed = int((stats.t.sf(value, count - 1) < level).sum())
    found = stats.binomtest(passed, runs).proportion_ci(0.999)
    assert found.low < passing(inside, level, count - 1, factor) < found.high


def test_without_end_of_degrees_it_is_normal() -> None:
    assert passing(0.5, 0.02, math.inf) == pytest.approx(passing(0.5, 0.02, 1e6), rel=1e-4)
    assert passing(-0.5, 0.02, math.inf) < 0.02 < passing(0.5, 0.02, math.inf)


@pytest.mark.parametrize("inside", [-2.0, 0.0, 2.0])
def test_the_looks_bracket_what_growing_samples_do(inside: float) -> None:
    first, level, runs = 24, 0.1, 20_000
    fractions = doubling(3)
    samples = np.random.default_rng(2).standard_normal((runs, 4 * first)) + inside / math.sqrt(4 * first)
    passed = np.zeros(runs, dtype=bool)
    for fraction, share in zip(fractions, shares(fractions, level), strict=True):
        seen = samples[:, : int(4 * first * fraction)]
        value = seen.mean(1) / (seen.std(1, ddof=1) / math.sqrt(seen.shape[1]))
        passed |= stats.t.sf(value, seen.shape[1] - 1) < share * level
    test = EdgeTest((first - 1.0, 2 * first - 1.0, 4 * first - 1.0))
    due = test.confirmed(inside, level)
    found = stats.binomtest(int(passed.sum()), runs).proportion_ci(0.999)
    assert found.low < due.most
    assert found.high > due.least
    assert due.most < 3 * due.least
    assert due.most < level * (1 + 1e-9) or inside > 0


def test_what_each_field_does() -> None:
    plain = EdgeTest((23.0,))
    assert plain.confirmed(1.0, 0.1) == Between(*[passing(1.0, 0.1, 23)] * 2)
    assert plain.refuted(1.0, 0.1) == Between(*[passing(-1.0, 0.05, 23)] * 2)
    assert EdgeTest((23.0,), bounds=6).refuted(-1.0, 0.6) == plain.refuted(-1.0, 0.2)
    nearly = EdgeTest((23.0,), approximate=True).confirmed(0.0, 0.1)
    assert tuple(nearly) == pytest.approx((passing(0.0, 0.1, 23, TOO_CAREFUL), 0.1))
    assert EdgeTest((23.0,), stricter=True).confirmed(1.0, 0.1) == Between(0.0, passing(1.0, 0.1, 23))
    careful = EdgeTest((23.0,), misfit=0.1).refuted(0.0, 0.1)
    assert tuple(careful) == pytest.approx((0.045, 0.05))
    looks = EdgeTest((23.0, 47.0)).confirmed(1.0, 0.1)
    assert tuple(looks) == pytest.approx((passing(1.0, 0.075, 47), passing(2**-0.5, 0.025, 23) + looks.least))
