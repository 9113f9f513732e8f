"""Lengths of Gaussian vectors and of their positive parts: means and moments, between bounds for every dimension."""

from collections.abc import Mapping
from typing import Any

import sympy
from sympy import Integral, Rational, Sum, binomial, exp, gamma, oo, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import ways as by
from residual_theory.proofs.algebra import must_vanish
from residual_theory.proofs.steps import Proof, Step

m, d = symbols("m d", integer=True, positive=True)
k, less = symbols("k j", integer=True, nonnegative=True)
dof = sympy.Symbol("k", integer=True, positive=True)
r, rho, P = symbols("r rho P", positive=True)
p, back, x = symbols("p b x", nonnegative=True)
HALF = Rational(1, 2)


def length(size: Any) -> Any:
    """E‖g‖ for a standard Gaussian vector of `size` entries."""
    return sqrt(2) * gamma((size + 1) / sympy.S(2)) / gamma(size / sympy.S(2))


def width(size: Any) -> Any:
    """E‖max(g, 0)‖: a binomial number k of entries is positive, and then the length is that of k Gaussians."""
    return Sum(binomial(size, k) * length(k) / 2**size, (k, 1, size))


def binomial_moment() -> Proof:
    """Σ_k C(d, k) f(k)/2^d for a polynomial f, from (y d/dy)^j Σ_k C(d, k) y^k = (y d/dy)^j (1 + y)^d at y = 1."""

    def run(step: Step) -> None:
        factor = sympy.Poly(step.lhs.function * 2**d / binomial(d, k), k)
        if step.lhs.limits != ((k, 0, d),):
            raise DerivationError("the left side is not a mean over a binomial number")
        y = sympy.Symbol("y", positive=True)
        power, total = (1 + y) ** d, sympy.Integer(0)
        for j in range(factor.degree() + 1):
            total += factor.coeff_monomial(k**j) * power.subs(y, 1)
            power = y * sympy.diff(power, y)
        must_vanish(step.rhs * 2**d - total, "that the derivatives of (1 + y)^d give the right side")

    return Proof("derivatives of the binomial theorem", run)


def expectation(pointwise: Step, at: Mapping[Any, Any], moments: Mapping[int, Any]) -> Proof:
    """The mean of an earlier inequality between polynomials in r.

    `moments` gives E r^j, as an expression or as the right side of an earlier step (step, {symbol: value}).
    """
    earlier = [use for use in moments.values() if isinstance(use, tuple)]

    def run(step: Step) -> None:
        if pointwise.relation not in ("<=", ">="):
            raise DerivationError("the earlier step is not an inequality")
        slack = sympy.Poly(pointwise.slack.subs(at), r)
        values = {j: use[0].rhs.subs(use[1]) if isinstance(use, tuple) else use for j, use in moments.items()}
        mean = sum(factor * (values[j] if j else 1) for (j,), factor in slack.terms())
        must_vanish(step.slack - mean, "that the step is the mean of the earlier inequality")

    return Proof("the mean of an earlier inequality", run, (pointwise, *(use[0] for use in earlier)))


def lengths() -> tuple[Step, ...]:
    """The law of the length of k Gaussians and its moments."""
    weight = r ** (dof - 1) * exp(-(r**2) / 2)
    density = weight / (2 ** (dof * HALF - 1) * gamma(dof * HALF))

    def moment(power: int, title: str, value: Any, because: str) -> Step:
        return Step(title, Integral(r**power * density, (r, 0, oo)), value, because, domain={dof: (1, 5)})

    return (
        Step(
            "The length of a Gaussian vector: normalisation",
            Integral(weight, (r, 0, oo)),
            2 ** (dof * HALF - 1) * gamma(dof * HALF),
            "In polar coordinates the length r of k standard Gaussians has a density in proportion to r^(k−1) "
            "exp(−r²/2).",
            domain={dof: (1, 5)},
        ),
        moment(1, "Mean length", length(dof), "This is E‖g‖ for g in k dimensions."),
        moment(2, "Mean square of the length", dof, "One for each coordinate."),
        moment(4, "Fourth moment of the length", dof * (dof + 2), "Needed for the lower bound on the width."),
    )


