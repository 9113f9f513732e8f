"""App. A.1 of the paper by its own proof: untied layers, one mean at a time, and what its ≈ means."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sympy
from sympy import Integral, KroneckerDelta, Limit, Product, Rational, Sum, Symbol, exp, log, oo, pi, sqrt, symbols

from residual_theory.lemmas.exponential_bounds import bernoulli, logarithm_below_tangent, power_below_exponential
from residual_theory.lemmas.fresh_weights import d, entry, s
from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs import ways as by
from residual_theory.proofs.sum_proof import by_sums
from residual_theory.proofs.tables import table

L, n, i, j, k = symbols("L n i j k", integer=True, positive=True)
eps, x, c, q, delta, start = symbols("epsilon x c q delta R_0", positive=True)
gap, more = symbols("g h", nonnegative=True)
z = Symbol("z", real=True)
HALF, QUARTER = Rational(1, 2), Rational(1, 4)
h, u, W = table("h"), table("u", "nonnegative"), table("W")  # entries of h_l, of its image φ(h_l), and of W_l
SIZES = {d: (2, 3)}


def one_layer(covariance: Callable[[Any, Any], Any]) -> tuple[Step, ...]:
    """E R_{l+1}² = E R_l² + ε²σ_w² E q(φ(h_l))."""
    update = Sum(W(i, j) * u(j), (j, 1, d))
    pairs = Sum(W(i, j) * W(i, k) * u(j) * u(k), (j, 1, d), (k, 1, d), (i, 1, d))
    normal = exp(-(z**2) / (2 * q)) / sqrt(2 * pi * q)
    return (
        Step(
            "The square of the next stream",
            Sum((h(i) + eps * update) ** 2, (i, 1, d)),
            Sum(h(i) ** 2, (i, 1, d)) + 2 * eps * Sum(h(i) * W(i, j) * u(j), (j, 1, d), (i, 1, d)) + eps**2 * pairs,
            "h_{l+1} = h_l + ε W_l φ(h_l), entry by entry.",
            proof=by_sums(),
            domain=SIZES,
        ),
        *entry(),
        Step(
            "Its mean over W_l",
            Sum(h(i) ** 2, (i, 1, d)) / d
            + eps**2 / d * Sum(covariance(j, k) * s**2 / d * u(j) * u(k), (j, 1, d), (k, 1, d), (i, 1, d)),
            Sum(h(i) ** 2, (i, 1, d)) / d + eps**2 * s**2 * Sum(u(j) ** 2, (j, 1, d)) / d,
            "W_l is independent of h_l and φ(h_l): the cross term has mean zero, and E W_ij W_ik is σ_w²/d for j = k "
            "and 0 otherwise. So E[R_{l+1}² | h_l] = R_l² + ε²σ_w² q(φ(h_l)), at every width.",
            proof=by_sums(),
            domain=SIZES,
        ),
        Step(
            "ReLU of a Gaussian",
            Integral(z**2 * normal, (z, 0, oo)),
            q / 2,
            "E q(φ(h_l)) is half of E R_l² where the entries of h_l are Gaussian of mean zero: then c = σ_w²/2. "
            "Elsewhere c is σ_w² times whatever share φ leaves.",
        ),
        Step(
            "L layers",
            start**2 * Product(1 + c * eps**2, (n, 1, L)),
            start**2 * (1 + c * eps**2) ** L,
            "If φ leaves the same share at every layer, E R_{l+1}² = (1 + cε²) E R_l².",
        ),
    )


def exponential() -> tuple[Step, ...]:
    """exp(Lx − Lx²/2) ≤ (1 + x)^L ≤ exp(Lx)."""
    tangent = logarithm_below_tangent(x)
    parabola = Step(
        "and above a parabola",
        log(1 + x),
        x - x**2 / 2,
        "Both vanish at 0, and the slopes differ by x²/(1 + x).",
        ">=",
        by.taylor(x, 1),
    )
    upper = power_below_exponential(tangent, "The exponential from above", "L times the logarithm.", L)
    lower = Step(
        "and from below",
        (1 + x) ** L,
        exp(L * x - L * x**2 / 2),
        "L times the logarithm, with x = cε².",
        ">=",
        by.certificate(L * gap, {gap: parabola}, logarithm=True),
    )
    return tangent, parabola, upper, lower, bernoulli(x, L)


def meaning(upper: Step, lower: Step) -> tuple[Step, ...]:
    """What E R_L² ≈ exp(c L^(1−2α)) R_0² means."""
    exponent = QUARTER + delta
    growth = (1 + c * L ** (-2 * exponent)) ** L
    scaled = {x: c * L ** (-2 * exponent)}
    box = {delta: (Rational(1, 5), 1), c: (HALF, 1)}
    return (
        Step(
            "Where the ratio of both is 1",
            Limit(growth * exp(-L * scaled[x]), L, oo),
            1 + 0 * c,
            "ε = L^(−α) with α = 1/4 + δ: (1 + cε²)^L = exp(c L^(1−2α)) up to a factor that tends to 1.",
            proof=by.squeeze((lower, scaled), (upper, scaled), exp(-L * scaled[x])),
            domain=box,
        ),
        Step(
            "Where it is not",
            Limit((1 + c / sqrt(L)) ** L * exp(-c * sqrt(L)), L, oo),
            exp(-(c**2) / 2),
            "At α = 1/4 a factor stays. So the ≈ needs α > 1/4, which covers every bounded rule.",
            proof=by.limit(),
            domain={c: (HALF, 1)},
        ),
    )


def bounded(upper: Step, lower: Step, linear: Step) -> tuple[Step, ...]:
    """Bounded exactly for α ≥ ½."""

    def after(exponent: Any) -> tuple[dict[Any, Any], Any]:
        value = c * L ** (-2 * exponent)
        return {x: value}, Limit((1 + value) ** L, L, oo)

    critical, faster, slower = after(HALF), after(HALF + delta), after(HALF - delta)
    return (
        Step(
            "α = 1/2: bounded",
            critical[1],
            exp(c),
            "E R_L²/R_0² stays below e^c, its limit.",
            proof=by.squeeze((lower, critical[0]), (upper, critical[0])),
            domain={c: (HALF, 1)},
        ),
        Step(
            "α > 1/2: bounded",
            faster[1],
            1 + 0 * c,
            "α = 1/2 + δ: the updates vanish.",
            proof=by.squeeze((lower, faster[0]), (upper, faster[0])),
            domain={delta: (Rational(1, 5), 1), c: (HALF, 1)},
        ),
        Step(
            "α < 1/2: not bounded",
            slower[1],
            oo,
            "α = 1/2 − δ, δ > 0: the lower bound of Bernoulli diverges.",
            proof=by.squeeze((linear, slower[0])),
            domain={delta: (Rational(1, 5), HALF), c: (HALF, 1)},
            along=(10, 10**2, 10**3, 10**4),
        ),
    )


def derive(covariance: Callable[[Any, Any], Any] = KroneckerDelta) -> Derivation:
    """The derivation, with `covariance` the claimed E W_ij W_ik in units of σ_w²/d."""
    bounds = exponential()
    upper, lower, linear = bounds[2:]
    return Derivation(
        id="paper-untied",
        title="Untied layers, by the paper's own proof",
        statement=(
            "With fresh weights W_l ~ N(0, σ_w²/d) in every layer, E R_{l+1}² = E R_l² + ε²σ_w² E q(φ(h_l)). Where φ "
            "leaves a fixed share, E R_L² = (1 + cε²)^L R_0²; at ε = L^(−α) this is exp(c L^(1−2α)) R_0² up to a "
            "factor that tends to 1 for α > 1/4, and bounded exactly for α ≥ 1/2. For ReLU of a Gaussian c = σ_w²/2."
        ),
        formula=sympy.Eq(Symbol("R_L") ** 2, start**2 * (1 + c * eps**2) ** L),
        assumptions=(
            "h_{l+1} = h_l + ε W_l φ(h_l); W_l is independent of h_l, its entries independent of law N(0, σ_w²/d).",
            "E q(φ(h_l)) is the same multiple of E R_l² in every layer: c = σ_w² times that multiple.",
        ),
        steps=(*one_layer(covariance), *bounds, *meaning(upper, lower), *bounded(upper, lower, linear)),
        not_proved=(
            "That φ leaves the same share in every layer. For ReLU it does so as d → ∞, where entries are Gaussian, "
            "and in the first layer at every width if h_0 is; at finite width the later layers differ a little.",
        ),
        source="arXiv:2606.18524, App. A.1",
        paper="App. A.1",
        verdict="derived, with ≈ made precise",
        needed=(
            "That φ leaves the same share of E R² in every layer, as ReLU does at infinite width. Then the first "
            "≈ is an equality. The second has a factor that tends to 1 for α > 1/4 (at α = 1/4 to e^(−c²/2)), "
            "which covers every bounded rule."
        ),
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda one, other: sympy.Integer(1)),
    statement="all entries of a row of W are one and the same random number",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
