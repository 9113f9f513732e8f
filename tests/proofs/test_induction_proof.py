"""Inductions over visits and counts of pairs accept no false step."""

from dataclasses import replace
from typing import Any

import pytest
import sympy
from sympy import Integer, Sum, cos, cosh, pi, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.lemmas import squared_binomials
from residual_theory.proofs.exact_recursion import Covariance, recursive, shared
from residual_theory.proofs.induction_proof import (
    alone,
    no_negative_term,
    only_grows,
    over_earlier_visits,
    over_pairs,
    pair_by_pair,
    partners,
)
from residual_theory.proofs.pair_recursion import c, covariance_of, own, r, s
from residual_theory.proofs.relu_angle import KAPPA, acute_bounds, kernel_bounds, sine, theta
from residual_theory.proofs.sign_proof import gap
from residual_theory.proofs.steps import Step

a, b, i, j, n = symbols("a b i j n", integer=True, nonnegative=True)
L, N = symbols("L N", integer=True, positive=True)
x, t = symbols("x t", positive=True)
w = sympy.Symbol("w", real=True)
HALF, MOST, LEAST = kernel_bounds(sine())
FLOOR, CEILING = acute_bounds(("floor", "ceiling"), ("w", "w"))
PAIRS = (j, 0, b - 1), (i, 0, a - 1)
S, R = (covariance_of(name, (L, t), t, term, L) for name, term in (("S", KAPPA), ("R", r * s * KAPPA)))
SIGN, SHARE = Step("sign", S(a, b, L, t), Integer(1), "w", ">="), partners()
u, v = symbols("u v", nonnegative=True)


def counted(each: Any, lemma: Step, share: Step = SHARE) -> Any:
    return over_pairs(each, share, t * gap, {gap: lemma}, SIGN)


def K(one: Any, other: Any, layers: Any = 1) -> Any:  # noqa: N802
    return Covariance(one, other, layers, x)


def refused(step: Step, reason: str) -> None:
    with pytest.raises(DerivationError, match=reason):
        step.proof.run(step)


def lower(rhs: Any, layers: Any = 1, relation: Any = ">=", used: Step = HALF) -> Step:
    return Step("t", K(a, b, layers), rhs, "w", relation, pair_by_pair(2 * x**2 * r * s * gap, {gap: used}))


def test_pairs_are_compared_with_the_recursion() -> None:
    good = 1 + x**2 * Sum(K(i, j), *PAIRS)
    lower(good).proof.run(lower(good))
    refused(lower(2 * good - 1), "compares one pair")
    refused(lower(good + 1), "case of no visit")
    refused(lower(1 + x**2 * Sum(K(i, j), PAIRS[0], (i, 0, a))), "all earlier visits")
    refused(lower(1 + x**2 * Sum(K(i, j), (j, 0, a - 1), (i, 0, b - 1))), "other visits")
    refused(lower(good, relation="<="), "compares one pair")
    refused(lower(good, used=MOST), "compares one pair")
    refused(lower(good, used=replace(HALF, given=(pi / 2 - theta,))), "needs .* at every pair")
    refused(lower(good, layers=L), "needs one sum|different layers|compares one pair")
    tied = 1 + x**2 * Sum(shared(i, j, L) * K(i, j, L), *PAIRS)
    lower(tied, layers=L).proof.run(lower(tied, layers=L))
    refused(lower(1 + x**2 * Sum(K(i, j, L), *PAIRS), layers=L), "different layers")


def induction(rhs: Any, relation: Any = ">=", bound: Step | None = None, closed: Step | None = None) -> Step:
    at_least = lower(1 + x**2 * Sum(K(i, j), *PAIRS))
    _, series = squared_binomials.recursion()
    return Step("t", K(a, b), rhs, "w", relation, over_earlier_visits(bound or at_least, closed or series))


def test_induction_over_the_visits() -> None:
    good = squared_binomials.moment(a, b)
    _, series = squared_binomials.recursion()
    induction(good).proof.run(induction(good))
    refused(induction(2 * good), "same sum|claimed bound")
    refused(induction(good, "<="), "points the other way")
    refused(induction(good, closed=replace(series, relation=">=")), "points the other way")
    refused(induction(good, closed=replace(series, given=(w,))), "hypothesis of an earlier step")
    falling = Step("t", K(a, b), 10 - x**2 * Sum(K(i, j), *PAIRS), "w", ">=")
    refused(induction(good, bound=falling), "increasing")
    late = replace(induction(good), given=(a - 3,))
    refused(late, "may fail at an earlier visit")


