"""Growth of gradients and of the tangent kernel in a looped ReLU stack, for every number of loops and layers."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from sympy import Integral, Interval, Rational, Sum, binomial, exp, oo, pi, symbols

from residual_theory.errors import DerivationError
from residual_theory.lemmas import squared_binomials
from residual_theory.lemmas.exponential_bounds import logarithm_below_tangent
from residual_theory.lemmas.squared_binomials import N, a, b, i, j, k, x
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by
from residual_theory.proofs.exact_recursion import Pairs, correlation, pairs, recursive, relu, shared
from residual_theory.proofs.induction_proof import (
    no_negative_term,
    over_earlier_visits,
    over_pairs,
    pair_by_pair,
    partners,
)
from residual_theory.proofs.pair_recursion import STREAM, Recursion, Value, compiled, covariance_of, own, r, s
from residual_theory.proofs.relu_angle import ARC, KAPPA, RIGHT, acute, acute_bounds, integral, theta

L = sympy.Symbol("L", integer=True, positive=True)
t, z, length = sympy.symbols("t z r", positive=True)
spare, more = sympy.symbols("g h", nonnegative=True)  # slacks of earlier inequalities and hypotheses
QUARTER, HALF, ON = Rational(1, 4), Rational(1, 2), (pi - theta) / (2 * pi)
SAME = shared(i, j, L)  # 1 where visits i and j use the same weights
SMALL = {N: (1, 3), L: (1, 3), a: (0, 9), b: (0, 9), t: (0, 2), x: (0, 1), z: (0, 2)}
PAIRS = (j, 0, b - 1), (i, 0, a - 1)
INSIDE = (N * L - a, N * L - b)  # both numbers of visits are within the stack
Bound = Callable[[Any, Any], Any]
PASSED, MOVED = compiled(ON * own), compiled(r * s * KAPPA * own)  # terms of M and of T at numbers


@lru_cache(maxsize=64)
def backward(loops: int, layers: int, t: Any, _: int) -> tuple[Any, Any]:
    """M between numbers of visits still to come, and Θ/(ε²q_0), for a stack of this size."""
    last = loops * layers - 1
    K = pairs(layers, t, relu).upto(last)  # the stream

    def passed(term: Value, p: int, q: int, found: Any) -> Any:
        cosine = correlation(K, p, q)
        sizes = mpmath.sqrt(K[p][p]), mpmath.sqrt(K[q][q])
        return term(*sizes, mpmath.acos(cosine), cosine, found)

    rows = Pairs(layers, t, lambda S, p, q: passed(PASSED, last - p, last - q, S[p][q])).upto(last + 1)
    couples = ((p, q) for p in range(last + 1) for q in range(last + 1) if (p - q) % layers == 0)
    return rows, mpmath.fsum(passed(MOVED, p, q, rows[last - p][last - q]) for p, q in couples)


def gradient(a: Any, b: Any, loops: Any, layers: Any, t: Any) -> Any:
    """M(a, b) for the gradients of a stack."""
    return backward(int(loops), int(layers), mpmath.mpf(t), mpmath.mp.prec)[0][int(a)][int(b)]


def tangent(loops: Any, layers: Any, t: Any) -> Any:
    """Θ/(ε²q_0) of a stack."""
    return backward(int(loops), int(layers), mpmath.mpf(t), mpmath.mp.prec)[1]


K, M, T = covariance_of("K", (L, t), t, r * s * KAPPA, L), recursive("M", gradient), recursive("T", tangent)
_STANDS = {K: STREAM, M: (own,)}
M.recursion = lambda a, b, loops, layers, t: Recursion((a, b), layers, t * ON * own, stands=_STANDS)
T.recursion = lambda loops, layers, t: Recursion(
    (loops * layers, loops * layers), layers, r * s * KAPPA * own, sympy.S.Zero, _STANDS
)


def gathered(bound: Bound, same: Any) -> Any:
    """1 + x² Σ B(i, j) over earlier pairs: what a recursion of weight x² makes of the bound."""
    return 1 + x**2 * Sum(same * bound(i, j), *PAIRS)


def powers(one: Any, other: Any) -> Any:
    """The bound for any number of layers."""
    return ((1 + x**2 * N) ** one + (1 + x**2 * N) ** other) / 2


def at_weight(expression: Any, weight: Any) -> Any:
    """The expression where x² is `weight`."""
    return expression.xreplace({x ** (2 * k): weight**k, x**2: weight})


def row_by_row(share: Step) -> Proof:
    """Every visit i has at most so many partners j: hence as many times Σ_i (1 + x²N)^i, and the same for j."""

    def run(step: Step) -> None:
        if (step.relation, step.lhs, step.given) != ("<=", gathered(powers, SAME), INSIDE):
            raise DerivationError("not a bound on the pairs of visits of the stack")
        if share.lhs != Sum(SAME, (j, 0, N * L - 1)):  # among the first b ≤ NL visits no more
            raise DerivationError("the partners are counted otherwise")
        half = ((1 + x**2 * N) ** a - 1) / 2  # is x² N Σ_{i<a} (1 + x²N)^i / 2
        must_vanish(half.subs(a, 0), "the empty sum")
        must_vanish(half.subs(a, a + 1) - half - x**2 * share.rhs * (1 + x**2 * N) ** a / 2, "the geometric sum")
        must_vanish(1 + half + half.subs(a, b) - step.rhs, "the right side")

    return Proof("at most N partners a visit, and the geometric sum", run, (share,))


def instance(of: Step, weight: Any, title: str, because: str) -> Step:
    """An earlier step about what the recursion makes of a bound, at this value of x²; the bound comes first."""
    small, large = (of.lhs, of.rhs) if of.relation == "<=" else (of.rhs, of.lhs)

    def run(step: Step) -> None:
        sides = step.lhs, step.rhs
        if step.relation not in ("=", ">=") or (step.relation, of.relation) == ("=", "<="):
            raise DerivationError("the earlier step points the other way")
        if sides != (at_weight(large, weight), at_weight(small, weight)) or x in weight.free_symbols:
            raise DerivationError("this is not the earlier step at another weight")
        if step.given != of.given or not weight.is_positive:
            raise DerivationError("a hypothesis is missing")

    relation: Any = ">=" if of.relation == "<=" else "="
    proof = Proof(f"an earlier step at x² = {weight}", run, (of,))
    domain = SMALL | ({} if of.given else {N: (2, 5), a: (1, 5), b: (1, 5)})
    return Step(title, at_weight(large, weight), at_weight(small, weight), because, relation, proof, domain, of.given)


def kernels(both_on: Any) -> tuple[Step, ...]:
    """Both dual kernels from the integral, and their bounds up to a right angle."""
    by_angle, by_half = by.certificate(spare / (4 * pi), {spare: RIGHT}), by.certificate(theta / (2 * pi))
    on = Step(
        "Probability that two units are both on",
        Integral(exp(-(length**2) / 2) / (2 * pi) * length, (length, 0, oo)) * Integral(1, ARC),
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


def sums(share: Step) -> tuple[Step, ...]:
    """What the recursions make of two families of bounds."""
    layered = Step(
        "Means of powers of 1 + x²N pass through the recursion",
        gathered(powers, SAME),
        powers(a, b),
        "δ is 1 for visits of one layer. Each visit has at most N partners, one a loop; the rest is a geometric sum.",
        relation="<=",
        proof=row_by_row(share),
        domain=SMALL,
        given=INSIDE,
    )
    pascal, exact = squared_binomials.recursion(
        titles=("One power of the weight", "The recursion of one linear layer is solved"),
        because="The recursion of M for one layer, x² = t, if E[relu′ relu′] were 1",
    )
    at_half = instance(layered, t / 2, "At half the weight", "x² = t/2.")
    slow = instance(exact, t / 4, "A linear layer with a quarter of the weight", "x² = t/4.")
    return layered, at_half, pascal, exact, slow, instance(exact, t / 2, "and with half of it", "x² = t/2.")


def stream_and_gradients(kernel: tuple[Step, ...], at_half: Step) -> tuple[Step, ...]:
    """Bounds on the stream and on its gradients from above, and that neither falls below its start."""
    _, quarter, half, _, floor, ceiling = kernel
    few = SMALL | {a: (1, 6), b: (1, 6)}
    together = Step(
        "No correlation is negative",
        K(a, b, L, t),
        1 + 0 * t,
        "In units of q_0, K(a, b) = 1 + t Σ √(K(i, i) K(j, j)) κ over i < a, j < b of one layer. No angle exceeds π/2.",
        relation=">=",
        proof=no_negative_term(floor),
        domain=few,
    )
    squares = Step(
        "Every pair counts at most half the mean of its squares",
        K(a, b, L, t),
        1 + t / 2 * Sum(SAME * (K(i, i, L, t) + K(j, j, L, t)) / 2, *PAIRS),
        "κ ≤ 1/2 and √(K(i, i) K(j, j)) is at most the mean of both.",
        relation="<=",
        proof=pair_by_pair(t * r * s * spare + t / 4 * (r - s) ** 2, {spare: ceiling}, together),
        domain=SMALL,
    )
    stream = Step(
        "The stream is bounded for every N and L",
        K(a, b, L, t),
        at_half.lhs,
        "By induction over the visits. In particular K(a, a) ≤ (1 + tN/2)^a.",
        "<=",
        over_earlier_visits(squares, at_half),
        SMALL,
        INSIDE,
    )
    least = replace(
        together,
        title="No gradient is smaller than at the end",
        lhs=M(a, b, N, L, t),
        because="The recursion M(a, b) = 1 + t Σ E[relu′ relu′] M(i, j), with E[relu′ relu′] ≥ 1/4.",
        proof=no_negative_term(quarter, together),
        given=INSIDE,
    )
    passed_on = replace(
        squares,
        title="A pair of visits passes on at most half",
        lhs=M(a, b, N, L, t),
        rhs=1 + t / 2 * Sum(SAME * M(i, j, N, L, t), *PAIRS),
        because="The same recursion, with E[relu′ relu′] ≤ 1/2.",
        proof=pair_by_pair(t * own * spare, {spare: half, more: (least, own)}, together),
        given=INSIDE,
    )
    above = replace(
        stream,
        title="So are the gradients",
        lhs=M(a, b, N, L, t),
        because="By induction over the visits still to come.",
        proof=over_earlier_visits(passed_on, at_half),
    )
    return together, squares, stream, least, passed_on, above


def gradients(kernel: tuple[Step, ...], lemma: tuple[Step, ...], share: Step) -> tuple[Step, ...]:
    """Bounds on the stream and on its gradients."""
    _, quarter, half, *_ = kernel
    known = stream_and_gradients(kernel, lemma[1])
    together, _, _, least, _, _ = known
    below = Step(
        "They grow at least like this",
        M(N * L, N * L, N, L, t),
        1 + N**2 * L * t / 4,
        "E[relu′ relu′] ≥ 1/4 and M ≥ 1 for each of the N²L pairs. So M is bounded exactly when tN²L is.",
        relation=">=",
        proof=over_pairs(
            t * quarter.rhs, share, t * (own * spare + more / 4), {spare: quarter, more: (least, own)}, together
        ),
        domain=SMALL,
    )
    one_layer: list[Step] = []
    for title, weight, linear, because in (
        ("One layer: above a tied linear stack", quarter, lemma[4], "a linear stack with σ_w²/4."),
        ("and below another", half, lemma[5], "a linear stack with σ_w²/2. The theorem is a = b = N."),
    ):
        pair = Step(
            f"One layer: a pair of visits passes on at {'least' if weight is quarter else 'most'} {weight.rhs}",
            M(a, b, N, 1, t),
            1 + weight.rhs * t * Sum(M(i, j, N, 1, t), *PAIRS),
            "The recursion of M for one layer.",
            weight.relation,
            pair_by_pair(t * own * spare, {spare: weight, more: (least, own)}, together),
            SMALL | {N: (2, 5), a: (0, 5), b: (0, 5)},
            (N - a, N - b),
        )
        induction = over_earlier_visits(pair, linear)
        one_layer += [
            pair,
            replace(pair, title=title, rhs=linear.lhs, because=f"By induction: {because}", proof=induction),
        ]
    return *known, below, *one_layer


def tangent_kernel(kernel: tuple[Step, ...], growth: tuple[Step, ...], share: Step) -> tuple[Step, ...]:
    """Two-sided bounds on Θ."""
    floor, ceiling = kernel
    together, _, stream, never_less, _, above, *_ = growth
    one, two, three = symbols("u v w", nonnegative=True)
    parts = one / (r + 1) * s * own + two / (s + 1) * own + three  # r s m − 1, as r² − 1, s² − 1 and m − 1 are these
    least = Step(
        "The tangent kernel is at least",
        T(N, L, t),
        N**2 * L / (2 * pi),
        "Θ = ε²q_0 T with T = Σ M(n + 1, m + 1) F(n, m) over the N²L pairs of one layer: M ≥ 1 and F ≥ κ ≥ 1/(2π).",
        relation=">=",
        proof=over_pairs(
            floor.rhs,
            share,
            r * s * own * spare + floor.rhs * parts,
            {spare: floor, one: (together, r**2), two: (together, s**2), three: (never_less, own)},
            together,
        ),
        domain=SMALL,
    )
    last = N * L - 1

    def schwarz(step: Step) -> None:
        diagonal = stream.rhs.subs({a: i, b: i}) * above.rhs.subs({a: last - i, b: last - i})
        if {stream.relation, above.relation, ceiling.relation, step.relation} != {"<="}:
            raise DerivationError("the diagonal bounds point the other way")
        if (stream.lhs.func, above.lhs.func, ceiling.lhs) != (K, M, KAPPA):
            raise DerivationError("the diagonal bounds are about something else")
        must_vanish(step.rhs - N * L * share.rhs * ceiling.rhs * sympy.powsimp(diagonal), "that every pair is counted")

    most = Step(
        "and at most",
        T(N, L, t),
        N**2 * L * (1 + t * N / 2) ** last / 2,
        "M and K are covariances: M(n, m)² ≤ M(n, n) M(m, m), and F ≤ √(K(n, n) K(m, m))/2. By the bounds above each "
        "K(n, n) M(n + 1, n + 1) is at most (1 + tN/2)^(NL−1), whatever n.",
        relation="<=",
        proof=Proof("Cauchy–Schwarz and the number of pairs", schwarz, (stream, above, ceiling, share), argued=True),
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
    share = partners()
    kernel, lemma = kernels(both_on), sums(share)
    growth = gradients(kernel, lemma, share)
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
            "Cited (Yang, Tensor Programs II, arXiv:2006.14548, gradient independence): as the readout is independent "
            "of the weights, W and Wᵀ act as independent matrices on signals forward and backward. So for the "
            "gradients g_n = g_{n+1} + ε D_n Wᵀ g_{n+1}, with a and b visits still to come, the covariance is M(a, b) "
            "= 1 + t Σ E[relu′ relu′] M(i, j) over i < a, j < b of one layer; likewise K for the stream.",
            "Θ is the tangent kernel of the matrices W at one input: the sum of ε² M(n + 1, m + 1) F(n, m) over pairs "
            "of visits of one layer, M here labelled by visits from the start.",
        ),
        steps=(*kernel, share, *lemma, *growth, *tangent_kernel(kernel[-2:], growth, share)),
        not_proved=(
            "Argued in words, not checked: that M is a covariance, M(n, m)² ≤ M(n, n) M(m, m), in “and at most”.",
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
