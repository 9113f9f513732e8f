"""Weight sharing alone makes the updates coherent: no positivity of the activation is needed for the 1/N law."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sympy
from sympy import Integral, Interval, Rational, Symbol, asin, cos, erf, exp, oo, pi, sin, sqrt

from residual_theory.lemmas.hermite_modes import (
    KERNEL,
    SHARE,
    k,
    low,
    modes,
    normal,
    older,
    omega,
    one,
    p,
    r,
    rising,
    spare,
    two,
    x,
)
from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs import ways as by
from residual_theory.proofs.induction_proof import alone, no_negative_term, only_grows, over_pairs, partners
from residual_theory.proofs.pair_recursion import c, covariance_of
from residual_theory.proofs.pair_recursion import r as size
from residual_theory.proofs.pair_recursion import s as other
from residual_theory.proofs.relu_angle import theta
from residual_theory.proofs.sign_proof import REST, SINE, by_sign, up_to_a_right_angle

N, L, V = sympy.symbols("N L V", integer=True, positive=True)
a, b = sympy.symbols("a b", integer=True, nonnegative=True)
t, z = sympy.symbols("t z", positive=True)
y, phi, eta, nu = sympy.symbols("y phi eta nu", real=True)
MEAN_MODE = omega * p + (1 - omega) * r
SMALL = SHARE | {N: (1, 3), L: (1, 3), t: (0, 1), z: (0, 1), V: (1, 5)}


K = covariance_of("K", (L, p, r, omega, t), t, KERNEL, L)
BENT = 2 * (sin(theta) + (pi / 2 - theta) * cos(theta)) / pi  # the kernel of the absolute value
RAW = eta**2 * cos(theta) + nu**2 * BENT
Q = covariance_of("Q", (L, eta, nu, t), t, size * other * RAW, L)
LAST = K(N * L, N * L, L, p, r, omega, t)  # R²/q_0 after N loops of L layers


def correlations(together: Step, upper: Step, least: Step) -> tuple[Step, Step, Step]:
    """No correlation of two visits is below a bound that R² gives."""
    K_ab, K_aa, K_bb = (K(*ends, L, p, r, omega, t) for ends in ((a, b), (a, a), (b, b)))
    sizes, inside = sqrt(K_aa * K_bb), (N * L - a, N * L - b, 1 - omega)
    grows = Step(
        "No visit has more than the last",
        K_ab,
        LAST,
        "More pairs of visits add nothing negative.",
        relation="<=",
        proof=only_grows(together, least),
        domain=SMALL | {a: (0, 9), b: (0, 9)},
        given=inside,
    )
    loss = (one * LAST + two * K_aa) / (LAST + sizes)  # of LAST less the root, whose square is K(a, a) K(b, b)
    above = Step(
        "so no correlation is below",
        K_ab / sizes,
        1 / LAST,
        "K(a, b) ≥ 1, and the root of K(a, a) K(b, b) is at most R²/q_0.",
        relation=">=",
        proof=by.certificate(
            spare / sizes + loss / (LAST * sizes),
            {spare: together, one: (grows, {b: a}), two: (grows, {a: b})},
        ),
        domain=grows.domain,
        given=inside,
    )
    known = Step(
        "which R² itself bounds",
        K_ab / sizes,
        1 / upper.rhs,
        "By the bound on R².",
        relation=">=",
        proof=by.certificate(spare + one / (LAST * upper.rhs), {spare: above, one: upper}),
        domain=grows.domain,
        given=inside,
    )
    return grows, above, known


def sharing(hermite: tuple[Step, ...], count: Callable[[Any, Any], Any]) -> tuple[Step, ...]:
    """Two-sided bounds on R² for every activation."""
    most, least = hermite[-2:]
    total, share = t * count(N, L), (1 - omega,)
    together = Step(
        "Weight sharing never decorrelates",
        K(a, b, L, p, r, omega, t),
        1 + 0 * t,
        "In units of q_0, K(a, b) = 1 + t Σ F/F(1) over i < a, j < b of one layer, t = ε²σ_w²F(1)/q_0. While no K is "
        "negative no term is: K only grows, and correlations stay positive.",
        relation=">=",
        proof=no_negative_term(least),
        domain=SMALL | {a: (1, 5), b: (1, 5)},
        given=share,
    )
    partner = partners()
    upper = Step(
        "R² is at most",
        LAST,
        1 + total,
        "All N²L pairs of visits of one layer at correlation 1.",
        relation="<=",
        proof=over_pairs(t * most.rhs, partner, t * spare, {spare: most}, together),
        domain=SMALL,
        given=share,
    )
    powers, kernel = rising()
    bounds = correlations(together, upper, least)
    lower = Step(
        "and at least",
        LAST,
        1 + total * KERNEL.subs(c, 1 / (1 + total)),
        "No correlation is below 1/(1 + tN²L), hence no summand is below that of this correlation.",
        relation=">=",
        proof=over_pairs(
            t * KERNEL.subs(c, 1 / upper.rhs),
            partner,
            t * spare,
            {spare: (kernel, {low: 1 / upper.rhs}), one: (bounds[2], c)},
            together,
        ),
        domain=SMALL,
        given=share,
    )
    each = Step(
        "Each pair counts at least at the least correlation",
        LAST,
        1 + t * N**2 * L * omega * LAST ** (-p),
        "The same with 1/B, B = K at the end, and one mode of the kernel.",
        relation=">=",
        proof=over_pairs(
            t * omega * LAST ** (-p),
            partner,
            t * (spare + omega * two),
            {spare: least, two: (powers, {low: 1 / LAST, k: p}), one: (bounds[1], c)},
            together,
        ),
        domain=SMALL,
        given=share,
    )
    return together, partner, upper, powers, kernel, *bounds, lower, each


def consequences(lower: Step, each: Step, total: Any) -> tuple[Step, ...]:
    """The lowest order, which scales keep R² bounded, and the same without sharing."""
    share = (1 - omega,)
    bernoulli = Step(
        "Bernoulli's inequality",
        (1 + z) ** (-k),
        1 - k * z,
        "By induction.",
        relation=">=",
        proof=by.induction(k, hypothesis=older, certificate=(older + (k + 1) * z**2) / (1 + z)),
        domain={k: (0, 5)},
    )
    known = {one: lower, two: (bernoulli, {k: p, z: total}), older: (bernoulli, {k: r, z: total}), spare: 1 - omega}
    lowest = Step(
        "To lowest order",
        LAST,
        1 + total - MEAN_MODE * total**2,
        "So R² − q_0 = ε²N²Lσ_w² Eφ² up to the factor 1 − tN²L Eφ′²/Eφ², as ωp + (1 − ω)r = Eφ′²/Eφ²: coherent for "
        "every φ, for all N and L alike.",
        relation=">=",
        proof=by.certificate(one + total * (omega * two + spare * older), known),
        domain=SMALL,
        given=share,
    )

    bounded = Step(
        "Bounded only if the number of pairs is",
        (LAST - 1) * LAST**p,
        omega * total,
        "By “Each pair counts at least at the least correlation”. With the upper bound, R² is "
        "bounded exactly when tN²L is, that is, when εN√L is.",
        relation=">=",
        proof=by.certificate(LAST**p * spare, {spare: each}),
        domain=SMALL,
        given=share,
    )
    untied = Step(
        "Without sharing",
        K(V, V, V, p, r, omega, t),
        1 + t * V,
        "V visits of V layers: each pairs with itself alone. At ε = λ/V the gain is of order 1/V for every φ, ReLU "
        "included: positive updates do not add coherently unless weights are shared.",
        proof=alone(t),
        domain=SMALL,
    )
    return bernoulli, lowest, bounded, untied


def examples() -> tuple[Step, ...]:
    """Activations that are not positive."""
    psi = sympy.Symbol("psi", positive=True)

    signs = 1 - 2 * theta / pi
    return (
        Step(
            "Odd activations are uncorrelated at right angles",
            Integral(erf(x) * normal(x), (x, -oo, oo)),
            0 * x,
            "F(0) = a_0² = (Eφ)², which is 0 for erf as for every odd φ, the identity and the sign among them: "
            "E[φ(u) φ(v)] has no positive lower bound, as ReLU's has.",
        ),
        Step(
            "Yet erf keeps a linear mode",
            Integral(x * erf(x) * normal(x), (x, -oo, oo)),
            2 / sqrt(3 * pi),
            "a_1 = E[φ(x) x]; so F(c) ≥ a_1² c = 4c/(3π) for c ≥ 0, a lower bound with p = 1.",
        ),
        Step(
            "The kernel of erf",
            Integral(4 / (pi * sqrt(9 - 4 * x**2)), (x, 0, c)),
            2 * asin(2 * c / 3) / pi,
            "F′(c) = E[φ′(u) φ′(v)] = (4/π) E e^(−u² − v²) = 4/(π√(9 − 4c²)), a Gaussian integral.",
            domain=SHARE,
        ),
        Step(
            "The kernel of the sign",
            (Integral(2, (phi, theta - pi / 2, pi / 2)) - Integral(2, (phi, -pi / 2, theta - pi / 2))) / (2 * pi),
            signs,
            "Equal signs on two arcs of length π − θ, unequal ones on two of length θ: F = (2/π) arcsin c.",
            domain={theta: (0, 3)},
        ),
        Step(
            "Both lie above their linear modes",
            sin(psi),
            psi,
            "With sin ψ = 2c/3 for erf, F = 2ψ/π ≥ 4c/(3π) = a_1² c; with sin ψ = c for the sign, F ≥ 2c/π = a_1² c. "
            "The slope of the difference is 2 sin²(ψ/2).",
            relation="<=",
            proof=by_sign(2 * sin(psi / 2) ** 2, {}, psi, 1),
        ),
        Step(
            "Not even a linear mode is needed",
            Integral(((c * x + sqrt(1 - c**2) * y) ** 2 - 1) * normal(y), (y, -oo, oo)),
            c**2 * (x**2 - 1),
            "φ(x) = x² − 1 has a_0 = a_1 = 0: on average φ(v) is c² φ(u), so F(c)/F(1) = c², p = 2 above.",
            domain={c: (0, 1), x: (-2, 2)},
        ),
    )


def not_normalised(share: Step) -> tuple[Step, ...]:
    """Raw stacks of positively homogeneous activations, φ(x) = ηx + ν|x|."""
    density, wide = exp(-(z**2) / 2) / (2 * pi), {theta: (0, 3)}
    equal, unequal = (phi, theta - pi / 2, pi / 2), (phi, -pi / 2, theta - pi / 2)
    product = cos(phi) * cos(phi - theta)
    floor = eta**2 * cos(theta) + 2 * nu**2 / pi

    absolute = Step(
        "The kernel of the absolute value",
        2 * Integral(density * z**3, (z, 0, oo)) * (Integral(product, equal) - Integral(product, unequal)),
        BENT,
        "E[|u| |v|] in polar coordinates, over the arcs of equal and of unequal signs. As E[u |v|] = 0 by symmetry, "
        "ηx + ν|x| has the kernel √(q q′) (η² cos θ + ν² times this). ReLU is η = ν = 1/2; ν = 0 is linear.",
        domain=wide,
    )
    above = Step(
        "Up to a right angle the kernel is at least",
        RAW,
        floor,
        "Equal at a right angle, and the difference has slope −2ν²(π/2 − θ) sin θ/π.",
        relation=">=",
        proof=up_to_a_right_angle(theta, pi / 2, 2 * nu**2 * REST * SINE / pi),
        domain={theta: (0, Rational(3, 2))},
        given=(pi - 2 * theta,),
    )
    positive_part = Step(
        "and not below its value there",
        RAW,
        2 * nu**2 / pi,
        "The slope of the linear part is negative, too.",
        relation=">=",
        proof=up_to_a_right_angle(theta, pi / 2, (eta**2 + 2 * nu**2 * REST / pi) * SINE),
        domain=above.domain,
        given=above.given,
    )
    positive = Step(
        "No correlation of a raw stack is negative",
        Q(a, b, L, eta, nu, t),
        1 + 0 * t,
        "Q is K for raw inputs, t = ε²σ_w². While no Q is negative no term is.",
        relation=">=",
        proof=no_negative_term(positive_part),
        domain=SMALL | {a: (1, 5), b: (1, 5)},
    )
    roots = one / (size + 1) * other + two / (other + 1)  # of the two sizes, less 1
    return (
        absolute,
        above,
        positive_part,
        positive,
        Step(
            "A raw stack grows at least like this",
            Q(N * L, N * L, L, eta, nu, t),
            1 + t * N**2 * L * (eta**2 + 2 * nu**2 / pi),
            "Q ≥ 1, and each pair brings at least η²Q + 2ν²/π. So R² is "
            "bounded only if εN√L is, for linear, even and all other φ of this form.",
            relation=">=",
            proof=over_pairs(
                t * floor.subs(cos(theta), 1),
                share,
                t * (size * other * spare + eta**2 * older + 2 * nu**2 / pi * roots),
                {
                    spare: above,
                    older: (positive, size * other * cos(theta)),
                    one: (positive, size**2),
                    two: (positive, other**2),
                },
                positive,
            ),
            domain=SMALL,
        ),
    )


def derive(count: Callable[[Any, Any], Any] = lambda loops, layers: loops**2 * layers) -> Derivation:
    """The derivation, with `count` the claimed number of pairs of visits that add up coherently."""
    hermite = modes()
    shared = sharing(hermite, count)
    after = consequences(shared[-2], shared[-1], t * count(N, L))
    return Derivation(
        id="positivity",
        title="The 1/N law needs shared weights, not positive activations",
        statement=(
            "For every activation φ with 0 < Eφ² < ∞ in a looped pre-norm stack, R² is bounded exactly when εN√L is, "
            "and to lowest order R² − q_0 is ε²N²Lσ_w² Eφ² for all N and L. Odd activations, whose outputs can be "
            "uncorrelated, obey the same law as ReLU; without weight sharing even ReLU does not."
        ),
        formula=sympy.Contains(
            (Symbol("R") ** 2 / Symbol("q_0") - 1) / t,
            Interval(count(N, L) * (1 - t * count(N, L) * Symbol("mu")), count(N, L)),
            evaluate=False,
        ),
        assumptions=(
            "h ← h + ε W φ(h/R), R² the mean square of h; L matrices in turn, N times; entries of law N(0, σ_w²/d). In "
            "the last three steps h ← h + ε W φ(h) with φ(x) = ηx + ν|x|.",
            "h_0 is independent of the weights, Gaussian, of second moment q_0; d → ∞ with N and L fixed. "
            "t = ε²σ_w² Eφ²/q_0 and μ = Eφ′²/Eφ² at a standard normal argument.",
            "The Gaussian limit: products of one W with vectors that depend on earlier products are jointly Gaussian, "
            "with covariance σ_w² times that of the vectors. For raw streams and Lipschitz φ by "
            "derivations/gaussian_limit.py; with norms cited from Yang, Tensor Programs I (arXiv:1910.12478). Hence "
            "the recursion for K.",
            "Hermite polynomials span the functions of finite Eφ². Steps are for two modes of any degree; each "
            "further mode is bounded alike. μ may be infinite, and the bound with it void.",
        ),
        steps=(*hermite, *shared, *after, *examples(), *not_normalised(shared[1])),
        not_proved=(
            "The Gaussian limit with norms, or for φ that is not Lipschitz, and anything at finite width.",
            "Raw stacks of activations that are not positively homogeneous: F then depends on the variances too, and "
            "may be negative. For raw stacks no upper bound (tied-linear-growth has one for the linear stack).",
        ),
        source="this project; arXiv:2606.18524 remarks that positivity is sufficient and not necessary",
        paper="§3.2",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda loops, layers: loops * layers),
    statement="updates of an odd activation add like independent ones: NL pairs in place of N²L",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
