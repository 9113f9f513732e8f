"""The GELU dual kernel E[gelu(u) gelu(v)] of a Gaussian pair, by Gaussian integration by parts."""

from dataclasses import replace
from typing import Any

import sympy
from sympy import Derivative, Eq, Function, Integral, Limit, Rational, asin, erf, oo, pi, sqrt, symbols

from residual_theory.lemmas.gaussian_pair import (
    BOX,
    PLANE,
    joint,
    k,
    normal,
    one_after_the_other,
    p,
    price,
    q,
    s,
    u,
    v,
)
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by
from residual_theory.proofs.sign_proof import odd_integrand

n = symbols("n", positive=True)
t, c = symbols("t c", real=True)
ROOM = (1 + q) * (1 + p) - k**2
SLOPES = 1 / (2 * pi * sqrt(ROOM))  # E[φ(u) φ(v)]
GATES = Rational(1, 4) + asin(k / sqrt((1 + q) * (1 + p))) / (2 * pi)  # E[Φ(u) Φ(v)]
OVERLAP = q * p - k**2 + k**2 / (1 + q) + k**2 / (1 + p)


def below(x: Any) -> Any:
    """The distribution function of a standard Gaussian."""
    return (1 + erf(x / sqrt(2))) / 2


class phi(sympy.Function):  # type: ignore[misc]  # noqa: N801
    """φ, the density of a standard Gaussian, written out at numbers only."""

    @classmethod
    def value(cls, x: Any) -> Any:
        """Its value at a number."""
        return normal(x) if x.is_number else None

    eval = value  # the name under which SymPy calls it

    def fdiff(self, argindex: int = 1) -> Any:
        """φ′(x) = −x φ(x)."""
        return -self.args[0] * self


class Phi(sympy.Function):  # type: ignore[misc]
    """Φ, the distribution function of a standard Gaussian, written out at numbers only."""

    @classmethod
    def value(cls, x: Any) -> Any:
        """Its value at a number."""
        return below(x) if x.is_number else None

    eval = value  # the name under which SymPy calls it

    def fdiff(self, argindex: int = 1) -> Any:
        """Φ′ = φ."""
        return phi(self.args[0])


def slopes() -> tuple[Step, ...]:
    """P = E[φ(u) φ(v)], with s = q' − k²/q the variance that v keeps when u is known."""
    given_u = normal(k * u / q, 1 + s)
    result = 1 / (2 * pi * sqrt((1 + q) * (1 + s) + k**2 / q))
    return (
        one_after_the_other(),
        Step(
            "The average of φ(v), given u",
            Integral(normal(v) * normal(v - k * u / q, s), (v, -oo, oo)),
            given_u,
            "φ is the density of a standard Gaussian; the integral is that of the sum of two Gaussians.",
            domain={u: (-2, 2)},
        ),
        Step(
            "The average of φ(u) φ(v)",
            Integral(normal(u) * given_u * normal(u, q), (u, -oo, oo)),
            result,
            "What the last step left, times φ(u) and the density of u.",
        ),
        Step(
            "P, in the variances",
            result.subs(s, p - k**2 / q),
            SLOPES,
            "With s = q' − k²/q. Call it P.",
            domain=BOX,
        ),
    )


def gates(averaged: Step) -> tuple[Step, ...]:
    """G = E[Φ(u) Φ(v)], by Price's theorem."""
    of_density = price(
        "Integrate it against Φ(u) Φ(v), the right side by parts in u and in v: the derivative of E[Φ(u) Φ(v)] in k at "
        "fixed variances is E[φ(u) φ(v)]."
    )
    derivative = Step(
        "A function with this derivative",
        Derivative(GATES, k),
        SLOPES,
        "At fixed variances, by the chain rule.",
        domain=BOX,
    )
    start = Step(
        "Where it starts",
        Integral((below(u) - Rational(1, 2)) * normal(u, q), (u, -oo, oo)),
        0 * q,
        "Φ − 1/2 is odd, so E Φ(u) = 1/2, and E[Φ(u) Φ(v)] = 1/4 at k = 0, where the two are independent.",
        proof=odd_integrand(),
    )

    def run(step: Step) -> None:
        integral = next(iter(step.lhs.atoms(Integral)))
        ((variable, low, high),) = integral.limits
        for slope in (integral.function.subs(variable, high), averaged.rhs):
            must_vanish(slope - derivative.rhs, "that the slope found is integrated")
        must_vanish(step.lhs - integral - Rational(1, 4), "the value at covariance 0")
        must_vanish(step.rhs - derivative.lhs.args[0], "that the right side is the function with this slope")
        must_vanish(step.rhs.subs(high, low) - Rational(1, 4) - start.rhs, "that both start at 1/4")

    whole = Step(
        "The two gates",
        Rational(1, 4) + Integral(SLOPES.subs(k, t), (t, 0, k)),
        GATES,
        "E[Φ(u) Φ(v)] at covariance k, the integral of its derivative from 0. Call it G.",
        proof=Proof("the derivative and the value at 0", run, (of_density, averaged, derivative, start)),
        domain=BOX,
    )
    return of_density, derivative, start, whole


