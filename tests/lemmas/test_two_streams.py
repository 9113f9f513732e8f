"""Theorem 2 from two recursions: with ΔW in the feedback, every norm counted, from a common start."""

import random
from dataclasses import replace
from typing import Any

import pytest
import sympy
from sympy import Rational, exp, symbols

from residual_theory.errors import DerivationError, FalseStepError
from residual_theory.lemmas.exponential_bounds import logarithm_below_tangent, power_below_exponential
from residual_theory.lemmas.two_streams import (
    STACK,
    A,
    D,
    N,
    P,
    Q,
    W,
    before,
    chi,
    delta,
    eps,
    gronwall,
    in_norms,
    n,
    next_norm,
    norm_of,
    one_more_visit,
    s,
    subtracted,
    theorem_two,
    w,
)
from residual_theory.proofs.checking import check_step
from residual_theory.proofs.steps import Step

x, eta, c = symbols("x eta c", positive=True)
BY_CHANGED, BY_OLD = subtracted()
VISITS = one_more_visit(BY_CHANGED, BY_OLD)
THEOREM = theorem_two(power_below_exponential(logarithm_below_tangent(x), "t", "w", N), c * eta)

NORMS = {W: w, D: s, delta: A(n, *STACK), chi: A(n, *STACK), before: P(N, *STACK)}


def refused(step: Step, reason: str) -> None:
    with pytest.raises(DerivationError, match=reason):
        step.proof.run(step)


def false(step: Step) -> None:
    with pytest.raises(FalseStepError):
        check_step(step, random.Random(step.title))


def test_a_step_left_out_of_the_feedback_gives_a_false_bound() -> None:
    """d = 1, εN = 1, w = 0.1, s = 1: the output moves by 1.90, and the bound by the old stream would be 1.22."""
    loops = 4000
    stack = (Rational(1, loops), Rational(1, 10), Rational(1), Rational(0))
    moved, largest = (float(function(loops, *stack).n(8)) for function in (A, P))
    without, right = (largest * exp(rate).n(8) for rate in (0.1, 1.1))
    assert moved == pytest.approx(1.90, abs=0.005)
    assert float(without) == pytest.approx(1.22, abs=0.005)
    assert moved < right


def test_the_feedback_needs_the_step_in_the_recursion_and_in_the_norms() -> None:
    forgotten = replace(BY_OLD, rhs=BY_OLD.rhs.subs((W + D) * chi, W * chi))
    assert forgotten.rhs != BY_OLD.rhs
    false(forgotten)
    visit = VISITS[1]
    without = replace(visit, rhs=(1 + eps * w) * A(n, *STACK) + eps * s * P(N, *STACK))
    refused(without, "norms of all terms")
    false(without)
    refused(replace(visit, proof=in_norms(forgotten, NORMS | {forgotten.lhs: visit.lhs})), "norms of all terms")
    bound = s * P(N, *STACK) / w * ((1 + eps * w) ** n - 1)
    refused(gronwall(visit, "t", "w", bound), "the step from n")


def test_the_theorem_does_not_follow_without_the_feedback() -> None:
    last = THEOREM[-1]
    last.proof.run(last)
    without = replace(last, rhs=last.rhs.subs(exp(eps * N * (s + w)), exp(eps * N * w)))
    refused(without, "certificate")
    false(without)


def test_the_distance_starts_at_zero_and_grows_with_itself() -> None:
    visit = VISITS[0]
    good = gronwall(visit, "t", "w", s * Q(N, *STACK) / w * ((1 + eps * w) ** n - 1))
    good.proof.run(good)
    refused(replace(good, rhs=good.rhs + 1), "the case n = 0")
    refused(replace(good, relation=">="), "bounds on the distance")
    refused(replace(good, lhs=A(n + 1, *STACK)), "bounds on the distance")
    refused(replace(good, given=(N - 1 - n,)), "may fail on the way")
    falling = replace(visit, rhs=visit.rhs - 2 * A(n, *STACK))
    refused(gronwall(falling, "t", "w", good.rhs), "increasing")


def test_norms_of_sums_and_products() -> None:
    norms: dict[Any, Any] = {W: w, D: s, delta: x}
    assert norm_of(delta + eps * (W + D) * delta, norms) == x + eps * (w + s) * x
    for unknown in (chi, W * chi, -eps * W):
        with pytest.raises(DerivationError, match="is not known"):
            norm_of(unknown, norms)


def test_the_norm_of_a_part() -> None:
    part = D * W + W * delta
    identity = Step("i", (W + D) * (W + delta), W * W + D * delta + part, "w")
    size = N * s * w ** (N - 1)
    norms = {W: w, D: s, delta: size}
    # the norm of W stands for w at one visit; for a part it is that of the right side only
    good = Step("t", norm_of(part, norms), s * w + w * size, "w", proof=next_norm(identity, part, norms, s * w * N, N))
    refused(good, "next bound")
    refused(replace(good, proof=next_norm(identity, part + chi, norms, size, N)), "no such part")
    refused(replace(good, lhs=s * w), "norms of all terms")
    assert sympy.simplify(good.lhs - good.rhs) == 0
