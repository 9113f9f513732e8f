"""Growth of an untied residual stack: every visit draws its own weights."""

from dataclasses import replace
from typing import Any

from sympy import (
    Eq,
    Integral,
    Limit,
    Product,
    Rational,
    Sum,
    Symbol,
    exp,
    oo,
    pi,
    sqrt,
    symbols,
)

from residual_theory.lemmas.exponential_bounds import bernoulli, logarithm_below_tangent, power_below_exponential
from residual_theory.lemmas.fresh_weights import d, entry, s
from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs import ways as by

q, q_0, eps, x, delta = symbols("q q_0 epsilon x delta", positive=True)
HALF = Rational(1, 2)
lam = Symbol("lambda", positive=True)
z = Symbol("z", real=True)
V, n, j = symbols("V n j", integer=True, positive=True)


def fresh_weights() -> tuple[Step, ...]:
    """What one fresh Gaussian matrix does to a vector it is independent of."""
    return (
        *entry(),
        Step(
            "An update has σ_w² times the mean square of its input",
            Sum(s**2 / d * q, (j, 1, d)),
            s**2 * q,
            "E (W x)_i² = Σ_j E W_ij² E x_j², with q the mean square of the entries of x.",
        ),
    )


def exponential_bounds() -> tuple[Step, Step, Step]:
    """1 + Vx ≤ (1 + x)^V ≤ exp(Vx), for x ≥ 0."""
    log_bound = logarithm_below_tangent(x)
    upper = power_below_exponential(log_bound, "Upper bound", "V times the logarithm of the last step.", V)
    return log_bound, upper, bernoulli(x, V)


def which_scale(gain: Any, lower: Step, upper: Step) -> tuple[Step, ...]:
    """The three cases of ε = λ V^-α."""

    def after(exponent: Any) -> tuple[Any, Any]:
        """x = g ε² σ_w² at ε = λ V^-exponent, and the growth factor."""
        value = gain * s**2 * lam**2 * V ** (-2 * exponent)
        return value, Limit((1 + value) ** V, V, oo)

    _, limit_critical = after(HALF)
    smaller, limit_smaller = after(HALF + delta)
    larger, limit_larger = after(HALF - delta)
    box = {delta: (Rational(1, 5), 1)}
    return (
        Step(
            "α = 1/2: bounded, and the limit is known",
            limit_critical,
            exp(gain * s**2 * lam**2),
            "At ε = λ/√V. The upper bound is this limit, for every V.",
            proof=by.limit(),
        ),
        Step(
            "α = 1/2 + δ: the updates vanish",
            limit_smaller,
            1 + 0 * x,
            "Both bounds at ε = λ V^(−1/2−δ), δ > 0, converge to 1.",
            proof=by.squeeze((lower, {x: smaller}), (upper, {x: smaller})),
            domain=box,
        ),
        Step(
            "α = 1/2 − δ: the stream blows up",
            limit_larger,
            oo,
            "The lower bound at ε = λ V^(−1/2+δ), δ > 0, diverges.",
            proof=by.squeeze((lower, {x: larger})),
            domain={delta: (Rational(1, 5), Rational(1, 2))},
            along=(10, 10**2, 10**3, 10**4),
        ),
    )


def visits(gain: Any) -> tuple[Step, ...]:
    """What one visit does to the second moment, and what V do."""
    normal = exp(-(z**2) / (2 * q)) / sqrt(2 * pi * q)
    half = Step(
        "ReLU passes on half the second moment",
        Integral(z**2 * normal, (z, 0, oo)),
        gain * q,
        "u is a centred Gaussian of variance q, and relu(u)² = u² for u > 0.",
    )
    growth = 1 + eps**2 * s**2 * gain
    return (
        half,
        Step(
            "The identity passes on all of it",
            Integral(z**2 * normal, (z, -oo, oo)),
            q,
            "The linear stack needs no Gaussian: the mean square of x = h is that of h, at every width.",
        ),
        *fresh_weights(),
        Step(
            "One visit multiplies the second moment",
            q + eps**2 * s**2 * half.lhs,
            growth * q,
            "R_{n+1}² = R_n² + ε²σ_w² E relu(h)², the cross term being zero (q stands for R_n²).",
            proof=by.substitution(half),
        ),
        Step(
            "V visits",
            q_0 * Product(growth, (n, 1, V)),
            q_0 * growth**V,
            "Start from R_0² = q_0; each visit has fresh weights.",
        ),
        Step(
            "V visits of the linear stack",
            q_0 * Product(1 + eps**2 * s**2, (n, 1, V)),
            q_0 * (1 + eps**2 * s**2) ** V,
            "The same with nothing lost: ε²σ_w² in place of half of it.",
        ),
    )


def derive(gain: Any = HALF) -> Derivation:
    """The derivation, with `gain` the claimed ratio E relu(u)²/E u²."""
    growth = 1 + eps**2 * s**2 * gain
    log_bound, upper, lower = exponential_bounds()
    return Derivation(
        id="independent-growth",
        title="Growth of an untied stack",
        statement=(
            "With fresh weights at each of V visits, the second moment of the stream is q_0 (1 + ε²σ_w²/2)^V for ReLU "
            "and q_0 (1 + ε²σ_w²)^V for the linear stack, so it stays bounded exactly when ε²V does: for "
            "ε = λ V^(−α), if and only if α ≥ 1/2."
        ),
        formula=Eq(Symbol("R_V") ** 2, q_0 * growth**V),
        assumptions=(
            "h ← h + ε W φ(h), a new W at each visit, its entries independent of law N(0, σ_w²/d).",
            "h_0 is independent of the weights and has second moment q_0.",
            "ReLU: infinite width, where the entries of the stream are Gaussian. Linear: any width.",
        ),
        steps=(*visits(gain), log_bound, upper, lower, *which_scale(gain, lower, upper)),
        not_proved=(
            "That the entries of the wide ReLU stream are Gaussian (the known infinite-width limit of networks with "
            "independent Gaussian weights).",
            "The size of the correction at finite width for ReLU; the formula is not exact there.",
            "Fluctuations of R_V² about its mean.",
        ),
        source="this project",
        paper="App. A.1",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(Rational(1)),
    statement="E relu(u)² is all of E u², not half of it",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
