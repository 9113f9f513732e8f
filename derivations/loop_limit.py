"""The limit of many loops: at ε = λ/(N√L) it does not depend on the number of layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sympy
from sympy import (
    Derivative,
    Eq,
    Function,
    Integral,
    Limit,
    Sum,
    Symbol,
    acos,
    binomial,
    cos,
    cosh,
    exp,
    log,
    oo,
    pi,
    sin,
    sqrt,
)

from residual_theory.errors import DerivationError
from residual_theory.lemmas.one_layer import FEW as FEW_LOOPS
from residual_theory.lemmas.one_layer import K, L, N, a, b, ceiling_of_one_layer, one, t, three, two, x, y, z
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish, nonnegative
from residual_theory.proofs import ways as by
from residual_theory.proofs.pair_recursion import r, recursion, s
from residual_theory.proofs.relu_angle import theta

M = sympy.Symbol("M", integer=True, positive=True)
k = sympy.Symbol("k", integer=True, nonnegative=True)
q, p, m, rho, u, v = sympy.symbols("q p m rho u v", positive=True)
KERNEL = (sqrt(q * p - m**2) + (pi - acos(m / sqrt(q * p))) * m) / (2 * pi)
COVARIANCE = {q: (1, 2), p: (1, 2), m: (0, 1)}
RHO = 1 + 2 * x * exp(x) / N
ENOUGH = log(N) - log(2 * x) - x  # N ≥ 2x e^x, so that ρ ≤ 2
FEW = FEW_LOOPS | {M: (1, 3)}


def loops(count: Any, strength: Any) -> Any:
    """R²/q_0 of one layer looped `count` times, at λ²σ_w² = strength."""
    return K(count, count, 1, strength / count**2)


def about_this_kernel(*uses: Step) -> None:
    """That F rises in all three arguments and scales, for the kernel F in the recursion of K; growth, where given."""
    rising, with_variance, scaling, *growth = uses
    summand = recursion(K(a, b, L, t)).summand.subs({r: sqrt(q), s: sqrt(p)})
    angle = sympy.acos(m / sqrt(q * p))
    must_vanish(summand.subs(theta, angle) - t * KERNEL, "that F is the kernel of the recursion")
    if (rising.lhs, with_variance.lhs) != (Derivative(KERNEL, m), Derivative(KERNEL, q)):
        raise DerivationError("the earlier steps are about something else than the slopes of F")
    slopes = rising.rhs.subs(angle, pi - z), with_variance.rhs.subs(q * p - m**2, z)  # θ ≤ π, and m² ≤ q p
    if not all(map(nonnegative, slopes)) or scaling.relation != "=":
        raise DerivationError("F need not be increasing")
    must_vanish(scaling.rhs - rho * KERNEL, "that F scales")
    grown = K(a + 1, b + 1, 1, RHO * x / N**2), RHO * K(a, b, 1, RHO * x / N**2)
    if any((step.lhs, step.rhs) != grown or step.relation != "<=" or ENOUGH not in step.given for step in growth):
        raise DerivationError("growth by one more loop is not bounded")


def loop_by_loop(pairs: Any, factor: Any, *uses: Step) -> Proof:
    """Induction over visits, compared with one layer: a visit in loops a and b sums over the pairs of visits in all
    earlier loops at least, and in its own loops besides at most. The pairs of visits in a pair of loops weigh as much
    as the single pair of one layer (`factor` times less than at the larger strength), and F is increasing.
    """

    def run(step: Step) -> None:
        about_this_kernel(*uses)
        single, filled = (step.lhs, step.rhs) if factor == 1 else (step.rhs, step.lhs)
        if step.relation != "<=" or step.given != ((ENOUGH,) if factor != 1 else ()):
            raise DerivationError("the inequality points the other way, or a hypothesis is missing")
        if single != loops(single.args[0], x * factor):
            raise DerivationError("the comparison is not with one layer")
        must_vanish(pairs * filled.args[-1] * factor - single.args[-1], "that pairs of loops weigh the same")

    return Proof("induction over visits, loop by loop", run, uses, argued=True)


def kernel() -> tuple[Step, ...]:
    """F increases in everything it depends on."""
    rising = Step(
        "The kernel rises with the covariance",
        Derivative(KERNEL, m),
        (pi - acos(m / sqrt(q * p))) / (2 * pi),
        "F = √(q p) κ at variances q, p and covariance m = √(q p) cos θ, κ = (sin θ + (π − θ) cos θ)/(2π), θ ≤ π.",
        domain=COVARIANCE,
    )
    with_variance = Step(
        "and with a variance",
        Derivative(KERNEL, q),
        sqrt(q * p - m**2) / (4 * pi * q),
        "F is increasing in all three: a larger stream makes larger updates.",
        domain=COVARIANCE,
    )
    scaling = Step(
        "It scales",
        KERNEL.subs({q: rho * q, p: rho * p, m: rho * m}, simultaneous=True),
        rho * KERNEL,
        "F is homogeneous: covariances within a factor ρ give kernels within a factor ρ.",
        domain=COVARIANCE,
    )

    def at_the_end(step: Step) -> None:
        must_vanish(KERNEL.subs(m, sqrt(q * p)) - step.rhs, "the value at correlation 1")
        if step.relation != "<=" or rising.lhs != Derivative(step.lhs, m):
            raise DerivationError("the inequality points the other way, or is about another kernel")
        if not nonnegative(rising.rhs.subs(acos(m / sqrt(q * p)), pi - z)):
            raise DerivationError("F need not be increasing")

    largest = Step(
        "At most half the geometric mean",
        KERNEL,
        sqrt(q * p) / 2,
        "Equal at m = √(q p), correlation 1, up to which F rises.",
        relation="<=",
        proof=Proof("the value at the end of the rise", at_the_end, (rising,)),
        domain=COVARIANCE,
    )
    return rising, with_variance, scaling, largest


def one_layer(rises: tuple[Step, ...], ceiling: Step) -> tuple[Step, Step]:
    """How much one looped layer gains from one more loop, and from a little more strength."""

    def increment(step: Step) -> None:
        room = {N - 1 - a, N - 1 - b, ENOUGH}
        if step.relation != "<=" or set(step.given) != room or step.lhs.args[-1] != RHO * x / N**2:
            raise DerivationError("the inequality points the other way, or a hypothesis is missing")
        if (ceiling.lhs, ceiling.relation) != (K(a, b, 1, z / N**2), "<="):
            raise DerivationError("this is not a bound on one layer")
        added = (
            rho * x / N**2 * (2 * N) * ceiling.rhs.subs(z, rho * x) / 2
        )  # a + b + 1 pairs, F at most half the ceiling
        must_vanish(added.subs(rho, 2) - (RHO - 1), "the growth at ρ ≤ 2")
        must_vanish(step.rhs - RHO * K(a, b, 1, RHO * x / N**2), "the right side")

    growth = Step(
        "One more loop adds little",
        K(a + 1, b + 1, 1, RHO * x / N**2),
        RHO * K(a, b, 1, RHO * x / N**2),
        "ρ = 1 + 2x e^x/N is at most 2 for N ≥ 2x e^x. The a + b + 1 < 2N new pairs bring at most (ρx/N²) N e^(ρx/2) "
        "≤ 2x e^x/N = ρ − 1 together, and K ≥ 1 as F is never negative.",
        relation="<=",
        proof=Proof("the number of new pairs times the bound on one", increment, (ceiling,), argued=True),
        domain=FEW,
        given=(N - 1 - a, N - 1 - b, ENOUGH),
    )
    last = sympy.Max(a, b)

    def deficits(step: Step) -> None:
        about_this_kernel(*rises)
        if (ceiling.lhs, ceiling.relation) != (K(a, b, 1, z / N**2), "<="):
            raise DerivationError("this is not a bound on one layer")
        rate = x / N**2 * N * ceiling.rhs.subs(z, x) * (RHO - 1)  # (2r + 1)/2 ≤ N pairs with r the later visit
        must_vanish(step.rhs - (1 + rate) ** last * K(a, b, 1, x / N**2), "the rate")
        if (step.relation, step.given) != ("<=", (N - a, N - b, ENOUGH)):
            raise DerivationError("the inequality points the other way, or a hypothesis is missing")

    raised = Step(
        "A little more strength adds little",
        K(a, b, 1, RHO * x / N**2),
        (1 + 2 * x**2 * exp(3 * x / 2) / N**2) ** last * K(a, b, 1, x / N**2),
        "Y is the base, A = max(a, b), r the later visit of a pair. By induction the pair brings at most ρY^r F, so "
        "(ρ − 1)Y^r F more than Y^A F; over all pairs (Y − 1) Σ Y^r = Y^A − 1. And Y^A multiplies the 1 in K too.",
        relation="<=",
        proof=Proof("induction over visits, and the geometric sum", deficits, (*rises, ceiling), argued=True),
        domain=FEW,
        given=(N - a, N - b, ENOUGH),
    )
    return growth, raised


def universality(rises: tuple[Step, ...], layer: tuple[Step, ...], division: Callable[[Any], Any]) -> tuple[Step, ...]:
    """Loops of L layers, and loops divided further, lie between one layer and one layer at a strength ρ larger."""
    growth, raised = layer
    layers, finer = K(N * L, N * L, L, x / (N**2 * division(L))), loops(N * M, x)
    earlier = (
        "One layer sums over the pairs of all earlier loops; besides these, a visit here has some of its own loop."
    )
    own = "A visit has all earlier loops and at most all of its own, where K is larger by a factor ρ at most."

    def comparison(title: str, lhs: Any, rhs: Any, because: str, pairs: Any, factor: Any = 1) -> Step:
        proof = loop_by_loop(pairs, factor, *rises, *((growth,) if factor != 1 else ()))
        return Step(title, lhs, rhs, because, "<=", proof, FEW, (ENOUGH,) if factor != 1 else ())

    below = comparison("L layers a loop: not below one layer", loops(N, x), layers, earlier, L)
    above = comparison("and not above one layer at λ²σ_w² = ρx", layers, loops(N, RHO * x), own, L, RHO)
    finer_below = comparison("M loops divided by N: not below", loops(M, x), finer, earlier, N**2)
    finer_above = comparison("N loops divided by M: not above", finer, loops(N, RHO * x), own, M**2, RHO)
    end = {a: N, b: N}
    factor = raised.rhs.subs(end) / loops(N, x)
    whole = Step(
        "Universality",
        layers,
        factor * loops(N, x),
        "L layers differ from one by a factor of 1 + O(1/N), whatever L.",
        relation="<=",
        proof=by.certificate(one + two, {one: above, two: (raised, end)}),
        domain=FEW,
        given=(ENOUGH,),
    )
    cauchy = Step(
        "The limit exists",
        loops(M, x),
        factor * loops(N, x),
        "R² for M loops is at most that for MN, and this at most that for N up to the same factor. M and N may change "
        "places, so the values converge: to G.",
        relation="<=",
        proof=by.certificate(one + two + three, {one: finer_below, two: finer_above, three: (raised, end)}),
        domain=FEW,
        given=(ENOUGH,),
    )
    vanishing = Step(
        "The factor",
        Limit(factor, N, oo),
        1 + 0 * x,
        "So R²/q_0 tends to G(λ), λ²σ_w² = x, for every L. The sums over pairs of ever smaller loops are Riemann sums "
        "of the integral in the equation for k.",
        proof=by.limit(),
        domain={x: (0, 1)},
    )
    return below, above, finer_below, finer_above, whole, cauchy, vanishing


def lowest_order() -> tuple[Step, Step, Step]:
    """What ReLU adds to half the linear kernel, to lowest order in λ."""
    near = Step(
        "The kernel near correlation 1",
        Limit(z**3 * (sin(1 / z) - cos(1 / z) / z), z, oo),
        sympy.Rational(1, 3),
        "2πκ = π cos θ + sin θ − θ cos θ, θ = 1/z: κ = cos θ/2 + θ^3/(6π) + …, half the linear kernel and a bit more.",
        proof=by.limit(),
    )
    lowest = [1 + first * second / (2 * z**2) for first, second in ((u, v), (u, u), (v, v))]
    angle = Step(
        "The angle between two times",
        Limit(z**2 * (1 - lowest[0] / sqrt(lowest[1] * lowest[2])), z, oo),
        (u - v) ** 2 / 4,
        "With k(u, v) = 1 + λ²uv/2 + … and λ = 1/z: 1 − cos θ = λ²(u − v)²/4 + …, so θ = λ|u − v|/√2 + …",
        proof=by.limit(),
    )
    distance = Symbol("r", integer=True, positive=True)
    pairs = Step(
        "All pairs of loops",
        Sum(2 * (N - distance) * distance**3, (distance, 1, N - 1)),
        N * (N**2 - 1) * (3 * N**2 - 2) / 30,
        "The cubes of their distances: N − r pairs at distance r, either way.",
    )
    return near, angle, pairs


def series() -> tuple[Step, ...]:
    """G(λ) for small λ, in units of q_0 and with λσ_w for λ."""
    near, angle, pairs = lowest_order()
    linear = Sum(binomial(N, k) ** 2 / (2 * N**2 * z**2) ** k, (k, 0, N))
    at_n = pairs.rhs / (12 * sqrt(2) * pi * N**5)

    def perturbation(step: Step) -> None:
        must_vanish(angle.rhs - ((u - v) / sqrt(2)) ** 2 / 2, "θ/λ from 1 − cos θ = θ²/2")
        each = near.rhs / (2 * pi) / sqrt(2) ** 3  # of (λ × distance)³
        must_vanish(step.rhs - each * pairs.rhs / N**3 / N**2, "the sum of the excess over pairs")
        if step.lhs.args[0] != z**5 * (loops(N, 1 / z**2) - linear):
            raise DerivationError("not the difference from the linear stack")

    excess = Step(
        "What ReLU adds to the linear stack",
        Limit(z**5 * (loops(N, 1 / z**2) - linear), z, oo),
        at_n,
        "λ = 1/z. The sum is the linear stack with σ_w²/2, κ = cos θ/2 (tied-linear-growth). To lowest order the rest "
        "adds (λ²/N²) Σ θ^3/(6π) with θ = λ|i − j|/(√2 N); what the stack makes of that comes at λ^7.",
        proof=Proof("first-order perturbation", perturbation, (near, angle, pairs), argued=True),
        domain={N: (2, 4)},
        along=(10, 10**2, 10**4, 10**8),
    )
    many = Step(
        "For many loops",
        Limit(at_n, N, oo),
        1 / (120 * sqrt(2) * pi),
        "The linear stack itself tends to I_0(√2 λ).",
        proof=by.limit(),
    )
    upper = Step(
        "The upper bound is not as close",
        Limit(z**4 * (cosh(1 / (sqrt(2) * z)) ** 2 - 1 - 1 / (2 * z**2)), z, oo),
        sympy.Rational(1, 12),
        "Bounds of G (looped-growth): I_0(√2 λ) = 1 + λ²/2 + λ^4/16 + … from below agrees with it up to λ^4; "
        "cosh²(λ/√2) from above has λ^4/12 and agrees up to λ² only.",
        proof=by.limit(),
    )
    return near, angle, pairs, excess, many, upper


def many_layers() -> tuple[Step, ...]:
    """One loop of many layers has another limit."""
    growth = (1 + x / (2 * L)) ** L

    def once(step: Step) -> None:
        must_vanish(
            step.lhs.args[-1] * KERNEL.subs(m, sqrt(q * p)).subs(p, q) / q - (growth ** (1 / L) - 1), "one visit"
        )
        must_vanish(step.rhs - growth, "L visits")

    return (
        Step(
            "One loop of L layers",
            K(L, L, L, x / L),
            growth,
            "No two visits share weights: each adds half of x/L times the stream.",
            proof=Proof("one visit after the other", once),
            domain={L: (1, 6)},
        ),
        Step(
            "And its limit",
            Limit(growth, L, oo),
            exp(x / 2),
            "L → ∞ at N = 1 gives e^(λ²σ_w²/2), not G: λ^4/8 in place of λ^4/16. The number of loops must grow.",
            proof=by.limit(),
        ),
    )


def derive(division: Callable[[Any], Any] = lambda layers: layers) -> Derivation:
    """The derivation, with ε = λ/(N √division(L)) the claimed scale."""
    rises = kernel()
    bounded = ceiling_of_one_layer()
    layer = one_layer(rises[:3], bounded[-1])
    strength, k_of, phi = Symbol("lambda") ** 2 * Symbol("sigma_w") ** 2, Function("k"), Function("F")
    inner = phi(k_of(u, u), k_of(u, v), k_of(v, v))
    return Derivation(
        id="loop-limit",
        title="The limit of many loops",
        statement=(
            "At ε = λ/(N√L) the second moment of a ReLU stack tends, as N → ∞, to a limit G(λ) that does not depend on "
            "L: G = k(1, 1) for the equation shown, F being the kernel of ReLU. For q_0 = σ_w = 1 it is "
            "I_0(√2 λ) + λ^5/(120√2 π) up to higher orders, provided that λ → 0 and N → ∞ may be exchanged. With one "
            "loop of many layers the limit is e^(λ²/2) instead."
        ),
        formula=Eq(k_of(x, y), Symbol("q_0") + strength * Integral(inner, (u, 0, x), (v, 0, y))),
        assumptions=(
            "h ← h + ε W relu(h), L matrices in turn, N times; entries independent of law N(0, σ_w²/d). h_0 is "
            "independent of them and has second moment q_0; d → ∞ with N and L fixed, then N → ∞.",
            "The Gaussian limit (derivations/gaussian_limit.py): products of one W with vectors that depend on "
            "earlier products are jointly Gaussian, with covariance σ_w² times that of the vectors. Hence the "
            "recursion for K(a, b, L, ε²σ_w²).",
        ),
        steps=(*rises, *bounded, *layer, *universality(rises[:3], layer, division), *series(), *many_layers()),
        not_proved=(
            "Argued in words, not checked: the inductions of “One more loop adds little”, “A little more strength adds "
            "little”, “L layers a loop: not below one layer”, “and not above one layer at λ²σ_w² = ρx”, “M loops "
            "divided by N: not below” and “N loops divided by M: not above”, and the perturbation of “What ReLU adds "
            "to the linear stack”. Of these the weights, numbers of pairs and lemmas are checked, and small cases.",
            "The Gaussian limit for N that grows with d, and that d → ∞ and N → ∞ may be exchanged.",
            "That the limit of the double sums is the double integral: k is continuous, so they are Riemann sums.",
            "That λ → 0 and N → ∞ may be exchanged in the term λ^5; it is found for every N, and then N → ∞ taken. "
            "For a given N, that the rest is of higher order is argued, and seen in the numbers, but not computed.",
        ),
        source="this project",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda layers: layers**2),
    statement="at ε = λ/(NL), as if all visits were alike, the limit does not depend on L",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
