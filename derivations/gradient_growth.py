"""Growth of gradients and of the tangent kernel in a looped ReLU stack, for every number of loops and layers."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from sympy import Integral, Interval, Rational, Sum, binomial, exp, oo, pi

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish, nonnegative, squared_binomials
from residual_theory.proofs import ways as by
from residual_theory.proofs.exact_recursion import (
    Pairs,
    correlation,
    covariance,
    gate,
    pairs,
    recursive,
    relu,
    shared,
)
from residual_theory.proofs.exponential_bounds import logarithm_below_tangent
from residual_theory.proofs.induction_proof import no_negative_term, over_pairs
from residual_theory.proofs.relu_angle import ARC, KAPPA, RIGHT, acute, acute_bounds, integral, theta
from residual_theory.proofs.squared_binomials import N, a, b, i, j, k, moment, x

L = sympy.Symbol("L", integer=True, positive=True)
t, z, r = sympy.symbols("t z r", positive=True)
spare, more = sympy.symbols("g h", nonnegative=True)  # slacks of earlier inequalities and hypotheses
QUARTER, HALF, ON = Rational(1, 4), Rational(1, 2), (pi - theta) / (2 * pi)
SAME = shared(i, j, L)  # 1 where visits i and j use the same weights
SMALL = {N: (1, 3), L: (1, 3), a: (0, 9), b: (0, 9), t: (0, 2), x: (0, 1), z: (0, 2)}
INSIDE = (N * L - a, N * L - b)  # both numbers of visits are within the stack
Bound = Callable[[Any, Any], Any]


@lru_cache(maxsize=64)
def backward(loops: int, layers: int, t: Any, _: int) -> tuple[Any, Any]:
    """M between numbers of visits still to come, and Θ/(ε²q_0), for a stack of this size."""
    last = loops * layers - 1
    K = pairs(layers, t, relu).upto(last)
    rows = Pairs(layers, t, lambda own, p, q: gate(correlation(K, last - p, last - q)) * own[p][q]).upto(last + 1)
    couples = ((p, q) for p in range(last + 1) for q in range(last + 1) if (p - q) % layers == 0)
    return rows, mpmath.fsum(rows[last - p][last - q] * relu(K, p, q) for p, q in couples)


def gradient(a: Any, b: Any, loops: Any, layers: Any, t: Any) -> Any:
    """M(a, b) for the gradients of a stack."""
    return backward(int(loops), int(layers), mpmath.mpf(t), mpmath.mp.prec)[0][int(a)][int(b)]


def tangent(loops: Any, layers: Any, t: Any) -> Any:
    """Θ/(ε²q_0) of a stack."""
    return backward(int(loops), int(layers), mpmath.mpf(t), mpmath.mp.prec)[1]


K, M, T = recursive("K", covariance), recursive("M", gradient), recursive("T", tangent)


def gathered(bound: Bound, same: Any) -> Any:
    """1 + x² Σ B(i, j) over earlier pairs: what a recursion of weight x² makes of the bound."""
    return 1 + x**2 * Sum(same * bound(i, j), (j, 0, b - 1), (i, 0, a - 1))


def powers(one: Any, other: Any) -> Any:
    """The bound for any number of layers."""
    return ((1 + x**2 * N) ** one + (1 + x**2 * N) ** other) / 2


def at_weight(bound: Bound, weight: Any) -> Any:
    """B(a, b) where x² is `weight`."""
    return bound(a, b).xreplace({x ** (2 * k): weight**k, x**2: weight})


def row_by_row() -> Proof:
    """Every visit i has at most N partners j, one a loop: hence N Σ_i (1 + x²N)^i, and the same for j."""

    def run(step: Step) -> None:
        if (step.relation, step.lhs, step.given) != ("<=", gathered(powers, SAME), INSIDE):
            raise DerivationError("not a bound on the pairs of visits of the stack")
        half = ((1 + x**2 * N) ** a - 1) / 2  # is x² N Σ_{i<a} (1 + x²N)^i / 2
        must_vanish(half.subs(a, 0), "the empty sum")
        must_vanish(half.subs(a, a + 1) - half - x**2 * N * (1 + x**2 * N) ** a / 2, "the geometric sum")
        must_vanish(1 + half + half.subs(a, b) - step.rhs, "the right side")

    return Proof("at most N partners a visit, and the geometric sum", run)


def over_visits(weight: Step, sums: Step, bound: Bound, *also: Step) -> Proof:
    """Induction over visits for S(a, b) = 1 + t Σ w s over earlier pairs with the same weights, w and s nonnegative.

    Let w ≤ c (or ≥), and s ≤ B(i, j) by hypothesis. Then w s ≤ c B(i, j), whose sums with x² = ct are an earlier step.
    For gradients s = S(i, j); for the stream s = √(S(i, i) S(j, j)), at most the mean (B(i, i) + B(j, j))/2.
    """

    def run(step: Step) -> None:
        same = SAME if step.lhs.args[-2] == L else 1
        if step.relation != weight.relation or sums.relation not in ("=", step.relation) or not weight.rhs.is_positive:
            raise DerivationError("the steps point in different ways")
        sides = (sums.lhs, sums.rhs), (sums.rhs, sums.lhs)
        if (gathered(bound, same), bound(a, b)) not in (sides if sums.relation == "=" else sides[:1]):
            raise DerivationError("the earlier step sums something else")
        if sums.given not in ((), step.given):
            raise DerivationError("a hypothesis is missing")
        if any(not nonnegative(-sympy.diff(given, end)) for given in step.given for end in (a, b)):
            raise DerivationError("a hypothesis may fail at an earlier visit")
        if step.rhs != at_weight(bound, weight.rhs * t) or x in step.rhs.free_symbols:
            raise DerivationError("the bound is not that of the earlier step")
        if step.lhs.func == K:
            must_vanish(bound(i, j) - (bound(i, i) + bound(j, j)) / 2, "that the bound is the mean of its diagonal")

    return Proof("induction over visits", run, (weight, sums, *also))


def kernels(both_on: Any) -> tuple[Step, ...]:
    """Both dual kernels from the integral, and their bounds up to a right angle."""
    by_angle, by_half = by.certificate(spare / (4 * pi), {spare: RIGHT}), by.certificate(theta / (2 * pi))
    on = Step(
        "Probability that two units are both on",
        Integral(exp(-(r**2) / 2) / (2 * pi) * r, (r, 0, oo)) * Integral(1, ARC),
        both_on,
        "E[relu′(u) relu′(v)] for Gaussians of correlation cos θ: both are positive on an arc of length π − θ.",
        domain={theta: (0, 3)},
    )
    stream = integral("The kernel of the stream", "κ = E[relu(u) relu(v)] at unit variances; in general F = √(q q′) κ.")
    return (
        on,
        acute("At most a right angle: at least a quarter", both_on, ">=", QUARTER, "It falls with θ.", by_angle),
        acute("and at most a half", both_on, "<=", HALF, "A unit is on half the time.", by_half),
        stream,
        *acute_bounds(
            ("At most a right angle: κ is at least 1/(2π)", "and at most one half"),
            (
                "Equal at a right angle, and dκ/dθ = −(π − θ) sin θ/(2π).",
                "The same, from θ = 0 on.",
            ),
        ),
    )


def sums() -> tuple[Step, ...]:
    """What the recursions make of two families of bounds."""
    layered = Step(
        "Means of powers of 1 + x²N pass through the recursion",
        gathered(powers, SAME),
        powers(a, b),
        "δ is 1 for visits of one layer. Each visit has at most N partners, one a loop; the rest is a geometric sum.",
        relation="<=",
        proof=row_by_row(),
        domain=SMALL,
        given=INSIDE,
    )
    pascal, exact = squared_binomials.recursion(
        titles=("One power of the weight", "The recursion of one linear layer is solved"),
        because="The recursion of M for one layer, x² = t, if E[relu′ relu′] were 1",
    )
    return layered, pascal, exact


def gradients(kernel: tuple[Step, ...], layered: Step, exact: Step) -> tuple[Step, ...]:
    """Bounds on the stream and on its gradients."""
    _, quarter, half, _, floor, ceiling = kernel
    together = Step(
        "No correlation is negative",
        K(a, b, L, t),
        1 + 0 * t,
        "In units of q_0, K(a, b) = 1 + t Σ √(K(i, i) K(j, j)) κ over i < a, j < b of one layer. No angle exceeds π/2.",
        relation=">=",
        proof=no_negative_term(K, floor),
        domain=SMALL | {a: (1, 6), b: (1, 6)},
    )
    stream = Step(
        "The stream is bounded for every N and L",
        K(a, b, L, t),
        at_weight(powers, t / 2),
        "κ ≤ 1/2. In particular K(a, a) ≤ (1 + tN/2)^a.",
        "<=",
        over_visits(ceiling, layered, powers, together),
        SMALL,
        INSIDE,
    )
    above = replace(
        stream,
        title="So are the gradients",
        lhs=M(a, b, N, L, t),
        because="The recursion M(a, b) = 1 + t Σ E[relu′ relu′] M(i, j), with E[relu′ relu′] ≤ 1/2.",
        proof=over_visits(half, layered, powers, together),
    )
    below = Step(
        "They grow at least like this",
        M(N * L, N * L, N, L, t),
        1 + N**2 * L * t / 4,
        "E[relu′ relu′] ≥ 1/4 and M ≥ 1 for each of the N²L pairs. So M is bounded exactly when tN²L is.",
        relation=">=",
        proof=over_pairs(">=", t * quarter.rhs, N, L, quarter, together),
        domain=SMALL,
    )
    one_layer = (
        Step(
            title,
            M(a, b, N, 1, t),
            at_weight(moment, weight.rhs * t),
            because,
            relation=weight.relation,
            proof=over_visits(weight, exact, moment, together),
            domain=SMALL | {N: (2, 5), a: (0, 5), b: (0, 5)},
            given=(N - a, N - b),
        )
        for title, weight, because in (
            ("One layer: above a tied linear stack", quarter, "E[relu′ relu′] ≥ 1/4: a linear stack with σ_w²/4."),
            ("and below another", half, "E[relu′ relu′] ≤ 1/2: a linear stack with σ_w²/2. The theorem is a = b = N."),
        )
    )
    return together, stream, above, below, *one_layer


def tangent_kernel(floor: Step, ceiling: Step, together: Step, stream: Step, above: Step) -> tuple[Step, ...]:
    """Two-sided bounds on Θ."""
    least = Step(
        "The tangent kernel is at least",
        T(N, L, t),
        N**2 * L / (2 * pi),
        "Θ = ε²q_0 T with T = Σ M(n + 1, m + 1) F(n, m) over the N²L pairs of one layer: M ≥ 1 and F ≥ κ ≥ 1/(2π).",
        relation=">=",
        proof=over_pairs(">=", floor.rhs, N, L, floor, together, start=0),
        domain=SMALL,
    )
    last = N * L - 1

    def schwarz(step: Step) -> None:
        diagonal = stream.rhs.subs({a: i, b: i}) * above.rhs.subs({a: last - i, b: last - i})
        if {stream.relation, above.relation, ceiling.relation} != {"<="}:
            raise DerivationError("the diagonal bounds point the other way")
        over_pairs("<=", ceiling.rhs * sympy.powsimp(diagonal), N, L, start=0).run(step)

    most = Step(
        "and at most",
        T(N, L, t),
        N**2 * L * (1 + t * N / 2) ** last / 2,
        "M and K are covariances: M(n, m)² ≤ M(n, n) M(m, m), and F ≤ √(K(n, n) K(m, m))/2. By the bounds above each "
        "K(n, n) M(n + 1, n + 1) is at most (1 + tN/2)^(NL−1), whatever n.",
        relation="<=",
        proof=Proof("Cauchy–Schwarz and the number of pairs", schwarz, (stream, above, ceiling)),
        domain=SMALL,
    )
    tangent_line = logarithm_below_tangent(x)
    known = {spare: (tangent_line, {x: t * N / 2}), more: t}
    compound = Step(
        "Compound interest",
        (1 + t * N / 2) ** last,
        exp(t * N**2 * L / 2),
        "NL − 1 < NL times the logarithm of the last step.",
        relation="<=",
        proof=by.certificate(last * spare + more * N / 2, known, logarithm=True),
        domain=SMALL,
    )
    at = {t: z / (N**2 * L)}
    critical = Step(
        "At the critical scale",
        T(N, L, z / (N**2 * L)),
        N**2 * L * exp(z / 2) / 2,
        "t = z/(N²L) with z = λ²σ_w², that is ε = λ/(N√L). So Θ = ε²q_0 T lies between λ²q_0/(2π) and "
        "λ²q_0 e^(λ²σ_w²/2)/2: the critical rate 2/Θ is fixed up to a factor π e^(λ²σ_w²/2).",
        relation="<=",
        proof=by.certificate(spare + N**2 * L * more / 2, {spare: (most, at), more: (compound, at)}),
        domain=SMALL,
    )
    return least, most, tangent_line, compound, critical


def derive(both_on: Any = ON) -> Derivation:
    """The derivation, with `both_on` the claimed E[relu′(u) relu′(v)] at correlation cos θ."""
    kernel, lemma = kernels(both_on), sums()
    growth = gradients(kernel, lemma[0], lemma[2])
    between = Interval(*(Sum(binomial(N, k) ** 2 * (t * c) ** k, (k, 0, N)) for c in (QUARTER, HALF)))
    return Derivation(
        id="gradient-growth",
        title="Growth of gradients and of the tangent kernel",
        statement=(
            "In a ReLU stack of L layers looped N times, the gradient's mean square M is bounded exactly when εN√L is; "
            "for one layer it lies between those of two linear stacks, with t = ε²σ_w². At ε = λ/(N√L) the tangent "
            "kernel lies between λ²q_0/(2π) and λ²q_0 e^(λ²σ_w²/2)/2, so that N and L change the critical rate of "
            "gradient descent by a bounded factor only."
        ),
        formula=sympy.Contains(M(N, N, N, 1, t), between, evaluate=False),
        assumptions=(
            "h ← h + ε W relu(h), L matrices in turn, N times; entries independent of law N(0, σ_w²/d); t = ε²σ_w².",
            "The readout is independent of all else, its mean zero and second moment one; h_0 has second moment q_0; "
            "d → ∞ with N and L fixed.",
            "Known: in this limit W and Wᵀ act as independent matrices on signals forward and backward. So for the "
            "gradients g_n = g_{n+1} + ε D_n Wᵀ g_{n+1}, with a and b visits still to come, the covariance is "
            "M(a, b) = 1 + t Σ E[relu′ relu′] M(i, j) over i < a, j < b of one layer; likewise K for the stream.",
            "Θ is the tangent kernel of the matrices W at one input: the sum of ε² M(n + 1, m + 1) F(n, m) over pairs "
            "of visits of one layer, M here labelled by visits from the start.",
        ),
        steps=(*kernel, *lemma, *growth, *tangent_kernel(*kernel[-2:], *growth[:3])),
        not_proved=(
            "The infinite-width recursions themselves, and any correction at finite width.",
            "That Θ converges as N → ∞; only bounds that do not depend on N and L are proved.",
            "That gradient descent is stable up to 2/Θ: a statement about linearised training on one example.",
        ),
        source="this project",
    )


DERIVATION = derive()
FALSE_TWIN = replace(derive(KAPPA), statement="gradients are weighted by the stream's kernel κ, not its derivative")

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