def test_an_earlier_bound_in_every_summand() -> None:
    at_least = lower(1 + x**2 * Sum(K(i, j), *PAIRS))
    one = Step("one", K(a, b), Integer(1), "w", ">=")
    claim = Step("t", K(a, b), 1 + x**2 * Sum(1, *PAIRS), "w", ">=", over_earlier_visits(at_least, by=one))
    claim.proof.run(claim)
    refused(replace(claim, rhs=2 + x**2 * Sum(1, *PAIRS)), "claimed bound")
    for wrong, reason in (
        (replace(one, relation="<="), "points the other way"),
        (replace(one, rhs=Integer(-1)), "may be negative"),
        (replace(one, given=(a - 2,)), "hypothesis of an earlier step"),
        (replace(one, lhs=K(a, a)), "something else"),
    ):
        refused(replace(claim, proof=over_earlier_visits(at_least, by=wrong)), reason)


def test_squares_need_nonnegative_sums() -> None:
    """S² falls where S is negative: a bound by the square of such a sum is no induction."""
    shifted = Step("s", K(n, n), 1 + x**2 * Sum(sqrt(K(j, j)) - 2, (j, 0, n - 1)) ** 2, "w", "<=")
    closed = Step("c", cosh(n * x) ** 2, 1 + x**2 * Sum(cosh(j * x) - 2, (j, 0, n - 1)) ** 2, "w", ">=")
    refused(Step("t", K(n, n), cosh(n * x) ** 2, "w", "<=", over_earlier_visits(shifted, closed)), "increasing")


def test_every_pair_is_counted() -> None:
    last = S(N * L, N * L, L, t)
    good = Step("t", last, 1 + t * N**2 * L / 2, "w", "<=", counted(t / 2, CEILING))
    good.proof.run(good)
    assert good.proof.uses == (CEILING, SHARE, SIGN)
    refused(replace(good, rhs=1 + t * N * L / 2), "every pair is counted")
    refused(replace(good, rhs=t * N**2 * L / 2), "every pair is counted")
    refused(replace(good, relation=">="), "compares one pair")
    refused(replace(good, lhs=S(N * L, L, L, t)), "all visits of the stack")
    refused(replace(good, lhs=S(N * L, N * L, 1, t)), "all visits of the stack")
    refused(replace(good, rhs=1 + t * N**2 * L, proof=counted(t, CEILING)), "compares one pair")
    early = replace(good, lhs=S(a, b, L, t), given=(N * L - a, N * L - b))
    early.proof.run(early)
    refused(replace(early, given=(N * L - a,)), "all visits of the stack")
    refused(
        replace(early, relation=">=", rhs=1 + t * N**2 * L / (2 * pi), proof=counted(t / (2 * pi), FLOOR)), "visits"
    )


@pytest.mark.parametrize(
    ("lemma", "reason"),
    [
        (FLOOR, "compares one pair"),
        (HALF, "compares one pair"),
        (replace(CEILING, relation="="), "no inequality"),
        (replace(CEILING, lhs=cos(theta)), "compares one pair"),
        (replace(CEILING, rhs=CEILING.rhs / 2), "compares one pair"),
        (replace(CEILING, given=(pi / 3 - theta,)), "needs .* at every pair"),
        (Step("l", t, 2 * t, "w", "<="), "about a pair"),
    ],
)
def test_another_lemma_bounds_no_pair(lemma: Step, reason: str) -> None:
    good = Step("t", S(N * L, N * L, L, t), 1 + t * N**2 * L / 2, "w", "<=", counted(t / 2, lemma))
    refused(good, reason)


@pytest.mark.parametrize(
    ("sign", "reason"),
    [
        (False, "needs .* at every pair"),
        (replace(SIGN, relation="<="), "no correlation is negative"),
        (replace(SIGN, rhs=w), "no correlation is negative"),
        (replace(SIGN, lhs=S(a, b, L, 2 * t)), "another stream"),
        (replace(SIGN, lhs=R(a, b, L, t)), "another stream"),
        (replace(SIGN, lhs=S(N, N, L, t)), "no correlation is negative"),
        (replace(SIGN, given=(w,)), "another hypothesis"),
    ],
)
def test_a_right_angle_needs_the_sign_of_correlations(sign: Any, reason: str) -> None:
    proof = over_pairs(t / 2, SHARE, t * gap, {gap: CEILING}, sign)
    refused(Step("t", S(N * L, N * L, L, t), 1 + t * N**2 * L / 2, "w", "<=", proof), reason)


