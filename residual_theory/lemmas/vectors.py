"""Cauchy–Schwarz and the triangle inequality for vectors of any number of entries, as steps that cite each other."""

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Sum, sqrt

from residual_theory.proofs.steps import Step
from residual_theory.proofs.sum_proof import by_squares, by_sums, family
from residual_theory.proofs.tables import table

d, N = sympy.symbols("d N", integer=True, positive=True)
i, j, n, m = sympy.symbols("i j n m", integer=True, positive=True)
x, y, v = table("x"), table("y"), table("v")  # any two vectors, and any sequence of vectors v(n, ·)
SIZES: dict[Any, tuple[int, int]] = {d: (1, 3), N: (1, 3), n: (1, 3), m: (1, 3)}
_gap, _gaps = sympy.Symbol("g", nonnegative=True), family("g")
Vector = Callable[[Any], Any]


def square(vector: Vector) -> Any:
    """‖vector‖², a sum over entries 1…d.

    >>> square(x)
    Sum(x(i)**2, (i, 1, d))
    """
    return Sum(vector(i) ** 2, (i, 1, d))


def norm(vector: Vector) -> Any:
    """‖vector‖.

    >>> norm(x) ** 2
    Sum(x(i)**2, (i, 1, d))
    """
    return sqrt(square(vector))


def inner_product() -> tuple[Step, Step]:
    """⟨x, y⟩² ≤ ‖x‖²‖y‖² by Lagrange's identity, and ⟨x, y⟩ ≤ ‖x‖‖y‖.

    >>> inner_product()[1].relation
    '<='
    """
    product = Sum(x(i) * y(i), (i, 1, d))
    lagrange = Sum((x(i) * y(j) - x(j) * y(i)) ** 2, (i, 1, d), (j, 1, d)) / 2
    squared = Step(
        "Cauchy–Schwarz inequality",
        product**2,
        square(x) * square(y),
        "Lagrange's identity: the difference is half the sum of all (x_i y_j − x_j y_i)².",
        "<=",
        by_sums(lagrange),
        SIZES,
    )
    root = Step(
        "and its root",
        product,
        norm(x) * norm(y),
        "for inner products of either sign.",
        "<=",
        by_squares(_gap, {_gap: squared}),
        SIZES,
    )
    return squared, root


def triangle(root: Step) -> tuple[Step, Step]:
    """‖x + y‖ ≤ ‖x‖ + ‖y‖ and ‖x + y‖ ≥ ‖y‖ − ‖x‖.

    >>> triangle(inner_product()[1])[1].relation
    '>='
    """
    upper = Step(
        "Triangle inequality",
        norm(lambda k: x(k) + y(k)),
        norm(x) + norm(y),
        "The squares differ by 2(‖x‖‖y‖ − ⟨x, y⟩).",
        "<=",
        by_squares(2 * _gap, {_gap: root}),
        SIZES,
    )
    lower = Step(
        "turned round",
        norm(lambda k: x(k) + y(k)),
        norm(y) - norm(x),
        "The triangle inequality for y = (x + y) + (−x).",
        ">=",
        by_sums(_gap, {_gap: (upper, {x: lambda k: x(k) + y(k), y: lambda k: -x(k)})}),
        SIZES,
    )
    return upper, lower


def many(root: Step) -> Step:
    """‖v_1 + … + v_N‖ ≤ ‖v_1‖ + … + ‖v_N‖.

    >>> many(inner_product()[1]).rhs
    Sum(sqrt(Sum(v(n, i)**2, (i, 1, d))), (n, 1, N))
    """
    pair = (root, {x: lambda k: v(n, k), y: lambda k: v(m, k)})
    return Step(
        "Triangle inequality, N vectors",
        norm(lambda k: Sum(v(n, k), (n, 1, N))),
        Sum(norm(lambda k: v(n, k)), (n, 1, N)),
        "The squares are the sums of ⟨v_n, v_m⟩ and of ‖v_n‖‖v_m‖ over all pairs.",
        "<=",
        by_squares(Sum(_gaps(n, m), (n, 1, N), (m, 1, N)), {_gaps: (pair, (n, m))}),
        SIZES,
    )
