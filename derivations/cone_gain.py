"""The gain of a Gaussian matrix on the positive cone: Gordon's inequality with its constants worked out."""

from dataclasses import replace
from typing import Any

import sympy
from sympy import Integral, Limit, Rational, exp, oo, pi, sqrt, symbols

from residual_theory.lemmas.gaussian_length import (
    HALF,
    best_direction,
    cone_width,
    d,
    length,
    lengths,
    m,
    whole_length,
    width,
)
from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs import ways as by

n = sympy.Symbol("n", integer=True, positive=True)
c, s, delta = symbols("c sigma_w delta", positive=True)
z = sympy.Symbol("z", real=True)


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
            best_direction(),
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
