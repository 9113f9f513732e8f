"""The erf dual kernel E[erf(u) erf(v)] of a Gaussian pair, by Price's theorem."""

from dataclasses import replace
from typing import Any

from sympy import Derivative, Eq, Function, Integral, Limit, asin, erf, exp, oo, pi, sqrt, symbols

from residual_theory.lemmas.gaussian_pair import BOX, PLANE, k, normal, one_after_the_other, p, price, q, s, u, v
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by
from residual_theory.proofs.sign_proof import odd_integrand

n = symbols("n", positive=True)
t, c = symbols("t c", real=True)
ROOM = (1 + 2 * q) * (1 + 2 * p) - 4 * k**2
ARGUMENT = 2 * k / sqrt((1 + 2 * q) * (1 + 2 * p))


def slopes() -> tuple[Step, Step]:
    """How the kernel changes with the covariance."""
    return (
        price(
            "For the density of the pair. Integrate it against erf(u) erf(v), the right side by parts in u and in v: "
            "d/dk E[erf(u) erf(v)] = E[erf′(u) erf′(v)] at fixed variances."
        ),
        Step(
            "The slopes of erf",
            Derivative(erf(u), u) * Derivative(erf(v), v),
            4 / pi * exp(-(u**2) - v**2),
            "They are Gaussian, so that E[erf′(u) erf′(v)] is a Gaussian integral.",
            domain=PLANE,
        ),
    )


def gaussian_integral() -> tuple[Step, ...]:
    """E[erf′(u) erf′(v)], with s = q' − k²/q the variance that v keeps when u is known."""
    slope = 2 / sqrt(pi) * exp(-(v**2))
    given_u = 2 / sqrt(pi * (1 + 2 * s)) * exp(-((k * u / q) ** 2) / (1 + 2 * s))
    result = 4 / (pi * sqrt((1 + 2 * q) * (1 + 2 * s) + 2 * k**2 / q))
    return (
        one_after_the_other(),
        Step(
            "The average over v, given u",
            Integral(slope * normal(v - k * u / q, s), (v, -oo, oo)),
            given_u,
            "Complete the square.",
            domain={u: (-2, 2)},
        ),
        Step(
            "The average over u",
            Integral(slope.subs(v, u) * given_u * normal(u, q), (u, -oo, oo)),
            result,
            "What the last step left, times the slope at u and the density of u.",
        ),
        Step(
            "Back to the variances",
            result.subs(s, p - k**2 / q),
            4 / (pi * sqrt(ROOM)),
            "With s = q' − k²/q: this is E[erf′(u) erf′(v)], which governs gradients and the tangent kernel.",
            domain=BOX,
        ),
    )


def from_zero(kernel: Any, before: tuple[Step, ...]) -> tuple[Step, ...]:
    """The kernel as the integral of its derivative, which the steps before found."""
    averaged = before[-1]
    derivative = Step(
        "A function with this derivative",
        Derivative(kernel, k),
        4 / (pi * sqrt(ROOM)),
        "At fixed variances, by the chain rule.",
        domain=BOX,
    )
    start = Step(
        "It starts from zero",
        Integral(erf(u) * normal(u, q), (u, -oo, oo)),
        0 * q,
        "At k = 0 the two are independent and E[erf(u) erf(v)] = E erf(u) E erf(v), which vanishes as erf is odd. "
        "Unlike those of ReLU, the outputs of orthogonal inputs are uncorrelated.",
        proof=odd_integrand(),
    )

    def run(step: Step) -> None:
        ((variable, low, high),) = step.lhs.limits
        for slope in (step.lhs.function.subs(variable, high), averaged.rhs):
            must_vanish(slope - derivative.rhs, "that the slope found is integrated")
        must_vanish(derivative.lhs.doit() - derivative.rhs, "that it is the slope of the kernel")
        must_vanish(step.rhs - derivative.lhs.args[0], "that the right side is the function with this slope")
        must_vanish(step.rhs.subs(high, low) - start.rhs, "that both vanish at covariance 0")

    return (
        derivative,
        start,
        Step(
            "The kernel",
            Integral(averaged.rhs.subs(k, t), (t, 0, k)),
            kernel,
            "The kernel at covariance k is the integral of its derivative from 0, where it vanishes.",
            proof=Proof("the derivative and the value at 0", run, (averaged, derivative, start)),
            domain=BOX,
        ),
    )


def limits(kernel: Any) -> tuple[Step, Step]:
    """What becomes of it for large and small variances."""
    return (
        Step(
            "Large variances: the sign",
            Limit(kernel.subs({q: n, p: n, k: c * n}, simultaneous=True), n, oo),
            2 / pi * asin(c),
            "For q = q' = n → ∞ at correlation c, erf becomes the sign, whose kernel this is: twice the angle by which "
            "the two are less than orthogonal, over π.",
            proof=by.limit(),
            domain={c: (-1, 1)},
        ),
        Step(
            "Small variances: the tangent",
            Limit(n * kernel.subs({q: q / n, p: p / n, k: k / n}, simultaneous=True), n, oo),
            4 * k / pi,
            "With the covariance divided by n → ∞, erf becomes its tangent 2u/√π: the linear stack with "
            "variance 4σ_w²/π.",
            proof=by.limit(),
            domain=BOX,
        ),
    )


def derive(argument: Any = ARGUMENT) -> Derivation:
    """The derivation, with `argument` the claimed argument of the arcsine."""
    kernel = 2 / pi * asin(argument)
    slope = (*slopes(), *gaussian_integral())
    steps = (
        *slope,
        *from_zero(kernel, slope),
        *limits(kernel),
    )
    return Derivation(
        id="erf-kernel",
        title="The erf dual kernel",
        statement=(
            "For a centred Gaussian pair (u, v) with variances q, q' and covariance k, E[erf(u) erf(v)] equals (2/π) "
            "arcsin(2k/√((1 + 2q)(1 + 2q'))), and its derivative in k at fixed variances, E[erf′(u) erf′(v)], equals "
            "(4/π)/√((1 + 2q)(1 + 2q') − 4k²)."
        ),
        formula=Eq(Function("F")(q, p, k), kernel),
        assumptions=(
            "(u, v) is Gaussian with mean zero and |k| < √(q q'); the points sampled have 1 < q, q' < 2 and |k| < 1 "
            "where both variances enter.",
            "Differentiation under the integral, and integration by parts without boundary terms, as the density "
            "falls faster than any power.",
        ),
        steps=steps,
        not_proved=(
            "The case u = v, |k| = √(q q'), other than by continuity: E erf(u)² = (2/π) arcsin(2q/(1 + 2q)).",
            "That the entries of a wide residual stream are jointly Gaussian; the derivation is about a Gaussian pair.",
        ),
        source="this project; the kernel is Williams (1997), Computing with infinite networks",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(k / sqrt((1 + q) * (1 + p))),
    statement="the argument is k/√((1 + q)(1 + q')), which belongs to 2Φ(u) − 1 with Φ that of N(0, 1), not to erf",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
