"""Growth of a looped pre-norm ReLU stack: no exponential, and in the end a constant step a loop."""

from dataclasses import replace
from typing import Any

import mpmath
import sympy
from sympy import Derivative, Function, Integral, Limit, Rational, Sum, Symbol, cos, exp, oo, pi, sin, sqrt

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish, nonnegative
from residual_theory.proofs import ways as by
from residual_theory.proofs.exact_recursion import kappa, normalised_relu, pairs, recursive
from residual_theory.proofs.induction_proof import no_negative_term, over_pairs, partners
from residual_theory.proofs.pair_recursion import covariance_of, recursion
from residual_theory.proofs.relu_angle import KAPPA, acute_bounds, integral, theta
from residual_theory.proofs.sign_proof import COSINE, SINE, gap, up_to_a_right_angle

N, L, V = sympy.symbols("N L V", integer=True, positive=True)
a, b, k, m, n = sympy.symbols("a b k m n", integer=True, nonnegative=True)
t, q, u, s, kap, psi = sympy.symbols("t q u s kappa psi", positive=True)
w = sympy.Symbol("w", real=True)
one = sympy.Symbol("e", nonnegative=True)  # the slack of an earlier step
HALF, SPEED = Rational(1, 2), sqrt(2) / (3 * pi)
SMALL = {N: (1, 4), L: (1, 3), t: (0, 2)}


def least(first: Any, end: Any, t: Any) -> Any:
    """The least κ of two visits from `first` to before `end`, one layer."""
    places = range(int(first), int(end))
    S = pairs(1, t, normalised_relu).upto(int(end))
    return min((normalised_relu(S, p, c) for p in places for c in places), default=kappa(1))


NEXT = 2 * KAPPA  # the next bound on correlations, where the last is cos θ
_next = sympy.lambdify(theta, NEXT, "mpmath")


def bootstrap(count: Any) -> Any:
    """γ after `count` rounds of γ ← 2κ(γ) from 0."""
    gamma = mpmath.mpf(0)
    for _ in range(int(count)):
        gamma = _next(mpmath.acos(gamma))
    return gamma


R, K = Function("R"), covariance_of("K", (L, t), t, KAPPA, L)
A, G = recursive("A", least), recursive("G", bootstrap, "nonnegative")


def kernel(size: Any) -> tuple[Step, ...]:
    """The kernel κ and its bounds up to a right angle."""
    normal = exp(-(w**2) / (2 * q)) / sqrt(2 * pi * q)
    updates = Step(
        "A normalised update has one size whatever the stream",
        Integral(w**2 / q * normal, (w, 0, oo)),
        size,
        "E relu(h/R)² with h Gaussian of variance q = R²: normalisation takes the scale out.",
    )
    product = integral(
        "The kernel of two visits",
        "κ = E[relu(u) relu(v)] at unit variances and correlation cos θ, in polar coordinates.",
    )
    slope = Step(
        "κ falls with the angle",
        Derivative(KAPPA, theta),
        -(pi - theta) * sin(theta) / (2 * pi),
        "That is, it rises with the correlation.",
        domain={theta: (0, 3)},
    )
    floor, ceiling = acute_bounds(
        ("Up to a right angle κ is at least 1/(2π)", "and at most 1/2"), ("Equal at θ = π/2.", "Equal at θ = 0.")
    )
    return updates, product, slope, floor, ceiling


