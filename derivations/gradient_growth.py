"""Growth of gradients and of the tangent kernel in a looped ReLU stack, for every number of loops and layers."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from sympy import Integral, Interval, KroneckerDelta, Mod, Rational, Sum, Symbol, binomial, cos, exp, log, oo, pi, sin

from residual_theory.errors import DerivationError
from residual_theory.theory import proof as by
from residual_theory.theory.derivation import Derivation, Proof, Relation, Step, main, must_vanish

N, L = sympy.symbols("N L", integer=True, positive=True)
a, b, i, j, k, room = sympy.symbols("a b i j k m", integer=True, nonnegative=True)
t, x, z, theta, r = sympy.symbols("t x z theta r", positive=True)
phi = Symbol("phi", real=True)
spare, more = sympy.symbols("g h", nonnegative=True)  # slacks of earlier inequalities and hypotheses
QUARTER, HALF, RIGHT = Rational(1, 4), Rational(1, 2), pi - 2 * theta
KAPPA, ON = (sin(theta) + (pi - theta) * cos(theta)) / (2 * pi), (pi - theta) / (2 * pi)
SAME = KroneckerDelta(Mod(i, L), Mod(j, L))  # 1 where visits i and j use the same weights
SMALL = {N: (1, 3), L: (1, 3), a: (0, 9), b: (0, 9), t: (0, 2), x: (0, 1), z: (0, 2)}
INSIDE = (N * L - a, N * L - b)  # both numbers of visits are within the stack
Bound = Callable[[Any, Any], Any]


def solved(size: int, layers: int, t: Any, term: Callable[..., Any]) -> Any:
    """S(a, b) = 1 + t Σ term(S, i, j) over i < a and j < b of one layer, for all a, b up to `size`."""
    S = [[mpmath.mpf(1)] * (size + 1) for _ in range(size + 1)]
    for m in range(1, size + 1):
        row, grown = [term(S, m - 1, q) if (m - 1 - q) % layers == 0 else 0 for q in range(m)], mpmath.mpf(0)
        for n in range(1, m + 1):
            grown += row[n - 1]
            S[m][n] = S[n][m] = S[m - 1][n] + t * grown
    return S


def gate(cov: Any, p: int, q: int) -> Any:
    """E[relu′ relu′] of two visits."""
    return (mpmath.pi - mpmath.acos(min(cov[p][q] / mpmath.sqrt(cov[p][p] * cov[q][q]), 1))) / (2 * mpmath.pi)


def kernel(cov: Any, p: int, q: int) -> Any:
    """E[relu relu] of two visits."""
    on, size = 2 * mpmath.pi * gate(cov, p, q), mpmath.sqrt(cov[p][p] * cov[q][q])
    return size * (mpmath.sin(on) - on * mpmath.cos(on)) / (2 * mpmath.pi)


@lru_cache(maxsize=64)
def tables(loops: int, layers: int, t: Any, _: int) -> tuple[Any, Any, Any]:
    """K/q_0 between visits, M between numbers of visits still to come, and Θ/(ε²q_0)."""
    V = loops * layers
    K = solved(V, layers, t, kernel)
    M = solved(V, layers, t, lambda own, p, q: gate(K, V - 1 - p, V - 1 - q) * own[p][q])
    pairs = ((p, q) for p in range(V) for q in range(V) if (p - q) % layers == 0)
    return K, M, mpmath.fsum(M[V - 1 - p][V - 1 - q] * kernel(K, p, q) for p, q in pairs)


def recursive(name: str, value: Callable[..., Any]) -> Any:
    """A positive function that SymPy evaluates by running the recursion, at any precision."""

    def evaluate(self: Any, precision: int) -> Any:
        if not self.is_number:
            return None
        with mpmath.workprec(precision + 30):
            *whole, last = (argument._to_mpmath(precision + 30) for argument in self.args)
            return sympy.Float(value(*map(int, whole), last, precision), precision=precision)

    return type(name, (sympy.Function,), {"_eval_evalf": evaluate, "is_positive": True})


K = recursive("K", lambda a, b, layers, t, p: tables(max(a, b, 1), layers, t, p)[0][a][b])
M = recursive("M", lambda a, b, loops, layers, t, p: tables(loops, layers, t, p)[1][a][b])
T = recursive("T", lambda loops, layers, t, p: tables(loops, layers, t, p)[2])


def gathered(bound: Bound, same: Any) -> Any:
    """1 + x Σ B(i, j) over earlier pairs: what a recursion of weight x makes of the bound."""
    return 1 + x * Sum(same * bound(i, j), (j, 0, b - 1), (i, 0, a - 1))


def powers(one: Any, other: Any) -> Any:
    """The bound for any number of layers."""
    return ((1 + x * N) ** one + (1 + x * N) ** other) / 2


def linear(one: Any, other: Any) -> Any:
    """The covariance of one tied linear layer; one, other ≤ N."""
    return Sum(binomial(one, k) * binomial(other, k) * x**k, (k, 0, N))


def falls(start: Any) -> Proof:
    """The slack vanishes at `start` and grows from there over 0 ≤ θ ≤ π/2, by the sign of its derivative."""

    def run(step: Step) -> None:
        if RIGHT not in step.given:
            raise DerivationError("the angle may exceed a right angle")
        must_vanish(step.slack.subs(theta, start), f"the case θ = {start}")
        slope = sympy.simplify(sympy.diff(step.slack, theta)) * (1 if start == 0 else -1)
        if not by.nonnegative(sympy.expand(slope.subs(sin(theta), more).subs(theta, pi / 2 - spare))):
            raise DerivationError(f"the slope {slope} may be negative")

    return Proof("the derivative and one end of the quarter circle", run)


def row_by_row() -> Proof:
    """Every visit i has at most N partners j, one a loop: hence N Σ_i (1 + xN)^i, and the same for j."""

    def run(step: Step) -> None:
        if (step.relation, step.lhs, step.given) != ("<=", gathered(powers, SAME), INSIDE):
            raise DerivationError("not a bound on the pairs of visits of the stack")
        half = ((1 + x * N) ** a - 1) / 2  # is x N Σ_{i<a} (1 + xN)^i / 2
        must_vanish(half.subs(a, 0), "the empty sum")
        must_vanish(half.subs(a, a + 1) - half - x * N * (1 + x * N) ** a / 2, "the geometric sum")
        must_vanish(1 + half + half.subs(a, b) - step.rhs, "the right side")

    return Proof("at most N partners a visit, and the geometric sum", run)


def coefficients(pascal: Step) -> Proof:
    """Both sides have the same coefficient of every power of x."""

    def run(step: Step) -> None:
        if (step.lhs, step.rhs, step.given) != (gathered(linear, 1), linear(a, b), (N - a, N - b)):
            raise DerivationError("the two sides are not the series of these coefficients")
        term = linear(a, b).function / x**k
        nested = Sum(term.subs({a: i, b: j}, simultaneous=True), (j, 0, b - 1), (i, 0, a - 1))
        must_vanish(pascal.lhs - nested, "that the earlier step sums the coefficients")
        must_vanish(pascal.rhs - term.subs(k, k + 1), "the next coefficient")
        must_vanish(term.subs(k, 0) - 1, "the constant term")
        must_vanish(term.subs({N: a + room, k: a + room + 1}, simultaneous=True), "that the series ends")

    return Proof("equal coefficients of every power of x", run, (pascal,))


def over_visits(weight: Step, sums: Step, bound: Bound, *also: Step) -> Proof:
    """Induction over visits for S(a, b) = 1 + t Σ w s over earlier pairs with the same weights, w and s nonnegative.

    Let w ≤ c (or ≥), and s ≤ B(i, j) by hypothesis. Then w s ≤ c B(i, j), whose sums with x = ct are an earlier step.
    For gradients s = S(i, j); for the stream s = √(S(i, i) S(j, j)), at most the mean (B(i, i) + B(j, j))/2.
    """

    def run(step: Step) -> None:
        same = SAME if step.lhs.args[-2] == L else 1
        if step.relation != weight.relation or sums.relation not in ("=", step.relation) or not weight.rhs.is_positive:
            raise DerivationError("the steps point in different ways")
        if sums.lhs != gathered(bound, same) or sums.rhs != bound(a, b) or step.given != sums.given:
            raise DerivationError("the earlier step sums something else")
        if step.rhs != bound(a, b).subs(x, weight.rhs * t):
            raise DerivationError("the bound is not that of the earlier step")
        if step.lhs.func == K:
            must_vanish(bound(i, j) - (bound(i, i) + bound(j, j)) / 2, "that the bound is the mean of its diagonal")

    return Proof("induction over visits", run, (weight, sums, *also))


def from_below(floor: Step) -> Proof:
    """K(a, b) = 1 + t Σ √(K K) κ: no term is negative while no earlier K is, as κ is positive up to a right angle."""

    def run(step: Step) -> None:
        if (step.relation, floor.relation) != (">=", ">=") or not floor.rhs.is_positive or step.lhs.func != K:
            raise DerivationError("terms may be negative, or the inequality points the other way")
        must_vanish(step.rhs - 1, "the value at the start")

    return Proof("induction over visits", run, (floor,))


def every_pair(relation: str, start: Any, each: Any, *uses: Step) -> Proof:
    """`start`, and for the N partners of each of NL visits at least (or at most) `each`."""

    def run(step: Step) -> None:
        must_vanish(step.rhs - start - Sum(N * each, (i, 0, N * L - 1)).doit(), "that every pair is counted")
        if step.relation != relation:
            raise DerivationError("the inequality points the other way")

    return Proof("the number of pairs times the bound on one", run, uses)


def acute(title: str, of: Any, relation: Relation, value: Any, because: str, proof: Proof) -> Step:
    """A bound for angles up to a right angle."""
    return Step(title, of, value, because, relation, proof, {theta: (0, Rational(3, 2))}, (RIGHT,))


def kernels(gate: Any) -> tuple[Step, ...]:
    """Both dual kernels from the integral, and their bounds up to a right angle."""
    arc, radius, density = (phi, theta - pi / 2, pi / 2), (r, 0, oo), exp(-(r**2) / 2) / (2 * pi)
    by_angle = by.certificate(spare / (4 * pi), {spare: RIGHT})
    slope = "Equal at a right angle, and dκ/dθ = −(π − θ) sin θ/(2π)."
    on = Step(
        "Probability that two units are both on",
        Integral(density * r, radius) * Integral(1, arc),
        gate,
        "E[relu′(u) relu′(v)] for Gaussians of correlation cos θ: both are positive on an arc of length π − θ.",
        domain={theta: (0, 3)},
    )
    stream = Step(
        "The kernel of the stream",
        Integral(density * r**3, radius) * Integral(cos(phi) * cos(phi - theta), arc),
        KAPPA,
        "κ = E[relu(u) relu(v)] at unit variances; in general F = √(q q′) κ.",
        domain={theta: (0, 3)},
    )
    return (
        on,
        acute("At most a right angle: at least a quarter", gate, ">=", QUARTER, "It falls with θ.", by_angle),
        acute("and at most a half", gate, "<=", HALF, "A unit is on half the time.", by.certificate(theta / (2 * pi))),
        stream,
        acute("At most a right angle: κ is at least 1/(2π)", KAPPA, ">=", 1 / (2 * pi), slope, falls(pi / 2)),
        acute("and at most one half", KAPPA, "<=", HALF, "The same, from θ = 0 on.", falls(0)),
    )


def sums() -> tuple[Step, ...]:
    """What the recursions make of two families of bounds."""
    layered = Step(
        "Means of powers of 1 + xN pass through the recursion",
        gathered(powers, SAME),
        powers(a, b),
        "δ is 1 for visits of one layer. Each visit has at most N partners, one a loop; the rest is a geometric sum.",
        relation="<=",
        proof=row_by_row(),
        domain=SMALL,
        given=INSIDE,
    )
    pascal = Step(
        "One power of the weight",
        Sum(binomial(i, k) * binomial(j, k), (j, 0, b - 1), (i, 0, a - 1)),
        binomial(a, k + 1) * binomial(b, k + 1),
        "For a single layer. Pascal's rule in a and in b.",
        proof=by.induction(a, b),
        domain={a: (3, 6), b: (3, 6), k: (0, 2)},
    )
    exact = Step(
        "The recursion of one linear layer is solved",
        gathered(linear, 1),
        linear(a, b),
        "By coefficients: 1 for x⁰, the last step for x^(k+1), C(a, N + 1) = 0. So M is this at x = t if E[φ′φ′] = 1.",
        proof=coefficients(pascal),
        domain={N: (4, 6), a: (0, 4), b: (0, 4)},
        given=(N - a, N - b),
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
        proof=from_below(floor),
        domain=SMALL | {a: (1, 6), b: (1, 6)},
    )
    stream = Step(
        "The stream is bounded for every N and L",
        K(a, b, L, t),
        powers(a, b).subs(x, t / 2),
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
        proof=every_pair(">=", 1, t * quarter.rhs, quarter, together),
        domain=SMALL,
    )
    one_layer = (
        Step(
            title,
            M(a, b, N, 1, t),
            linear(a, b).subs(x, weight.rhs * t),
            because,
            relation=weight.relation,
            proof=over_visits(weight, exact, linear, together),
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
        proof=every_pair(">=", 0, floor.rhs, floor, together),
        domain=SMALL,
    )
    last = N * L - 1

    def schwarz(step: Step) -> None:
        diagonal = stream.rhs.subs({a: i, b: i}) * above.rhs.subs({a: last - i, b: last - i})
        if {stream.relation, above.relation, ceiling.relation} != {"<="}:
            raise DerivationError("the diagonal bounds point the other way")
        every_pair("<=", 0, ceiling.rhs * sympy.powsimp(diagonal)).run(step)

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
    tangent_line = Step(
        "The logarithm and its tangent", log(1 + x), x, "Both vanish at 0, and x grows faster.", "<=", by.taylor(x, 1)
    )
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


def derive(gate: Any = ON) -> Derivation:
    """The derivation, with `gate` the claimed E[relu′(u) relu′(v)] at correlation cos θ."""
    kernel, lemma = kernels(gate), sums()
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
