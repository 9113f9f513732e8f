"""Exact averages of a stack of width 2, against Wick's polynomial and without what integration by parts adds."""

import random
from dataclasses import replace

import pytest
import sympy

from residual_theory.errors import DerivationError
from residual_theory.lemmas.narrow_stack import RING, W, an_entry_moves_the_stream, average, averages, beta, by_parts, e
from residual_theory.proofs.checking import check_step
from residual_theory.theory.finite_width import d, epsilon, sigma_w, tied_linear_second_moment


def test_linear_stack_is_the_polynomial_of_pairings() -> None:
    exact = tied_linear_second_moment(2).subs({d: 2, sigma_w: 1, epsilon: e})
    assert sympy.expand(averages()["M"][2, 2].subs(beta, 0) - exact) == 0


def test_averages_of_monomials() -> None:
    entry, other = RING(W[0, 0]), RING(W[0, 1])
    assert [average(entry**n) for n in range(5)] == [1, 0, sympy.Rational(1, 2), 0, sympy.Rational(3, 4)]
    assert average(entry**2 * other**2) == sympy.Rational(1, 4)
    assert average(entry * other) == 0


def test_corrections_are_needed_and_count_once() -> None:
    moves = an_entry_moves_the_stream()
    check_step(by_parts(moves), random.Random(0))
    for times in (0, 2):
        with pytest.raises(DerivationError, match="the identity of streams 1 and 2"):
            by_parts(moves, times).proof.run(by_parts(moves, times))


def test_another_derivative_is_refused() -> None:
    moves = an_entry_moves_the_stream()
    wrong = replace(moves, rhs=2 * moves.rhs)
    with pytest.raises(DerivationError, match="one of the entries"):
        wrong.proof.run(wrong)
    with pytest.raises(DerivationError, match="how an entry moves"):
        by_parts(wrong).proof.run(by_parts(wrong))
