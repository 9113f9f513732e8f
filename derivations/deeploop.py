"""Post-norm loops (DeepLoop): which exponent of the depth keeps the updates of looped layers bounded."""

from dataclasses import replace
from typing import Any

import sympy
from sympy import Derivative, Limit, Rational, Sum, Symbol, oo, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish, nonnegative
from residual_theory.proofs import ways as by

K, R, n, k = symbols("K R n k", integer=True, positive=True)
m = Symbol("m", integer=True, nonnegative=True)
alpha, beta, p, gamma, delta, eta, A, C, c, t = symbols("alpha beta p gamma delta eta A C c t", positive=True)
x, f, B, g, v, w, rho = symbols("x f B g v w rho", real=True)
one_less, slack, first, second = symbols("y h a b", nonnegative=True)  # 1 − γ, and slacks of earlier steps
BELOW_ONE = (1 - gamma,)
OPTIONS: dict[str, Any] = {"given": BELOW_ONE, "domain": {gamma: (0, 1)}}
ANGLE = {A: (1, 2), C: (1, 2), B: (-1, 1)}  # B² ≤ AC
RELATIVE = (4 * K * R) ** (-2 * p)  # β/α
CRITICAL = (1 + gamma) / 4
SUM = K * R * c * R**gamma  # squared norm of all visits' updates: K layers, R κ_R each


def rms(scale: Any) -> Any:
    """The root mean square of x + scale·f."""
    return sqrt(A + 2 * scale * B + scale**2 * C)


def post_norm() -> tuple[Step, ...]:
    """What post-norm makes of α and β."""
    ratio, eps = beta / alpha, Symbol("epsilon", positive=True)
    return (
        Step(
            "Only the ratio of the two scales counts",
            (alpha * x + beta * f) / sqrt(alpha**2 * A + 2 * alpha * beta * B + beta**2 * C),
            (x + ratio * f) / rms(ratio),
            "RMSNorm divides by the root mean square, here with A, B, C the means of x², x f and f² over the entries: "
            "α x + β f gives the same as x + ε f, the relative branch scale being ε = β/α.",
            domain=ANGLE,
        ),
        Step(
            "What a visit changes",
            Derivative((x + eps * f) / rms(eps), eps),
            (f * (A + eps * B) - x * (B + eps * C)) / (A + 2 * eps * B + eps**2 * C) ** Rational(3, 2),
            "At ε = 0 this is (f − x B/A)/√A: to first order the normalised stream moves by ε times the part of f that "
            "is not along x. Normalisation takes nothing else away.",
            domain={**ANGLE, eps: (0, 1)},
        ),
        Step(
            "A branch with one scaled matrix",
            (8 * K * R) ** (-p) / (2 * K * R) ** p,
            RELATIVE,
            "α = (2KR)^p and β = (8KR)^(−p); the branch is proportional to its matrix, and ε = β/α.",
        ),
        Step(
            "A branch with two scaled matrices",
            (8 * K * R) ** (-2 * p) / (2 * K * R) ** p,
            2 ** (-7 * p) * (K * R) ** (-3 * p),
            "It is proportional to both, and ε = β²/α: smaller still.",
        ),
        Step(
            "A gradient step on two matrices",
            (w + eta * g * v * x) * (v + eta * g * w * x) * x - w * v * x,
            eta * g * x**2 * (v**2 + w**2) + eta**2 * g**2 * x**3 * v * w,
            "The branch w v x with the gradient g at its output, entries written as numbers. At v = w = β the change "
            "of first order has size 2β². Post-norm divides g by α, and the change again on its way into the stream "
            "(what a visit changes, per f): 2(β/α)², twice the square of one matrix's relative scale.",
        ),
    )


def sum_of_visits(correlation: Any) -> Any:
    """Squared norm of the sum of R unit updates, those k visits apart having this correlation."""
    return R + 2 * Sum(correlation, (k, 1, m), (m, 1, R - 1))


def by_mean_value(function: Any, curvature: Any, sign: int) -> Proof:
    """f(m + 1) − f(m) = f′(ξ) with m < ξ < m + 1, and f′ rises or falls: f″ = sign · curvature, visibly nonnegative
    where one_less = 1 − γ ≥ 0."""

    def run(step: Step) -> None:
        if not (nonnegative(curvature) and 1 - gamma in step.given and step.relation in ("<=", ">=")):
            raise DerivationError("the sign of the second derivative is not known")
        must_vanish(function.diff(t, 2) - sign * curvature.subs(one_less, 1 - gamma), "the second derivative")
        (low,) = step.lhs.free_symbols & {m, n}
        end = low if (step.relation == ">=") == (sign > 0) else low + 1
        must_vanish(step.lhs - function.subs(t, low + 1) + function.subs(t, low), "the difference on the left")
        must_vanish(step.rhs - function.diff(t).subs(t, end), "the derivative at that end on the right")

    return Proof("mean value theorem and the sign of the second derivative", run)


