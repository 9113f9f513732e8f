"""Loops with decay and input injection (Parcae): why coherent updates add up to a cap, whatever the loop count."""

from dataclasses import replace
from typing import Any

from sympy import Derivative, Eq, Integral, KroneckerDelta, Limit, Sum, Symbol, exp, oo, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by

N, n = symbols("N n", integer=True, positive=True)
i, j, k = symbols("i j k", integer=True, nonnegative=True)
a, A, B, b, Delta, lam, s, t, m = symbols("a A B b Delta lambda s t m", positive=True)
h, e, u, rho = symbols("h e u rho", real=True)
gap = Symbol("g", positive=True)  # 1 − a, which steps divide by
DECAY = {a: (0, 1)}
CAP = 1 / (1 - a)
COHERENT = (1 - a**N) / (1 - a)
INDEPENDENT = (1 - a ** (2 * N)) / (1 - a**2)
OUTLET = Sum(a**k, (k, 0, N - 1))
SQUARES = Sum(a ** (2 * k), (k, 0, N - 1))


def coherent_sum(gain: Any) -> tuple[Step, ...]:
    """What N equal updates add up to, `gain` being the claim."""
    total = Step(
        "N coherent updates",
        OUTLET,
        gain,
        "An update made k loops ago has since been multiplied by a^k; equal updates add up like numbers.",
        proof=by.induction(N),
        domain=DECAY,
    )
    after = a**N * h + u * gain
    return (
        total,
        Step(
            "The stream after N loops",
            a * after + u,
            a ** (N + 1) * h + u * gain.subs(N, N + 1),
            "h ← a h + u turns a^N h_0 + u Σ_{k<N} a^k into the same with N + 1 loops; here u = b e + R(h, e) is an "
            "update that stays the same, and h stands for h_0.",
            domain=DECAY,
        ),
        Step(
            "The cap",
            gain,
            CAP,
            "What is missing is a^N/(1 − a) ≥ 0: no number of loops adds up to more.",
            relation="<=",
            proof=by.certificate(a**N / gap, {gap: 1 - a}),
            given=(1 - a,),
            domain=DECAY,
        ),
        Step(
            "The cap is reached",
            Limit(gain.subs(a, exp(-s)), N, oo),
            CAP.subs(a, exp(-s)),
            "With a = e^(−s), s > 0.",
            proof=by.limit(),
            along=(10, 10**2, 10**3, 10**4),
        ),
        Step(
            "The cap at a = 1/√5",
            CAP.subs(a, 1 / sqrt(5)),
            (5 + sqrt(5)) / 4,
            "a = 0.4472 in four digits: the cap is 1.809, as if fewer than two updates had been made.",
        ),
        Step(
            "The share of the cap still missing",
            1 - (1 - a.subs(a, exp(-s))) * OUTLET.subs(a, exp(-s)),
            exp(-N * s),
            "1 − (1 − a) Σ_{k<N} a^k = a^N. With a = e^(−ΔA), s = ΔA, the time constant is 1/(ΔA) loops.",
            proof=by.substitution((total, {a: exp(-s)})),
        ),
    )


def time_constant() -> tuple[Step, Step]:
    """The cap against the time constant."""
    return (
        Step(
            "The cap is at least the time constant",
            1 - exp(-s),
            s,
            "Divide by s(1 − a), a = e^(−s): 1/(1 − a) ≥ 1/s.",
            relation="<=",
            proof=by.taylor(s, 2),
        ),
        Step(
            "and at most one loop more",
            s,
            (1 - exp(-s)) * (1 + s),
            "Divide again: 1/(1 − a) ≤ 1 + 1/s. So coherent updates add up to those of one time constant.",
            relation="<=",
            proof=by.taylor(s, 1),
        ),
    )


