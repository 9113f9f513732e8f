"""`simulate` and `predict` against an independent simulator: errors in the visits that both read do not cancel here."""

from collections.abc import Sequence

import numpy as np
import pytest

from residual_theory import Stack, predict, simulate
from tests.independent.agreement import Compared, bound, table, with_predict, with_simulate
from tests.independent.descriptions import CHOICES, SPREAD, Described, descriptions
from tests.mutants import Mutant

WIDTH, TRIALS = 16, 100
WIDTHS, COUNTS = (12, 24, 48), (400, 200, 100)
FEW = list(descriptions(6, seed=11))
EVERY_PLACE = Described(
    Stack(
        loops=3, unique_layers=2, residual_scale=0.6, sharing="consecutive", activation="tanh", carry=0.7, skip=0.9,
        injection=0.5, prelude=1, coda=1, outer_scale=0.8, loop_normalization=True, weight_variance=1.7,
    ),
    None,
)  # fmt: skip


def agree(compared: Sequence[Compared]) -> bool:
    """Whether all comparisons, taken as one family, stay within the bound."""
    largest = np.concatenate([np.abs(item.deviations) for item in compared])
    return bool(np.max(largest) < bound(len(largest)))


def test_every_field_is_described_and_every_choice_taken() -> None:
    described = list(descriptions(48, seed=1))
    fields = {name for name in CHOICES if name not in ("weights", "inputs")} | set(SPREAD)
    assert fields | {"tied", "sharing"} == set(Stack.model_fields)
    for name, choices in CHOICES.items():
        if name in Stack.model_fields:
            assert {getattr(stack, name) for stack, _ in described} == set(choices)
    assert {1 if rho is None else len(rho) for _, rho in described} == set(CHOICES["inputs"])
    assert {stack.sharing if isinstance(stack.sharing, str) else "own order" for stack, _ in described} == {
        "cyclic", "consecutive", "own order"
    }  # fmt: skip
    assert {stack.tied for stack, _ in described} == {True, False}


def test_random_stacks_are_simulated_alike() -> None:
    compared = [item for i, stack in enumerate(FEW) for item in with_simulate(stack, WIDTH, TRIALS, seed=i)]
    assert sum(item.deviations.size for item in compared) > 400
    assert agree(compared)


def test_random_stacks_are_predicted_alike() -> None:
    compared = [item for i, stack in enumerate(FEW[:3]) for item in with_predict(stack, WIDTHS, COUNTS, seed=i)]
    assert sum(item.deviations.size for item in compared) > 100
    assert agree(compared)


def test_without_an_error_the_stack_that_has_everything_agrees() -> None:
    assert agree(list(with_simulate(EVERY_PLACE, WIDTH, 400, seed=5)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("place % L == 0", "place % L == L - 1"),
        ("leaving and self.loop_normalization", "self.loop_normalization"),
        ("leaving and self.loop_normalization", "entering and self.loop_normalization"),
        ("skip * (carry if entering else 1.0)", "carry if entering else 1.0"),
        ("injection * entering", "injection"),
        ("Visit(branch, weights, outer, _a, None, carry=skip, normalized=post)",
         "Visit(branch, weights, epsilon, _a, None, carry=skip, normalized=post)"),
        ("-1 - self.prelude - i", "-1 - i"),
    ],
)  # fmt: skip
def test_errors_in_the_shared_visits_are_caught(old: str, new: str) -> None:
    with Mutant("visits", "stack.Stack.visits", old, new).planted():
        assert not agree(list(with_simulate(EVERY_PLACE, WIDTH, 400, seed=5)))


@pytest.mark.parametrize(
    ("old", "new"), [("place // self.loops", "place % self.unique_layers"), ("place // self.loops", "place // 2")]
)
def test_errors_in_the_shared_weights_are_caught(old: str, new: str) -> None:
    with Mutant("weights", "stack.Stack._weights", old, new).planted():
        assert not agree(list(with_simulate(EVERY_PLACE, WIDTH, 400, seed=5)))


def test_such_errors_cancel_between_prediction_and_simulation() -> None:
    """Which is why they are looked for here."""
    with Mutant("visits", "stack.Stack.visits", "injection * entering", "injection").planted():
        drawn = simulate(EVERY_PLACE.stack, width=256, samples=40, seed=2)
        law = predict(EVERY_PLACE.stack, with_gradients=False)
        assert np.allclose(drawn.second_moment, law.second_moment, rtol=0.05)
        assert not agree(list(with_predict(EVERY_PLACE, WIDTHS, COUNTS, seed=3)))


@pytest.mark.slow
def test_all_random_stacks_agree() -> None:
    rows = table(count=48, seed=1)
    comparisons = sum(row["comparisons"] for row in rows)
    assert len(rows) == 96
    assert comparisons > 7000
    assert max(row["largest_deviation"] for row in rows) < bound(comparisons)
