"""Sums of correlated updates: when residual streams grow like √V, when like V, and what lies between."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sympy import Abs, Eq, KroneckerDelta, Limit, Sum, Symbol, oo, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by

V, N, L, i, j, k, n, m = symbols("V N L i j k n m", integer=True, positive=True)
layer, other = symbols("l p", integer=True, positive=True)
rho, v, q_0, eps, lam = symbols("rho v q_0 epsilon lambda", positive=True)
one_less = Symbol("y", nonnegative=True)  # stands for 1 − ρ
CORRELATION = {rho: (0, 1)}


def bordering(size: Any, by_row: Step | None = None) -> Proof:
    """Σ_i Σ_j f(i, j) over a square: the next size adds the corner f(V+1, V+1) and twice its row, f being symmetric.

    `by_row` is an earlier step that sums the row."""

    def run(step: Step) -> None:
        f, ((inner, low, _), (outer, _, _)) = step.lhs.function, step.lhs.limits
        swapped = f.subs({inner: outer, outer: inner}, simultaneous=True)
        must_vanish(f - swapped, "that the summand is symmetric")
        must_vanish(step.rhs.subs(size, 0).doit(), "the empty square")
        row = Sum(f.subs({outer: size + 1, inner: size + 1 - k}, simultaneous=True), (k, low, size))
        corner = f.subs({outer: size + 1, inner: size + 1}, simultaneous=True)
        following = step.rhs.subs(size, size + 1)
        if by_row is not None:
            row = row.subs(by_row.lhs, by_row.rhs)
        must_vanish(following - step.rhs - corner - 2 * row, "the step from one square to the next")

    return Proof(f"induction on {size}, adding a row and a column", run, (by_row,) if by_row else ())


def within(layers: Step) -> Proof:
    """Carry out the two inner sums of a fourfold sum by an earlier step."""

    def run(step: Step) -> None:
        inner, outer = step.lhs.limits[:2], step.lhs.limits[2:]
        if inner != layers.lhs.limits or step.lhs.function != layers.lhs.function:
            raise DerivationError("the inner sums are not those of the earlier step")
        must_vanish(Sum(layers.rhs, *outer).doit() - step.rhs, "the outer sums")

    return Proof("the inner sums by an earlier step, the outer carried out", run, (layers,))


def square(summand: Any) -> Sum:
    """Σ over all pairs of visits."""
    return Sum(summand, (j, 1, V), (i, 1, V))


def second_moment() -> tuple[Step, ...]:
    """What one more update adds."""
    h, r = symbols("h r", real=True)
    return (
        Step(
            "One more update",
            (h + eps * r) ** 2,
            h**2 + 2 * eps * h * r + eps**2 * r**2,
            "In every coordinate. On average r² gives v, and h r gives ε v times the sum of the correlations of the "
            "new update with all before it: hence E R_V² = q_0 + ε² v Σ_ij ρ_ij, and what remains is to add the ρ_ij.",
        ),
    )


def simple_cases() -> tuple[Step, ...]:
    """Independent and equally correlated updates, and where the second overtakes the first."""
    total = V + rho * V * (V - 1)
    return (
        Step(
            "Independent updates",
            square(KroneckerDelta(i, j)),
            V,
            "ρ_ij = δ_ij: only the diagonal counts. The stream is bounded exactly when ε√V is.",
            proof=bordering(V),
        ),
        Step(
            "Equally correlated updates",
            square(rho + (1 - rho) * KroneckerDelta(i, j)),
            total,
            "ρ_ij = ρ off the diagonal: V terms on it, V(V − 1) off it.",
            proof=bordering(V),
            domain=CORRELATION,
        ),
        Step(
            "Crossover",
            rho * V * (V - 1) - V,
            rho * V * (V - (1 + 1 / rho)),
            "The coherent part less the independent part: it changes sign at V* = 1 + 1/ρ, about 1/ρ for small ρ; "
            "beyond it the sum grows like ρV².",
            domain=CORRELATION,
        ),
        Step(
            "Equal correlation lies between ρV²",
            total,
            rho * V**2,
            "The difference is V(1 − ρ).",
            relation=">=",
            proof=by.certificate(V * one_less, {one_less: 1 - rho}),
            domain=CORRELATION,
            given=(1 - rho,),
        ),
        Step(
            "and V²",
            total,
            V**2,
            "The difference is (1 − ρ)V(V − 1). So any fixed correlation ρ > 0, however small, gives the linear law: "
            "the stream is bounded exactly when εV is.",
            relation="<=",
            proof=by.certificate(V * one_less * (V - 1), {one_less: 1 - rho}),
            domain=CORRELATION,
            given=(1 - rho,),
        ),
    )


def geometric_sums() -> tuple[Step, Step]:
    """Correlations that decay geometrically, summed exactly."""
    row = rho * (1 - rho**V) / (1 - rho)
    total = V * (1 + rho) / (1 - rho) - 2 * rho * (1 - rho**V) / (1 - rho) ** 2
    by_row = Step(
        "Geometric memory: one row",
        Sum(rho**k, (k, 1, V)),
        row,
        "ρ_ij = ρ^|i−j|: the correlations of a new update with all before it.",
        proof=by.induction(V),
        domain=CORRELATION,
    )
    whole = Step(
        "Geometric memory: the whole square",
        square(rho ** Abs(i - j)),
        total,
        "Each new update adds 1 on the diagonal and twice its row.",
        proof=bordering(V, by_row),
        domain=CORRELATION,
    )
    return by_row, whole


def short_memory() -> tuple[Step, ...]:
    """The square-root law with a larger constant."""
    by_row, whole = geometric_sums()
    total, power = whole.rhs, Symbol("b", nonnegative=True)
    below_one = Step(
        "Powers of a correlation stay below 1",
        rho**V,
        1 + 0 * rho,
        "By induction; the next step needs it.",
        relation="<=",
        proof=by.induction(V, start=0, hypothesis=power, certificate=power * rho + one_less, known={one_less: 1 - rho}),
        domain=CORRELATION,
        given=(1 - rho,),
    )
    gap = Symbol("g", positive=True)  # 1 − ρ, which the step divides by
    upper = Step(
        "Above",
        total,
        V * (1 + rho) / (1 - rho),
        "What was subtracted is nonnegative.",
        relation="<=",
        proof=by.certificate(2 * rho * power / gap**2, {power: below_one, gap: 1 - rho}),
        domain=CORRELATION,
        given=(1 - rho,),
    )
    lower = Step(
        "Below",
        total,
        V * (1 + rho) / (1 - rho) - 2 * rho / (1 - rho) ** 2,
        "It is at most 2ρ/(1 − ρ)², whatever V.",
        relation=">=",
        proof=by.certificate(2 * rho * rho**V / gap**2, {gap: 1 - rho}),
        domain=CORRELATION,
        given=(1 - rho,),
    )
    constant = Step(
        "The square-root law survives, with a larger constant",
        Limit(total / V, V, oo),
        (1 + rho) / (1 - rho),
        "Divide both bounds by V. As for independent updates, the stream is bounded exactly when ε√V is.",
        proof=by.squeeze(lower, upper, scale=1 / V),
        domain=CORRELATION,
        given=(1 - rho,),
    )
    return by_row, whole, below_one, upper, lower, constant


def shared_weights(tied: Callable[[Any, Any], Any]) -> tuple[Step, ...]:
    """L layers, each used N times: full correlation where the weights are shared, none elsewhere."""
    layers = Step(
        "Weight sharing: one pair of loops",
        Sum(KroneckerDelta(layer, other), (layer, 1, L), (other, 1, L)),
        L,
        "Updates of the same layer are parallel (correlation 1), of different layers independent.",
        proof=bordering(L),
    )
    whole = Step(
        "Weight sharing: all pairs of visits",
        Sum(KroneckerDelta(layer, other), (layer, 1, L), (other, 1, L), (n, 1, N), (m, 1, N)),
        tied(N, L),
        "Every one of the N² pairs of loops contributes the same. With V = NL visits and G = L distinct weights this "
        "is V²/G, between V (all distinct) and V² (all shared).",
        proof=within(layers),
    )
    stream = eps**2 * v * tied(N, L)
    return (
        layers,
        whole,
        Step(
            "Which scale keeps it bounded",
            eps**2 * v * whole.lhs,
            v * (eps * N * sqrt(L)) ** 2,
            "The stream's gain E R_V² − q_0 is v(εN√L)²: bounded over a family of stacks exactly when εN√L is. "
            "At ε = λ/(N√L) it is λ²v, the same for every N and L.",
            proof=by.substitution(whole),
        ),
        Step(
            "The untied scale is too large",
            Limit(stream.subs(eps, lam / sqrt(N * L)), N, oo),
            oo,
            "At ε = λ/√(NL), enough for independent updates, sharing makes the stream gain λ²vN.",
            proof=by.limit(),
        ),
        Step(
            "The scale 1/V is smaller than needed",
            Limit(stream.subs(eps, lam / (N * L)), L, oo),
            0 * L,
            "At ε = λ/(NL) the gain λ²v/L vanishes with the number of layers.",
            proof=by.limit(),
        ),
    )


def derive(tied: Callable[[Any, Any], Any] = lambda loops, layers: loops**2 * layers) -> Derivation:
    """The derivation, with `tied` the claimed sum of correlations of L layers used N times each."""
    return Derivation(
        id="correlated-updates",
        title="Correlated against independent updates",
        statement=(
            "A stream h_V = h_0 + ε Σ r_n has second moment q_0 + ε² v Σ_ij ρ_ij. The sum of correlations is V when "
            "the updates are independent or their memory is short (up to a constant), of order V² when they keep any "
            "fixed correlation, and N²L when L layers are looped N times: bounded exactly when εN√L is."
        ),
        formula=Eq(Symbol("R_V") ** 2, q_0 + eps**2 * v * tied(N, L)),
        assumptions=(
            "h_V = h_0 + ε Σ_n r_n with E⟨h_0, r_n⟩ = 0 and E⟨r_i, r_j⟩/d = v ρ_ij, ρ_ii = 1.",
            "v > 0 is the same for all updates; 0 < ρ < 1 where ρ is a number.",
            "Shared weights give correlation 1 and distinct weights 0: the two extreme cases.",
        ),
        steps=(*second_moment(), *simple_cases(), *short_memory(), *shared_weights(tied)),
        not_proved=(
            "That a given network has these correlations; for ReLU the correlation of two visits with shared weights "
            "lies strictly between 0 and 1, and the updates grow with the stream.",
            "Correlations that decay like a power of the distance, which lie between short and endless memory: see "
            "derivations/power_law_correlations.py.",
        ),
        source="this project; the case ρ = 1 is the mechanism of arXiv:2606.18524, §3",
        paper="§3",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda loops, layers: loops * layers),
    statement="updates through shared weights add like independent ones: N L in place of N²L",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