def along(one: Any, other: Any, function: Any) -> Any:
    """one ∂f/∂u + other ∂f/∂v, with the derivatives still to be carried out."""
    return one * Derivative(function, u) + other * Derivative(function, v)


def by_parts() -> tuple[Step, ...]:
    """E[u f] = q E f_u + k E f_v and E[v f] = k E f_u + q' E f_v, and where they lead."""
    phi_u, phi_v, gate_u, gate_v = phi(u), phi(v), Phi(u), Phi(v)
    return (
        Step(
            "Φ has the slope φ",
            Derivative(below(u), u),
            normal(u),
            "The distribution function and the density of a standard Gaussian.",
            domain=PLANE,
        ),
        Step(
            "φ has the slope −u φ",
            Derivative(normal(u), u),
            -u * normal(u),
            "The two derivatives are used below.",
            domain=PLANE,
        ),
        Step(
            "Integration by parts",
            along(q, k, joint()),
            -u * joint(),
            "So u times the density is a derivative; integrate it against f(u, v) by parts: E[u f] = q E f_u + "
            "k E f_v, and in the same way E[v f] = k E f_u + q' E f_v.",
            domain={**BOX, **PLANE},
        ),
        Step(
            "Out of gelu(u) = u Φ(u)",
            along(q, k, v * gate_u * gate_v),
            q * v * phi_u * gate_v + k * gate_u * gate_v + k * v * gate_u * phi_v,
            "f = v Φ(u) Φ(v): the kernel is E[u f] = q X + k G + k Z, with X = E[v φ(u) Φ(v)], Z = E[v Φ(u) φ(v)].",
            domain={**BOX, **PLANE},
        ),
        Step(
            "X",
            along(k, p, phi_u * gate_v),
            p * phi_u * phi_v - k * u * phi_u * gate_v,
            "f = φ(u) Φ(v): X = E[v f] = q' P − k Y, with Y = E[u φ(u) Φ(v)].",
            domain={**BOX, **PLANE},
        ),
        Step(
            "Y",
            along(q, k, phi_u * gate_v),
            k * phi_u * phi_v - q * u * phi_u * gate_v,
            "The same f: Y = E[u f] = k P − q Y, hence Y = kP/(1 + q).",
            domain={**BOX, **PLANE},
        ),
        Step(
            "Z",
            along(k, p, gate_u * phi_v),
            k * phi_u * phi_v - p * v * gate_u * phi_v,
            "f = Φ(u) φ(v): Z = E[v f] = k P − q' Z, hence Z = kP/(1 + q').",
            domain={**BOX, **PLANE},
        ),
    )