def growth(floor: Step, ceiling: Step, updates: Step) -> tuple[Step, ...]:
    """For every N, L and ε."""
    together = Step(
        "No correlation is negative",
        K(a, b, L, t),
        1 + 0 * t,
        "In units of q_0, K(a, b) = 1 + t Σ κ over i < a, j < b of one layer. So no angle exceeds π/2.",
        relation=">=",
        proof=no_negative_term(floor),
        domain=SMALL | {a: (1, 6), b: (1, 6)},
    )
    visits, share = N * L, partners()
    upper = Step(
        "At most quadratic in N",
        K(visits, visits, L, t),
        1 + t * N**2 * L / 2,
        "κ ≤ 1/2 for each of the N²L pairs of visits of one layer: R² ≤ q_0 + ε²σ_w²N²L/2, and no exponential. At "
        "ε = N^(−1/2) and L = 1, R² ≤ q_0 + σ_w²N/2.",
        relation="<=",
        proof=over_pairs(t * ceiling.rhs, share, t * one, {one: ceiling}, together),
        domain=SMALL,
    )
    lower = Step(
        "and at least",
        K(visits, visits, L, t),
        1 + t * N**2 * L / (2 * pi),
        "κ ≥ 1/(2π). So R² is bounded exactly when εN√L is: pre-norm needs the factored scale as well.",
        relation=">=",
        proof=over_pairs(t * floor.rhs, share, t * one, {one: floor}, together),
        domain=SMALL,
    )
    untied = Step(
        "Without sharing: linear in the visits, exactly",
        1 + Sum(t * updates.lhs, (k, 1, V)),
        1 + t * V / 2,
        "Each visit pairs with itself alone, and at any R its update has the size found above: R² = q_0 + ε²σ_w²V/2.",
        proof=by.substitution(updates),
        domain={V: (1, 2)},
    )
    return together, share, upper, lower, untied


def _adds(step: Step, of: Any, floor: Step, together: Step) -> Any:
    """The summand of one looped layer, once it is t κ for this kernel and no pair of visits adds anything negative."""
    rec = recursion(of)
    if rec.layers != 1 or rec.summand != t * KAPPA or floor.lhs != KAPPA:
        raise DerivationError("this is about another stack, or another kernel")
    no_negative_term(floor).run(together)
    if together.lhs.func != of.func or not nonnegative(floor.rhs) or floor.relation != ">=" or step.relation != ">=":
        raise DerivationError("pairs are left out that may be negative")


def alignment(floor: Step, together: Step) -> tuple[Step, ...]:
    """At fixed ε and L = 1 the visits align: every bound γ on late correlations improves to 2κ(γ)."""
    kept = A(m, n, t)

    def restricted(step: Step) -> None:
        _adds(step, step.lhs, floor, together)
        places = Sum(Sum(1, (k, m, a - 1)).doit(), (k, m, b - 1)).doit()
        must_vanish(step.rhs - t * kept * places, "the number of pairs")
        if set(step.given) != {a - m, b - m, n - a, n - b}:
            raise DerivationError("pairs are counted that may be missing")

    late = Step(
        "The pairs from visit m on",
        K(a, b, 1, t),
        t * kept * (a - m) * (b - m),
        "A(m, n) is κ at the least correlation γ of the visits m to n − 1. Earlier pairs add something positive.",
        relation=">=",
        proof=Proof("a part of the sum", restricted, (floor, together)),
        domain={m: (0, 2), a: (2, 5), b: (2, 5), n: (5, 6), t: (0, 2)},
        given=(a - m, b - m, n - a, n - b),
    )
    next_bound = Step(
        "The next bound on correlations",
        Limit((a - m) * sqrt(t * kap) / sqrt(1 + t * a**2 / 2), a, oo),
        sqrt(2 * kap),
        "With κ(γ) for κ: √K(a, a) is at most the root below, so a late correlation of visits a and b is at least the "
        "product of two such factors. If γ bounds late correlations, so does any number below 2κ(γ).",
        proof=by.limit(),
        domain={m: (0, 5)},
    )
    return late, next_bound


