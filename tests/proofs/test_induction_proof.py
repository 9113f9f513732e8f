"""Inductions over visits and counts of pairs accept no false step."""

from dataclasses import replace
from typing import Any

import pytest
import sympy
from sympy import Integer, Sum, cosh, pi, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import squared_binomials
from residual_theory.proofs.exact_recursion import Covariance, recursive, shared
from residual_theory.proofs.induction_proof import (
    no_negative_term,
    over_earlier_visits,
    over_pairs,
    pair_by_pair,
    r,
    s,
)
from residual_theory.proofs.relu_angle import acute_bounds, kernel_bounds, sine, theta
from residual_theory.proofs.sign_proof import gap
from residual_theory.proofs.steps import Step

a, b, i, j, n = symbols("a b i j n", integer=True, nonnegative=True)
L, N = symbols("L N", integer=True, positive=True)
x, t = symbols("x t", positive=True)
w = sympy.Symbol("w", real=True)
HALF, MOST, LEAST = kernel_bounds(sine())
FLOOR, CEILING = acute_bounds(("floor", "ceiling"), ("w", "w"))
PAIRS = (j, 0, b - 1), (i, 0, a - 1)


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
    refused(lower(good, used=replace(HALF, given=(pi / 2 - theta,))), "for every angle")
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
    F = recursive("F", lambda one, other: one)  # any function will do: the proof is about the number of terms
    last = F(N * L, L)
    good = Step("t", last, 1 + t * N**2 * L / 2, "w", "<=", over_pairs("<=", t / 2, N, L, CEILING))
    good.proof.run(good)
    refused(replace(good, rhs=1 + t * N * L / 2), "every pair is counted")
    refused(replace(good, rhs=t * N**2 * L / 2), "every pair is counted")
    refused(replace(good, relation=">="), "different ways")
    refused(replace(good, proof=over_pairs("<=", t / 2, N, L, FLOOR)), "different ways")
    either = replace(good, proof=over_pairs("<=", t / 2, N, L, CEILING, also=(FLOOR,)))
    either.proof.run(either)
    assert either.proof.uses == (CEILING, FLOOR)
    exact = Step("e", last, 1 + 0 * t, "w")
    refused(replace(good, proof=over_pairs("<=", t / 2, N, L, CEILING, also=(exact,))), "something else")
    from_zero = replace(good, rhs=t * N**2 * L / 2, proof=over_pairs("<=", t / 2, N, L, CEILING, start=0))
    from_zero.proof.run(from_zero)


def test_no_term_is_negative() -> None:
    F = recursive("F", lambda one, other: one)
    good = Step("t", F(a, b), Integer(1), "w", ">=", no_negative_term(F, FLOOR))
    good.proof.run(good)
    refused(replace(good, rhs=Integer(2)), "the value at the start")
    refused(replace(good, relation="<="), "may be negative")
    refused(replace(good, lhs=recursive("G", lambda one: one)(a)), "may be negative")
    for floor in (CEILING, replace(FLOOR, rhs=w), replace(FLOOR, rhs=Integer(-1))):
        refused(replace(good, proof=no_negative_term(F, floor)), "may be negative")
