"""Weight sharing alone makes the updates coherent: no positivity of the activation is needed for the 1/N law."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import mpmath
import sympy
from sympy import Integral, Interval, Rational, Sum, Symbol, asin, cos, erf, exp, factorial, oo, pi, sin, sqrt

from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by
from residual_theory.proofs.exact_recursion import Rows, Term, correlation, pairs, recursive
from residual_theory.proofs.induction_proof import no_negative_term, over_pairs
from residual_theory.proofs.sign_proof import REST, SINE, by_sign, up_to_a_right_angle

N, L, V = sympy.symbols("N L V", integer=True, positive=True)
a, b, k, p, r = sympy.symbols("a b k p r", integer=True, nonnegative=True)
t, z, omega, theta = sympy.symbols("t z omega theta", positive=True)
c, spare, one, two, older = sympy.symbols("c g u v h", nonnegative=True)
x, y, phi, alpha, beta, eta, nu = sympy.symbols("x y phi alpha beta eta nu", real=True)
KERNEL = omega * c**p + (1 - omega) * c**r
MEAN_MODE = omega * p + (1 - omega) * r
SHARE = {omega: (0, 1), c: (0, 1), p: (0, 3), r: (0, 4)}
SMALL = SHARE | {N: (1, 3), L: (1, 3), t: (0, 1), z: (0, 1), V: (1, 5)}


@cache
def two_modes(p: Any, r: Any, share: Any) -> Term:
    """The kernel of two Hermite modes of normalised inputs."""

    def term(S: Rows, i: int, j: int) -> Any:
        cosine = correlation(S, i, j)
        return share * cosine ** int(p) + (1 - share) * cosine ** int(r)

    return term


@cache
def homogeneous(linear: Any, even: Any) -> Term:
    """The kernel of φ(x) = ηx + ν|x|, with η = linear and ν = even, not normalised."""

    def term(S: Rows, i: int, j: int) -> Any:
        size, cosine = mpmath.sqrt(S[i][i] * S[j][j]), correlation(S, i, j)
        bent = mpmath.sqrt(1 - cosine**2) + cosine * mpmath.asin(cosine)
        return size * (linear**2 * cosine + 2 * even**2 * bent / mpmath.pi)

    return term


def pre_norm(a: Any, b: Any, layers: Any, p: Any, r: Any, share: Any, t: Any) -> Any:
    """K(a, b)/q_0 of a pre-norm stack."""
    return pairs(layers, t, two_modes(p, r, share))(int(a), int(b))


def raw(a: Any, b: Any, layers: Any, linear: Any, even: Any, t: Any) -> Any:
    """K(a, b)/q_0 of a raw stack."""
    return pairs(layers, t, homogeneous(linear, even))(int(a), int(b))


K, Q = recursive("K", pre_norm), recursive("Q", raw)
LAST = K(N * L, N * L, L, p, r, omega, t)  # R²/q_0 after N loops of L layers


def normal(variable: Any) -> Any:
    """The standard normal density."""
    return exp(-(variable**2) / 2) / sqrt(2 * pi)


def modes() -> tuple[Step, ...]:
    """The Hermite modes of an activation, and the dual kernel they make."""
    exponential = Step(
        "A Gaussian exponential",
        Integral(exp(alpha * x) * normal(x), (x, -oo, oo)),
        exp(alpha**2 / 2),
        "So e^(αu − α²/2), which generates the Hermite polynomials, Σ He_k(u) α^k/k!, has mean 1.",
        domain={alpha: (-2, 2)},
    )
    parts = (exponential.rhs.subs(alpha, part) for part in (alpha + beta * c, beta * sqrt(1 - c**2)))
    pair = Step(
        "Two of them",
        sympy.prod(parts) * exp(-(alpha**2) / 2 - beta**2 / 2),
        exp(alpha * beta * c),
        "E e^(αu − α²/2) e^(βv − β²/2) for v = cu + √(1 − c²) y with u, y independent: the last step for both. It "
        "generates E[He_j(u) He_k(v)] α^j β^k/(j! k!).",
        domain={c: (0, 1), alpha: (-2, 2), beta: (-2, 2)},
    )
    series = Step(
        "Each mode becomes a power of the correlation",
        Sum((alpha * beta * c) ** k / factorial(k), (k, 0, oo)),
        pair.rhs,
        "So E[He_j(u) He_k(v)] = k! c^k if j = k, else 0: for φ = Σ a_k He_k/√k! the kernel F(c) = E[φ(u) φ(v)] is "
        "Σ a_k² c^k, without negative coefficients whatever the signs of φ.",
        domain={c: (0, 1), alpha: (-2, 2), beta: (-2, 2)},
    )
    below = Step(
        "A power of a correlation is at most 1",
        c**k,
        1 + 0 * c,
        "By induction.",
        relation="<=",
        proof=by.induction(k, hypothesis=older, certificate=older * c + spare, known={spare: 1 - c}),
        given=(1 - c,),
        domain=SHARE,
    )
    most = Step(
        "The kernel is at most its value at 1",
        KERNEL,
        1 + 0 * c,
        "F(c)/F(1) for two modes with shares ω and 1 − ω of F(1) = Eφ²; further modes add alike.",
        relation="<=",
        proof=by.certificate(omega * one + spare * two, {one: (below, {k: p}), two: (below, {k: r}), spare: 1 - omega}),
        given=(1 - c, 1 - omega),
        domain=SHARE,
    )
    least = Step(
        "and at least any one of its modes",
        KERNEL,
        omega * c**p,
        "For c ≥ 0 the other modes add something nonnegative.",
        relation=">=",
        proof=by.certificate(spare * c**r, {spare: 1 - omega}),
        given=(1 - omega,),
        domain=SHARE,
    )
    return exponential, pair, series, below, most, least


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
        proof=no_negative_term(K, least),
        domain=SMALL | {a: (1, 5), b: (1, 5)},
        given=share,
    )
    upper = Step(
        "R² is at most",
        LAST,
        1 + total,
        "All N²L pairs of visits of one layer at correlation 1.",
        relation="<=",
        proof=over_pairs("<=", t * most.rhs, N, L, most, also=(together,)),
        domain=SMALL,
        given=share,
    )
    lower = Step(
        "and at least",
        LAST,
        1 + total * KERNEL.subs(c, 1 / (1 + total)),
        "K ≥ 1, and by the last step √(K K) ≤ 1 + tN²L: no correlation is below 1/(1 + tN²L).",
        relation=">=",
        proof=over_pairs(">=", t * KERNEL.subs(c, 1 / upper.rhs), N, L, together, also=(upper,)),
        domain=SMALL,
        given=share,
    )
    return together, upper, lower


def consequences(least: Step, together: Step, lower: Step, total: Any) -> tuple[Step, ...]:
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

    def clear(step: Step) -> None:
        must_vanish(step.lhs - (LAST - 1) * LAST**p, "the left side")
        over_pairs(">=", t * least.rhs.subs(c, 1), N, L, least, start=0).run(step)

    bounded = Step(
        "Bounded only if the number of pairs is",
        (LAST - 1) * LAST**p,
        omega * total,
        "No correlation is below 1/B with B = K at the end, hence B − 1 ≥ ωtN²L/B^p. With the upper bound, R² is "
        "bounded exactly when tN²L is, that is, when εN√L is.",
        relation=">=",
        proof=Proof("the number of pairs times the bound on one", clear, (together, least)),
        domain=SMALL,
        given=share,
    )
    untied = Step(
        "Without sharing",
        K(V, V, V, p, r, omega, t),
        1 + t * V,
        "V visits of V layers: each pairs with itself alone. At ε = λ/V the gain is of order 1/V for every φ, ReLU "
        "included: positive updates do not add coherently unless weights are shared.",
        proof=over_pairs("=", t * KERNEL.subs(c, 1), 1, V),
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


def not_normalised() -> tuple[Step, ...]:
    """Raw stacks of positively homogeneous activations, φ(x) = ηx + ν|x|."""
    density, wide = exp(-(z**2) / 2) / (2 * pi), {theta: (0, 3)}
    equal, unequal = (phi, theta - pi / 2, pi / 2), (phi, -pi / 2, theta - pi / 2)
    product = cos(phi) * cos(phi - theta)
    bent = 2 * (sin(theta) + (pi / 2 - theta) * cos(theta)) / pi
    kernel, floor = eta**2 * cos(theta) + nu**2 * bent, eta**2 * cos(theta) + 2 * nu**2 / pi

    absolute = Step(
        "The kernel of the absolute value",
        2 * Integral(density * z**3, (z, 0, oo)) * (Integral(product, equal) - Integral(product, unequal)),
        bent,
        "E[|u| |v|] in polar coordinates, over the arcs of equal and of unequal signs. As E[u |v|] = 0 by symmetry, "
        "ηx + ν|x| has the kernel √(q q′) (η² cos θ + ν² times this). ReLU is η = ν = 1/2; ν = 0 is linear.",
        domain=wide,
    )
    above = Step(
        "Up to a right angle the kernel is at least",
        kernel,
        floor,
        "Equal at a right angle, and the difference has slope −2ν²(π/2 − θ) sin θ/π.",
        relation=">=",
        proof=up_to_a_right_angle(theta, pi / 2, 2 * nu**2 * REST * SINE / pi, absolute),
        domain={theta: (0, Rational(3, 2))},
        given=(pi - 2 * theta,),
    )
    return (
        absolute,
        above,
        Step(
            "A raw stack grows at least like this",
            Q(N * L, N * L, L, eta, nu, t),
            1 + t * N**2 * L * (eta**2 + 2 * nu**2 / pi),
            "Q is K for raw inputs, t = ε²σ_w². As before Q ≥ 1, and each pair brings at least η²Q + 2ν²/π. So R² is "
            "bounded only if εN√L is, for linear, even and all other φ of this form.",
            relation=">=",
            proof=over_pairs(">=", t * floor.subs(cos(theta), 1), N, L, above),
            domain=SMALL,
        ),
    )


def derive(count: Callable[[Any, Any], Any] = lambda loops, layers: loops**2 * layers) -> Derivation:
    """The derivation, with `count` the claimed number of pairs of visits that add up coherently."""
    hermite = modes()
    shared = sharing(hermite, count)
    after = consequences(hermite[-1], shared[0], shared[2], t * count(N, L))
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
            "Known: products of a W with vectors that depend on earlier products are jointly Gaussian in this limit, "
            "with covariance σ_w² times that of the vectors. Hence the recursion for K.",
            "Known: Hermite polynomials span the functions of finite Eφ². Steps are for two modes of any degree; each "
            "further mode is bounded alike. μ may be infinite, and the bound with it void.",
        ),
        steps=(*hermite, *shared, *after, *examples(), *not_normalised()),
        not_proved=(
            "The joint Gaussian limit itself, for discontinuous φ in particular, and anything at finite width.",
            "Raw stacks of activations that are not positively homogeneous: F then depends on the variances too, and "
            "may be negative. For raw stacks no upper bound (tied-linear-growth has one for the linear stack).",
        ),
        source="this project",
        paper="§3.2",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda loops, layers: loops * layers),
    statement="updates of an odd activation add like independent ones: NL pairs in place of N²L",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