def differences() -> tuple[Step, ...]:
    """n^γ/γ and n^(1+γ)/(1 + γ) from one integer to the next, against their derivatives."""
    lower, upper = t**gamma / gamma, t ** (1 + gamma) / (1 + gamma)
    proofs = {
        lower: by_mean_value(lower, one_less * t ** (gamma - 2), -1),
        upper: by_mean_value(upper, gamma * t ** (gamma - 1), 1),
    }

    def step(title: str, function: Any, relation: Any, low: Any, end: Any) -> Step:
        lhs, rhs = function.subs(t, low + 1) - function.subs(t, low), function.diff(t).subs(t, end)
        because = f"Its derivative is {'largest' if relation == '<=' else 'smallest'} at this end."
        return Step(title, lhs, rhs, because, relation, proofs[function], **OPTIONS)

    return (
        step("A concave power grows by at most", lower, "<=", n, n),
        step("A concave power grows by at least", lower, ">=", m, m + 1),
        step("A convex power grows by at most", upper, "<=", n, n + 1),
        step("A convex power grows by at least", upper, ">=", n, n),
    )


def rows(concave_most: Step, concave_least: Step) -> tuple[Step, Step]:
    """One visit and all before it: Σ_k k^(γ − 1) from both sides."""
    row = Sum(k ** (gamma - 1), (k, 1, m))
    return (
        Step(
            "One visit and all before it, from below",
            row,
            ((m + 1) ** gamma - 1) / gamma,
            "Visits k apart have correlation k^(−(1−γ)), 0 < γ < 1. Add up the differences of the concave power.",
            ">=",
            by.induction(m, hypothesis=slack, certificate=slack + first, known={first: (concave_most, {n: m + 1})}),
            **OPTIONS,
        ),
        Step(
            "One visit and all before it, from above",
            row,
            m**gamma / gamma,
            "The same from the other side.",
            "<=",
            by.induction(m, hypothesis=slack, certificate=slack + first, known={first: concave_least}),
            **OPTIONS,
        ),
    )


def power_law() -> tuple[Step, ...]:
    """Correlations that decay like a power of the distance, k^(γ − 1), and their alignment R^γ."""
    concave_most, concave_least, convex_most, convex_least = differences()
    row_below, row_above = rows(concave_most, concave_least)
    pairs, certificate = sum_of_visits(k ** (gamma - 1)), slack + 2 * first + 2 * second / gamma

    def squares(row: Step, difference: Step) -> Proof:
        known = {first: (row, {m: R}), second: (difference, {n: R})}
        return by.induction(R, start=1, hypothesis=slack, certificate=certificate, known=known)

    below = Step(
        "All pairs of visits, from below",
        pairs,
        R + 2 / gamma * ((R ** (1 + gamma) - 1) / (1 + gamma) - (R - 1)),
        "One more visit adds 1 and twice its row; add up the differences of the convex power.",
        ">=",
        squares(row_below, convex_most),
        **OPTIONS,
    )
    above = Step(
        "All pairs of visits, from above",
        pairs,
        R + 2 * R ** (1 + gamma) / (gamma * (1 + gamma)),
        "The same from the other side.",
        "<=",
        squares(row_above, convex_least),
        **OPTIONS,
    )
    alignment = Step(
        "The alignment of a power law",
        Limit(pairs / R ** (1 + gamma), R, oo),
        2 / (gamma * (1 + gamma)),
        "Divide both bounds by R^(1+γ). The sum of the visits is R κ_R with κ_R close to 2R^γ/(γ(1 + γ)): correlations "
        "that decay with exponent γ' = 1 − γ have alignment exponent γ.",
        proof=by.squeeze(below, above, scale=R ** (-1 - gamma)),
        given=BELOW_ONE,
        domain={gamma: (Rational(4, 5), 1)},
        along=(4, 16, 64),
    )
    return concave_most, concave_least, convex_most, convex_least, row_below, row_above, below, above, alignment


def constant_correlation() -> Step:
    """The two ends, γ = 1 and γ = 0."""
    return Step(
        "The alignment of equally correlated visits",
        sum_of_visits(rho),
        R * (1 + (R - 1) * rho),
        "The squared norm of the sum of R visits of one layer is R κ_R, which defines the alignment κ_R (in units of "
        "one visit's). Here κ_R = 1 + (R − 1)ρ: of order R, γ = 1, for any fixed correlation ρ > 0, and 1, γ = 0, for "
        "independent visits.",
        domain={rho: (0, 1)},
    )


def total(exponent: Any) -> Any:
    """Squared norm of all visits' updates together, to first order."""
    return (RELATIVE**2 * SUM).subs(p, exponent)