def injection() -> tuple[Step, ...]:
    """The input enters at every loop: its fixed point, and how a time step is to be taken."""
    flow = exp(-A * t) * h + B * e * (1 - exp(-A * t)) / A
    hold = (1 - exp(-Delta * A)) / A
    exact = Step(
        "The input gain of a zero-order hold",
        Integral(exp(-A * t), (t, 0, Delta)),
        hold,
        "Over a time step Δ the stream decays to a = e^(−ΔA), and an input held constant arrives with this gain.",
    )
    return (
        Step(
            "The fixed point of the injection",
            a * (b * e / (1 - a)) + b * e,
            b * e / (1 - a),
            "h* = b e/(1 − a) satisfies h* = a h* + b e: the injection has the gain of the cap.",
            domain=DECAY,
        ),
        Step(
            "How it is approached",
            a * h + b * e - b * e / (1 - a),
            a * (h - b * e / (1 - a)),
            "Every loop multiplies the distance from the fixed point by a: after N loops a^N of it is left.",
            domain=DECAY,
        ),
        Step(
            "The stream in continuous time",
            Derivative(flow, t),
            -A * flow + B * e,
            "h′ = −A h + B e from h at t = 0, with e held constant: the sum of a decaying start and an injection.",
        ),
        exact,
        Step(
            "Its fixed point does not depend on the time step",
            B * e * exact.lhs / (1 - exp(-Delta * A)),
            B * e / A,
            "b e/(1 − a) with b = B(1 − e^(−ΔA))/A and a = e^(−ΔA): the rest point of the continuous stream.",
            proof=by.substitution(exact),
        ),
        Step(
            "Euler's gain is too large",
            hold,
            Delta,
            "b = BΔ in place of the exact gain; its fixed point is BΔe/(1 − a), above Be/A by the factor "
            "ΔA/(1 − e^(−ΔA)), which lies between 1 and 1 + ΔA.",
            relation="<=",
            proof=by.taylor(Delta, 2),
        ),
        Step(
            "by at most AΔ²/2",
            hold,
            Delta - A * Delta**2 / 2,
            "So Euler's rule is good for time steps well below 1/A.",
            relation=">=",
            proof=by.taylor(Delta, 3),
        ),
    )


def correlated(coherent: Step, independent: Step) -> Step:
    """Updates of any fixed correlation, which lie between the two."""

    def run(step: Step) -> None:
        (one, low, high), (other, *rest) = step.lhs.limits
        if (low, high) != (0, N - 1) or tuple(rest) != (low, high):
            raise DerivationError("the indices do not run from 0 to N − 1")
        delta = KroneckerDelta(one, other)
        product, diagonal = rho * a**one * a**other, (1 - rho) * a ** (2 * one)
        must_vanish(step.lhs.function.subs(delta, 0) - product, "that off the diagonal it is a product")
        must_vanish(step.lhs.function.subs(other, one) - product.subs(other, one) - diagonal, "the diagonal")
        for summand, use in ((a**one, coherent), (a ** (2 * one), independent)):
            must_vanish(summand.subs(one, k) - use.lhs.function, "that the earlier sums are these")
        must_vanish(step.rhs - rho * coherent.rhs**2 - (1 - rho) * independent.rhs, "the right side")

    return Step(
        "Updates of correlation ρ",
        Sum(a ** (i + j) * (rho + (1 - rho) * KroneckerDelta(i, j)), (i, 0, N - 1), (j, 0, N - 1)),
        rho * coherent.rhs**2 + (1 - rho) * independent.rhs,
        "The second moment of Σ a^k r_k, in units of one update's. ρ = 1 is coherent: the square of the sum before. "
        "ρ = 0 is independent.",
        proof=Proof("a product off the diagonal, the rest on it, by earlier steps", run, (coherent, independent)),
        domain={**DECAY, rho: (0, 1)},
    )


def second_moments(coherent: Step) -> tuple[Step, ...]:
    """Independent updates, and the two together."""
    squared_gap = Symbol("y", positive=True)  # 1 − a²
    independent = Step(
        "N independent updates",
        SQUARES,
        INDEPENDENT,
        "Their squares add up, each multiplied by a^(2k).",
        proof=by.induction(N),
        domain=DECAY,
    )
    return (
        independent,
        Step(
            "Their cap",
            INDEPENDENT,
            1 / (1 - a**2),
            "What is missing is a^(2N)/(1 − a²).",
            relation="<=",
            proof=by.certificate(a ** (2 * N) / squared_gap, {squared_gap: 1 - a**2}),
            given=(1 - a**2,),
            domain=DECAY,
        ),
        correlated(coherent, independent),
        Step(
            "Coherent against independent",
            CAP**2 / (1 / (1 - a**2)),
            (1 + a) / (1 - a),
            "The ratio of the two capped second moments, in place of N without decay.",
            domain=DECAY,
        ),
        Step(
            "Slow decay: coherent updates",
            Limit(coherent.rhs.subs(a, exp(-1 / m)), m, oo),
            N,
            "With a = e^(−1/m) and a time constant m → ∞ the N of coherent loops without decay returns.",
            proof=by.limit(),
            domain={N: (2, 7)},
        ),
        Step(
            "Slow decay: independent updates",
            Limit(INDEPENDENT.subs(a, exp(-1 / m)), m, oo),
            N,
            "So does the N of independent ones: second moments N² and N.",
            proof=by.limit(),
            domain={N: (2, 7)},
        ),
    )