def rounds_of(slope: Step, next_bound: Step) -> tuple[Step, ...]:
    """How fast γ ← 2κ(γ) comes to 1."""
    arc = Step(
        "The sine lies below the arc",
        sin(psi),
        psi,
        "Equal at 0; the slope of the difference is 1 − cos ψ = 2 sin²(ψ/2).",
        relation="<=",
        proof=up_to_a_right_angle(psi, 0, 2 * sin(psi / 2) ** 2),
        domain={psi: (0, Rational(3, 2))},
        given=(pi - 2 * psi,),
    )
    gain = Step(
        "Each round gains",
        2 * KAPPA.subs(theta, 2 * psi) - cos(2 * psi),
        8 * sin(psi) ** 3 / (3 * pi),
        "2κ(γ) − γ at γ = cos 2ψ. The slope of the difference is 8 sin ψ cos ψ (ψ − sin ψ)/π.",
        relation=">=",
        proof=up_to_a_right_angle(psi, 0, 8 * SINE * COSINE * gap / pi, arc),
        domain={psi: (0, Rational(3, 2))},
        given=(pi - 2 * psi,),
    )
    room = Step(
        "In terms of u = 1/√(1 − γ)",
        (1 - 2 * s / u) * (u + s) ** 2,
        u**2,
        "The gain is 2s(1 − γ)^(3/2), s = √2/(3π): 1/u² becomes at most (1 − 2s/u)/u², so u at least u + s.",
        relation="<=",
        proof=by.certificate(3 * s**2 + 2 * s**3 / u),
    )

    def rounds(step: Step) -> None:
        if (step.relation, gain.relation, room.relation) != ("<=", ">=", "<="):
            raise DerivationError("the steps point in different ways")
        falls = -slope.rhs.subs({sin(theta): SINE, theta: pi - COSINE})  # nonnegative up to π
        if slope.lhs != Derivative(KAPPA, theta) or not nonnegative(falls):
            raise DerivationError("κ need not be increasing")
        must_vanish(next_bound.rhs.subs(kap, KAPPA) ** 2 - NEXT, "that a round is the next bound on correlations")
        must_vanish(gain.lhs - NEXT.subs(theta, 2 * psi) + cos(2 * psi), "that the gain is that of a round")
        gained = gain.rhs.subs(sin(psi), 1 / (sqrt(2) * u))
        must_vanish(gained - 2 * SPEED / u**3, "the gain at 1 − γ = 2 sin²ψ = 1/u²")
        must_vanish(room.lhs / (u + s) ** 2 - (1 - u**2 * gained).subs(SPEED, s), "what a round leaves of 1/u²")
        must_vanish(room.rhs - u**2, "that it leaves at most 1/(u + s)²")
        must_vanish(step.rhs.subs(k, 0) - 1, "the start at γ = 0")
        after = 1 / sympy.sqrt(step.rhs.subs(k, k + 1)) - 1 / sympy.sqrt(step.rhs)
        must_vanish(sympy.powdenest(after, force=True) - SPEED, "the growth of u")

    limit_one = Step(
        "After k rounds",
        1 - G(k),
        1 / (1 + k * SPEED) ** 2,
        "G(k) is γ after k rounds of γ ← 2κ(γ) from 0. As κ is increasing, u gains s a round; correlations tend to 1.",
        relation="<=",
        proof=Proof("induction on k", rounds, (slope, next_bound, gain, room)),
        domain={k: (0, 9)},
    )
    return arc, gain, room, limit_one


def increments(floor: Step, together: Step, ceiling: Step) -> tuple[Step, Step]:
    """R_{N+1}² − R_N², one layer: the pairs of visits with visit N."""
    kept, grown = A(m, N + 1, t), K(N + 1, N + 1, 1, t) - K(N, N, 1, t)
    pairs = (N + 1) ** 2 - N**2

    def at_least(step: Step) -> None:
        _adds(step, K(N, N, 1, t), floor, together)
        late = pairs.subs(N, N - m)
        must_vanish(step.rhs - t * kept * (late - 1), "the number of pairs from m on, but one")
        if step.lhs != grown or N - m not in step.given:
            raise DerivationError("pairs are counted that may be missing")

    def at_most(step: Step) -> None:
        if (step.relation, ceiling.relation, ceiling.lhs, step.lhs) != ("<=", "<=", KAPPA, grown):
            raise DerivationError("this is about another kernel, or points the other way")
        _adds(together, K(N, N, 1, t), floor, together)  # so that no angle exceeds π/2
        must_vanish(step.rhs - t * ceiling.rhs * pairs, "all pairs with visit N")

    least = Step(
        "One more loop adds at least",
        grown,
        2 * t * kept * (N - m),
        "R_{N+1}² − R_N² sums over the pairs with visit N, more than 2(N − m) of them from m on.",
        relation=">=",
        proof=Proof("a part of the sum", at_least, (floor, together)),
        domain={N: (2, 5), m: (0, 2), t: (0, 2)},
        given=(N - m,),
    )
    most = replace(
        least,
        title="and at most",
        rhs=t * (N + HALF),
        because="2N + 1 pairs, with κ ≤ 1/2 for each.",
        relation="<=",
        proof=Proof("the number of pairs times the bound on one", at_most, (ceiling, floor, together)),
        given=(),
    )
    return least, most


