"""Looks at growing data: what each may spend, the family-wise error of claims that stop early, and what naive looks do.

A rate measured over n repetitions at a nominal level a may lie four of its standard errors, √(a(1 − a)/n), off.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from residual_theory.errors import InputError
from residual_theory.statistics.findings import Evidence, Finding, Word, holm, proof, word_at
from residual_theory.statistics.sequential import Looks, doubling, shares, spent

ALPHA, REPEATS, MARGIN = 0.05, 40_000, 0.4
FRACTIONS, SAMPLES = (0.25, 0.5, 1.0), (8, 16, 32)


def slack(rate: float) -> float:
    return 4 * math.sqrt(rate * (1 - rate) / REPEATS)


def seen(confirm_p: float, refute_p: float) -> Evidence:
    return Evidence((Finding("x", 1.0, 0.1, 9, 1.0, 0.5, 10, confirm_p, refute_p),))


# Spending


def test_the_spending_function_is_that_of_kim_and_demets() -> None:
    """The power family with exponent 2, at 5 % and 1 %."""
    assert spent(1.0, 0.05) == 0.05
    assert spent(0.25, 0.05) == pytest.approx(0.05 / 16, rel=1e-12)
    assert spent(0.5, 0.01) == pytest.approx(0.01 / 4, rel=1e-12)


@given(st.lists(st.floats(0.001, 0.999), max_size=6, unique=True), st.floats(1e-6, 0.5))
def test_shares_are_the_steps_of_the_spending_function(inner: list[float], alpha: float) -> None:
    fractions = [*sorted(inner), 1.0]
    found = shares(fractions, alpha)
    assert sum(found) == pytest.approx(1.0, rel=1e-12)
    for look, fraction in enumerate(fractions, start=1):
        assert alpha * sum(found[:look]) == pytest.approx(spent(fraction, alpha), rel=1e-9, abs=1e-300)


def test_the_fractions_of_doubling_data() -> None:
    assert doubling(1) == (1.0,)
    assert doubling(4) == (0.125, 0.25, 0.5, 1.0)
    assert shares(doubling(1), 0.01) == (1.0,)  # a single look pays nothing


@pytest.mark.parametrize("fractions", [(), (0.5,), (0.5, 0.5, 1.0), (0.0, 1.0), (0.6, 0.4, 1.0), (0.5, 1.0, 2.0)])
def test_fractions_must_rise_to_one(fractions: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="fractions"):
        shares(fractions, 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan])
def test_alpha_must_be_a_probability(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha"):
        shares((1.0,), alpha)


# Looks


def test_p_values_over_looks_are_the_least_that_was_paid_for() -> None:
    looks = Looks((0.1, 0.3, 0.6))
    assert (looks.confirm_p, looks.refute_p) == (1.0, 1.0)
    for evidence in (seen(0.05, 1.0), seen(0.12, 0.24), seen(0.5, 0.3)):
        looks = looks.and_at(evidence)
    assert looks.confirm_p == pytest.approx(0.4)  # min(0.05/0.1, 0.12/0.3, 0.5/0.6)
    assert looks.refute_p == pytest.approx(0.5)  # min(1, 0.24/0.3, 0.3/0.6)
    assert looks.last == seen(0.5, 0.3)
    assert looks.share == 0.6
    with pytest.raises(InputError, match="only 3 are planned"):
        looks.and_at(seen(1.0, 1.0))


def test_a_look_without_a_share_decides_nothing_and_proofs_need_no_data() -> None:
    assert Looks((0.0, 1.0), (seen(0.0, 0.0),)).confirm_p == 1.0
    right = Looks((1.0,), (Evidence((proof("theorem", "", False),)),))
    assert (right.confirm_p, right.refute_p) == (0.0, 1.0)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.004, 0.01, 0.02, 0.03, 0.06, 1.0]), st.booleans()), max_size=7))
def test_holm_rejects_no_less_when_p_values_fall(p_values: list[tuple[float, bool]]) -> None:
    """What verdicts that stay rest on."""
    before = holm([p for p, _ in p_values], ALPHA)
    after = holm([p / 2 if falls else p for p, falls in p_values], ALPHA)
    assert all(later for earlier, later in zip(before, after, strict=True) if earlier)


# The error of a family whose claims stop at different looks, decided on normal data


def p_values_at_looks(true: Sequence[float], seed: int) -> np.ndarray:
    """(repeat, claim, look, side): Student's p-values against "|true − 0| > MARGIN" and "≤ MARGIN", of growing samples.

    The same formulas as `equivalence`, whose own test is elsewhere, for all repeats at once.
    """
    rng = np.random.default_rng(seed)
    sample = rng.normal(np.array(true)[:, None], 0.1, (REPEATS, len(true), SAMPLES[-1]))
    found = []
    for count in SAMPLES:
        part = sample[..., :count]
        value, stderr = part.mean(-1), part.std(-1, ddof=1) / math.sqrt(count)
        confirm = stats.t.sf((MARGIN - np.abs(value)) / stderr, count - 1)
        refute = np.minimum(1, 2 * stats.t.sf((np.abs(value) - MARGIN) / stderr, count - 1))
        found.append(np.stack([confirm, refute], -1))
    return np.stack(found, 2)


def words_of(p_values: np.ndarray, plan: tuple[float, ...]) -> list[Word]:
    """A run as `Session.judge` decides it: each claim at its level, and again until it or the looks end."""
    cases = [Looks(plan) for _ in p_values]
    words: list[Word] = ["inconclusive"] * len(cases)
    for look in range(len(plan)):
        cases = [
            case.and_at(seen(*p_values[i, look])) if words[i] == "inconclusive" else case
            for i, case in enumerate(cases)
        ]
        after = [word_at(case, ALPHA / len(cases)) for case in cases]
        assert all(old in ("inconclusive", new) for old, new in zip(words, after, strict=True))  # verdicts stay
        words = after
    return words


def rate_of_false_verdicts(true: Sequence[float], plan: tuple[float, ...], seed: int, false: Word) -> float:
    """How often any claim whose true value is the edge of the margin gets a word, at which each errs at its full level.

    A law is either right or wrong: "confirmed" is false just outside the edge, and "refuted" just inside.
    """
    edge = np.abs(true) == MARGIN
    wrong = 0
    for p_values in p_values_at_looks(true, seed):
        if p_values[edge].min() <= ALPHA:  # else none of these can be rejected
            words = words_of(p_values, plan)
            wrong += any(word == false for word, null in zip(words, edge, strict=True) if null)
    return wrong / REPEATS


@pytest.mark.parametrize("false", ["confirmed", "refuted"])
def test_the_family_wise_error_is_held_though_claims_stop_at_different_looks(false: Word) -> None:
    edges = (MARGIN, -MARGIN)
    assert rate_of_false_verdicts(edges, shares(FRACTIONS, ALPHA), 1, false) <= ALPHA + slack(ALPHA)


def test_testing_at_each_look_at_the_full_level_breaks_the_error() -> None:
    """The naive twin, which the test above has to tell."""
    assert rate_of_false_verdicts((MARGIN, -MARGIN), (1.0, 1.0, 1.0), 1, "confirmed") > ALPHA + slack(ALPHA)


def test_a_claim_errs_at_its_own_level_whatever_becomes_of_others() -> None:
    """A third of ALPHA, beside claims that are decided at once: neither more nor less."""
    rate = rate_of_false_verdicts((MARGIN, 0.0, 3.0), (0.0, 0.0, 1.0), 2, "confirmed")
    assert abs(rate - ALPHA / 3) <= slack(ALPHA / 3)


def test_early_looks_take_little_power_from_the_last() -> None:
    """Against a single look at all samples; one look in three at α/3 each, which this replaces, takes more."""
    p_values = p_values_at_looks((MARGIN - 0.045,), seed=3)[:2000]
    plans = {"one": (0.0, 0.0, 1.0), "spent": shares(FRACTIONS, ALPHA), "equal": (1 / 3, 1 / 3, 1 / 3)}
    power = {name: np.mean([words_of(row, plan) == ["confirmed"] for row in p_values]) for name, plan in plans.items()}
    assert 0.3 < power["one"] < 0.9
    assert power["one"] - power["spent"] < 0.05
    assert power["spent"] > power["equal"] + 0.03
