"""Theorem 2 of the paper by its own proof, a discrete Gronwall inequality, and when its order is reached."""

from dataclasses import replace
from typing import Any

import sympy
from sympy import Rational, Sum, sqrt, symbols

from residual_theory.lemmas import positive_sums, two_streams, vectors
from residual_theory.lemmas.exponential_bounds import logarithm_below_tangent, power_below_exponential
from residual_theory.lemmas.positive_sums import MEANS, SQUARES, high, low, total, u
from residual_theory.lemmas.two_streams import eps
from residual_theory.lemmas.vectors import N, d, i, j, n, norm
from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs.sum_proof import by_sums
from residual_theory.proofs.tables import table

x, eta, C, theta, zeta, tau, alpha = symbols("x eta C_Delta theta zeta tau alpha", positive=True)
gap, more, spare, rest, acts = symbols("g h f k a", nonnegative=True)
D, e = table("D"), table("e")  # the entries of ΔW, and of what the first order leaves of Δh_N
SIZES = {
    N: (1, 3),
    d: (1, 3),
    low: (0, 1),
    high: (4, 30),
    theta: (Rational(1, 2), 1),
    eps: (1, 4),
    eta: (0, 2),
    zeta: (0, 9),
}


def first_order(place: Any) -> Any:
    """An entry of ΔW U."""
    return Sum(D(place, j) * total(j), (j, 1, d))


def change(place: Any) -> Any:
    """An entry of Δh_N."""
    return eps * first_order(place) + e(place)


ACTS = norm(first_order) - zeta * eta * norm(total)  # 0 for ζ = ζ_N
LEFT = theta * eps * norm(first_order) - norm(e)


def sharpness(lower: Step, upper: Step, triangles: tuple[Step, Step], orders: Any) -> tuple[Step, ...]:
    """‖Δh_N‖/√d between multiples of ζ_N ηεN."""
    at = {vectors.x: e, vectors.y: lambda place: eps * first_order(place)}
    turned = {vectors.x: at[vectors.y], vectors.y: e}
    return (
        Step(
            "One ΔW at all visits",
            Sum(Sum(D(i, j) * u(n, j), (j, 1, d), (n, 1, N)) ** 2, (i, 1, d)),
            orders,
            "To first order, with the feedback left out, Δh_N is ε Σ ΔW φ(h_n) = ε ΔW U: N contributions of one "
            "matrix. ζ_N = ‖ΔW U‖/(η‖U‖), at most C_Δ, says how much of ΔW acts on U; below, ζ is a bound on it.",
            proof=by_sums(),
            domain=SIZES,
        ),
        Step(
            "The change from below",
            norm(change) / sqrt(d),
            (1 - theta) * zeta * low * eta * eps * N,
            "Δh_N = ε ΔW U + E with ‖E‖ ≤ θ ε‖ΔW U‖ (hypothesis), so ‖Δh_N‖ ≥ (1 − θ) ε‖ΔW U‖ ≥ (1 − θ) ε ζ η‖U‖ "
            "(ζ ≤ ζ_N), and Lemma 4 bounds ‖U‖.",
            ">=",
            by_sums(
                (gap + spare + rest * eps * acts) / sqrt(d) + rest * eps * zeta * eta * more,
                {gap: (triangles[1], at), spare: LEFT, acts: ACTS, more: lower, rest: 1 - theta},
            ),
            SIZES,
            (LEFT, 1 - theta, ACTS, MEANS),
        ),
        Step(
            "and from above",
            norm(change) / sqrt(d),
            (1 + theta) * zeta * sqrt(high) * eta * eps * N,
            "Likewise (ζ ≥ ζ_N). At ζ = ζ_N: ‖Δh_N‖²/d is of order ζ_N²(ηεN)²; for this side θ need not be below 1.",
            "<=",
            by_sums(
                (gap + spare) / sqrt(d) + (1 + theta) * eps * (acts / sqrt(d) + zeta * eta * more),
                {gap: (triangles[0], turned), spare: LEFT, acts: -ACTS, more: upper},
            ),
            SIZES,
            (LEFT, -ACTS, SQUARES),
        ),
        Step(
            "The rate that keeps the change",
            tau * N ** (alpha - 1) * N ** (-alpha) * N,
            tau + 0 * alpha,
            "ηεN at ε = N^(−α) and η = τ N^(α−1): with ζ_N, m_-, q_+ and θ that do not depend on N, rates of this "
            "order and of no other keep ‖Δh_N‖/√d between two positive numbers.",
        ),
    )


def derive(orders: Any = None) -> Derivation:
    """The derivation, with `orders` the claimed ‖Σ ΔW φ(h_n)‖²."""
    tangent = logarithm_below_tangent(x)
    growth = power_below_exponential(
        tangent, "A product lies below the exponential", "N times the logarithm of the last step.", two_streams.N
    )
    route = two_streams.by_the_changed_stream(growth, C * eta)
    below, above = positive_sums.from_below(), positive_sums.from_above(lambda loops: loops)
    triangles = vectors.triangle(above[1])
    together = norm(first_order) ** 2 if orders is None else orders
    return Derivation(
        id="paper-theorem-2",
        title="Theorem 2, by the paper's own proof",
        statement=(
            "A step ΔW with ‖ΔW‖ ≤ C_Δ η moves the output of one layer looped N times by ‖Δh_N‖/√d ≤ C_Δ Q_+ e^M ηεN, "
            "where εC_W N ≤ M and Q_+ bounds the size of the images of the changed stream. Where first order keeps the "
            "upper hand, θ < 1, ‖Δh_N‖/√d lies between (1 − θ) m_- and (1 + θ) √q_+ times ζ_N ηεN: if ζ_N does not "
            "vanish either, η has to be of order N^(α−1) under ε = N^(−α)."
        ),
        formula=sympy.Symbol("Delta h") / sqrt(d)
        <= C * sympy.Symbol("Q_+") * sympy.exp(sympy.Symbol("M")) * eta * eps * N,
        assumptions=(
            "h ← h + ε W φ(h), N times, |φ(x) − φ(y)| ≤ |x − y|; W changes by ΔW = (η/√d) S at all visits at once.",
            "‖W‖ ≤ C_W (w below), ‖ΔW‖ ≤ C_Δ η, max_n ‖φ(h⁺_n)‖/√d ≤ Q_+ for the changed stream, εC_W N ≤ M.",
            "Sharpness: Δh_N = ε ΔW U + E, ‖E‖ ≤ θ‖ε ΔW U‖ with θ < 1, and (1) and (2) of Theorem 1.",
        ),
        steps=(
            *(tangent, growth, *route.steps, *below, *above, *triangles),
            *sharpness(below[-1], above[-1], triangles, together),
        ),
        not_proved=(
            "That C_Δ and Q_+ do not depend on N or the width, and that ζ_N stays away from 0 and θ below 1.",
            "Anything where εN is not bounded: e^M grows like e^(C_W √N) under ε = N^(−1/2).",
        ),
        source="arXiv:2606.18524, Theorem 2 and App. A.3",
        paper=("Theorem 2", "App. A.3"),
        verdict="derived as written",
        needed=(
            "Nothing; Q_+ is about the changed stream. The sharpness statement has the constants (1 − θ) m_- and "
            "(1 + θ) √q_+. Its lower side needs θ < 1, m_- > 0 and a ζ_N that does not vanish; its upper side q_+ "
            "alone."
        ),
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(Sum(Sum(D(i, j) * u(n, j), (j, 1, d)) ** 2, (n, 1, N), (i, 1, d))),
    statement="the changes that one ΔW makes at N visits are orthogonal, and their squares add up",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
