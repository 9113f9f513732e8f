"""The further ways to prove a step: the covariance is that of the recursion, and no proof accepts a false step."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy
from sympy import Integer, Limit, Sum, cos, cosh, log, oo, pi, sin, sqrt, symbols

from residual_theory import Stack, predict
from residual_theory.errors import DerivationError
from residual_theory.theory import squared_binomials
from residual_theory.theory.derivation import Step
from residual_theory.theory.dual import dual_of
from residual_theory.theory.further_proof import (
    KAPPA,
    Covariance,
    by_sign,
    gap,
    kernel_bounds,
    over_earlier_visits,
    pair_by_pair,
    r,
    s,
    shared,
    sine,
    squeeze,
    theta,
)

a, b, i, j, n = symbols("a b i j n", integer=True, nonnegative=True)
L, N = symbols("L N", integer=True, positive=True)
x, z = symbols("x z", positive=True)
alpha = sympy.Symbol("alpha", positive=True)
tau, first = symbols("tau v", nonnegative=True)
w = sympy.Symbol("w", real=True)
WAVE = sine()
HALF, MOST, LEAST = kernel_bounds(WAVE)
PAIRS = (j, 0, b - 1), (i, 0, a - 1)


def K(one: Any, other: Any, layers: Any = 1) -> Any:  # noqa: N802
    return Covariance(one, other, layers, x)


def refused(step: Step, reason: str) -> None:
    with pytest.raises(DerivationError, match=reason):
        step.proof.run(step)


@pytest.mark.parametrize(("loops", "layers", "visits"), [(9, 1, 9), (3, 4, 12), (7, 5, 33), (13, 7, 88), (80, 1, 80)])
def test_covariance_is_that_of_the_recursion(loops: int, layers: int, visits: int) -> None:
    stack = Stack(loops=loops, unique_layers=layers, residual_scale=0.15, weight_variance=1.7, initial_variance=0.3)
    expected = predict(stack).covariance.values / 0.3
    scale = sympy.Rational(15, 100) * sqrt(sympy.Rational(17, 20))
    for one in (visits, visits - 3, 2):
        for other in (0, 1, visits // 2, visits):
            assert float(Covariance(one, other, layers, scale)) == pytest.approx(expected[one, other], rel=1e-12)


def test_covariance_to_many_digits() -> None:
    scale = sympy.Rational(3, 7)
    assert abs(Covariance(1, 1, 1, scale) - 1 - scale**2) < 1e-55
    assert abs(Covariance(5, 5, 6, scale) - (1 + scale**2) ** 5) < 1e-55


def test_covariance_of_symbols() -> None:
    assert K(0, b) == K(a, 0) == 1
    assert K(a, a).is_positive
    assert K(a, b).is_positive is None
    assert sympy.latex(K(a, b)) == r"K{\left(a,b \right)}"
    assert "y" in sympy.pretty(Covariance(a, b, 1, sympy.Symbol("y") / 2))


def test_signs_need_a_true_certificate() -> None:
    sinc = Step("t", sin(theta), theta, "w", "<=", given=(pi - theta,))
    refused(replace(sinc, proof=by_sign(theta, {}, theta, 1)), "certificate is what it should be")
    refused(replace(sinc, proof=by_sign(w, {w: 1 - cos(theta)}, theta, 1)), "not visibly nonnegative")
    refused(replace(sinc, proof=by_sign(first, {first: 1 - cos(theta)}, theta, 1)), "not known")
    refused(Step("t", w**2, w, "w", ">=", by_sign(2 * first, {first: w}, w, 1)), "may be negative")
    refused(Step("t", z + 1, z, "w", ">=", by_sign(0 * z, {}, tau, 1)), "derivative 0 vanishes")
    refused(Step("t", z, z, "w", "=", by_sign(0 * z, {})), "inequalities only")


def test_signs_need_their_hypotheses_on_the_whole_way() -> None:
    late = Step("t", tau**3 - tau**2, 0 * tau, "w", ">=", given=(tau - 1,))
    certificate = 3 * tau * first + tau
    refused(replace(late, proof=by_sign(certificate, {first: tau - 1}, tau, 1)), "may fail on the way")


def test_instances_of_signs_need_what_the_earlier_step_needs() -> None:
    beyond = Step("t", sin(2 * theta), Integer(0), "w", ">=", by_sign(first, {first: (WAVE, {theta: 2 * theta})}))
    refused(replace(beyond, given=(pi - theta,)), "which needs pi - 2\\*theta ≥ 0")
    replace(beyond, given=(pi - 2 * theta,)).proof.run(replace(beyond, given=(pi - 2 * theta,)))
    positive = Step("t", z, Integer(0), "w", ">=", by_sign(z, {}))
    refused(
        Step("t", tau, Integer(0), "w", ">=", by_sign(first, {first: (positive, {z: tau})})), "known to be positive"
    )


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


def test_limits_at_an_exponent_between_zero_and_one() -> None:
    lower_bound = Step("l", log(z), 1 - 1 / z, "w", ">=")
    upper_bound = Step("u", log(z), z - 1, "w", "<=")
    both = ((lower_bound, {z: 1 + N**-alpha}), (upper_bound, {z: 1 + N**-alpha}))
    inner = log(1 + N**-alpha)
    step = Step("t", Limit(inner, N, oo), Integer(0), "w", proof=squeeze(alpha, *both), given=(1 - alpha,))
    step.proof.run(step)
    refused(replace(step, rhs=Integer(1)), "limit of the bound")
    refused(replace(step, given=()), "between 0 and 1")
    refused(replace(step, proof=squeeze(alpha, both[0])), "two bounds")
    refused(replace(step, lhs=Limit(2 * inner, N, oo)), "bound is one of this expression")


@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.35, 1.0])
def test_the_kernel_is_the_one_of_the_library(cosine: float) -> None:
    dual = dual_of("relu").value(np.array([[[6 * cosine]]]), np.array([[4.0]]), np.array([[[9.0]]]))[0, 0, 0]
    assert dual == pytest.approx(6 * float(KAPPA.subs(theta, sympy.acos(cosine))))
