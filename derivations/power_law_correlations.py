"""Sums of updates whose correlation decays like a power of their distance: every law from √V to V."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sympy
from sympy import Abs, Eq, Integer, KroneckerDelta, Limit, Piecewise, Rational, Sum, Symbol, log, oo, powsimp, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by
from residual_theory.proofs.sign_proof import by_sign, squeeze

V, i, j, k, m = symbols("V i j k m", integer=True, positive=True)
gamma, x, delta = symbols("gamma x delta", positive=True)
h, older, first, second, part = symbols("h u v w y", nonnegative=True)  # a step's length, slacks, 1 − γ or γ − 1
gap = Symbol("g", positive=True)  # 1 − γ or γ − 1 where it is divided by
ROW = Sum(k**-gamma, (k, 1, m))
BY_DISTANCE = Sum((V - k) * k**-gamma, (k, 1, V))
TOTAL = V + 2 * BY_DISTANCE
SLOW: dict[str, Any] = {"domain": {gamma: (Rational(1, 10), Rational(9, 10))}, "given": (1 - gamma,)}
FAST: dict[str, Any] = {"domain": {gamma: (Rational(11, 10), 3)}, "given": (gamma - 1,)}
FEW, NEAR = (4, 30, 200, 1500), {delta: (Rational(2, 5), Rational(3, 5)), gamma: (Rational(1, 10), Rational(2, 5))}


def whole_square() -> Step:
    """The sum over all pairs of visits, by distance."""

    def run(step: Step) -> None:
        f, distances = step.lhs.function, (step.rhs - V) / 2
        must_vanish(f - f.subs({i: j, j: i}, simultaneous=True), "that the summand is symmetric")
        must_vanish(step.rhs.subs(V, 1).doit() - f.subs({i: 1, j: 1}), "the case V = 1")
        if not isinstance(distances, Sum) or distances.limits != ((k, 1, V),):
            raise DerivationError("the right side is not a sum over distances")
        following = distances.function.subs(V, V + 1)
        must_vanish(following.subs(k, V + 1), "that the largest distance does not count yet")
        row = Sum(f.subs({i: V + 1, j: V + 1 - k}, simultaneous=True), (k, 1, V))
        must_vanish(Sum(following, (k, 1, V)) - distances - row, "the new row")
        must_vanish(f.subs({i: V + 1, j: V + 1}) - 1, "the new corner")

    return Step(
        "The sum by distance",
        Sum((Abs(i - j) + KroneckerDelta(i, j)) ** -gamma, (j, 1, V), (i, 1, V)),
        TOTAL,
        "ρ_ij = |i − j|^(−γ), and 1 for i = j: on either side of the diagonal V − k pairs have distance k.",
        proof=Proof("induction on V, adding a row and a column", run),
    )


def tangents() -> tuple[Step, Step, Step, Step]:
    """Powers against their tangents at either end of a step of length h; sums are compared with integrals by them."""

    def tangent(title: str, power: Any, at: Any, relation: Any, certificate: Any, order: int) -> Step:
        because = {
            1: "The difference vanishes at h = 0 and has a derivative of one sign there.",
            2: "The difference vanishes at h = 0 with its first derivative, and its second has one sign.",
        }
        return Step(
            title,
            (x + h) ** power - x**power,
            power * h * at ** (power - 1),
            because[order],
            relation,
            by_sign(certificate, {part: 1 - gamma}, h, order),
            **SLOW,
        )

    end = x + h
    return (
        tangent("A concave power: slope at the end", 1 - gamma, end, ">=", gamma * part * h * end ** (-gamma - 1), 1),
        tangent("and at the beginning", 1 - gamma, x, "<=", gamma * part * end ** (-gamma - 1), 2),
        tangent("A convex power: slope at the beginning", 2 - gamma, x, ">=", (1 + part) * part * end**-gamma, 2),
        tangent("and at its end", 2 - gamma, end, "<=", (1 + part) * part * h * end**-gamma, 1),
    )


def slow_rows(end: Step, beginning: Step, bound: Callable[[Any], Any]) -> tuple[Step, Step]:
    """0 < γ < 1: the correlations of one update with all before it."""
    row_above = Step(
        "A row from above",
        (1 - gamma) * ROW,
        bound(m),
        "The correlations of an update with the m before it: each is at most the integral of t^(−γ) over the unit "
        "interval that it ends.",
        "<=",
        by.induction(m, start=1, hypothesis=older, certificate=older + first, known={first: (end, {x: m, h: 1})}),
        **SLOW,
    )
    row_below = Step(
        "A row from below",
        (1 - gamma) * ROW,
        (m + 1) ** (1 - gamma) - 1,
        "Each is at least the integral over the unit interval that it begins.",
        ">=",
        by.induction(m, hypothesis=older, certificate=older + first, known={first: (beginning, {x: m + 1, h: 1})}),
        **SLOW,
    )
    return row_above, row_below


def slow(bound: Callable[[Any], Any]) -> tuple[Step, ...]:
    """0 < γ < 1: the sum is 2V^(2−γ)/((1 − γ)(2 − γ)) up to a multiple of V."""
    end, beginning, convex_beginning, convex_end = tangents()
    row_above, row_below = slow_rows(end, beginning, bound)
    scaled = (1 - gamma) * (2 - gamma) * BY_DISTANCE
    above = Step(
        "All rows from above",
        scaled,
        V ** (2 - gamma),
        "One more visit adds a row; the power 2 − γ is convex.",
        "<=",
        by.induction(
            V,
            start=1,
            hypothesis=older,
            certificate=older + first + (1 + part) * second,
            known={first: (convex_beginning, {x: V, h: 1}), second: (row_above, {m: V}), part: 1 - gamma},
        ),
        **SLOW,
    )
    below = Step(
        "All rows from below",
        scaled,
        V ** (2 - gamma) - (2 - gamma) * V + (1 - gamma),
        "The same with the lower bounds.",
        ">=",
        by.induction(
            V,
            start=1,
            hypothesis=older,
            certificate=older + first + (1 + part) * second,
            known={first: (convex_end, {x: V, h: 1}), second: (row_below, {m: V}), part: 1 - gamma},
        ),
        **SLOW,
    )
    leading = 2 * V ** (2 - gamma) / ((1 - gamma) * (2 - gamma))
    upper = Step(
        "0 < γ < 1: above, for every V",
        TOTAL,
        leading + V,
        "Divide by (1 − γ)(2 − γ).",
        "<=",
        by.certificate(2 * first / (gap * (1 + gap)), {first: above, gap: 1 - gamma}),
        **SLOW,
    )
    lower = Step(
        "and below",
        TOTAL,
        leading - V * (1 + gamma) / (1 - gamma),
        "The two bounds differ by a multiple of V, which V^(2−γ) outgrows.",
        ">=",
        by.certificate(2 * first / (gap * (1 + gap)) + 2 / (1 + gap), {first: below, gap: 1 - gamma}),
        **SLOW,
    )
    return end, beginning, convex_beginning, convex_end, row_above, row_below, above, below, upper, lower


def times(limit: Step, factor: Any) -> Proof:
    """A limit that is positive, times a factor that tends to 0 or to infinity."""

    def run(step: Step) -> None:
        rest = Symbol("p", positive=True)  # 1 − γ, where γ is below 1
        value = limit.rhs.subs(gamma, 1 - rest) if 1 - gamma in step.given else limit.rhs
        if not value.is_positive or limit.lhs.args[1:] != step.lhs.args[1:]:
            raise DerivationError("the earlier limit is not known to be positive, or is another one")
        must_vanish(step.lhs.args[0] - factor * limit.lhs.args[0], "that the factor is what it should be")
        found = sympy.limit(factor, V, oo)
        if found != step.rhs or found not in (0, oo):
            raise DerivationError(f"the factor tends to {found}")

    return Proof("an earlier limit times a power", run, (limit,))


def other_scales(limit: Step) -> tuple[Step, Step]:
    """A larger and a smaller exponent than the critical one, at which there is a positive limit."""
    options: dict[str, Any] = {"domain": NEAR, "given": limit.given, "along": FEW}

    def at(factor: Any, value: Any, title: str, because: str) -> Step:
        lhs = Limit(powsimp(factor * limit.lhs.args[0]), V, oo)
        return Step(title, lhs, value, because, proof=times(limit, factor), **options)

    return (
        at(V ** (-2 * delta), Integer(0), "at a larger exponent: the updates vanish", "At α* + δ, δ > 0."),
        at(V ** (2 * delta), oo, "at a smaller one: the stream blows up", "At α* − δ, δ > 0."),
    )


def critical(lower: Step, upper: Step) -> Step:
    """0 < γ < 1 at the critical exponent."""
    scale = V ** (gamma - 2)
    return Step(
        "0 < γ < 1 at α* = 1 − γ/2: bounded",
        Limit(scale * TOTAL, V, oo),
        2 / ((1 - gamma) * (2 - gamma)),
        "At ε = λV^(−α) the stream gains λ²v V^(−2α) times the sum. For γ = 0, all updates parallel, this would be 1.",
        proof=squeeze(gamma, lower, upper, scale),
        domain=NEAR,
        given=(1 - gamma,),
        along=FEW,
    )


def harmonic_rows() -> tuple[Step, ...]:
    """γ = 1: the correlations of one update with all before it."""
    ends = (
        Step(
            "The logarithm: slope at the beginning",
            log(x + h) - log(x),
            h / x,
            "The difference vanishes at h = 0 and has derivative h/(x(x + h)).",
            "<=",
            by_sign(h / (x * (x + h)), {}, h, 1),
        ),
        Step(
            "and at the end",
            log(x + h) - log(x),
            h / (x + h),
            "The same with h/(x + h)².",
            ">=",
            by_sign(h / (x + h) ** 2, {}, h, 1),
        ),
    )
    above = Step(
        "A harmonic row from above",
        ROW.subs(gamma, 1),
        1 + log(m),
        "Sum against integral again.",
        "<=",
        by.induction(m, start=1, hypothesis=older, certificate=older + first, known={first: (ends[1], {x: m, h: 1})}),
    )
    below = Step(
        "and from below",
        ROW.subs(gamma, 1),
        log(m + 1),
        "From the other side.",
        ">=",
        by.induction(m, hypothesis=older, certificate=older + first, known={first: (ends[0], {x: m + 1, h: 1})}),
    )
    return *ends, above, below


def borderline() -> tuple[Step, ...]:
    """γ = 1: the sum is 2V log V up to a multiple of V."""
    *ends, above, below = harmonic_rows()
    total = TOTAL.subs(gamma, 1)
    closed = Step(
        "γ = 1: the sum through one row",
        total,
        2 * V * above.lhs.subs(m, V) - V,
        "Both sides grow by 1 and twice a row.",
        proof=by.induction(V, start=1),
    )

    def bound(title: str, use: Step, rhs: Any, relation: Any, because: str) -> Step:
        def run(step: Step) -> None:
            if step.relation != use.relation or step.lhs != closed.lhs:
                raise DerivationError("this is not what the earlier step bounds")
            must_vanish(closed.rhs.subs(use.lhs.subs(m, V), use.rhs.subs(m, V)) - step.rhs, "the bound of the row")

        return Step(title, total, rhs, because, relation, Proof("an earlier bound of the row", run, (closed, use)))

    upper = bound("Above, for every V", above, V * (1 + 2 * log(V)), "<=", "The row enters with the factor 2V ≥ 0.")
    lower = bound(
        "Below, for every V", below, V * (2 * log(V + 1) - 1), ">=", "With the bound above: of exact order V log V."
    )
    options: dict[str, Any] = {"along": (2, 20, 200, 4000), "domain": {delta: (Rational(1, 2), 1)}}
    return (
        *(*ends, above, below, closed, upper, lower),
        Step(
            "γ = 1 at α = 1/2: the stream blows up, slowly",
            Limit(total / V, V, oo),
            oo,
            "At ε = λ/√V the gain grows like log V.",
            proof=by.squeeze(lower, scale=1 / V),
            **options,
        ),
        Step(
            "at any larger exponent the updates vanish",
            Limit(total * V ** (-1 - 2 * delta), V, oo),
            Integer(0),
            "At α = 1/2 + δ, δ > 0: here alone the critical exponent itself does not suffice.",
            proof=by.squeeze(lower, upper, scale=V ** (-1 - 2 * delta)),
            **options,
        ),
    )


def fast() -> tuple[Step, ...]:
    """γ > 1: the sum is of order V, as for independent updates."""
    tangent = Step(
        "A falling power: slope at the end",
        x ** (1 - gamma) - (x + h) ** (1 - gamma),
        (gamma - 1) * h * (x + h) ** -gamma,
        "The difference vanishes at h = 0 and has derivative γ(γ − 1)h (x + h)^(−γ−1).",
        ">=",
        by_sign(gamma * part * h * (x + h) ** (-gamma - 1), {part: gamma - 1}, h, 1),
        **FAST,
    )
    row = Step(
        "A row stays bounded",
        (gamma - 1) * ROW,
        gamma - m ** (1 - gamma),
        "1 for its first term, and the integral of t^(−γ) from 1 to m for the others.",
        "<=",
        by.induction(m, start=1, hypothesis=older, certificate=older + first, known={first: (tangent, {x: m, h: 1})}),
        **FAST,
    )
    rows = Step(
        "All rows",
        (gamma - 1) * BY_DISTANCE,
        gamma * V,
        "One more visit adds a row, at most γ/(γ − 1).",
        "<=",
        by.induction(
            V,
            start=1,
            hypothesis=older,
            certificate=older + first + V ** (1 - gamma),
            known={first: (row, {m: V})},
        ),
        **FAST,
    )
    upper = Step(
        "γ > 1: above, for every V",
        TOTAL,
        V * (3 * gamma - 1) / (gamma - 1),
        "Divide by γ − 1.",
        "<=",
        by.certificate(2 * first / gap, {first: rows, gap: gamma - 1}),
        **FAST,
    )
    lower = Step(
        "Below, for every γ and V",
        TOTAL,
        V,
        "The diagonal; a new visit adds to the rest. With the bound above, α* = 1/2: the law of independent updates.",
        ">=",
        by.induction(V, start=1, hypothesis=older, certificate=older + 2 * ROW.subs(m, V)),
    )
    return tangent, row, rows, upper, lower


def fast_limit(lower: Step) -> Step:
    """γ > 1 below the critical exponent."""
    scale = V ** (-1 + 2 * delta)
    return Step(
        "γ > 1 at a smaller exponent: the stream blows up",
        Limit(TOTAL * scale, V, oo),
        oo,
        "At α = 1/2 − δ, δ > 0.",
        proof=by.squeeze(lower, scale=scale),
        domain={gamma: (Rational(3, 2), 3), delta: (Rational(2, 5), Rational(3, 5))},
        given=(gamma - 1,),
        along=FEW,
    )


def derive(bound: Callable[[Any], Any] = lambda size: size ** (1 - gamma)) -> Derivation:
    """The derivation, with `bound` the claimed bound of (1 − γ) times a row of the given size, for 0 < γ < 1."""
    slow_steps = slow(bound)
    limit, fast_steps = critical(slow_steps[-1], slow_steps[-2]), fast()
    return Derivation(
        id="power-law-correlations",
        title="Updates with power-law correlations",
        statement=(
            "If the correlation of two updates is |i − j|^(−γ), the sum of correlations of V updates is "
            "2V^(2−γ)/((1 − γ)(2 − γ)) up to a multiple of V for 0 < γ < 1, 2V log V up to a multiple of V for γ = 1, "
            "and between V and a multiple of V for γ > 1. So a stream with ε = λV^(−α) is bounded exactly when α ≥ α*, "
            "with α* = max(1/2, 1 − γ/2); for γ = 1 exactly when α > α* = 1/2."
        ),
        formula=Eq(Symbol("alpha_*"), Piecewise((1 - gamma / 2, gamma <= 1), (Rational(1, 2), True)), evaluate=False),
        assumptions=(
            "h_V = h_0 + ε Σ_n r_n with E⟨h_0, r_n⟩ = 0 and E⟨r_i, r_j⟩/d = v ρ_ij, so that "
            "E R_V² = q_0 + ε² v Σ_ij ρ_ij (derivations/correlated_updates.py).",
            "ρ_ij = |i − j|^(−γ) off the diagonal with γ > 0 real, ρ_ii = 1; v > 0 is the same for all updates.",
        ),
        steps=(
            *(whole_square(), *slow_steps, limit, *other_scales(limit)),
            *(*borderline(), *fast_steps, fast_limit(fast_steps[-1])),
        ),
        not_proved=(
            "That a given network has such correlations. (arXiv:2607.13491 describes the alignment of visits by an "
            "exponent γ′; its rule (1 + γ′)/2 is α* at γ′ = 1 − γ.)",
            "The constant for γ > 1, which is 1 + 2ζ(γ).",
        ),
        source="this project",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda size: Integer(1)),
    statement="every decaying correlation is a short memory: a row stays below 1/(1 − γ), and the sum is of order V",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
