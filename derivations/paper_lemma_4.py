"""Lemma 4 of the paper by its own proof: the mean of the entries from below, triangle and Cauchy–Schwarz from above."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sympy
from sympy import Sum, sqrt, symbols

from residual_theory.lemmas.positive_sums import MEANS, SIZE, SIZES, SQUARES, from_above, from_below, high, low, u
from residual_theory.lemmas.vectors import N, d, i, m, n
from residual_theory.proofs import Derivation, Step, main
from residual_theory.proofs.sum_proof import by_sums

gap = symbols("g", nonnegative=True)


def overlap(lower: Step, upper: Step) -> tuple[Step, Step, Step]:
    """How much N visits overlap: App. A.2."""
    shared = Sum(u(n, i) * u(m, i), (i, 1, d), (n, 1, N), (m, 1, N)) / d / N**2
    mean = Step(
        "The mean overlap of two visits",
        shared,
        SIZE**2 / N**2,
        "‖U‖² is the sum of ⟨u_n, u_m⟩ over all pairs of visits.",
        proof=by_sums(),
        domain=SIZES,
    )
    return (
        mean,
        Step(
            "is not small",
            shared,
            low**2,
            "By the lower bound.",
            ">=",
            by_sums(gap * (gap + 2 * N * low) / N**2, {gap: lower}),
            SIZES,
            given=(MEANS,),
        ),
        Step(
            "and not large",
            shared,
            high,
            "By the upper bound. So N visits overlap by a fixed share, whatever N: a consequence, not an assumption.",
            "<=",
            by_sums(gap * (gap + 2 * SIZE) / N**2, {gap: upper}),
            SIZES,
            given=(SQUARES,),
        ),
    )


def derive(count: Callable[[Any], Any] = lambda vectors: vectors) -> Derivation:
    """The derivation, with `count` the claimed factor in Cauchy–Schwarz over N numbers."""
    below, above = from_below(), from_above(count)
    size = sympy.Symbol("U") / sqrt(d)
    return Derivation(
        id="paper-lemma-4",
        title="Lemma 4, by the paper's own proof",
        statement=(
            "N nonnegative vectors u_n whose means m(u_n) are on average at least m_- > 0, and whose mean squares "
            "q(u_n) at most q_+, have a sum U with m_- N ≤ ‖U‖/√d ≤ √q_+ N, for every N and d. So the mean overlap "
            "⟨u_n, u_m⟩/d of two of them lies between m_-² and q_+."
        ),
        formula=sympy.And(N * low <= size, size <= sqrt(high) * N),
        assumptions=(
            "m(x) = 1ᵀx/d and q(x) = ‖x‖²/d; (1/N) Σ m(u_n) ≥ m_- > 0 and (1/N) Σ q(u_n) ≤ q_+.",
            "No entry is negative. (The proof uses it nowhere: what it needs is the positive mean.)",
        ),
        steps=(*below, *above, *overlap(below[-1], above[-1])),
        not_proved=("That a network's ReLU outputs have such m_- and q_+, independent of N.",),
        source="arXiv:2606.18524, Lemma 4 and App. A.2",
        paper=("Lemma 4", "App. A.2"),
        verdict="derived as written",
        needed=("Nothing. That no entry is negative is not used: positive means on average are enough."),
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda vectors: sympy.Integer(1)),
    statement="lengths add up like the root of the sum of their squares, as those of orthogonal vectors do",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
