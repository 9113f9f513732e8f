"""The gain of a Gaussian matrix on the positive cone: Gordon's inequality with its constants worked out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sympy
from sympy import Integral, Limit, Rational, Sum, binomial, exp, gamma, oo, pi, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by

m, n, d = symbols("m n d", integer=True, positive=True)
k, less = symbols("k j", integer=True, nonnegative=True)
dof = sympy.Symbol("k", integer=True, positive=True)
r, rho, P, c, s, delta = symbols("r rho P c sigma_w delta", positive=True)
p, back, x, u, v = symbols("p b x u v", nonnegative=True)
z = sympy.Symbol("z", real=True)
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


def bounds_on_gains(long: tuple[Step, ...], wide: tuple[Step, ...]) -> tuple[Step, Step, Step]:
    """Gordon's bounds for matrices with m rows and n columns."""
    (above, _, below, root), (*_, at_most, at_least) = long, wide
    one, two, three = symbols("f g h", nonnegative=True)
    narrow = {d: n}
    lower = Step(
        "Least gain on the cone",
        (length(m) - width(n)) / sqrt(m),
        1 - HALF / m - sqrt(n / (2 * m)),
        "Gordon: the least ‖Wx‖/σ_w over nonnegative unit vectors x, with W of m rows, n columns and variance σ_w²/m, "
        "exceeds the left side less t/√m with probability at least 1 − exp(−t²/2).",
        relation=">=",
        proof=by.certificate((one + two) / sqrt(m) + three, {one: below, two: (at_most, narrow), three: root}),
    )
    upper = Step(
        "Greatest gain on the cone",
        (length(m) + width(n)) / sqrt(m),
        1 + sqrt(n / (2 * m)),
        "Likewise the greatest one stays below the left side plus t/√m. For square W this is 1 + 1/√2 = 1.707.",
        relation="<=",
        proof=by.certificate((one + two) / sqrt(m), {one: above, two: (at_most, narrow)}),
    )
    ceiling = Step(
        "Gordon's bound is not larger",
        (length(d) - width(d)) / sqrt(d),
        1 - (1 - Rational(5, 2) / d) / sqrt(2),
        "for square W, by the other two bounds.",
        relation="<=",
        proof=by.certificate((one + two) / sqrt(d), {one: (above, {m: d}), two: at_least}),
    )
    return lower, upper, ceiling


def gains(long: tuple[Step, ...], wide: tuple[Step, ...]) -> tuple[Step, ...]:
    """Those bounds, and the constants that follow from them."""
    lower, upper, ceiling = bounds_on_gains(long, wide)
    root_of_two, slack = sqrt(delta / 2), symbols("f", nonnegative=True)
    return (
        lower,
        upper,
        ceiling,
        Step(
            "The constant for square matrices",
            Limit((length(d) - width(d)) / sqrt(d), d, oo),
            1 - 1 / sqrt(2),
            "Both bounds converge to 0.2929: the a_γ of Lemma 5 can be any smaller number once d is large.",
            proof=by.squeeze((lower, {m: d, n: d}), ceiling),
            along=(4, 16, 64, 200),
        ),
        Step(
            "With a margin for chance",
            (length(d) - width(d) - c * sqrt(d)) / sqrt(d),
            1 - 1 / sqrt(2) - HALF / d - c,
            "t = c√d: the least gain on the cone is at least the right side times σ_w, except with probability "
            "exp(−c²d/2). For a failure probability γ, c = √(2 log(1/γ)/d).",
            relation=">=",
            proof=by.certificate(slack, {slack: (lower, {m: d, n: d})}),
        ),
        Step(
            "Other shapes",
            1 - root_of_two,
            (2 - delta) / 4,
            "δ = n/m columns for each row: the gain stays away from 0 whenever δ < 2, up to twice as many columns as "
            "rows, where a null space exists but misses the cone.",
            relation=">=",
            proof=by.certificate((1 - root_of_two) ** 2 / 2),
        ),
    )


