"""Lemma 4 of arXiv:2606.18524 by its own proof: a sum of N vectors with positive means, from below and above."""

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Sum, sqrt, symbols

from residual_theory.lemmas import vectors
from residual_theory.lemmas.vectors import N, d, i, j, n
from residual_theory.proofs.steps import Step
from residual_theory.proofs.sum_proof import by_squares, by_sums
from residual_theory.proofs.tables import table

k = sympy.Symbol("m", integer=True, positive=True)
low, high = symbols("m_- q_+", positive=True)
gap, more = symbols("g h", nonnegative=True)
u = table("u", "nonnegative")  # u(n, i): entry i of u_n
x = vectors.x
SIZES = {N: (1, 3), d: (1, 3), low: (0, 1), high: (1, 9)}


def mean(vector: Callable[[Any], Any], index: Any = i) -> Any:
    """The mean of the entries, m.

    >>> mean(x)
    Sum(x(i), (i, 1, d))/d
    """
    return Sum(vector(index), (index, 1, d)) / d


def mean_square(vector: Callable[[Any], Any]) -> Any:
    """The mean square of the entries, q.

    >>> mean_square(x)
    Sum(x(i)**2, (i, 1, d))/d
    """
    return Sum(vector(i) ** 2, (i, 1, d)) / d


def total(entry: Any) -> Any:
    """An entry of U = u_1 + … + u_N."""
    return Sum(u(n, entry), (n, 1, N))


def one(entry: Any) -> Any:
    """An entry of u_n."""
    return u(n, entry)


SIZE = sqrt(mean_square(total))
MEANS = Sum(mean(one), (n, 1, N)) / N - low
SQUARES = high - Sum(mean_square(one), (n, 1, N)) / N


def from_below() -> tuple[Step, Step, Step]:
    """m_- N ≤ ‖U‖/√d, by Jensen over the entries.

    >>> from_below()[-1].rhs
    N*m_-
    """
    exchanged = Step(
        "The mean of U",
        mean(total),
        Sum(mean(one), (n, 1, N)),
        "m is linear: m(U) is the sum of all m(u_n). Nothing cancels in it, as no entry is negative.",
        proof=by_sums(),
        domain=SIZES,
    )
    jensen = Step(
        "Jensen's inequality over the entries",
        mean(x) ** 2,
        mean_square(x),
        "The square of the mean of d numbers is at most their mean square: the difference is their variance.",
        "<=",
        by_sums(Sum((x(i) - mean(x, j)) ** 2, (i, 1, d)) / d),
        SIZES,
    )
    lower = Step(
        "The lower bound",
        SIZE,
        N * low,
        "q(U)^(1/2) ≥ m(U), and the means of the u_n are at least m_- on average (hypothesis).",
        ">=",
        by_squares(
            gap + N * more * (N * more + 2 * N * low),
            {gap: (jensen, {x: total}), more: MEANS},
        ),
        SIZES,
        given=(MEANS,),
    )
    return exchanged, jensen, lower


def from_above(count: Callable[[Any], Any]) -> tuple[Step, ...]:
    """‖U‖/√d ≤ √q_+ N, by the triangle inequality, then Cauchy–Schwarz over n.

    Arguments:
      count: the factor claimed in the latter, N.

    >>> from_above(lambda vectors: vectors)[-1].rhs
    N*sqrt(q_+)
    """
    squared, root = vectors.inner_product()
    many = vectors.many(root)
    size = sqrt(mean_square(one))
    over_n = Step(
        "Cauchy–Schwarz over n",
        Sum(size, (n, 1, N)) ** 2,
        count(N) * Sum(mean_square(one), (n, 1, N)),
        "N numbers q(u_n)^(1/2) against N ones: half the sum of all squared differences is left.",
        "<=",
        by_sums(Sum((size - size.xreplace({n: k})) ** 2, (n, 1, N), (k, 1, N)) / 2),
        SIZES,
    )
    summed = Step(
        "with the assumption",
        Sum(size, (n, 1, N)),
        sqrt(high) * N,
        "Σ q(u_n)^(1/2) ≤ √(N Σ q(u_n)), and the mean of the q(u_n) is at most q_+ (hypothesis).",
        "<=",
        by_squares(gap + N**2 * more, {gap: over_n, more: SQUARES}),
        SIZES,
        given=(SQUARES,),
    )
    upper = Step(
        "The upper bound",
        SIZE,
        sqrt(high) * N,
        "‖U‖ ≤ Σ‖u_n‖ ≤ √d √q_+ N. No sign is used.",
        "<=",
        by_sums(gap / sqrt(d) + more, {gap: (many, {vectors.v: u}), more: summed}),
        SIZES,
        given=(SQUARES,),
    )
    return squared, root, many, over_n, summed, upper
