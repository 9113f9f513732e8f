"""Numbers with indices, as SymPy functions: unknown to a proof, and fixed rationals where they are evaluated.

A vector of d entries is a table x(i), i = 1…d; a statement about x holds for every vector, and is tried on one.
"""

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy
from sympy.concrete.expr_with_limits import ExprWithLimits


def evaluated(name: str, value: Callable[..., Any], sign: str = "real", shown: int = 9, start: Any = None) -> Any:
    """A SymPy function of this name whose value at rational numbers is exact: `value` of them as Fractions.

    Arguments:
      sign: what SymPy may assume: "real", "nonnegative" or "positive".
      start: its value where the first argument is 0, if that is always the same.
      shown: how many arguments are printed; those beyond say which instance is evaluated.

    >>> twice = evaluated("t", lambda n: 2 * n)
    >>> twice(3), twice(sympy.Symbol("n")).is_real
    (6, True)
    """

    def evaluate(cls: Any, *arguments: Any) -> Any:
        if start is not None and arguments[0] == 0:
            return sympy.S(start)
        if not all(argument.is_Rational for argument in arguments):
            return None
        found = Fraction(value(*(Fraction(int(a.p), int(a.q)) for a in arguments)))
        return sympy.Rational(found.numerator, found.denominator)

    def brief(self: Any) -> Any:
        return sympy.Function(name)(*self.args[:shown])

    def latex(self: Any, printer: Any, **power: Any) -> str:
        return str(printer._print(brief(self), **power))

    def pretty(self: Any, printer: Any) -> Any:
        return printer._print(brief(self))

    body = {"eval": classmethod(evaluate), f"is_{sign}": True, "brief": brief, "_latex": latex, "_pretty": pretty}
    return type(name, (sympy.Function,), body)


def table(name: str, sign: str = "real") -> Any:
    """Any numbers with integer indices: of either sign, or "nonnegative" or "positive" ones.

    >>> x, i = table("x"), sympy.Symbol("i", integer=True)
    >>> x(i), x(2), x(2, 1)
    (x(i), 1/2, 9/2)
    """

    def value(*places: Fraction) -> Fraction:
        drawn = random.Random(f"{name} {[int(place) for place in places]}")
        size = Fraction(drawn.randint(1, 9), drawn.randint(2, 6))
        return size if sign != "real" or drawn.random() < 0.6 else -size

    return evaluated(name, value, sign)


class Smallest(ExprWithLimits):  # type: ignore[misc]
    """The smallest of a finite family: Smallest(f(n), (n, 1, N)) ≥ 0 says f(n) ≥ 0 for every n of 1…N.

    A hypothesis about all members in one expression, for `Step.given`. Of no numbers it is 0.

    >>> n = sympy.Symbol("n", integer=True)
    >>> Smallest(n**2 - 3 * n, (n, 1, 4))
    -2
    """

    is_commutative = True

    def __new__(cls, function: Any, *limits: Any) -> Any:
        """The number where the members are numbers, else unevaluated."""
        made = ExprWithLimits.__new__(cls, function, *limits)
        if not isinstance(made, Smallest):
            return made
        indices = {index for index, _, _ in made.limits}
        known = all(bound.is_Integer for _, *bounds in made.limits for bound in bounds)
        if not known or not made.function.free_symbols <= indices:
            return made
        members = [made.function]
        for index, low, high in made.limits:
            members = [one.subs(index, k) for one in members for k in range(int(low), int(high) + 1)]
        return sympy.Min(*(member.doit() for member in members)) if members else sympy.Integer(0)

    def _latex(self, printer: Any) -> str:
        names = ", ".join(printer.doprint(index) for index, _, _ in self.limits)
        return rf"\min_{{{names}}} \left({printer.doprint(self.function)}\right)"

    def _pretty(self, printer: Any) -> Any:
        return printer._print(sympy.Function("min")(self.function))
