"""Signs prove inequalities: of certificates, of derivatives, up to a right angle; none accepts a false step."""

from dataclasses import replace

import pytest
import sympy
from sympy import Integer, Integral, Limit, cos, exp, log, oo, pi, sin, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs.relu_angle import KAPPA, RIGHT, acute_bounds, sine, theta
from residual_theory.proofs.sign_proof import (
    COSINE,
    SINE,
    by_sign,
    gap,
    odd_integrand,
    squeeze,
    up_to_a_right_angle,
)
from residual_theory.proofs.steps import Step

N = sympy.Symbol("N", integer=True, positive=True)
z, alpha = symbols("z alpha", positive=True)
tau, first = symbols("tau v", nonnegative=True)
w = sympy.Symbol("w", real=True)
WAVE = sine()


def refused(step: Step, reason: str) -> None:
    with pytest.raises(DerivationError, match=reason):
        step.proof.run(step)


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


def test_the_slope_up_to_a_right_angle_must_be_the_slope() -> None:
    arc = Step("t", sin(theta), theta, "w", "<=", given=(RIGHT,))
    rising = 2 * sin(theta / 2) ** 2

    def tried(slope: sympy.Expr, start: sympy.Expr | int = 0, *uses: Step) -> Step:
        return replace(arc, proof=up_to_a_right_angle(theta, start, slope, *uses))

    tried(rising).proof.run(tried(rising))
    refused(tried(2 * rising), "the slope")
    refused(tried(w), "may be negative")
    refused(tried(rising, pi / 2), "the case theta")
    refused(tried(rising, pi / 3), "may be negative")
    refused(replace(tried(rising), given=()), "may be negative")
    refused(replace(tried(rising), relation="="), "inequalities only")
    refused(replace(tried(rising), relation=">="), "the slope")
    refused(tried(rising, 0, WAVE), "between 0 and π/2")


def test_an_earlier_slack_in_a_slope() -> None:
    """cos θ ≥ 1 − θ²/2, as the difference has the slope θ − sin θ, the slack of sin θ ≤ θ."""
    arc = Step(
        "a", sin(theta), theta, "w", "<=", up_to_a_right_angle(theta, 0, 2 * sin(theta / 2) ** 2), given=(RIGHT,)
    )
    cosine = Step("c", cos(theta), 1 - theta**2 / 2, "w", ">=", up_to_a_right_angle(theta, 0, gap, arc), given=(RIGHT,))
    cosine.proof.run(cosine)
    assert cosine.proof.uses == (arc,)
    refused(replace(cosine, proof=up_to_a_right_angle(theta, 0, gap + SINE, arc)), "the slope")


def test_slopes_in_sine_and_cosine() -> None:
    falling = Step("t", cos(theta) ** 2, Integer(0), "w", ">=", given=(RIGHT,))
    proof = up_to_a_right_angle(theta, pi / 2, 2 * SINE * COSINE)
    proof.run(falling)
    floor, ceiling = acute_bounds(("f", "c"), ("w", "w"))
    for step in (floor, ceiling):
        step.proof.run(step)
        assert step.lhs == KAPPA
        refused(replace(step, rhs=step.rhs + 1), "the case theta")


def test_only_odd_integrands_vanish() -> None:
    odd = Step("t", Integral(w * exp(-(w**2)), (w, -oo, oo)), 0 * w, "w", proof=odd_integrand())
    odd.proof.run(odd)
    refused(replace(odd, lhs=Integral(w**2 * exp(-(w**2)), (w, -oo, oo))), "is odd")
    refused(replace(odd, lhs=Integral(w * exp(-(w**2)), (w, 0, oo))), "not symmetric")
    refused(replace(odd, rhs=Integer(1)), "the right side")
