"""The ReLU dual kernel E[relu(u) relu(v)] of a Gaussian pair, from the integral."""

from dataclasses import replace
from typing import Any

from sympy import (
    Abs,
    Derivative,
    Determinant,
    Eq,
    Function,
    Integral,
    Matrix,
    acos,
    cos,
    exp,
    oo,
    pi,
    sin,
    sqrt,
    symbols,
)

from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs import ways as by

theta, r, tau = symbols("theta r tau", positive=True)
q_a, q_b = symbols("q_a q_b", positive=True)
x, y, phi, c = symbols("x y phi c", real=True)
ANGLE = {theta: (0, 3), tau: (0, 3)}
BRACKET = sin(theta) + (pi - theta) * cos(theta)


def relu(z: Any) -> Any:
    """max(z, 0), written so that SymPy sees its homogeneity."""
    return (z + Abs(z)) / 2


def geometry() -> tuple[Step, ...]:
    """Polar coordinates, and the arc on which both arguments are positive."""
    in_polar = Matrix([r * cos(phi), r * sin(phi)])
    return (
        Step(
            "The two variances come out of the kernel",
            relu(sqrt(q_a) * x) * relu(sqrt(q_b) * y),
            sqrt(q_a * q_b) * relu(x) * relu(y),
            "relu(z) = (z + |z|)/2 is homogeneous, so unit variances are enough: E[relu(u) relu(v)] equals "
            "√(q_a q_b) κ(c), with κ the kernel at unit variances and c = cos θ the correlation.",
        ),
        Step(
            "A pair of correlation cos θ in polar coordinates",
            cos(theta) * r * cos(phi) + sin(theta) * r * sin(phi),
            r * cos(phi - theta),
            "With x, y independent standard normal, u = x and v = x cos θ + y sin θ have unit variance and "
            "correlation cos θ. Put x = r cos φ, y = r sin φ.",
            domain=ANGLE,
        ),
        Step(
            "The area element",
            Determinant(in_polar.jacobian(Matrix([r, phi]))),
            r,
            "dx dy = r dr dφ, and the density of (x, y) depends on r alone.",
        ),
        Step(
            "Where both arguments are positive",
            cos(theta) * sin(theta + tau) - sin(theta) * cos(theta + tau),
            sin(tau),
            "The left side is v/r at φ = θ − π/2 + τ, where u/r = sin(θ + τ). For 0 < τ < π − θ both are sines of "
            "angles between 0 and π, hence positive: the arc from φ = θ − π/2 to π/2 counts.",
            domain=ANGLE,
        ),
        Step(
            "Where they are not",
            cos(theta) * sin(tau) - sin(theta) * cos(tau),
            -sin(theta - tau),
            "The left side is v/r at φ = −π/2 + τ; for 0 < τ < θ it is negative. On the remaining half circle, φ from "
            "π/2 to 3π/2, u is negative. Nothing there counts.",
            domain=ANGLE,
        ),
    )


def averages(bracket: Any) -> tuple[Step, ...]:
    """The integrals over radius and angle, and what they make of the kernel."""
    kappa = bracket / (2 * pi)
    arc = (phi, theta - pi / 2, pi / 2)
    density = exp(-(r**2) / 2) / (2 * pi)
    line = exp(-(x**2) / 2) / sqrt(2 * pi)
    radial = Step(
        "Integral over the radius",
        Integral(r**2 * density * r, (r, 0, oo)),
        1 / pi,
        "The product of the two arguments gives r², the area element r.",
    )
    over_angle = Step(
        "Integral over the angle",
        Integral(cos(phi) * cos(phi - theta), arc),
        bracket / 2,
        "Over the arc on which both arguments are positive.",
        domain=ANGLE,
    )
    orthant = Step(
        "Probability that both are positive",
        Integral(density * r, (r, 0, oo)) * Integral(1, arc),
        (pi - theta) / (2 * pi),
        "The same two integrals without the arguments: this is E[relu′(u) relu′(v)].",
        domain=ANGLE,
    )
    return (
        radial,
        over_angle,
        Step(
            "The kernel",
            radial.lhs * over_angle.lhs,
            kappa,
            "κ is the product of the two integrals.",
            proof=by.substitution(radial, over_angle),
            domain=ANGLE,
        ),
        Step(
            "Check at correlation 1",
            Integral(x**2 * line, (x, 0, oo)),
            kappa.subs(theta, 0),
            "For u = v the kernel is E relu(u)², one half by symmetry: the factor ½ of every ReLU recursion.",
        ),
        Step(
            "Check at correlation 0",
            Integral(x * line, (x, 0, oo)) ** 2,
            kappa.subs(theta, pi / 2),
            "For independent u, v the kernel is (E relu(u))², positive: ReLU updates are correlated even for "
            "orthogonal inputs.",
        ),
        orthant,
        Step(
            "Derivative of the kernel",
            Derivative(kappa.subs(theta, acos(c)), c),
            orthant.rhs.subs(theta, acos(c)),
            "In c = cos θ: κ′(c) is the probability just found, which governs gradients and the tangent kernel.",
            domain={c: (-1, 1)},
        ),
    )


def derive(bracket: Any = BRACKET) -> Derivation:
    """The derivation, with half the `bracket` the claimed value of the integral over the angle."""
    return Derivation(
        id="relu-kernel",
        title="The ReLU dual kernel",
        statement=(
            "For a centred Gaussian pair (u, v) with variances q_a, q_b and correlation c = cos θ, E[relu(u) relu(v)] "
            "equals √(q_a q_b) κ(c); in particular κ(1) = 1/2, κ(0) = 1/(2π) and κ′(c) = (π − θ)/(2π)."
        ),
        formula=Eq(Function("kappa")(cos(theta)), bracket / (2 * pi)),
        assumptions=(
            "(u, v) is Gaussian with mean zero; 0 ≤ θ ≤ π. The points sampled lie in 0 < θ < 3.",
            "The sine is positive between 0 and π; polar coordinates change variables as usual.",
        ),
        steps=(*geometry(), *averages(bracket)),
        not_proved=(
            "That the entries of a wide residual stream are jointly Gaussian; the derivation is about a Gaussian pair.",
            "Anything at finite width, where the second moment of relu(h) is not exactly half that of h.",
        ),
        source="this project",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(BRACKET - sin(theta)),
    statement="κ(c) = (π − θ) cos θ/(2π), without the sine",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