def assembled(parts: tuple[Step, ...]) -> Proof:
    """Average the right sides of the four steps by parts, and solve for the kernel: k G + coefficient · P."""
    means = F, X, Y, Z, P, G = symbols("F X Y Z P G")
    phi_u, phi_v, gate_u, gate_v = phi(u), phi(v), Phi(u), Phi(v)
    values = (u * v * gate_u * gate_v, v * phi_u * gate_v, u * phi_u * gate_v, v * gate_u * phi_v)
    terms = dict(zip(means, (*values, phi_u * phi_v, gate_u * gate_v), strict=True))
    equations = {F: q * X + k * G + k * Z, X: p * P - k * Y, Y: k * P - q * Y, Z: k * P - p * Z}
    multiplier = {F: u, X: v, Y: u, Z: v}

    def run(step: Step) -> None:
        for (mean, average), part in zip(equations.items(), parts[-4:], strict=True):
            coefficients = (q, k) if multiplier[mean] == u else (k, p)
            function = terms[mean] / multiplier[mean]
            must_vanish(part.lhs - along(*coefficients, function), "that the step is the one for this average")
            must_vanish(part.rhs - average.subs(terms, simultaneous=True), "that its right side has this average")
        solved = sympy.solve([mean - average for mean, average in equations.items()], [F, X, Y, Z], dict=True)[0]
        must_vanish(k * G + step.lhs * P - solved[F], "that the left side solves them")
        must_vanish(step.lhs - step.rhs, "that both sides agree")

    return Proof("the four steps averaged and solved", run, parts)


def checks(kernel: Any) -> tuple[Step, ...]:
    """Independent inputs, and what becomes of it for large and small variances."""
    return (
        Step(
            "Check at covariance 0",
            Integral(u * below(u) * normal(u, q), (u, -oo, oo)) * Integral(v * below(v) * normal(v, p), (v, -oo, oo)),
            kernel.subs(k, 0),
            "For independent u, v the kernel is the product of the means, q/√(2π(1 + q)) and the same for q'.",
        ),
        Step(
            "Large variances: ReLU",
            Limit(kernel.subs({q: n, p: n, k: c * n}, simultaneous=True) / n, n, oo),
            c * (Rational(1, 4) + asin(c) / (2 * pi)) + sqrt(1 - c**2) / (2 * pi),
            "gelu(√n u)/√n becomes relu(u): with c = cos θ this is (sin θ + (π − θ) cos θ)/(2π).",
            proof=by.limit(),
            domain={c: (-1, 1)},
        ),
        Step(
            "Small variances: the tangent",
            Limit(n * kernel.subs({q: q / n, p: p / n, k: k / n}, simultaneous=True), n, oo),
            k / 4,
            "gelu becomes u/2: the linear stack with variance σ_w²/4.",
            proof=by.limit(),
            domain=BOX,
        ),
    )


def derive(overlap: Any = OVERLAP) -> Derivation:
    """The derivation, with `overlap` the claimed coefficient of P."""
    kernel = k * GATES + overlap * SLOPES
    averaged, parts = slopes(), by_parts()
    steps = (
        *averaged,
        *gates(averaged[-1]),
        *parts,
        Step(
            "The coefficient of P in the kernel",
            q * (p - k**2 / (1 + q)) + k**2 / (1 + p),
            overlap,
            "q X + k G + k Z with X = q'P − kY, and Y, Z as found: the kernel is k G plus this times P.",
            proof=assembled(parts),
            domain=BOX,
        ),
        *checks(kernel),
    )
    return Derivation(
        id="gelu-kernel",
        title="The GELU dual kernel",
        statement=(
            "For a centred Gaussian pair (u, v) with variances q, q' and covariance k, and gelu(u) = u Φ(u), "
            "E[gelu(u) gelu(v)] equals k G + (q q' − k² + k²/(1 + q) + k²/(1 + q')) P, where P = E[φ(u) φ(v)] equals "
            "1/(2π√((1 + q)(1 + q') − k²)) and G = E[Φ(u) Φ(v)] equals 1/4 + arcsin(k/√((1 + q)(1 + q')))/(2π)."
        ),
        formula=Eq(Function("F")(q, p, k), kernel),
        assumptions=(
            "(u, v) is Gaussian with mean zero and |k| < √(q q'); the points sampled have 1 < q, q' < 2 and |k| < 1 "
            "where both variances enter.",
            "Φ and φ are the distribution function and the density of a standard Gaussian.",
            "Differentiation under the integral, and integration by parts without boundary terms, as the density "
            "falls faster than any power.",
        ),
        steps=steps,
        not_proved=(
            "The case |k| = √(q q'), other than by continuity.",
            "That the entries of a wide residual stream are jointly Gaussian; the derivation is about a Gaussian pair.",
        ),
        source="this project",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(q * p),
    statement="the coefficient of P is q q' at every covariance, as it is at covariance 0",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
