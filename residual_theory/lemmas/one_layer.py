"""One ReLU layer looped N times at infinite width: its covariance, and an exponential that it stays below."""

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Sum, exp

from residual_theory.errors import DerivationError
from residual_theory.lemmas.exponential_bounds import logarithm_below_tangent
from residual_theory.proofs import ways as by
from residual_theory.proofs.algebra import must_vanish
from residual_theory.proofs.induction_proof import over_earlier_visits, pair_by_pair
from residual_theory.proofs.pair_recursion import covariance_of, r, s
from residual_theory.proofs.relu_angle import KAPPA, kernel_bounds, sine
from residual_theory.proofs.steps import Proof, Step

N, L = sympy.symbols("N L", integer=True, positive=True)
a, b, i, j = sympy.symbols("a b i j", integer=True, nonnegative=True)
x, y, z, t = sympy.symbols("x y z t", positive=True)
one, two, three = sympy.symbols("g h f", nonnegative=True)  # slacks of earlier inequalities
FEW = {N: (2, 4), L: (1, 3), a: (0, 3), b: (0, 3), x: (0, sympy.Rational(2, 5)), z: (0, 2), t: (0, 2)}
K = covariance_of("K", (L, t), t, r * s * KAPPA, L)  # of a raw ReLU stack, in units of q_0; t is ε²σ_w²


def mean_of_powers(one: Any, other: Any) -> Any:
    """The bound for one layer looped at most N times.

    >>> mean_of_powers(1, 0)
    N*t/4 + 1
    """
    return ((1 + t * N / 2) ** one + (1 + t * N / 2) ** other) / 2


def _pairs(of: Callable[[Any, Any], Any]) -> Any:
    return 1 + t / 2 * Sum((of(i, i) + of(j, j)) / 2, (j, 0, b - 1), (i, 0, a - 1))


def powers_are_met() -> Proof:
    """A geometric sum for each visit; each of N − a or more visits left out would add something positive.

    >>> powers_are_met().how
    'the geometric sum'
    """

    def run(step: Step) -> None:
        summed = ((1 + t * N / 2) ** a - 1) / 2  # is (t/4) N Σ_{i<a} (1 + tN/2)^i, for N visits j
        must_vanish(summed.subs(a, 0), "the empty sum")
        must_vanish(summed.subs(a, a + 1) - summed - t / 4 * N * (1 + t * N / 2) ** a, "the geometric sum")
        must_vanish(step.lhs - 1 - summed - summed.subs(a, b), "the left side, for N visits in place of a or b")
        if (step.relation, step.rhs, step.given) != (">=", _pairs(mean_of_powers), (N - a, N - b)):
            raise DerivationError("not about the recursion of one layer, or a hypothesis is missing")

    return Proof("the geometric sum", run)


def ceiling_of_one_layer() -> tuple[Step, ...]:
    """One looped layer stays below an exponential.

    >>> str(ceiling_of_one_layer()[-1].rhs)
    'exp(z/2)'
    """
    wave = sine()
    _, half, _ = kernel_bounds(wave)
    tangent = logarithm_below_tangent(y)
    inside = (N - a, N - b)
    squares = Step(
        "Every pair counts at most half the mean of its squares",
        K(a, b, 1, t),
        _pairs(lambda one, other: K(one, other, 1, t)),
        "In units of q_0, K(a, b) = 1 + t Σ r_i r_j κ(θ_ij) over i < a, j < b, r_i² = K(i, i), κ ≤ 1/2.",
        "<=",
        pair_by_pair(t * r * s * one + t / 4 * (r - s) ** 2, {one: half}),
        FEW,
    )
    met = Step(
        "Means of powers have this growth",
        mean_of_powers(a, b),
        _pairs(mean_of_powers),
        "Each visit pairs with at most N.",
        ">=",
        powers_are_met(),
        FEW,
        inside,
    )
    bounded = Step(
        "One looped layer lies below them",
        K(a, b, 1, t),
        met.lhs,
        "By induction over the visits.",
        "<=",
        over_earlier_visits(squares, met),
        FEW,
        inside,
    )
    power = Step(
        "A power lies below the exponential",
        (1 + z / (2 * N)) ** a,
        exp(z / 2),
        "At most N times the logarithm.",
        "<=",
        by.certificate(a * one + two * z / (2 * N), {one: (tangent, {y: z / (2 * N)}), two: N - a}, logarithm=True),
        FEW,
        (N - a,),
    )
    ceiling = Step(
        "One looped layer stays bounded",
        K(a, b, 1, z / N**2),
        exp(z / 2),
        "The mean of both powers at t = z/N².",
        "<=",
        by.certificate(one + (two + three) / 2, {one: (bounded, {t: z / N**2}), two: power, three: (power, {a: b})}),
        FEW,
        inside,
    )
    return wave, half, tangent, squares, met, bounded, power, ceiling
