"""Sums of symbolic length in one form, and certificates in which earlier steps stand under a sum."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sympy
from sympy import KroneckerDelta, Sum, sqrt

from residual_theory.errors import DerivationError, FalseStepError
from residual_theory.lemmas import vectors
from residual_theory.proofs.checking import check_step
from residual_theory.proofs.rendering import formula_text
from residual_theory.proofs.steps import Step
from residual_theory.proofs.sum_proof import by_squares, by_sums, family, unrolled, written_as
from residual_theory.proofs.sums import apart, reduced, weight
from residual_theory.proofs.tables import Smallest, evaluated, table
from tests.proofs.test_derivation import load

d, N, A, i, j, k, n = sympy.symbols("d N A i j k n", integer=True, positive=True)
x, y, u = table("x"), table("y"), table("u", "nonnegative")
bound, gap = sympy.Symbol("b", positive=True), sympy.Symbol("g", nonnegative=True)
each = family("f")
PAPER = ("lemma_4", "lemma_5", "proposition_7", "theorem_1", "theorem_2", "theorem_6", "untied")


def over(index: Any, summand: Any, last: Any = d) -> Any:
    return Sum(summand, (index, 1, last))


SAME = {
    "order and names": (Sum(x(i) * y(j) ** 2, (i, 1, d), (j, 1, N)), over(k, y(k) ** 2, N) * over(n, x(n))),
    "squares": (over(i, x(i)) ** 2, Sum(x(j) * x(k), (j, 1, d), (k, 1, d))),
    "nested": (over(i, x(i) * over(j, x(i) * y(j))), over(i, x(i) ** 2) * over(i, y(i))),
    "probabilities": (over(i, weight(i, A) * over(j, weight(j, A) * x(j), A), A), over(k, x(k) * weight(k, A), A)),
    "a delta": (Sum(KroneckerDelta(i, j) * x(i) * y(j), (i, 1, d), (j, 1, d)), over(k, x(k) * y(k))),
    "two that differ": (Sum(apart(i, j) * x(i), (i, 1, d), (j, 1, d)), (d - 1) * over(k, x(k))),
    "an empty sum": (Sum(x(i), (i, 1, 0)), sympy.Integer(0)),
    "two roots that meet": (over(n, sqrt(over(i, u(i))) ** 2 * x(n)), over(i, u(i)) * over(n, x(n))),
}
OTHER = {
    "another range": (over(i, x(i)), over(i, x(i), N)),
    "another table": (over(i, x(i) * y(i)), over(i, x(i) ** 2)),
    "a product of sums": (over(i, x(i) * y(i)), over(i, x(i)) * over(i, y(i))),
    "no probabilities": (over(i, weight(i, A), A), over(i, weight(i, d + 1))),
    "a transpose": (Sum(x(i, j) * y(i), (i, 1, d), (j, 1, d)), Sum(x(j, i) * y(i), (i, 1, d), (j, 1, d))),
    "real for nonnegative": (over(i, x(i)), over(i, table("x", "nonnegative")(i))),
}


@pytest.mark.parametrize("case", SAME)
def test_equal_sums_look_equal(case: str) -> None:
    one, other = SAME[case]
    assert one != other
    assert sympy.simplify(reduced(one - other)) == 0


@pytest.mark.parametrize("case", OTHER)
def test_other_sums_do_not(case: str) -> None:
    one, other = OTHER[case]
    assert sympy.simplify(reduced(one - other)) != 0


def test_a_family_of_hypotheses_is_one() -> None:
    members = Smallest(x(i), (i, 1, 4))
    assert members == min(x(place) for place in range(1, 5))
    assert Smallest(x(i), (i, 1, 0)) == 0
    assert isinstance(Smallest(x(i) - bound, (i, 1, 4)), Smallest)


def sum_at_most(given: tuple[Any, ...], limit: Any = d, used: Any = None) -> Step:
    """Σ x ≤ d b from x_i ≤ b for every i."""
    certificate = over(i, each(i), limit)
    known = {each: used or (bound - x(i), (i,))}
    return Step("t", over(i, x(i), limit), limit * bound, "w", "<=", by_sums(certificate, known), given=given)


def test_a_hypothesis_about_all_members_stands_under_a_sum() -> None:
    check_step(sum_at_most((Smallest(bound - x(i), (i, 1, d)),)), random.Random(1))
    for given, reason in (
        ((), "is no hypothesis"),
        ((bound - x(i),), "is no hypothesis"),
        ((Smallest(bound + x(i), (i, 1, d)),), "is no hypothesis"),
        ((Smallest(bound - x(i), (i, 1, N)),), "for other indices only"),
    ):
        step = sum_at_most(given)
        with pytest.raises(DerivationError, match=reason):
            step.proof.run(step)


def test_a_step_about_one_member_stands_under_a_sum_where_its_hypothesis_does() -> None:
    one = Step(
        "one", 2 * x(i), 2 * bound, "w", "<=", by_sums(2 * gap, {gap: bound - x(i)}), given=(bound - x(i), d - i)
    )
    one.proof.run(one)
    step = Step("all", over(i, x(i)), d * bound, "w", "<=", by_sums(over(i, each(i)) / 2, {each: (one, (i,))}))
    held = replace(step, given=(Smallest(bound - x(i), (i, 1, d)),))
    held.proof.run(held)
    for given in ((), (Smallest(bound - x(i), (i, 1, N)),)):
        refused = replace(step, given=given)
        with pytest.raises(DerivationError, match="uses “one”, which needs"):
            refused.proof.run(refused)


def test_an_instance_keeps_signs_and_binds_nothing_by_accident() -> None:
    _, root = vectors.inner_product()
    step = Step(
        "t",
        over(i, y(i) * over(j, x(i, j) * u(j))),
        vectors.norm(y) * vectors.norm(lambda place: over(j, x(place, j) * u(j))),
        "w",
        "<=",
        by_sums(gap, {gap: (root, {vectors.x: y, vectors.y: lambda place: over(k, x(place, k) * u(j))})}),
    )
    with pytest.raises(DerivationError):  # u(j) is not summed over here
        step.proof.run(step)
    right = {vectors.x: y, vectors.y: lambda place: over(i, x(place, i) * u(i))}
    step = replace(step, proof=by_sums(gap, {gap: (root, right)}))
    step.proof.run(step)
    positive = Step("p", -over(i, u(i)), sympy.Integer(0), "w", "<=", by_sums(over(i, u(i))))
    for table_put, passes in ((lambda place: x(place) ** 2, True), (x, False)):
        use = by_sums(gap, {gap: (positive, {u: table_put})})
        instance = Step("t", -over(i, table_put(i)), sympy.Integer(0), "w", "<=", use)
        if passes:
            instance.proof.run(instance)
        else:
            with pytest.raises(DerivationError, match="whose sign is not known"):
                instance.proof.run(instance)


def test_numbers_are_put_in_at_once() -> None:
    """N → N d leaves the N of what is put in for a table as it is."""
    many = vectors.many(vectors.inner_product()[1])
    vector = {vectors.N: N * d, vectors.v: lambda visit, place: x(visit, N, place)}
    total = vectors.norm(lambda place: Sum(x(n, N, place), (n, 1, N * d)))
    sizes = Sum(vectors.norm(lambda place: x(n, N, place)), (n, 1, N * d))
    step = Step("t", total, sizes, "w", "<=", by_sums(gap, {gap: (many, vector)}))
    step.proof.run(step)


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        (by_sums(-over(i, u(i))), "not visibly nonnegative"),
        (by_sums(over(i, u(i) ** 2)), "certificate is the difference"),
        (by_squares(over(i, u(i))), "certificate is the difference"),
        (by_sums(gap, {gap: Step("z", over(i, x(i)), over(j, x(j)), "w")}), "nothing follows from it"),
    ],
)
def test_wrong_certificates_are_refused(proof: Any, reason: str) -> None:
    step = Step("t", sympy.Integer(0), over(i, u(i)), "w", "<=", proof)
    with pytest.raises(DerivationError, match=reason):
        step.proof.run(step)


def test_the_larger_side_of_squares_is_not_negative() -> None:
    step = Step("t", over(i, x(i)), -over(i, u(i)), "w", "<=", by_squares(0))
    with pytest.raises(DerivationError, match="larger side"):
        step.proof.run(step)


def test_an_identity_follows_from_identities_alone() -> None:
    step = Step("t", over(i, u(i)), sympy.Integer(0), "w", proof=by_sums(over(i, each(i)), {each: (u(i), (i,))}))
    with pytest.raises(DerivationError, match="from identities alone"):
        step.proof.run(step)


def test_a_sequence_is_unrolled_by_its_own_recursion() -> None:
    visits = sympy.Symbol("v", integer=True, nonnegative=True)
    h = evaluated("h", lambda v, place: sum((place * m for m in range(1, int(v) + 1)), place), shown=2)

    def closed(following: Callable[[Callable[[Any], Any]], Any]) -> Step:
        rhs = h(0, i) + i * Sum(n, (n, 1, visits))
        return Step("t", h(visits, i), rhs, "w", proof=unrolled(following, i, visits), domain={visits: (0, 4)})

    check_step(closed(lambda before: before(i) + i * (visits + 1)), random.Random(1))
    with pytest.raises(DerivationError, match="the step from v to v"):
        check_step(closed(lambda before: before(i) + i * visits), random.Random(1))


def test_definitions_are_written_out() -> None:
    size = evaluated("q", lambda last: 0, "nonnegative")
    step = Step("t", size(d), d * over(i, x(i) ** 2), "w", "<=")
    spread = Sum((x(i) - x(j)) ** 2, (i, 1, d), (j, 1, d)) / 2
    step = replace(step, proof=written_as({size: lambda last: over(i, x(i), last) ** 2}, by_sums(spread)))
    step.proof.run(step)
    wrong = replace(step, proof=written_as({size: lambda last: over(i, x(i) ** 2, last)}, by_sums(spread)))
    with pytest.raises(DerivationError, match="certificate is the difference"):
        wrong.proof.run(wrong)


def test_wide_formulas_are_printed_on_lines() -> None:
    long = Sum(x(i) * over(j, x(i, j) * over(k, x(j, k) * over(n, y(n, k)))), (i, 1, d))
    shown = formula_text(Step("t", long**2, sqrt(over(i, weight(i, d) * x(i) ** 2)) + over(i, y(i)) ** 2, "w"))
    assert max(map(len, shown.splitlines())) <= 110
    assert "√(E_(i)[x(i)²])" in " ".join(shown.split())
    assert "Σ_(i=1…d)" in shown


@pytest.mark.parametrize("name", PAPER)
def test_the_false_twin_is_refused_by_its_proof_as_well(name: str) -> None:
    """Not by the values alone."""
    module = load(f"paper_{name}")
    pairs = zip(module.DERIVATION.steps, module.FALSE_TWIN.steps, strict=True)
    (false,) = [twin for step, twin in pairs if (step.lhs, step.rhs) != (twin.lhs, twin.rhs)][:1]
    with pytest.raises(FalseStepError):
        check_step(false, random.Random(1))
    with pytest.raises(DerivationError):
        false.proof.run(false)
