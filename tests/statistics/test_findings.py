"""Verdict statistics: error rates measured by simulation, Holm against the closed test it abbreviates, the words.

A rate measured over n repetitions at a nominal level a may lie four of its standard errors, √(a(1 − a)/n), off.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from residual_theory.errors import InputError
from residual_theory.statistics.findings import Evidence, Finding, decide, equivalence, holm, positive, proof, within

ALPHA, REPEATS, SAMPLES = 0.05, 3000, 8
SLACK = 4 * math.sqrt(ALPHA * (1 - ALPHA) / REPEATS)
MARGIN = 0.4


def repeated(true: float, spread: float, seed: int, judge: Callable[[np.ndarray], Finding]) -> list[Finding]:
    rng = np.random.default_rng(seed)
    return [judge(rng.normal(true, spread, SAMPLES)) for _ in range(REPEATS)]


def judged(sample: np.ndarray) -> Finding:
    """Against the law that the true value is 2 ± MARGIN."""
    stderr = float(sample.std(ddof=1) / math.sqrt(len(sample)))
    return equivalence("x", float(sample.mean()), stderr, predicted=2.0, margin=MARGIN, samples=len(sample))


@pytest.mark.parametrize("side", [-1, 1])
def test_at_the_edge_of_the_margin_either_word_errs_at_most_at_its_level(side: int) -> None:
    found = repeated(2.0 + side * MARGIN, 0.1, 1 + side, judged)
    confirmed = np.mean([finding.confirm_p <= ALPHA for finding in found])
    refuted = np.mean([finding.refute_p <= ALPHA for finding in found])
    assert confirmed == pytest.approx(ALPHA, abs=SLACK)  # exact: the other edge is far away
    assert refuted == pytest.approx(ALPHA / 2, abs=SLACK)  # two-sided


def test_a_wide_error_confirms_even_less_often() -> None:
    found = repeated(2.0 + MARGIN, 3.0, 3, judged)
    assert np.mean([finding.confirm_p <= ALPHA for finding in found]) < ALPHA / 4
    assert np.mean([finding.refute_p <= ALPHA for finding in found]) <= ALPHA + SLACK


@pytest.mark.parametrize("shift", [-0.1, 0.0, 0.1])
def test_inside_the_margin_it_confirms(shift: float) -> None:
    found = repeated(2.0 + shift, 0.1, 4, judged)
    assert np.mean([finding.confirm_p <= ALPHA for finding in found]) > 0.99
    assert np.mean([finding.refute_p <= ALPHA for finding in found]) == 0


@pytest.mark.parametrize("shift", [-0.8, 0.8])
def test_outside_the_margin_it_refutes(shift: float) -> None:
    found = repeated(2.0 + shift, 0.1, 5, judged)
    assert np.mean([finding.refute_p <= ALPHA for finding in found]) > 0.99
    assert np.mean([finding.confirm_p <= ALPHA for finding in found]) == 0


def test_intervals_cover_the_true_value_at_their_level() -> None:
    found = repeated(2.0, 1.0, 6, judged)
    intervals = [finding.interval(1 - ALPHA) for finding in found]
    assert np.mean([low <= 2.0 <= high for low, high in intervals]) == pytest.approx(1 - ALPHA, abs=SLACK)


def test_p_values_are_students() -> None:
    found = equivalence("x", 1.3, 0.2, predicted=1.0, margin=0.5, samples=7)
    assert found.degrees == 6
    assert found.confirm_p == pytest.approx(stats.t.cdf((1.3 - 1.5) / 0.2, 6), rel=1e-12)
    assert found.refute_p == 1.0
    outside = equivalence("x", -1.0, 0.2, predicted=1.0, margin=0.5, samples=7, degrees=3)
    assert outside.refute_p == pytest.approx(2 * stats.t.sf((0.5 - -1.0) / 0.2, 3), rel=1e-12)
    assert outside.confirm_p == pytest.approx(stats.t.sf((-1.0 - 0.5) / 0.2, 3), rel=1e-12)
    low, high = outside.interval(0.9)
    assert (low, high) == pytest.approx(stats.t.interval(0.9, 3, -1.0, 0.2), rel=1e-12)


@pytest.mark.parametrize(
    ("value", "stderr", "degrees"),
    [
        (1.0, math.nan, None),
        (math.nan, 0.1, None),
        (math.inf, 0.1, None),
        (1.0, math.inf, None),
        (math.nan, 0.0, None),
        (1.0, 0.1, 0),
    ],
)
def test_without_a_finite_error_nothing_is_decided(value: float, stderr: float, degrees: float | None) -> None:
    found = equivalence("x", value, stderr, predicted=1.0, margin=0.5, samples=9, degrees=degrees)
    assert (found.confirm_p, found.refute_p) == (1.0, 1.0)


def test_a_single_sample_decides_nothing() -> None:
    found = equivalence("x", 1.0, 0.0, predicted=1.0, margin=0.5, samples=1)
    assert (found.confirm_p, found.refute_p) == (1.0, 1.0)


@pytest.mark.parametrize("value", [1.0, 1.5, 1.75, 0.25])
def test_samples_that_do_not_vary_decide_nothing(value: float) -> None:
    found = equivalence("x", value, 0.0, predicted=1.0, margin=0.5, samples=9)
    assert (found.confirm_p, found.refute_p) == (1.0, 1.0)


# Bounds


def bounded_by(low: float, high: float) -> Callable[[np.ndarray], Finding]:
    def judge(sample: np.ndarray) -> Finding:
        stderr = float(sample.std(ddof=1) / math.sqrt(len(sample)))
        return within("x", float(sample.mean()), stderr, low, high, samples=len(sample))

    return judge


def test_two_bounds_are_an_equivalence_about_their_middle() -> None:
    found = within("x", 1.3, 0.2, 0.5, 1.5, samples=7, degrees=4)
    same = equivalence("x", 1.3, 0.2, predicted=1.0, margin=0.5, samples=7, degrees=4)
    assert replace(found, label="x") == same
    assert found.label == "x within [0.5, 1.5]"
    assert within("x", 1.3, 0.2, 0.5, 1.5, samples=7).degrees == 6


@pytest.mark.parametrize(("low", "high", "inward"), [(2.0, math.inf, 1), (-math.inf, 2.0, -1)])
def test_one_bound_errs_at_its_level_and_tells_its_sides(low: float, high: float, inward: int) -> None:
    judge = bounded_by(low, high)
    edge = repeated(2.0, 0.3, 12, judge)
    for name in ("confirm_p", "refute_p"):  # one-sided, so that refuting errs at its full level too
        assert np.mean([getattr(finding, name) <= ALPHA for finding in edge]) == pytest.approx(ALPHA, abs=SLACK)
    for shift, name in ((inward, "confirm_p"), (-inward, "refute_p")):
        found = repeated(2.0 + shift, 0.3, 13, judge)[:300]
        assert np.mean([getattr(finding, name) <= ALPHA for finding in found]) > 0.99
    assert (edge[0].predicted, edge[0].margin) == (2.0, None)
    assert edge[0].label == ("x ≥ 2" if inward > 0 else "x ≤ 2")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_what_is_not_finite_lies_neither_within_nor_without(value: float, low: float, high: float) -> None:
    found = within("x", value, 0.1, low, high, samples=9)
    assert (found.confirm_p, found.refute_p) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (-math.inf, math.inf)]
)
def test_bounds_must_leave_a_range(low: float, high: float) -> None:
    with pytest.raises(InputError, match="low"):
        within("x", 1.0, 0.1, low, high, samples=9)


def test_bounds_on_several_values_hold_together() -> None:
    """Three values, one at a bound: confirming is wrong; all three at a bound: refuting is."""
    rng, judge, repeats = np.random.default_rng(14), bounded_by(1.0, 3.0), 1000

    def joint(at_bound: int) -> Evidence:
        true = [3.0] * at_bound + [2.0] * (3 - at_bound)
        return Evidence(tuple(judge(rng.normal(t, 0.1, SAMPLES)) for t in true))

    one, three = ([joint(count) for _ in range(repeats)] for count in (1, 3))
    slack = 4 * math.sqrt(ALPHA * (1 - ALPHA) / repeats)
    assert np.mean([e.confirm_p <= ALPHA for e in one]) == pytest.approx(ALPHA, abs=slack)
    assert np.mean([e.refute_p <= ALPHA for e in three]) <= ALPHA + slack


# Positive differences


def test_positive_is_the_one_sample_t_test() -> None:
    sample = [0.3, -0.1, 0.4, 0.2, 0.05]
    found = positive("gain", sample)
    expected = stats.ttest_1samp(sample, 0.0, alternative="greater")
    assert found.confirm_p == pytest.approx(float(expected.pvalue), rel=1e-12)
    assert found.refute_p == pytest.approx(1 - float(expected.pvalue), rel=1e-12)
    assert (found.samples, found.degrees) == (5, 4)
    assert (found.predicted, found.margin) == (None, None)


def test_positive_errs_at_its_level_when_the_mean_is_zero() -> None:
    found = repeated(0.0, 2.0, 7, lambda sample: positive("gain", list(sample)))
    for name in ("confirm_p", "refute_p"):
        assert np.mean([getattr(finding, name) <= ALPHA for finding in found]) == pytest.approx(ALPHA, abs=SLACK)


def test_positive_with_one_difference_or_equal_ones() -> None:
    one = positive("gain", [0.5])
    assert (one.confirm_p, one.refute_p) == (1.0, 1.0)
    for value in (0.5, -0.5, 0.0):
        equal = positive("gain", [value, value])
        assert (equal.confirm_p, equal.refute_p) == (1.0, 1.0)


# Families


def closed_test(p_values: list[float], alpha: float) -> list[bool]:
    """Reject i when Bonferroni rejects every intersection of hypotheses that holds i: what Holm abbreviates."""
    indices = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)]
    return [all(min(p_values[j] for j in s) <= alpha / len(s) for s in subsets if i in s) for i in indices]


@given(
    p_values=st.lists(
        st.sampled_from([0.0, 0.004, 0.005, 0.0101, 0.013, 0.017, 0.024, 0.03, 0.049, 0.06, 1.0]), max_size=6
    )
)
def test_holm_is_the_closed_bonferroni_test(p_values: list[float]) -> None:
    assert holm(p_values, ALPHA) == closed_test(p_values, ALPHA)


def test_holm_at_its_boundary() -> None:
    assert holm([0.025, 0.05], 0.05) == [True, True]
    assert holm([0.0251, 0.0251], 0.05) == [False, False]
    assert holm([], 0.05) == []


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_family_wise_error_is_held_when_every_null_is_true(correlation: float) -> None:
    rng, repeats, size = np.random.default_rng(8), 10_000, 5
    common, own = rng.normal(size=(repeats, 1)), rng.normal(size=(repeats, size))
    p_values = stats.norm.sf(math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own)
    rate = np.mean([any(holm(list(row), ALPHA)) for row in p_values])
    slack = 4 * math.sqrt(ALPHA * (1 - ALPHA) / repeats)
    assert rate <= ALPHA + slack
    if correlation == 0:
        assert rate == pytest.approx(1 - (1 - ALPHA / size) ** size, abs=slack)


def test_the_family_wise_error_is_held_beside_false_nulls() -> None:
    rng, repeats = np.random.default_rng(9), 10_000
    p_values = np.column_stack([np.full((repeats, 3), 1e-9), rng.uniform(size=(repeats, 2))])
    rate = np.mean([any(holm(list(row), ALPHA)[3:]) for row in p_values])
    expected = 1 - (1 - ALPHA / 2) ** 2  # plain Bonferroni would give 1 − (1 − ALPHA/5)²
    assert rate == pytest.approx(expected, abs=4 * math.sqrt(ALPHA * (1 - ALPHA) / repeats))


def finding(confirm_p: float, refute_p: float, value: float = 1.0, label: str = "x") -> Finding:
    return Finding(label, value, 0.1, 9, 1.0, 0.5, 10, confirm_p, refute_p)


def evidence(*p_values: tuple[float, float]) -> Evidence:
    return Evidence(tuple(finding(*pair) for pair in p_values))


def test_all_findings_must_hold_and_one_may_refute() -> None:
    found = evidence((0.001, 1.0), (0.02, 0.5), (0.003, 0.2))
    assert found.confirm_p == 0.02
    assert found.refute_p == pytest.approx(0.6)
    assert evidence((1.0, 0.6), (1.0, 0.9)).refute_p == 1.0


def test_the_decisive_finding() -> None:
    weakest = evidence((0.001, 1.0), (0.02, 1.0))
    assert weakest.decisive is weakest.findings[1]
    refuting = evidence((0.001, 1.0), (1.0, 0.001), (1.0, 0.4))
    assert refuting.decisive is refuting.findings[1]
    tied = Evidence((finding(0.0, 1.0, 1.1), finding(0.0, 1.0, 0.6), finding(0.0, 1.0, 1.2)))
    assert tied.decisive is tied.findings[1]  # the farthest from its prediction, in margins


def test_a_joint_law_is_refuted_and_confirmed_at_most_at_its_level() -> None:
    """Three places: one exactly at the edge and two right (confirming is wrong), then all three at the edge."""
    rng = np.random.default_rng(10)

    def joint(edges: int) -> Evidence:
        true = [2.0 + MARGIN] * edges + [2.0] * (3 - edges)
        return Evidence(tuple(judged(rng.normal(t, 0.1, SAMPLES)) for t in true))

    one, three = ([joint(edges) for _ in range(1000)] for edges in (1, 3))
    slack = 4 * math.sqrt(ALPHA * (1 - ALPHA) / 1000)
    assert np.mean([e.confirm_p <= ALPHA for e in one]) == pytest.approx(ALPHA, abs=slack)
    assert np.mean([e.refute_p <= ALPHA for e in three]) <= ALPHA + slack


@pytest.mark.parametrize(
    ("p_values", "word"),
    [
        ((0.001, 1.0), "confirmed"),
        ((1.0, 0.001), "refuted"),
        ((0.3, 0.4), "inconclusive"),
        ((1.0, 1.0), "inconclusive"),
        ((0.0051, 1.0), "inconclusive"),  # two nulls share alpha = 0.01
        ((0.0049, 1.0), "confirmed"),
        ((0.0, 0.0), "inconclusive"),  # a contradiction decides nothing
    ],
)
def test_words(p_values: tuple[float, float], word: str) -> None:
    assert decide([evidence(p_values)], alpha=0.01) == [word]


def test_words_of_a_family_are_joint() -> None:
    family = [evidence((0.002, 1.0)), evidence((1.0, 0.0001)), evidence((0.5, 0.5))]
    assert decide(family[:1], alpha=0.01) == ["confirmed"]
    assert decide(family, alpha=0.01) == ["confirmed", "refuted", "inconclusive"]  # 0.002 against 0.01/5
    assert decide([*family, family[2]], alpha=0.01) == ["inconclusive", "refuted", "inconclusive", "inconclusive"]
    assert decide([], alpha=0.01) == []


def test_evidence_needs_findings_with_probabilities() -> None:
    with pytest.raises(InputError, match="at least one"):
        Evidence(())
    good = proof("theorem", "", False)
    for confirm_p, refute_p in ((math.nan, 1.0), (0.0, math.nan), (-0.1, 1.0), (0.0, 1.1)):
        with pytest.raises(InputError, match="p-values"):
            Evidence((good, replace(good, confirm_p=confirm_p, refute_p=refute_p)))


def test_a_proof_is_certain_either_way() -> None:
    right, wrong, stuck = (
        proof("theorem", "", False),
        proof("theorem", "step 3", True),
        proof("theorem", "step 4", False),
    )
    words = decide([Evidence((found,)) for found in (right, wrong, stuck)], alpha=1e-9)
    assert words == ["confirmed", "refuted", "inconclusive"]
    assert (right.label, wrong.label) == ("theorem", "step 3")
    assert all(math.isnan(end) for end in right.interval(0.99))