def cone_width(square: Step, fourth: Step, share: Any) -> tuple[Step, ...]:
    """The Gaussian width of the nonnegative unit vectors, between two bounds."""
    second = Step(
        "Mean square of the positive part",
        Sum(binomial(d, k) * k / 2**d, (k, 0, d)),
        d * share,
        "Each of d entries is positive with probability 1/2. Given that k are, ‖max(g, 0)‖ is the length of k "
        "standard Gaussians (for them the sign and the size are independent), whose mean square is k.",
        proof=binomial_moment(),
    )
    last = Step(
        "Fourth moment of the positive part",
        Sum(binomial(d, k) * k * (k + 2) / 2**d, (k, 0, d)),
        d * (d + 5) / 4,
        "The same with k(k + 2).",
        proof=binomial_moment(),
    )
    above = Step(
        "A length lies below its tangent",
        r,
        (r**2 + rho**2) / (2 * rho),
        "As a function of r², r is concave; the line touches it at r = ρ.",
        relation="<=",
        proof=by.certificate((r - rho) ** 2 / (2 * rho)),
    )
    below = Step(
        "and above a parabola in r²",
        r,
        (3 * r**2 / rho - r**4 / rho**3) / 2,
        "which also touches it at r = ρ.",
        relation=">=",
        proof=by.certificate(r * (r - rho) ** 2 * (r + 2 * rho) / (2 * rho**3)),
    )
    at = {rho: sqrt(d * HALF)}
    return (
        second,
        last,
        above,
        below,
        Step(
            "Width of the positive cone, above",
            width(d),
            sqrt(d * HALF),
            "The mean of the tangent with ρ² = d/2.",
            relation="<=",
            proof=expectation(above, at, {1: width(d), 2: (second, {})}),
        ),
        Step(
            "Width of the positive cone, below",
            width(d),
            sqrt(d * HALF) * (1 - Rational(5, 2) / d),
            "The mean of the parabola: the upper bound misses less than 5/(2d) of itself.",
            relation=">=",
            proof=expectation(below, at, {1: width(d), 2: (second, {}), 4: (last, {})}),
        ),
    )


def whole_length(mean: Step, square: Step, tangent: Step) -> tuple[Step, Step, Step, Step]:
    """√m(1 − 1/(2m)) ≤ E‖g‖ ≤ √m."""
    above = Step(
        "Mean length, above",
        length(m),
        sqrt(m),
        "The mean of the tangent with ρ² = m.",
        relation="<=",
        proof=expectation(tangent, {rho: sqrt(m)}, {1: (mean, {dof: m}), 2: (square, {dof: m})}),
    )
    product = Step(
        "Two neighbouring mean lengths",
        length(m) * length(m + 1),
        m,
        "Γ(m/2 + 1) = (m/2) Γ(m/2).",
    )

    def run(step: Step) -> None:
        bound = above.rhs.subs(m, m + 1)
        if step.relation != ">=" or above.relation != "<=" or above.lhs != length(m):
            raise DerivationError("an inequality points the other way")
        must_vanish(step.lhs * length(m + 1) - product.rhs, "that the neighbour's product is the earlier one")
        must_vanish(step.rhs * bound - product.rhs, "that the right side is the product over the neighbour's bound")

    below = Step(
        "Mean length, below",
        length(m),
        m / sqrt(m + 1),
        "Their product is m, and the second is at most √(m + 1).",
        relation=">=",
        proof=Proof("division of an identity by an upper bound", run, (product, above)),
    )
    gap = (3 * less + 2) / (4 * (less + 1) ** 2 * (less + 2))
    root, line = sqrt((less + 1) / (less + 2)), 1 - HALF / (less + 1)
    return (
        above,
        product,
        below,
        Step(
            "in powers of 1/m",
            sqrt(m / (m + 1)),
            1 - HALF / m,
            "The difference of the squares is (3m − 1)/(4m²(m + 1)).",
            relation=">=",
            proof=by.certificate(gap / (root + sympy.together(line)), {less: m - 1}),
        ),
    )