def whole_space(above: Step) -> tuple[Step, ...]:
    """The constant 3, and why the cone is needed below."""
    spare = symbols("f", nonnegative=True)
    distance = Step(
        "Distance of one column from the others",
        Integral(2 * z * exp(-(z**2) / 2) / sqrt(2 * pi), (z, 0, oo)),
        sqrt(2 / pi),
        "In a square standard Gaussian matrix the component of the last column orthogonal to the others has length "
        "|z|, z a standard Gaussian. It is Gx for an x with ‖x‖ ≥ 1, whose other entries have both signs in general.",
    )
    return (
        Step(
            "Where the constant 3 comes from",
            (2 * length(d) + sqrt(d)) / sqrt(d),
            3 + 0 * d,
            "On the whole space the width is E‖g‖ itself: ‖W‖ ≤ 3σ_w except with probability exp(−d/2) (t = √d), "
            "uniformly in d. On the cone 1.707 + c is enough, except with probability exp(−c²d/2).",
            relation="<=",
            proof=by.certificate(2 * spare / sqrt(d), {spare: (above, {m: d})}),
        ),
        distance,
        Step(
            "Without positivity there is no gain",
            Limit(s * distance.lhs / sqrt(d), d, oo),
            0 * s,
            "So the mean of the least gain over the whole space is at most σ_w√(2/(πd)), which vanishes, as does "
            "Gordon's bound E‖g‖ − E‖g‖ = 0.",
            proof=by.limit(),
        ),
    )


def derive(share: Any = HALF) -> Derivation:
    """The derivation, with `share` the claimed E‖max(g, 0)‖²/d."""
    sizes = lengths()
    _, mean, square, fourth = sizes
    wide = cone_width(square, fourth, share)
    long = whole_length(mean, square, wide[2])
    return Derivation(
        id="cone-gain",
        title="The gain of a Gaussian matrix on the positive cone",
        statement=(
            "A d × d matrix W with independent N(0, σ_w²/d) entries satisfies, for all vectors x with nonnegative "
            "entries at once, σ_w(1 − 1/√2 − 1/(2d) − c)‖x‖ ≤ ‖Wx‖ ≤ σ_w(1 + 1/√2 + c)‖x‖, each side except with "
            "probability exp(−c²d/2). So Lemma 5 holds with any a_γ < 1 − 1/√2 = 0.293 for d large enough, and its "
            "upper constant 3 may be any number above 1.707. On the whole space there is no such lower bound."
        ),
        formula=sympy.Eq(sympy.Symbol("a_gamma"), 1 - 1 / sqrt(2) - HALF / d - c),
        assumptions=(
            "The entries of W are independent Gaussian; x may depend on W, as the bounds hold for all x at once.",
            "Known (Gordon; Chevet): with w the mean of sup ⟨g, x⟩ over a set of unit vectors, the least ‖Gx‖ on it "
            "is at least E‖g‖ − w − t and the greatest at most E‖g‖ + w + t, each with probability ≥ 1 − exp(−t²/2).",
        ),
        steps=(
            Step(
                "The best direction in the cone",
                2 * P * (p - back) * x,
                p**2 + P**2 * x**2,
                "g = p − b in every coordinate, p = max(g, 0), b = max(−g, 0). Summed over the coordinates, with ‖x‖ "
                "= 1 and P = ‖max(g, 0)‖: ⟨g, x⟩ ≤ P, with equality at x = max(g, 0)/P. The width is E‖max(g, 0)‖.",
                relation="<=",
                proof=by.certificate(2 * P * back * x + (p - P * x) ** 2),
            ),
            *(*sizes, *wide, *long, *gains(long, wide), *whole_space(long[0])),
        ),
        not_proved=(
            "Gordon's and Chevet's inequalities and the concentration of Lipschitz functions of Gaussians: cited.",
            "That the least gain is not larger than Gordon's bound. The limit taken is that of the bound.",
            "Anything for weights that are not Gaussian, trained weights among them.",
            "That the cone is needed for the growth law: linear and odd activations obey it as well (derivation "
            "tied-linear-growth). The cone serves this proof.",
        ),
        source="arXiv:2606.18524, Lemma 5; the constants are this project's",
        paper="Lemma 5",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(Rational(1)),
    statement="the positive cone is as wide as the whole space, E‖max(g, 0)‖² = d, and the least gain is 0",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
