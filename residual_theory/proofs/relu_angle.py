"""The ReLU kernel as a function of the angle between two inputs, and the bounds on it that derivations share."""

from typing import Any

import sympy
from sympy import Integral, Interval, cos, exp, oo, pi, sin

from residual_theory.errors import DerivationError
from residual_theory.proofs.sign_proof import REST, SINE, by_sign, gap, up_to_a_right_angle
from residual_theory.proofs.steps import Proof, Relation, Step

theta = sympy.Symbol("theta", nonnegative=True)  # an angle up to π
_phi, _radius = sympy.Symbol("phi", real=True), sympy.Symbol("r", positive=True)
_ANGLES: dict[str, Any] = {"domain": {theta: (0, 3)}, "given": (pi - theta,)}
RIGHT = pi - 2 * theta  # nonnegative up to a right angle
ARC = (_phi, theta - pi / 2, pi / 2)  # directions in which both of two units at angle θ are on
KAPPA = (sin(theta) + (pi - theta) * cos(theta)) / (2 * pi)


def sine() -> Step:
    """sin θ ≥ 0 for 0 ≤ θ ≤ π, by SymPy's range of the sine.

    >>> sine().relation
    '>='
    """

    def run(step: Step) -> None:
        values = sympy.calculus.util.function_range(sin(theta), theta, Interval(0, pi))
        if not (step.relation == ">=" and step.lhs == sin(theta) and step.rhs == values.inf and values.inf >= 0):
            raise DerivationError("the smallest value is another")
        if pi - theta not in step.given:
            raise DerivationError("the angle may exceed π")

    return Step(
        "The sine between 0 and π",
        sin(theta),
        sympy.Integer(0),
        "It is nonnegative for every angle 0 ≤ θ ≤ π.",
        ">=",
        Proof("SymPy's range of the sine", run),
        **_ANGLES,
    )


def integral(title: str, because: str) -> Step:
    """κ as the average of relu(u) relu(v) over Gaussians at angle θ, in polar coordinates.

    >>> integral("The kernel", "In polar coordinates.").rhs == KAPPA
    True
    """
    length = Integral(exp(-(_radius**2) / 2) / (2 * pi) * _radius**3, (_radius, 0, oo))
    both_on = Integral(cos(_phi) * cos(_phi - theta), ARC)
    return Step(title, length * both_on, KAPPA, because, domain={theta: (0, 3)})


def acute(title: str, of: Any, relation: Relation, value: Any, because: str, proof: Proof) -> Step:
    """A bound for angles up to a right angle."""
    return Step(title, of, value, because, relation, proof, {theta: (0, sympy.Rational(3, 2))}, (RIGHT,))


def acute_bounds(titles: tuple[str, str], because: tuple[str, str]) -> tuple[Step, Step]:
    """κ ≥ 1/(2π) and κ ≤ 1/2 up to a right angle.

    >>> [str(step.rhs) for step in acute_bounds(("Below", "Above"), ("", ""))]
    ['1/(2*pi)', '1/2']
    """
    falling = (REST + pi / 2) * SINE / (2 * pi)
    low, high = 1 / (2 * pi), sympy.Rational(1, 2)
    from_right, from_zero = (up_to_a_right_angle(theta, start, falling) for start in (pi / 2, 0))
    return (
        acute(titles[0], KAPPA, ">=", low, because[0], from_right),
        acute(titles[1], KAPPA, "<=", high, because[1], from_zero),
    )


def kernel_bounds(wave: Step) -> tuple[Step, Step, Step]:
    """κ ≥ cos θ/2, κ ≤ 1/2 and κ ≥ 0, from `sine()`.

    >>> [str(step.rhs) for step in kernel_bounds(sine())]
    ['cos(theta)/2', '1/2', '0']
    """
    rest = sympy.Symbol("p", nonnegative=True)
    half = Step(
        "The kernel lies above half the correlation",
        KAPPA,
        cos(theta) / 2,
        "Both are 1/2 at θ = 0, and the difference (sin θ − θ cos θ)/(2π) has derivative θ sin θ/(2π).",
        ">=",
        by_sign(theta * gap / (2 * pi), {gap: wave}, theta, 1),
        **_ANGLES,
    )
    most = Step(
        "and below one half",
        KAPPA,
        sympy.Rational(1, 2),
        "Equal at θ = 0, and κ falls with the angle: dκ/dθ = −(π − θ) sin θ/(2π).",
        "<=",
        by_sign(rest * gap / (2 * pi), {gap: wave, rest: pi - theta}, theta, 1),
        **_ANGLES,
    )
    least = Step(
        "The kernel is nonnegative",
        KAPPA,
        sympy.Integer(0),
        "κ(θ) = κ(π − θ) + cos θ/2, which is the lower bound at the angle π − θ.",
        ">=",
        by_sign(gap, {gap: (half, {theta: pi - theta})}),
        **_ANGLES,
    )
    return half, most, least
