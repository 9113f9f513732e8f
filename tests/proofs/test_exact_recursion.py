"""Recursions as SymPy functions: the values are those of the library, and of sums written out."""

from typing import Any

import mpmath
import numpy as np
import pytest
import sympy
from sympy import sqrt, symbols

from residual_theory import Stack, predict
from residual_theory.kernels.dual import dual_of
from residual_theory.proofs.exact_recursion import (
    Covariance,
    Pairs,
    covariance,
    normalised_relu,
    pairs,
    recursive,
    relu,
)
from residual_theory.proofs.relu_angle import KAPPA, theta

a, b = symbols("a b", integer=True, nonnegative=True)
x = sympy.Symbol("x", positive=True)


def K(one: Any, other: Any, layers: Any = 1) -> Any:  # noqa: N802
    return Covariance(one, other, layers, x)


@pytest.mark.parametrize(("loops", "layers", "visits"), [(9, 1, 9), (3, 4, 12), (7, 5, 33), (9, 7, 60)])
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


@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.35, 1.0])
def test_the_kernel_is_the_one_of_the_library(cosine: float) -> None:
    dual = dual_of("relu").value(np.array([[[6 * cosine]]]), np.array([[4.0]]), np.array([[[9.0]]]))[0, 0, 0]
    assert dual == pytest.approx(6 * float(KAPPA.subs(theta, sympy.acos(cosine))))


@pytest.mark.parametrize(("visits", "layers"), [(80, 1), (71, 7)])
def test_many_visits_in_double_precision(visits: int, layers: int) -> None:
    found = Covariance(visits, visits - 3, layers, sympy.Rational(1, 8))
    assert float(found) == pytest.approx(float(covariance(visits, visits - 3, layers, 2 / mpmath.mpf(64))), rel=1e-12)


def test_many_visits_are_those_of_the_library() -> None:
    stack = Stack(loops=100, unique_layers=3, residual_scale=1 / 64, weight_variance=2.0)
    expected = predict(stack, with_gradients=False).covariance.values
    for one, other in ((300, 300), (299, 65), (80, 1), (0, 300)):
        found = Covariance(one, other, 3, sympy.Rational(1, 64))
        assert float(found) == pytest.approx(expected[one, other], rel=1e-12)


def test_pre_norm_covariance_is_that_of_the_library() -> None:
    stack = Stack(loops=5, unique_layers=3, residual_scale=0.4, weight_variance=1.7, normalization="rms")
    expected = predict(stack).covariance.values
    table = pairs(3, mpmath.mpf(0.4) ** 2 * 1.7, normalised_relu)
    for one in range(16):
        for other in range(16):
            assert float(table(one, other)) == pytest.approx(expected[one, other], rel=1e-12)


def test_pairs_are_the_sum_written_out() -> None:
    table = Pairs(3, mpmath.mpf(2) / 7, relu)
    S = table.upto(6)
    for one in range(7):
        for other in range(7):
            shared = [(i, j) for i in range(one) for j in range(other) if (i - j) % 3 == 0]
            assert S[one][other] == pytest.approx(1 + mpmath.mpf(2) / 7 * sum(relu(S, i, j) for i, j in shared))


def test_kept_tables_know_their_precision() -> None:
    """A table kept at few digits must not answer a later call for many."""
    few, many = (sympy.N(recursive("K", covariance)(4, 4, 1, sympy.Rational(1, 2)), digits) for digits in (8, 50))
    assert abs(few - many) < 1e-7
    assert abs(many - Covariance(4, 4, 1, sympy.Rational(1, 2))) < 1e-48


def test_recursive_functions_stay_symbolic() -> None:
    f = recursive("f", lambda n: n, "nonnegative")
    assert f(a).is_nonnegative
    assert f(a).is_positive is None
    assert f(a).evalf() == f(a)
    assert recursive("f", lambda n: n)(a).is_positive
