"""Errors planted in all derivations: constants, indices, relations, dropped hypotheses, lemmas emptied or swapped."""

from dataclasses import replace

import pytest
import sympy

from residual_theory.errors import DerivationError
from residual_theory.proofs.relu_angle import KAPPA
from residual_theory.proofs.steps import Step
from tests.proofs.planted import (
    IN_A_LEMMA,
    IN_A_STEP,
    NAMES,
    Planted,
    campaign,
    changed,
    errors,
    module_of,
    noticed,
    refused,
    with_lemma,
)

SURVIVORS = {
    Planted("cone_sum", "Nonnegative is not enough", "index"): "still true: the number of coordinates drops out",
    Planted("erf_kernel", "Back to the variances", "swapped"): "its right side is compared, its left side read",
    Planted("gelu_kernel", "φ has the slope −u φ", "emptied"): "where it enters the averages is said in their reasons",
    Planted("gelu_kernel", "Φ has the slope φ", "swapped"): "likewise",
    Planted("paper_theorem_6", "Cauchy–Schwarz for means", "swapped"): "still true: of shared parts it says the same",
}
LEMMAS = (  # as others cite them: another kernel's bound, another lemma, none at all
    ("gradient_growth", "At most a right angle: at least a quarter"),
    ("gradient_growth", "At most a right angle: κ is at least 1/(2π)"),
    ("pre_norm_growth", "and at most 1/2"),
    ("positivity", "The kernel is at most its value at 1"),
    ("loop_limit", "The kernel rises with the covariance"),
    ("loop_limit", "One more loop adds little"),
    ("learning_rate", "Distance of the changed stack, visit by visit"),
    ("paper_theorem_1", "The lower bound"),
    ("paper_theorem_6", "Two functions share little"),
)


@pytest.mark.parametrize(("name", "title"), LEMMAS)
@pytest.mark.parametrize("kind", IN_A_LEMMA)
def test_a_lemma_is_cited_for_what_it_says(name: str, title: str, kind: str) -> None:
    assert noticed(Planted(name, title, kind)) in (True, None)
    assert noticed(Planted(name, title, "emptied"))


def test_a_round_of_the_bootstrap_is_the_next_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """κ for 2κ."""
    module = module_of("pre_norm_growth")
    (right,) = (step for step in module.derive().steps if step.title == "After k rounds")
    right.proof.run(right)
    monkeypatch.setattr(module, "NEXT", KAPPA)
    (wrong,) = (step for step in module.derive().steps if step.title == "After k rounds")
    with pytest.raises(DerivationError, match="that a round is the next bound on correlations"):
        wrong.proof.run(wrong)


def test_errors_of_every_kind_are_planted_in_every_derivation() -> None:
    total = 0
    for name in NAMES:
        found = errors(name)
        total += len(found)
        assert {error.kind for error in found} >= {"constant"}, name
    assert total >= 1000
    assert {error.kind for error in campaign(1)} == {*IN_A_STEP, *IN_A_LEMMA}


def test_a_true_step_is_not_refused() -> None:
    """What is caught is the error, not the planting."""
    steps = module_of("loop_limit").DERIVATION.steps
    assert not refused(steps[0])
    with with_lemma(steps[0].title, {"rhs": steps[0].rhs}) as made:
        again = module_of("loop_limit").derive()
    assert made
    users = [user for user in again.steps if any(used in made for used in user.proof.uses)]
    assert users
    assert not any(refused(user) for user in users[:2])


def test_what_is_changed() -> None:
    x, y = sympy.symbols("x y", positive=True)
    n = sympy.Symbol("n", integer=True)
    step = Step("t", x, x + 2 * y**n, "w", "<=", given=(n,))
    assert changed(step, "constant") == {"rhs": x + 3 * y**n}
    assert changed(step, "index") == {"rhs": x + 2 * y ** (n + 1)}
    assert changed(step, "relation") == {"relation": ">="}
    assert changed(step, "hypothesis") == {"given": ()}
    assert changed(replace(step, given=(), relation="="), "hypothesis") == {}
    other = replace(step, lhs=y)
    assert changed(step, "swapped", (step, other)) == {"lhs": y, "rhs": step.rhs, "given": (n,)}
    assert changed(step, "swapped", (step,)) == {}


@pytest.mark.slow
def test_planted_errors_are_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    """The share that is caught; the survivors are known by name, each with its reason."""
    found = {error: noticed(error) for error in dict.fromkeys((*campaign(2), *SURVIVORS))}
    counted = {error: caught for error, caught in found.items() if caught is not None}
    survivors = [error for error, caught in counted.items() if not caught]
    with capsys.disabled():
        print(f"\nplanted errors: {len(counted) - len(survivors)} of {len(counted)} noticed")  # noqa: T201
    assert len(counted) >= 150
    assert set(survivors) == set(SURVIVORS), [str(error) for error in survivors]
    assert len(survivors) <= 0.02 * len(counted)
