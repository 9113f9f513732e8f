"""Functions of independent coordinates: averages over one of them, orthogonal parts, and what two functions share.

Hoeffding's decomposition for two coordinates a and b of finitely many values, of any probabilities; c is all the rest.
"""

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Rational, Sum

from residual_theory.proofs.steps import Step
from residual_theory.proofs.sum_proof import by_sums
from residual_theory.proofs.sums import weight
from residual_theory.proofs.tables import table

a, b, c, a_2, b_2, c_2 = sympy.symbols("a b c a_2 b_2 c_2", integer=True, positive=True)
A, B, C = sympy.symbols("A B C", integer=True, positive=True)  # numbers of values
f, g = table("f"), table("g")
SPACE: dict[Any, Any] = {A: (2, 3), B: (2, 3), C: (1, 2), a: (1, 2), b: (1, 2), c: (1, 2)}
HALF = Rational(1, 2)
Variable = Callable[[Any, Any, Any], Any]
_one, _two, _three = sympy.symbols("u v w", nonnegative=True)


def mean(variable: Variable) -> Any:
    """E of a function of all three.

    >>> from residual_theory.proofs.sums import reduced
    >>> reduced(mean(lambda *_: sympy.Integer(3)))
    3
    """
    outcome = weight(a, A) * weight(b, B) * weight(c, C) * variable(a, b, c)
    return Sum(outcome, (a, 1, A), (b, 1, B), (c, 1, C))


def over_a(variable: Variable) -> Variable:
    """P_a: the average over a, a function of b and c.

    >>> over_a(f)(a, b, c).free_symbols == {A, b, c}
    True
    """
    return lambda _, other, rest: Sum(weight(a_2, A) * variable(a_2, other, rest), (a_2, 1, A))


def over_b(variable: Variable) -> Variable:
    """P_b: the average over b."""
    return lambda one, _, rest: Sum(weight(b_2, B) * variable(one, b_2, rest), (b_2, 1, B))


def without(average: Callable[[Variable], Variable], variable: Variable) -> Variable:
    """(1 − P) of a function, `average` being P.

    >>> from residual_theory.proofs.sums import reduced
    >>> reduced(mean(without(over_b, g)))
    0
    """
    averaged = average(variable)
    return lambda *outcome: variable(*outcome) - averaged(*outcome)


def product(one: Variable, other: Variable) -> Variable:
    """The product of two functions."""
    return lambda *outcome: one(*outcome) * other(*outcome)


def second(variable: Variable) -> Any:
    """E of the square of a function."""
    return mean(product(variable, variable))


def replaced_b(variable: Variable) -> Any:
    """½ E of the squared change when b is drawn again."""
    change = weight(b_2, B) * (variable(a, b, c) - variable(a, b_2, c)) ** 2
    return HALF * mean(lambda *_: Sum(change, (b_2, 1, B)))


def replaced_a(variable: Variable) -> Any:
    """½ E of the squared change when a is drawn again."""
    change = weight(a_2, A) * (variable(a, b, c) - variable(a_2, b, c)) ** 2
    return HALF * mean(lambda *_: Sum(change, (a_2, 1, A)))


M_F, M_G = without(over_a, f), without(over_b, g)
SHARED_F, SHARED_G = without(over_b, M_F), without(over_a, M_G)


def parts() -> tuple[Step, Step, Step]:
    """The averages are commuting orthogonal projections.

    >>> parts()[1].rhs
    0
    """
    once = Step(
        "Averaging twice",
        over_a(over_a(f))(a, b, c),
        over_a(f)(a, b, c),
        "P_a is the average over coordinate a, of any number of values with any probabilities, which add up to 1.",
        proof=by_sums(),
        domain=SPACE,
    )
    orthogonal = Step(
        "Orthogonal parts",
        mean(product(over_a(f), without(over_a, g))),
        sympy.Integer(0),
        "What does not depend on a is orthogonal to what averages to 0 over a. Two components of Hoeffding's "
        "decomposition differ in some coordinate s, where one has P_s and the other 1 − P_s: all are orthogonal.",
        proof=by_sums(),
        domain=SPACE,
    )
    pieces = (
        over_b(over_a(f)),
        without(over_b, over_a(f)),
        over_b(without(over_a, f)),
        without(over_b, without(over_a, f)),
    )
    return (
        once,
        orthogonal,
        Step(
            "Four parts of a function of two coordinates",
            second(f),
            sympy.Add(*(second(piece) for piece in pieces)),
            "f is the sum of P_aP_b f, P_a(1 − P_b) f, (1 − P_a)P_b f and (1 − P_a)(1 − P_b) f, and squares add.",
            proof=by_sums(),
            domain=SPACE,
        ),
    )


def replacement(half: Any = HALF) -> Step:
    """½ E (f − f^(b))² = E ((1 − P_b) f)², `half` being the factor.

    >>> replacement().relation
    '='
    """
    return Step(
        "By replacement",
        replaced_b(f) / HALF * half,
        second(without(over_b, f)),
        "f^(b) is f after b is drawn again (Efron–Stein): half the mean square of the change is what f has beside its "
        "average over b.",
        proof=by_sums(),
        domain=SPACE,
    )


def shared_by_two() -> tuple[Step, ...]:
    """(E M_f M_g)² ≤ V_f V_g, with M_f = (1 − P_a) f, M_g = (1 − P_b) g, V_f by replacing b in f, V_g a in g.

    >>> shared_by_two()[-1].relation
    '<='
    """
    both, apart = mean(product(M_F, M_G)), mean(product(SHARED_F, SHARED_G))
    common = Step(
        "What two functions share",
        both,
        apart,
        "M_f = (1 − P_a) f averages to 0 over a, and M_g = (1 − P_b) g over b: only (1 − P_a)(1 − P_b) of each counts.",
        proof=by_sums(),
        domain=SPACE,
    )
    squares = (
        Step(
            "A part is no larger",
            second(SHARED_F),
            replaced_b(f),
            "(1 − P_a) takes away the mean square of P_a(1 − P_b) f.",
            "<=",
            by_sums(second(over_a(without(over_b, f)))),
            SPACE,
        ),
        Step(
            "nor is the other",
            second(SHARED_G),
            replaced_a(g),
            "(1 − P_b) takes away the mean square of P_b(1 − P_a) g.",
            "<=",
            by_sums(second(over_b(without(over_a, g)))),
            SPACE,
        ),
    )
    weights = weight(a, A) * weight(b, B) * weight(c, C)
    others = weight(a_2, A) * weight(b_2, B) * weight(c_2, C)
    crossed = (f(a, b, c) * g(a_2, b_2, c_2) - f(a_2, b_2, c_2) * g(a, b, c)) ** 2
    ranges = ((a, 1, A), (b, 1, B), (c, 1, C), (a_2, 1, A), (b_2, 1, B), (c_2, 1, C))
    schwarz = Step(
        "Cauchy–Schwarz for means",
        mean(product(f, g)) ** 2,
        second(f) * second(g),
        "Lagrange's identity, each pair of outcomes with its probabilities.",
        "<=",
        by_sums(HALF * Sum(weights * others * crossed, *ranges)),
        SPACE,
    )
    whole = replaced_b(f)
    return (
        common,
        *squares,
        schwarz,
        Step(
            "Two functions share little",
            both**2,
            whole * replaced_a(g),
            "by the last four steps.",
            "<=",
            by_sums(
                _one + whole * _three + second(SHARED_G) * _two,
                {
                    _one: (schwarz, {f: SHARED_F, g: SHARED_G}),
                    _two: squares[0],
                    _three: squares[1],
                },
            ),
            SPACE,
        ),
    )
