"""The errors of the check can all be planted, a few are noticed here and now, and nothing else counts as a notice."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.measure.test_probe import test_a_linear_loop_is_known_exactly as a_linear_loop
from tests.montecarlo.test_estimate import test_moments_are_numpys as moments
from tests.mutation.check import MUTANTS, files_of, forked
from tests.test_stack import test_visits_of_a_pattern as visits_of_a_pattern
from tests.transformer.test_groups import test_each_parameter_is_in_one_group_with_the_papers_factors as groups
from tests.transformer.test_transformer import test_no_token_sees_a_later_one as causality
from tests.transformer.test_transformer import test_the_model_is_the_hand_unrolled_recurrence as recurrence
from tests.transformer.test_transformer import test_the_rate_rises_holds_and_falls as rates

NOTICED: dict[str, Callable[[], None]] = {
    "standard errors halved": moments,
    "consecutive sharing as cyclic": visits_of_a_pattern,
    "a causal mask off by one": causality,
    "half a rotation": recurrence,
    "weight decay on norms": groups,
    "a warm-up one step late": rates,
    "visits pooled": a_linear_loop,
}


@pytest.mark.parametrize("name", list(NOTICED))
def test_a_planted_error_is_noticed(name: str) -> None:
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == name]
    test = NOTICED[name]
    test()
    with mutant.planted(), pytest.raises(AssertionError):
        test()
    test()


def test_every_error_can_be_planted_and_has_tests_to_notice_it() -> None:
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
    for mutant in MUTANTS:
        mutant.changed()  # or raises: its form has to stand there once
        assert files_of(mutant)
        assert all(Path(file).exists() for file in files_of(mutant)), mutant.name


def test_a_process_that_fails_has_noticed_nothing() -> None:
    def fail() -> str:
        raise FileNotFoundError("tests/test_nothing.py")

    with pytest.raises(RuntimeError, match=r"FileNotFoundError: tests/test_nothing\.py"):
        forked(fail)


def test_a_process_without_end_is_ended() -> None:
    def wait() -> str:
        time.sleep(60)
        return ""

    assert forked(wait, most=0.2).by == "did not end in 0 s"
    assert forked(lambda: "").by == ""
