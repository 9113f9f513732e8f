"""Residual-scale rules side by side: what ε = λ L^(−a_L) N^(−a_N) keeps bounded, moves and linearises."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sympy import Eq, Limit, Rational, Sum, Symbol, exp, oo, powsimp, sqrt, symbols

from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs import ways as by

N, L, V, n = symbols("N L V n", integer=True, positive=True)
layer = Symbol("l", integer=True, positive=True)
eps, eta, eta_0, lam, v, c, u, w, r, p = symbols("epsilon eta eta_0 lambda v c u w r p", positive=True)
a_l, a_n, delta, step = symbols("a_L a_N delta x", positive=True)
HALF = Rational(1, 2)
LOOPS, LAYERS = (n, 1, N), (layer, 1, L)
RULE, RATE = lam * L ** (-a_l) * N ** (-a_n), eta_0 * L ** (a_l - 1) * N ** (a_n - 1)


def at_start(scale: Any) -> Any:
    """The mean square that L independent layers, each looped N times with the same output, add to the stream."""
    return Sum(v * Sum(scale, LOOPS) ** 2, LAYERS)


def after_step(scale: Any, rate: Any) -> Any:
    """The change of the output when all visits move it in the same direction."""
    return Sum(c * scale * rate, LOOPS, LAYERS)


def second_order(rate: Any) -> Any:
    """The change of (u + η)(w + η) beyond first order, over the first-order change."""
    return ((u + rate) * (w + rate) - u * w) / (rate * (u + w)) - 1


@dataclass(frozen=True)
class Rule:
    """One rule: its scale and rate, and what is claimed of the start, the change and the second-order share."""

    name: str
    scale: Any
    rate: Any
    start: Any
    change: Any
    share: Any
    verdict: tuple[str, str, str]

    def steps(self) -> tuple[Step, Step, Step]:
        """The three entries of the row."""
        titles = ("stream at initialisation", "change after a step", "share of second order")
        sides = (
            (at_start(self.scale), self.start),
            (after_step(self.scale, self.rate), self.change),
            (second_order(self.rate), self.share),
        )
        first, second, third = (
            Step(f"{self.name}: {title}", *pair, because)
            for title, pair, because in zip(titles, sides, self.verdict, strict=True)
        )
        return first, second, third


ROWS = (
    Rule(
        "λ/(N√L), rate η_0/√L",
        lam / (N * sqrt(L)),
        eta_0 / sqrt(L),
        v * lam**2,
        c * lam * eta_0,
        eta_0 / (sqrt(L) * (u + w)),
        (
            "The factored rule, (a_L, a_N) = (1/2, 1). Neither grows nor vanishes, in N and in L.",
            "The same for every N and L.",
            "No dependence on N, so that looping linearises no branch. Many distinct layers do.",
        ),
    ),
    Rule(
        "λ/(NL), rate η_0",
        lam / (N * L),
        eta_0 * L**0,
        v * lam**2 / L,
        c * lam * eta_0,
        eta_0 / (u + w),
        (
            "(1, 1): CompleteP with all NL visits counted as depth, or with its 1/L next to 1/N. Bounded, but the "
            "branches of the untrained network add up to nothing as L grows.",
            "The same for every N and L.",
            "No dependence on N or L: the one pair of exponents that keeps it so.",
        ),
    ),
    Rule(
        "λ/L, rate η_0",
        lam / L,
        eta_0 * L**0,
        v * lam**2 * N**2 / L,
        c * lam * eta_0 * N,
        eta_0 / (u + w),
        (
            "(1, 0): CompleteP for L layers, the loops left out. Grows with N.",
            "Grows with N.",
            "No dependence on N or L.",
        ),
    ),
    Rule(
        "λ/√(NL), rate η_0/√(NL)",
        lam / sqrt(N * L),
        eta_0 / sqrt(N * L),
        v * lam**2 * N,
        c * lam * eta_0,
        eta_0 / (sqrt(N * L) * (u + w)),
        (
            "(1/2, 1/2): depth-μP with all NL visits counted as depth. Grows with N: sharing is ignored.",
            "The rate makes up for it in this sum, not in the Jacobians of a raw stack, which grow with the stream.",
            "Linearised in N and in L.",
        ),
    ),
)


def general(loops: Callable[[Any], Any]) -> tuple[Step, ...]:
    """The three quantities for any ε and η, and the trained over the random part of the stream."""
    start = Step(
        "Stream at initialisation",
        at_start(eps),
        v * eps**2 * loops(N) * L,
        "The N visits of one layer have the same weights and add up as amplitudes, the L layers as variances; v is "
        "the mean square of one branch. At ε = λL^(−a_L)N^(−a_N): λ²v L^(1−2a_L) N^(2−2a_N).",
    )
    return (
        start,
        Step(
            "Change after a step",
            after_step(RULE, RATE),
            c * lam * eta_0,
            "Steps of size η in all weights, all visits moving the output the same way: cηεNL. The rate η = η_0 "
            "L^(a_L−1) N^(a_N−1) keeps it the same for all N and L, and no other power of N or L does.",
        ),
        Step(
            "Trained against random part",
            after_step(eps, eta) / sqrt(at_start(eps)),
            eta * c * sqrt(L / v),
            "N drops out, as loops add coherently before and after training; layers add like √L before, like L after. "
            "At the rate above this is of order L^(a_L−1/2) N^(a_N−1).",
        ),
        Step(
            "Second order inside a branch",
            second_order(eta),
            eta / (u + w),
            "A branch with two trained factors u and w, both moved by η. The share of the second order is of the "
            "order of η itself. At the rate above: L^(a_L−1) N^(a_N−1).",
        ),
    )


def exponents(start: Step) -> tuple[Step, ...]:
    """Which exponents are too small, and which linearise."""

    def limit(title: str, because: str, inner: Any, variable: Any, value: Any) -> Step:
        return Step(
            title, Limit(inner, variable, oo), value, because, proof=by.limit(), domain={delta: (HALF / 2, HALF)}
        )

    def stream(layers: Any, loops: Any) -> Any:
        return powsimp(start.rhs.subs(eps, RULE).subs({a_l: layers, a_n: loops}))

    def share(layers: Any, loops: Any) -> Any:
        return (RATE / (u + w)).subs({a_l: layers, a_n: loops})

    half, one = HALF, 1
    outgrown = "the rate that still moves the output grows without bound."
    return (
        limit("a_L below 1/2", "a_L = 1/2 − δ: too many layers.", stream(half - delta, a_n), L, oo),
        limit("a_L above 1/2", "a_L = 1/2 + δ: the untrained branches vanish.", stream(half + delta, a_n), L, 0 * v),
        limit("a_N below 1", "a_N = 1 − δ: too many loops, whatever a_L.", stream(a_l, one - delta), N, oo),
        limit("a_N above 1", "a_N = 1 + δ: the untrained branches vanish.", stream(a_l, one + delta), N, 0 * v),
        limit(
            "a_L below 1: lazy in L",
            "a_L = 1 − δ: what a branch does beyond first order in its step vanishes as L grows.",
            share(one - delta, a_n),
            L,
            0 * v,
        ),
        limit(
            "a_L above 1: steps outgrow the weights",
            "a_L = 1 + δ: " + outgrown,
            share(one + delta, a_n),
            L,
            oo,
        ),
        limit(
            "a_N below 1: lazy in N",
            "a_N = 1 − δ. For loops the same a_N = 1 keeps the start bounded, keeps it from vanishing, and is not "
            "lazy; for layers the first two need a_L = 1/2, the last a_L = 1.",
            share(a_l, one - delta),
            N,
            0 * v,
        ),
        limit("a_N above 1: the same", "a_N = 1 + δ: " + outgrown, share(a_l, one + delta), N, oo),
    )


def solvable() -> tuple[Step, ...]:
    """Stacks of numbers in which the three limits can be taken exactly; each factor is moved by x or x/√L."""
    gain = u + w

    def pairs(moved: Any, start: Any) -> Any:
        """L/2 branches start at +start, L/2 at −start, and each moves by `moved`."""
        return ((1 + moved) ** 2 - start**2) ** (L / 2)

    def limit(title: str, because: str, inner: Any, variable: Any, value: Any) -> Step:
        return Step(title, Limit(inner, variable, oo), value, because, proof=by.limit())

    lazy = lam / sqrt(L) * (step / sqrt(L) * gain + step**2 / L)
    return (
        limit(
            "Layers, a_L = 1/2",
            "L visits h ← (1 + ε(start + change))h, the start r in half of the layers and −r in the others, the "
            "change η(u + w) + η² in all; ε = λ/√L, η = x/√L. The start counts (r²); x² is gone, though its sign is "
            "the same in every layer. The output is not linear in x, but each branch is.",
            pairs(lazy, lam / sqrt(L) * r),
            L,
            exp(lam * step * gain - lam**2 * r**2 / 2),
        ),
        limit(
            "Layers, a_L = 1",
            "The same with ε = λ/L, η = x: the start no longer counts, and x² stays.",
            pairs(lam / L * (step * gain + step**2), lam / L * r),
            L,
            exp(lam * (step * gain + step**2)),
        ),
        Step(
            "The sign of the second order",
            (u - step) * (-w + step) - u * (-w),
            step * gain - step**2,
            "A branch −u w moved in the direction in which it grows: the same first order as u w, the opposite second.",
        ),
        limit(
            "Layers, a_L = 1, one sign step from a random start",
            "Branches that start at u w in half of the layers and at −u w in the others: x² comes with the sign of "
            "the start and drops out of the output. So a_L = 1 allows second order to count, but it does so only "
            "where branches agree on its sign.",
            pairs(lam / L * step * gain, lam / L * (u * w + step**2)),
            L,
            exp(lam * step * gain),
        ),
        limit(
            "Loops, a_N = 1",
            "One layer, N visits, ε = λ/N, η = x: start, first and second order all count.",
            (1 + lam / N * (u + step) * (w + step)) ** N,
            N,
            exp(lam * (u * w + step * gain + step**2)),
        ),
    )


def derive(loops: Callable[[Any], Any] = lambda number: number**2) -> Derivation:
    """The derivation, with `loops` the claimed mean square of N looped visits over that of one."""
    start, *others = general(loops)
    return Derivation(
        id="completep",
        title="Residual-scale rules side by side",
        statement=(
            "With ε = λ L^(−a_L) N^(−a_N) and coherent steps, a change of the output that depends on neither N nor L "
            "needs η of order L^(a_L−1) N^(a_N−1). Over all N and L the untrained stream stays bounded without losing "
            "its branches exactly at a_L = 1/2, a_N = 1, and a two-factor branch keeps a fixed share of second order "
            "exactly at a_L = 1, a_N = 1. Loops meet both demands at once; layers must choose. CompleteP chooses a_L "
            "= 1, the factored rule λ/(N√L) chooses 1/2."
        ),
        formula=Eq(eta, RATE),
        assumptions=(
            "Untrained: visits of one layer have equal outputs of mean square v, different layers independent ones.",
            "Steps: every visit contributes cηε to the output, in the same direction, in all layers.",
            "Linear in the stream: later visits do not change what earlier ones contribute, except in the exact "
            "limits.",
            "Branches with two trained factors, as in a linear two-layer branch. a_L and a_N are positive.",
        ),
        steps=(
            *(start, *others, *exponents(start)),
            *(entry for row in ROWS for entry in row.steps()),
            Step(
                "DeepNorm and DeepLoop",
                (8 * V) ** (-p) / (2 * V) ** p,
                (16 * V**2) ** (-p),
                "α = (2V)^p multiplies the stream, β = (8V)^(−p) the branch, with V visits. β/α is 1/(2√V) at p = 1/4 "
                "(DeepNorm), 1/(4V) at p = 1/2 (DeepLoop for aligned visits): the scales (1/2, 1/2) and (1, 1) again.",
            ),
            *solvable(),
        ),
        not_proved=(
            "That a network meets the assumptions on visits and steps: the rules are what these sums come to, no more. "
            "Of a ReLU stack at initialisation factored-scaling derives the first, learning-rate bounds the second.",
            "That a_L = 1 trains better or transfers its rate better than a_L = 1/2, which is CompleteP's claim "
            "(arXiv:2505.01618). What is derived: only a_L = 1 leaves room for second order inside a branch at large "
            "L.",
            "How far visits and layers of a trained network agree, in first and in second order.",
            "Normalisation: DeepNorm and DeepLoop normalise after each branch; only their scale is compared.",
            "Which rule is best at the depths in use, where a factor √L is small.",
        ),
        source="this project; the rules are those of arXiv:2606.18524, 2505.01618, 2310.02244 and 2607.13491",
        paper="Tables",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda number: number),
    statement="loops are depth like any other: N visits of the same layer add up like N layers",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
