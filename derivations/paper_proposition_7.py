"""Proposition 7 of the paper by its own proof: the contributions of all visits, their sizes added."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from sympy import Rational, Sum, sqrt, symbols

from residual_theory.lemmas import vectors
from residual_theory.lemmas.vectors import N, d, i, j, norm
from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs.sum_proof import by_sums, family, unrolled
from residual_theory.proofs.tables import Smallest, evaluated, table

L, V, v = symbols("L V v", integer=True, positive=True)
visits = sympy.Symbol("k", integer=True, nonnegative=True)
eps, eta, lam, C_J, C, kappa, least = symbols("epsilon eta lambda C_J C_Delta kappa b", positive=True)
gap, agree = symbols("g a", nonnegative=True)
passed, made, large = family("g"), family("h"), family("f")
K = evaluated("K", lambda visit, row, column: ((visit + 2 * row + 3 * column) % 5 - 1) / 4)  # Jacobian of a visit
x, y = table("x"), table("y")  # x(v, i): entry i of ΔW_l φ(h) at visit v = (n, l)


@lru_cache(maxsize=512)
def carry(visit: Fraction, last: Fraction, place: Fraction, width: Fraction) -> Fraction:
    """What visit `visit` made, after the Jacobians of all visits up to `last`."""
    if visit == last:
        return Fraction(str(x(int(visit), int(place))))
    columns = [Fraction(column) for column in range(1, int(width) + 1)]
    return sum(
        (((last + 2 * place + 3 * k) % 5 - 1) / 4 * carry(visit, last - 1, k, width) for k in columns), Fraction(0)
    )


def linear(last: Fraction, place: Fraction, width: Fraction) -> Fraction:
    """The linearised change after visit `last` in units of ε, by its own recursion."""
    if last == 0:
        return Fraction(0)
    columns = [Fraction(column) for column in range(1, int(width) + 1)]
    before = (((last + 2 * place + 3 * k) % 5 - 1) / 4 * linear(last - 1, k, width) for k in columns)
    return sum(before, Fraction(0)) + Fraction(str(x(int(last), int(place))))


c = evaluated("c", carry, shown=3)  # c(v, V, ·) = J_v ΔW φ: the contribution of visit v to the output after V visits
delta = evaluated("delta", linear, shown=2, start=0)  # δ(V, ·): the linearised change after V visits, in units of ε


def part(last: Any, visit: Any = v) -> Callable[[Any], Any]:
    """The contribution of one visit to the output after `last`."""
    return lambda place: c(visit, last, place, d)


def change(last: Any, scale: Any = eps) -> Callable[[Any], Any]:
    """Δh_lin after `last` visits."""
    return lambda place: scale * delta(last, place, d)


def hypotheses(last: Any) -> tuple[Any, Any]:
    """‖J_v‖ ≤ C_J and ‖ΔW φ‖/√d ≤ C_Δ η at every visit."""
    return (
        Smallest(C_J * norm(lambda k: x(v, k)) - norm(part(last)), (v, 1, last)),
        Smallest(C * eta * sqrt(d) - norm(lambda k: x(v, k)), (v, 1, last)),
    )


def coherent(last: Any) -> tuple[Any, Any]:
    """No contribution is small, and together they lose at most a share 1 − κ of their sizes."""
    together = norm(lambda place: Sum(c(v, last, place, d), (v, 1, last)))
    return (
        Smallest(norm(part(last)) - least * eta * sqrt(d), (v, 1, last)),
        together - kappa * Sum(norm(part(last)), (v, 1, last)),
    )


SIZES = {V: (1, 3), visits: (0, 3), d: (1, 2), i: (1, 2), eps: (0, 1), eta: (0, 2), C: (8, 30), C_J: (1, 3)}
SIZES |= {kappa: (0, Rational(4, 5)), least: (0, Rational(1, 2)), N: (1, 2), L: (1, 2), lam: (0, 2)}


def contributions() -> Step:
    """Δh_lin = ε Σ_v J_v ΔW φ(h_v)."""

    def rewrite(grown: Any) -> Any:
        def later(visit: Any, last: Any, place: Any, width: Any) -> Any:
            if last != visits + 1:
                return c(visit, last, place, width)
            return x(last, place) if visit == last else Sum(K(last, place, j) * c(visit, visits, j, d), (j, 1, d))

        return grown.replace(c, later)

    def following(before: Callable[[Any], Any]) -> Any:
        return Sum(K(visits + 1, i, j) * before(j), (j, 1, d)) + x(visits + 1, i)

    return Step(
        "The contributions of all visits",
        delta(visits, i, d),
        Sum(c(v, visits, i, d), (v, 1, visits)),
        "To first order visit v = (n, l) adds ε ΔW_l φ(h) to the change that its Jacobian K_v makes of the change "
        "before: δ_{v+1} = K δ_v + ε ΔW φ. So δ is the sum of what each visit makes, carried on by the Jacobian J_v of "
        "all later ones.",
        proof=unrolled(following, i, visits, rewrite),
        domain=SIZES,
    )


def bound(summed: Step, many: Step, last: Any, scale: Any, words: tuple[str, Any, str]) -> Step:
    """‖Δh_lin‖/√d ≤ C_J C_Δ ηεV after V = `last` visits at ε = `scale`; words: title, right side, reason."""
    title, rhs, because = words
    passed_on, kept_small = hypotheses(last)
    return Step(
        title,
        norm(change(last, scale)) / sqrt(d),
        rhs,
        because,
        "<=",
        by_sums(
            scale / sqrt(d) * (gap + Sum(passed(v) + C_J * made(v), (v, 1, last))),
            {
                gap: (many, {vectors.N: last, vectors.v: lambda visit, place: c(visit, last, place, d)}),
                passed: (passed_on.function, (v,)),
                made: (kept_small.function, (v,)),
            },
            (((summed, {visits: last}), i),),
        ),
        SIZES,
        hypotheses(last),
    )


def bounds(summed: Step, many: Step) -> tuple[Step, Step]:
    """For any V and ε, and at the factored rule."""
    whole = (
        "Proposition 7",
        C_J * C * eta * eps * V,
        "The triangle inequality, ‖J_v‖ ≤ C_J and ‖ΔW_l φ‖ ≤ C_Δ η√d at every visit.",
    )
    factored = (
        "at the factored rule",
        C_J * C * eta * lam * sqrt(L),
        "The same with V = NL and ε = λ/(N√L): N drops out, and rates of order L^(−1/2) keep the change bounded.",
    )
    rule = lam / (N * sqrt(L))
    return bound(summed, many, V, eps, whole), bound(summed, many, N * L, rule, factored)


def sharp(summed: Step, square: Any) -> tuple[Step, Step]:
    """The same order from below, where contributions are coherent."""
    return (
        Step(
            "Sharp under coherence",
            norm(change(V)) / sqrt(d),
            kappa * least * eta * eps * V,
            "If no contribution is smaller than bη and their sum is at least κ times the sum of their sizes "
            "(hypotheses): the order is reached.",
            ">=",
            by_sums(
                eps / sqrt(d) * (agree + kappa * Sum(large(v), (v, 1, V))),
                {agree: coherent(V)[1], large: (coherent(V)[0].function, (v,))},
                (((summed, {visits: V}), i),),
            ),
            SIZES,
            coherent(V),
        ),
        Step(
            "Full agreement",
            Sum(Sum(y(i), (v, 1, V)) ** 2, (i, 1, d)),
            square(V) * Sum(y(i) ** 2, (i, 1, d)),
            "Equal contributions have κ = 1. Orthogonal ones of equal size have κ = V^(−1/2): without coherence the "
            "order is √(NL) only.",
            proof=by_sums(),
            domain=SIZES,
        ),
    )


def derive(square: Callable[[Any], Any] = lambda count: count**2) -> Derivation:
    """The derivation, with `square` the claimed factor between the squares of V equal contributions and of one."""
    root = vectors.inner_product()
    many = vectors.many(root[1])
    summed = contributions()
    return Derivation(
        id="paper-proposition-7",
        title="Proposition 7, by the paper's own proof",
        statement=(
            "To first order, a step that changes all L layers by ΔW_l with ‖ΔW_l φ‖/√d ≤ C_Δ η moves the output of N "
            "loops by ‖Δh_lin‖/√d ≤ C_J C_Δ ηεNL, which is C_J C_Δ ηλ√L at ε = λ/(N√L), if no Jacobian from a visit to "
            "the output exceeds C_J. Where the contributions of the visits are coherent the order is reached."
        ),
        formula=sympy.Symbol("Delta h") / sqrt(d) <= C_J * C * eta * lam * sqrt(L),
        assumptions=(
            "h ← h + ε W_l φ(h) for l = 1…L, N times; Δh_lin is the change of first order in all ΔW_l.",
            "At every visit (n, l): ‖ΔW_l φ(h_{n,l})‖/√d ≤ C_Δ η, and ‖J_{n,l} y‖ ≤ C_J‖y‖ for y = ΔW_l φ(h_{n,l}).",
            "Coherence, for the lower bound: ‖Σ J_v ΔW φ‖ ≥ κ Σ‖J_v ΔW φ‖, each of size at least bη.",
        ),
        steps=(*root, many, summed, *bounds(summed, many), *sharp(summed, square)),
        not_proved=(
            "That C_J does not depend on N and L: a bound on Jacobians of the whole stack is assumed, not derived.",
            "That visits are coherent, with κ and b that do not depend on N and L.",
            "The difference between Δh and its first order; Theorem 2 has it for one layer.",
        ),
        source="arXiv:2606.18524, Proposition 7 and its proof",
        paper="Proposition 7",
        verdict="derived as written",
        needed=(
            "Nothing for the bound; ‖J‖ ≤ C_J is used for the vectors ΔW φ only. The lower bound κb ηεNL needs, "
            "beside coherence κ, that no contribution is smaller than bη√d."
        ),
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda count: count),
    statement="V equal contributions add up like √V, as orthogonal ones do",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