def depth_exponent(critical: Any) -> tuple[Step, ...]:
    """Which p keeps the sum of all updates bounded as R grows; `critical` is the claimed one."""
    return (
        Step(
            "At the critical exponent the loops drop out",
            total(critical),
            c * K ** (-gamma) * 4 ** (-1 - gamma),
            "All updates together: (β/α)² = (4KR)^(−4p), times K layers that add like independent ones, times R κ_R "
            "with κ_R = c R^γ. At p = (1 + γ)/4 the power of R is zero.",
            domain={gamma: (0, 1)},
        ),
        Step(
            "Above it the updates vanish",
            Limit(total(critical + delta), R, oo),
            0 * R,
            "At p = (1 + γ)/4 + δ, δ > 0: like R^(−4δ).",
            proof=by.limit(),
            domain={gamma: (0, 1), delta: (Rational(1, 5), 1)},
        ),
        Step(
            "Below it they blow up",
            Limit(total(critical - delta), R, oo),
            oo,
            "At p = (1 + γ)/4 − δ: like R^(4δ). So they are bounded exactly when p ≥ (1 + γ)/4.",
            proof=by.limit(),
            domain={gamma: (0, 1), delta: (Rational(1, 5), Rational(1, 4))},
        ),
    )


def consequences(critical: Any) -> tuple[Step, ...]:
    """The rule for the relative branch scale, and where exponents fail or are larger than needed."""
    decay = 1 - gamma
    return (
        Step(
            "The relative branch scale",
            RELATIVE.subs(p, critical),
            (4 * K) ** (-(1 + gamma) / 2) / R ** (1 - decay / 2),
            "For correlations that decay with exponent γ' = 1 − γ this is R^(−α*), α* = 1 − γ'/2, the rule for sums of "
            "correlated updates: 1/R for visits that stay coherent (γ = 1, p = 1/2), 1/√R for independent ones "
            "(γ = 0, p = 1/4).",
            domain={gamma: (0, 1)},
        ),
        Step(
            "DeepNorm's exponent fails for coherent visits",
            Limit(total(Rational(1, 4)), R, oo),
            oo,
            "p = 1/4 belongs to distinct layers, γ = 0. With any alignment γ > 0 the updates grow like R^γ.",
            proof=by.limit(),
            domain={gamma: (Rational(1, 5), 1)},
        ),
        Step(
            "In the number of layers the rule is smaller than needed",
            Limit(total(critical), K, oo),
            0 * K,
            "The exponent that coherent loops need is put on K as well, whose layers would be content with 1/√K. At "
            "γ = 1 the relative scale is 1/(4KR), where λ/(R√K) keeps the same sum at cλ² for every K.",
            proof=by.limit(),
            domain={gamma: (Rational(1, 5), 1)},
        ),
        Step(
            "Two scaled matrices at initialisation",
            (2 ** (-7 * p) * (K * R) ** (-3 * p)).subs(p, critical) ** 2 * SUM,
            c * 2 ** (-7 * (1 + gamma) / 2) * K ** (-(1 + 3 * gamma) / 2) * R ** (-(1 + gamma) / 2),
            "Their updates of the stream vanish with R at this exponent. What it keeps bounded there is the change "
            "made by a gradient step, of size 2(β/α)² a visit.",
            domain={gamma: (0, 1)},
        ),
    )


def derive(critical: Any = CRITICAL) -> Derivation:
    """The derivation, with `critical` the claimed smallest exponent p."""
    return Derivation(
        id="deeploop",
        title="Post-norm loops and the alignment of visits",
        statement=(
            "In x ← RMSNorm(α x + F(RMSNorm x)) with α = (2KR)^p and the weights of the branch scaled by "
            "β = (8KR)^(−p), K layers looped R times, a branch enters with relative scale β/α = (4KR)^(−2p). If the "
            "updates of one layer's R visits add up to a squared norm R κ_R with κ_R of order R^γ, all updates "
            "together stay bounded in R, to first order, exactly when p ≥ (1 + γ)/4. Correlations that decay like the "
            "power γ' = 1 − γ of the distance have this alignment, and the relative scale is then R^(−(1−γ'/2))."
        ),
        formula=sympy.Ge(p, critical),
        assumptions=(
            "Branches of one scaled matrix, where β/α is the relative scale; for branches of two, read the change made "
            "by a gradient step in place of the update; it has the size (β/α)² as well.",
            "First order in β/α: the normalised stream moves by the sum of the visits' updates, each of the same size.",
            "Updates of different layers are uncorrelated; those of one layer's R visits have squared norm R κ_R, "
            "κ_R = c R^γ, 0 ≤ γ ≤ 1. The steps take 0 < γ < 1; γ = 0 and 1 are the equally correlated visits.",
        ),
        steps=(*post_norm(), constant_correlation(), *power_law(), *depth_exponent(critical), *consequences(critical)),
        not_proved=(
            "That the updates add up to R κ_R with κ_R = c R^γ: p ≥ (1 + γ)/4 is what this comes to. Derived "
            "are the relative scale, and γ for equally correlated visits and for correlations that fall like a power.",
            "What alignment a given network has: γ is a measured property, which may change in training.",
            "Orders beyond the first in β/α, among them how much of each update later normalisations take away.",
            "That gradients of the visits of one layer add up with the same κ_R as their updates of the stream.",
            "That K layers stay uncorrelated.",
        ),
        source="arXiv:2607.13491 (α, β and the condition on p); arXiv:2606.18524 for coherent visits",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(Rational(1, 4)),
    statement="DeepNorm's exponent p = 1/4 is enough for looped layers, whatever the alignment of their visits",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
