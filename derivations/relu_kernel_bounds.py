"""Bounds of the ReLU dual kernel: it is increasing and convex in the correlation, so it lies above its tangents."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sympy import And, Derivative, Function, Integer, Le, Max, Rational, acos, cos, pi, sin, sqrt, symbols

from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs.relu_angle import KAPPA, sine, theta
from residual_theory.proofs.sign_proof import by_sign

tau = symbols("tau", nonnegative=True)
c = symbols("c", real=True)
wave, slack, rest = symbols("w g p", nonnegative=True)  # a sine, the slack of an earlier step, what is left of π
HALF = Rational(1, 2)
RISING, FALLING = {theta: (0, 2), tau: (0, 2)}, {theta: (1, 3), tau: (0, 2)}


def kappa(angle: Any) -> Any:
    """κ at an angle."""
    return KAPPA.subs(theta, angle)


def slopes(slope: Callable[[Any], Any]) -> tuple[Step, ...]:
    """The first two derivatives, and their signs."""
    of_c = kappa(acos(c))
    first = Step(
        "The slope",
        Derivative(of_c, c),
        slope(acos(c)),
        "In c = cos θ: κ′(c) = (π − θ)/(2π), the probability that both arguments are positive.",
        domain={c: (-1, 1)},
    )
    second = Step(
        "The curvature",
        Derivative(of_c, (c, 2)),
        1 / (2 * pi * sqrt(1 - c**2)),
        "The slope has derivative 1/(2π sin θ), which is positive: κ is convex in c. The consequences follow.",
        domain={c: (-1, 1)},
    )
    return first, second


def shape(wave_step: Step, slope: Callable[[Any], Any]) -> tuple[Step, Step, Step]:
    """Monotone, and above every tangent."""
    monotone = Step(
        "A larger correlation gives a larger kernel",
        KAPPA,
        kappa(theta + tau),
        "Both sides agree at τ = 0, and the right one has derivative −(π − θ − τ) sin(θ + τ)/(2π) in τ. A larger angle "
        "is a smaller correlation.",
        ">=",
        by_sign(
            rest * wave / (2 * pi), {rest: pi - theta - tau, wave: (wave_step, {theta: theta + tau})}, tau, order=1
        ),
        domain=RISING,
        given=(pi - theta - tau,),
    )
    tangent = KAPPA + slope(theta) * (cos(theta + tau) - cos(theta))
    below = Step(
        "The kernel lies above its tangents, to the left",
        kappa(theta + tau),
        tangent,
        "The tangent at the correlation cos θ, read at the smaller correlation cos(θ + τ): the difference vanishes at "
        "τ = 0 and has derivative τ sin(θ + τ)/(2π).",
        ">=",
        by_sign(tau * wave / (2 * pi), {wave: (wave_step, {theta: theta + tau})}, tau, order=1),
        domain=RISING,
        given=(pi - theta - tau,),
    )
    above = Step(
        "and to the right",
        kappa(theta - tau),
        tangent.subs(tau, -tau),
        "The same tangent at the larger correlation cos(θ − τ); the derivative of the difference is τ sin(θ − τ)/(2π).",
        ">=",
        by_sign(tau * wave / (2 * pi), {wave: (wave_step, {theta: theta - tau})}, tau, order=1),
        domain=FALLING,
        given=(theta - tau, pi - theta),
    )
    return monotone, below, above


def bounds(monotone: Step, below: Step) -> tuple[Step, ...]:
    """Bounds for every correlation."""
    return (
        Step(
            "Above half the correlation",
            kappa(tau),
            cos(tau) / 2,
            "The tangent at c = 1, where κ = κ′ = 1/2, read at c = cos τ: κ(c) ≥ c/2 for −1 ≤ c ≤ 1.",
            ">=",
            by_sign(slack, {slack: (below, {theta: 0})}),
            domain={tau: (0, 3)},
            given=(pi - tau,),
        ),
        Step(
            "What lies between",
            KAPPA - cos(theta) / 2,
            kappa(pi - theta),
            "κ(c) − c/2 = κ(−c): with u = relu(u) − relu(−u), E[uv] is 2κ(c) − 2κ(−c). So κ(c) ≥ c/2 says just that "
            "the kernel is nonnegative.",
            domain={theta: (0, 3)},
        ),
        Step(
            "Nonnegative",
            KAPPA,
            Integer(0),
            "No angle is larger than π, where κ(−1) = 0.",
            ">=",
            by_sign(slack, {slack: (monotone, {tau: pi - theta})}),
            domain={theta: (0, 3)},
            given=(pi - theta,),
        ),
        Step(
            "At most one half",
            kappa(tau),
            HALF,
            "No angle is smaller than 0, where κ(1) = 1/2.",
            "<=",
            by_sign(slack, {slack: (monotone, {theta: 0})}),
            domain={tau: (0, 3)},
            given=(pi - tau,),
        ),
    )


def nonnegative_correlation(monotone: Step, above: Step) -> tuple[Step, Step]:
    """Bounds for θ ≤ π/2."""
    return (
        Step(
            "At least 1/(2π) for nonnegative correlation",
            KAPPA,
            1 / (2 * pi),
            "For θ ≤ π/2: κ is at least κ(0) = 1/(2π).",
            ">=",
            by_sign(slack, {slack: (monotone, {tau: pi / 2 - theta})}),
            domain={theta: (0, Rational(3, 2))},
            given=(pi / 2 - theta,),
        ),
        Step(
            "and at least 1/(2π) + c/4",
            kappa(pi / 2 - tau),
            1 / (2 * pi) + sin(tau) / 4,
            "The tangent at c = 0, read at c = sin τ ≥ 0; for small correlations the better bound, while c/2 is the "
            "better one near 1.",
            ">=",
            by_sign(slack, {slack: (above, {theta: pi / 2})}),
            domain={tau: (0, Rational(3, 2))},
            given=(pi / 2 - tau,),
        ),
    )


def derive(slope: Callable[[Any], Any] = lambda angle: (pi - angle) / (2 * pi)) -> Derivation:
    """The derivation, with `slope` the claimed κ′ as a function of the angle."""
    kernel = Function("kappa")(c)
    wave_step = sine()
    monotone, below, above = shape(wave_step, slope)
    bounded = (*bounds(monotone, below), *nonnegative_correlation(monotone, above))
    return Derivation(
        id="relu-kernel-bounds",
        title="Bounds of the ReLU dual kernel",
        statement=(
            "The kernel κ(c) = (sin θ + (π − θ) cos θ)/(2π), c = cos θ, is increasing and convex on −1 ≤ c ≤ 1. Hence "
            "c/2 ≤ κ(c) ≤ 1/2 and κ(c) ≥ 0, and κ(c) ≥ 1/(2π) + c/4 ≥ 1/(2π) for c ≥ 0."
        ),
        formula=And(Le(Max(0, c / 2), kernel), Le(kernel, HALF)),
        assumptions=(
            "κ is the dual kernel of ReLU at unit variances, as derived in derivations/relu_kernel.py.",
            "All angles lie between 0 and π; c = cos θ.",
        ),
        steps=(*slopes(slope), wave_step, monotone, below, above, *bounded),
        not_proved=(
            "Bounds for other activations. E[relu(u) relu(v)] ≥ 0 holds for every activation of one sign, "
            "κ(c) ≥ c/2 only because relu(u) − relu(−u) = u.",
        ),
        source="this project; arXiv:2606.18524 bounds the sum of updates by the positive cone instead (Lemma 4)",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda angle: (pi - angle) / pi),
    statement="κ′(c) = (π − θ)/π, twice the probability that both arguments are positive",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
