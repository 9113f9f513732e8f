"""Recursions said once: what proofs read of them is what the library computes."""

from typing import Any

import mpmath
import pytest
import sympy
from sympy import Rational, symbols

from residual_theory import Stack, predict
from residual_theory.errors import DerivationError
from residual_theory.proofs.exact_recursion import Covariance
from residual_theory.proofs.pair_recursion import compiled, covariance_of, r, recursion, s
from residual_theory.proofs.relu_angle import KAPPA, theta
from tests.proofs.planted import module_of

L = sympy.Symbol("L", integer=True, positive=True)
t, x = symbols("t x", positive=True)
a, b = symbols("a b", integer=True, nonnegative=True)
RAW, NORMALISED = (covariance_of("K", (L, t), t, term, L) for term in (r * s * KAPPA, KAPPA))


@pytest.mark.parametrize(("function", "normalization"), [(RAW, "none"), (NORMALISED, "rms")])
def test_covariances_are_those_of_the_library(function: Any, normalization: Any) -> None:
    stack = Stack(loops=4, unique_layers=3, residual_scale=0.4, weight_variance=1.7, normalization=normalization)
    expected = predict(stack).covariance.values
    for one, other in ((12, 12), (12, 5), (7, 10), (3, 3), (0, 4)):
        found = function(one, other, 3, Rational(16, 100) * Rational(17, 10))
        assert float(found) == pytest.approx(expected[one, other], rel=1e-12)


def test_what_is_said_of_a_recursion() -> None:
    said = recursion(RAW(a, b, 1, 2 * t))
    assert (said.ends, said.layers, said.start) == ((a, b), 1, 1)
    assert said.summand == 2 * t * r * s * KAPPA
    assert said.correlation == RAW(a, b, 1, 2 * t) / sympy.sqrt(RAW(a, a, 1, 2 * t) * RAW(b, b, 1, 2 * t))
    linear = recursion(Covariance(a, b, L, x))
    assert linear.summand.subs(theta, 0) == x**2 * r * s
    with pytest.raises(DerivationError, match="no recursion"):
        recursion(sympy.Function("f")(a))


def test_the_gate_is_the_slope_of_the_kernel() -> None:
    """E[relu′ relu′] in the recursion of gradients is dκ/dc."""
    slope = sympy.diff(KAPPA, theta) / sympy.diff(sympy.cos(theta), theta)
    gate = module_of("gradient_growth").ON
    assert sympy.simplify(slope - gate) == 0
    kernel = compiled(KAPPA)
    for cosine in (-0.7, 0.0, 0.4):
        found = mpmath.diff(lambda c: kernel(1, 1, mpmath.acos(c), c, 0), cosine)
        assert float(gate.subs(theta, sympy.acos(cosine))) == pytest.approx(float(found))