def scaled(weight: Any, total: Step, cap: Step) -> Proof:
    """A sum found before, times `weight` and what the cap takes to be nonnegative, is at most its cap times these."""
    (known,) = cap.given
    factor = weight * known

    def run(step: Step) -> None:
        if step.relation != "<=" or cap.relation != "<=" or step.given != cap.given or not weight.is_positive:
            raise DerivationError("the inequality points the other way, or the factor may be negative")
        must_vanish(total.rhs - cap.lhs, "that the cap is one of this sum")
        must_vanish(step.lhs - factor * total.lhs, "the left side")
        must_vanish(step.rhs - factor * cap.rhs, "the right side")

    return Proof("the cap, times a nonnegative factor", run, (total, cap))


def residual_scales(coherent: tuple[Step, Step], independent: tuple[Step, Step]) -> tuple[Step, ...]:
    """Which residual scale keeps the stream bounded for every number of loops."""
    slow = 1 - 1 / m
    return (
        Step(
            "A scale that coherent updates allow",
            lam * (1 - a) * OUTLET,
            lam,
            "At ε = λ(1 − a) coherent updates of size 1 add up to at most λ, whatever N: no factor 1/N is needed.",
            relation="<=",
            proof=scaled(lam, *coherent),
            given=(1 - a,),
            domain=DECAY,
        ),
        Step(
            "A scale that independent updates allow",
            lam**2 * (1 - a**2) * SQUARES,
            lam**2,
            "At ε = λ√(1 − a²) the second moment is at most λ².",
            relation="<=",
            proof=scaled(lam**2, *independent),
            given=(1 - a**2,),
            domain=DECAY,
        ),
        Step(
            "It is too large for coherent ones",
            Limit((lam * sqrt(1 - a**2) * CAP).subs(a, slow), m, oo),
            oo,
            "With a = 1 − 1/m the second of these scales lets coherent updates grow like λ√(2m) as m → ∞.",
            proof=by.limit(),
        ),
        Step(
            "Without decay",
            Limit(lam * Sum(1, (k, 0, n - 1)), n, oo),
            oo,
            "At a = 1 any scale that does not fall with the number of loops n fails: coherent updates need ε = O(1/n).",
            proof=by.limit(),
            along=(4, 16, 64, 256),
        ),
        Step(
            "Updates that grow with the stream",
            CAP.subs(a, a + lam * (1 - a)),
            CAP / (1 - lam),
            "If the branch adds at most λ(1 − a)‖h‖, a loop takes ‖h‖ to at most (a + λ(1 − a))‖h‖ + ‖b e‖: decay "
            "again, with a + λ(1 − a) in place of a. The cap grows by the factor 1/(1 − λ); at λ = 1 there is none.",
            domain={**DECAY, lam: (0, 1)},
        ),
    )


def derive(gain: Any = COHERENT) -> Derivation:
    """The derivation, with `gain` the claimed sum of N coherent updates."""
    first = coherent_sum(gain)
    at_most, second = (first[0], first[2]), second_moments(first[0])
    return Derivation(
        id="parcae",
        title="Loops with decay and input injection",
        statement=(
            "In h ← a h + b e + R(h, e) with 0 < a < 1, N coherent updates add up to (1 − a^N)/(1 − a) ≤ 1/(1 − a) "
            "times one, and independent ones to a second moment of at most 1/(1 − a²), whatever N. So the residual "
            "scale need not fall with the loops: ε = O(1 − a) is enough, O(√(1 − a²)) for independent updates. A "
            "zero-order hold has a = e^(−ΔA) and the input gain (1 − e^(−ΔA))/A."
        ),
        formula=Eq(OUTLET, gain),
        assumptions=(
            "One coordinate of a diagonal decay, 0 < a < 1; the input e is the same at every loop.",
            "Coherent updates are equal, the worst case among updates of one size; independent ones are uncorrelated.",
            "Zero-order hold: h′ = −A h + B e with A > 0, and e constant over each time step Δ.",
        ),
        steps=(*first, *time_constant(), *injection(), *second, *residual_scales(at_most, (second[0], second[1]))),
        not_proved=(
            "That the updates of a trained model have a bounded size, or how coherent they are.",
            "Anything about decays that differ between coordinates once the branch mixes them, beyond the bound by the "
            "slowest one.",
            "That the recurrence with its branch has a fixed point; the one found is that of the injection alone.",
        ),
        source="arXiv:2604.12946 (the recurrence and a = 0.4472); this project",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(INDEPENDENT),
    statement="coherent updates add up to (1 − a^(2N))/(1 − a²), as the squares of independent ones do",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