@pytest.mark.parametrize(
    "share",
    [
        replace(SHARE, rhs=Integer(1)),
        replace(SHARE, rhs=2 * N),
        replace(SHARE, relation="<="),
        replace(SHARE, lhs=Sum(shared(i, j, N), (j, 0, N * L - 1))),
        CEILING,
    ],
)
def test_partners_are_counted_by_the_lemma(share: Step) -> None:
    good = Step("t", S(N * L, N * L, L, t), 1 + t * N**2 * L / 2, "w", "<=", counted(t / 2, CEILING, share))
    refused(good, "every pair is counted|does not count the partners")


def test_bounds_on_functions_at_a_pair() -> None:
    """Raw ReLU: R ≥ 1 + N²L t/(2π), as r s ≥ 1 in every summand."""
    least = Step("least", R(a, b, L, t), Integer(1), "w", ">=")
    parts = u / (r + 1) * s + v / (s + 1)  # r s − 1

    def claim(first: Any = (least, r**2), second: Any = (least, s**2), each: Any = t / (2 * pi)) -> Step:
        certificate = t * (r * s * gap + parts / (2 * pi))
        proof = over_pairs(each, SHARE, certificate, {gap: FLOOR, u: first, v: second}, least)
        return Step("t", R(N * L, N * L, L, t), 1 + N**2 * L * each, "w", ">=", proof)

    claim().proof.run(claim())
    refused(claim(each=t / pi), "compares one pair")
    for wrong, reason in (
        ((replace(least, rhs=Integer(2)), r**2), "compares one pair"),
        ((least, r), "is not about r"),
        ((replace(least, lhs=S(a, b, L, t)), r**2), "is not about"),
        ((replace(least, lhs=R(a, b, L, 2 * t)), r**2), "another stack"),
        ((replace(least, rhs=1 + a), r**2), "one bound for all visits"),
        ((replace(least, given=(w,)), r**2), "another hypothesis"),
        ((replace(least, relation="="), r**2), "not an inequality"),
        ((least, c), "is not about"),
    ):
        refused(claim(wrong), reason)


def test_what_was_found_for_a_pair_may_be_negative() -> None:
    claim = Step("t", S(a, b, L, t), Integer(1), "w", ">=", pair_by_pair(own * gap, {gap: FLOOR}, SIGN))
    refused(claim, "may be negative")


def test_visits_of_one_loop_are_alone() -> None:
    good = Step("t", S(L, L, L, t), 1 + L * t / 2, "w", proof=alone(t / 2))
    good.proof.run(good)
    refused(replace(good, lhs=S(L, L, N, t)), "one loop")
    refused(replace(good, rhs=1 + L**2 * t / 2), "every visit is counted")
    refused(replace(good, rhs=1 + L * t, proof=alone(t)), "a visit with itself")
    refused(replace(good, lhs=R(L, L, L, t)), "depends on the stream")


def test_no_term_is_negative() -> None:
    good = Step("t", S(a, b, L, t), Integer(1), "w", ">=", no_negative_term(FLOOR))
    good.proof.run(good)
    refused(replace(good, rhs=Integer(2)), "the value at the start")
    refused(replace(good, relation="<="), "may be negative")
    refused(replace(good, lhs=recursive("G", lambda one: one)(a)), "no recursion")
    refused(replace(good, lhs=S(N, N, L, t)), "for every visit")
    for floor in (CEILING, replace(FLOOR, rhs=w), replace(FLOOR, rhs=Integer(-1)), replace(FLOOR, lhs=cos(theta))):
        refused(replace(good, proof=no_negative_term(floor)), "may be negative")
    refused(replace(good, proof=no_negative_term(replace(FLOOR, given=(1 - theta,)))), "at every pair")


def test_more_pairs_add_something() -> None:
    last = S(N * L, N * L, L, t)
    good = Step("t", S(a, b, L, t), last, "w", "<=", only_grows(SIGN, FLOOR), given=(N * L - a, N * L - b))
    good.proof.run(good)
    refused(replace(good, given=(N * L - a,)), "needs a hypothesis")
    refused(replace(good, rhs=S(N * L, N * L, L, 2 * t)), "another stack")
    refused(replace(good, rhs=S(N, N, L, t)), "all visits of the stack")
    refused(replace(good, proof=only_grows(SIGN, CEILING)), "may be negative")