def radial_steps(upper: Step, late: Step, adds: tuple[Step, Step]) -> tuple[Step, Step]:
    """R_{N+1} − R_N at fixed ε, one layer, between two bounds: what R² gains over the sum of the two roots."""
    kept, ends = A(m, N + 1, t), (N, N + 1)
    squares = [K(end, end, 1, t) for end in ends]
    radial = sqrt(squares[1]) - sqrt(squares[0])
    largest = sqrt(1 + t * (N + 1) ** 2 / 2)

    def about(step: Step, gain: Step, roots: Step, relation: str) -> None:
        if (step.relation, gain.relation, step.lhs) != (relation, relation, radial) or N - m not in step.given:
            raise DerivationError("the steps point in different ways, or a hypothesis is missing")
        if gain.lhs != squares[1] - squares[0] or roots.relation != {">=": "<=", "<=": ">="}[relation]:
            raise DerivationError("these are not bounds on what R² gains and on R itself")

    def at_least(step: Step) -> None:
        about(step, adds[0], upper, ">=")
        if any(upper.lhs.subs({N: end, L: 1}) != square for end, square in zip(ends, squares, strict=True)):
            raise DerivationError("R is bounded elsewhere")
        bounds = [upper.rhs.subs({L: 1, N: end}) for end in ends]
        if not nonnegative(sympy.expand(bounds[1] - bounds[0])):
            raise DerivationError("R_N may exceed the bound on R_{N+1}")
        must_vanish(largest**2 - bounds[1], "the larger root")
        must_vanish(step.rhs - adds[0].rhs / (2 * largest), "the gain over twice the larger root")

    def at_most(step: Step) -> None:
        about(step, adds[1], late, "<=")
        at = [{a: end, b: end, n: N + 1} for end in ends]
        if [late.lhs.subs(place) for place in at] != squares:
            raise DerivationError("R is bounded elsewhere")
        least = [sqrt(t * kept) * (end - m) for end in ends]
        for root, place in zip(least, at, strict=True):
            must_vanish(root**2 - late.rhs.subs(place), "a root from below")
        must_vanish(step.rhs - adds[1].rhs / sum(least), "the gain over both roots from below")

    below = Step(
        "A radial step is at least",
        radial,
        t * kept * (N - m) / largest,
        "What R² gains, divided by R_{N+1} + R_N, which is at most twice the bound on R_{N+1}.",
        relation=">=",
        proof=Proof("difference of squares", at_least, (upper, adds[0])),
        domain={N: (2, 5), m: (0, 2), t: (0, 2)},
        given=(N - m,),
    )
    above = replace(
        below,
        title="and a radial step at most",
        rhs=t * (N + HALF) / (sqrt(t * kept) * (2 * N + 1 - 2 * m)),
        because="The same with R_N and R_{N+1} from below.",
        relation="<=",
        proof=Proof("difference of squares", at_most, (late, adds[1])),
    )
    return below, above