def best_direction() -> Step:
    """⟨g, x⟩ ≤ ‖max(g, 0)‖ for nonnegative unit vectors x.

    >>> best_direction().relation
    '<='
    """
    return Step(
        "The best direction in the cone",
        2 * P * (p - back) * x,
        p**2 + P**2 * x**2,
        "g = p − b in every coordinate, p = max(g, 0), b = max(−g, 0). Summed over the coordinates, with ‖x‖ "
        "= 1 and P = ‖max(g, 0)‖: ⟨g, x⟩ ≤ P, with equality at x = max(g, 0)/P. The width is E‖max(g, 0)‖.",
        relation="<=",
        proof=by.certificate(2 * P * back * x + (p - P * x) ** 2),
    )


def sixth_moments() -> tuple[Step, Step, Step]:
    """E r⁶ of a Gaussian vector and of its positive part, and a bound on r that they give the mean of.

    >>> [str(step.rhs) for step in sixth_moments()[:2]]
    ['k*(k + 2)*(k + 4)', 'd*(d + 4)*(d + 11)/8']
    """
    weight = r ** (dof - 1) * exp(-(r**2) / 2) / (2 ** (dof * HALF - 1) * gamma(dof * HALF))
    share = (r / rho) ** 2
    return (
        Step(
            "Sixth moment of the length",
            Integral(r**6 * weight, (r, 0, oo)),
            dof * (dof + 2) * (dof + 4),
            "Needed for upper bounds to the next order.",
            domain={dof: (1, 5)},
        ),
        Step(
            "Sixth moment of the positive part",
            Sum(binomial(d, k) * k * (k + 2) * (k + 4) / 2**d, (k, 0, d)),
            d * (d + 4) * (d + 11) / 8,
            "The same with k(k + 2)(k + 4).",
            proof=binomial_moment(),
        ),
        Step(
            "A length lies below a cubic in r²",
            r,
            rho * (5 + 15 * share - 5 * share**2 + share**3) / 16,
            "its Taylor polynomial at r = ρ: with s = r/ρ the difference is ρ(s − 1)^4 (s² + 4s + 5)/16.",
            "<=",
            by.certificate(rho * (r / rho - 1) ** 4 * (share + 4 * r / rho + 5) / 16),
        ),
    )


def to_the_next_order(moments: Mapping[str, Step], product: Step) -> tuple[Step, Step, Step]:
    """√(d/2)(1 − 5/(8d) + 11/(4d²)) above the width, √m(1 − 1/(4m) + 1/(2m²)) above E‖g‖, and what follows below.

    Arguments:
      moments: the steps about moments, by name: mean, square, fourth, sixth of the length, and second, fourth_part,
        sixth_part of the positive part; and cubic.  product: E‖g‖ in m dimensions times E‖g‖ in m + 1.
    """
    cubic, half = moments["cubic"], {rho: sqrt(d * HALF)}
    parts: dict[int, Any] = {
        2: (moments["second"], {}),
        4: (moments["fourth_part"], {}),
        6: (moments["sixth_part"], {}),
    }
    whole = {
        power: (moments[name], {dof: m}) for power, name in ((1, "mean"), (2, "square"), (4, "fourth"), (6, "sixth"))
    }

    def series(size: Any) -> Any:
        return 1 - 1 / (4 * size) + 1 / (2 * size**2)

    narrow = Step(
        "Width of the positive cone, to the next order",
        width(d),
        sqrt(d * HALF) * (1 - Rational(5, 8) / d + Rational(11, 4) / d**2),
        "The mean of the cubic with ρ² = d/2.",
        "<=",
        expectation(cubic, half, {1: width(d), **parts}),
    )
    above = Step(
        "Mean length above, to the next order",
        length(m),
        sqrt(m) * series(m),
        "The mean of the cubic with ρ² = m.",
        "<=",
        expectation(cubic, {rho: sqrt(m)}, whole),
    )

    def divided(step: Step) -> None:
        if (step.relation, above.relation, step.lhs, above.lhs) != (">=", "<=", length(m), length(m)):
            raise DerivationError("an inequality points the other way, or is about something else")
        must_vanish(step.lhs * length(m + 1) - product.rhs, "that the neighbour's product is the earlier one")
        must_vanish(
            step.rhs * above.rhs.subs(m, m + 1) - product.rhs, "that the right side is the product over the bound"
        )

    below = Step(
        "Mean length below, to the next order",
        length(m),
        m / (sqrt(m + 1) * series(m + 1)),
        "The product of neighbours is m.",
        ">=",
        Proof("division of an identity by an upper bound", divided, (product, above)),
    )
    return narrow, above, below