def constant_step(upper: Step, ceiling: Step, aligned: tuple[Step, ...], adds: tuple[Step, Step]) -> tuple[Step, ...]:
    """R_{N+1} − R_N tends to a constant."""
    below, above = radial_steps(upper, aligned[0], adds)
    kept = A(m, N + 1, t)
    from_below = Step(
        "The lower bound far out",
        Limit(below.rhs.subs(kept, kap), N, oo),
        kap * sqrt(2 * t),
        "With κ for κ(γ).",
        proof=by.limit(),
        domain={m: (0, 5)},
    )
    from_above = replace(
        from_below,
        title="The upper bound far out",
        lhs=Limit(above.rhs.subs(kept, kap), N, oo),
        rhs=sqrt(t) / (2 * sqrt(kap)),
    )

    def squeezed(step: Step) -> None:
        if sympy.limit(aligned[-1].rhs, k, oo) != 0:
            raise DerivationError("late correlations do not tend to 1")
        if step.lhs != Limit(below.lhs, N, oo) or above.lhs != below.lhs:
            raise DerivationError("this is not what the bounds are about")
        for bound, radial in ((from_below, below), (from_above, above)):
            if bound.lhs != Limit(radial.rhs.subs(kept, kap), N, oo):
                raise DerivationError("a limit is that of another bound")
            must_vanish(bound.rhs.subs(kap, ceiling.rhs) - step.rhs, "that both bounds meet at κ(1)")

    constant = Step(
        "A constant radial step",
        Limit(below.lhs, N, oo),
        sqrt(t / 2),
        "Late correlations exceed any γ < 1, and κ(1) = 1/2: both bounds meet, at εσ_w/√2 for R, whatever q_0.",
        proof=Proof(
            "both bounds as γ → 1", squeezed, (*aligned, below, above, from_below, from_above, ceiling), argued=True
        ),
        domain={t: (1, 3)},
        along=(1, 8, 31),
    )
    return *adds, below, above, from_below, from_above, constant


def derive(size: Any = HALF) -> Derivation:
    """The derivation, with `size` the claimed E relu(h/R)² of a normalised update."""
    updates, product, slope, floor, ceiling = kernel(size)
    together, share, upper, lower, untied = growth(floor, ceiling, updates)
    late, next_bound = alignment(floor, together)
    aligned = (late, next_bound, *rounds_of(slope, next_bound))
    return Derivation(
        id="pre-norm-growth",
        title="Growth of a looped pre-norm stack",
        statement=(
            "With normalised inputs, L ReLU layers looped N times give R² between q_0 + ε²σ_w²N²L/(2π) and "
            "q_0 + ε²σ_w²N²L/2: linear growth of R in N, no exponential, and bounded exactly when εN√L is. At fixed ε "
            "one looped layer aligns with itself and in the end adds the same to R every loop."
        ),
        formula=sympy.Eq(Limit(R(N + 1) - R(N), N, oo), Symbol("epsilon") * Symbol("sigma_w") / sqrt(2)),
        assumptions=(
            "h ← h + ε W relu(h/R), R² the mean square of h; L matrices in turn, N times; their law N(0, σ_w²/d).",
            "h_0 is independent of the weights and has second moment q_0; d → ∞ with N and L fixed. t = ε²σ_w²/q_0.",
            "The Gaussian limit: products of one W with vectors that depend on earlier products are jointly Gaussian, "
            "with covariance σ_w² times that of the vectors. For raw streams and Lipschitz φ by "
            "derivations/gaussian_limit.py; with norms cited from Yang, Tensor Programs I (arXiv:1910.12478). Hence "
            "the recursion for K.",
        ),
        steps=(
            *(updates, product, slope, floor, ceiling, together, share, upper, lower, untied),
            *(*aligned, *constant_step(upper, ceiling, aligned, increments(floor, together, ceiling))),
        ),
        not_proved=(
            "Argued in words, not checked: in “A constant radial step”, that the rounds γ ← 2κ(γ) bound late "
            "correlations one after the other, and that both bounds may therefore be taken at γ → 1.",
            "The Gaussian limit with norms, and anything at finite width.",
            "How fast the radial step approaches its limit. Not the a + O(1/R) of arXiv:2606.24898: the recursion, up "
            "to N = 2000, approaches it more slowly. Nothing of it for L > 1.",
        ),
        source="this project; the constant radial step is a claim of arXiv:2606.24898",
    )


DERIVATION = derive()
FALSE_TWIN = replace(derive(q / 2), statement="an update grows with the stream, as it does without normalisation")

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
