"""What SymPy can show of an expression: that it vanishes, or that it is nonnegative."""

import textwrap
from collections.abc import Callable
from typing import Any

import sympy

from residual_theory.errors import DerivationError


def left_over(expression: Any) -> Any:
    """What simplification leaves of `expression`: 0 when SymPy can show that it vanishes identically."""
    rest = sympy.S(expression)
    forms: tuple[Callable[[Any], Any], ...] = (
        sympy.expand,
        lambda e: sympy.combsimp(e) if e.has(sympy.binomial, sympy.factorial, sympy.RisingFactorial) else e,
        lambda e: e.doit(),
        sympy.simplify,
        lambda e: sympy.simplify(sympy.expand_log(sympy.expand(e), force=True)),
    )
    for form in forms:
        if rest == 0:
            break
        rest = form(rest)
    return rest


def must_vanish(expression: Any, what: str) -> None:
    """Raise DerivationError, saying `what` was to hold, unless `expression` simplifies to 0."""
    rest = left_over(expression)
    if rest != 0:
        raise DerivationError(f"SymPy cannot show {what}; left over: {textwrap.shorten(str(rest), 120)}")


def nonnegative(expression: Any) -> bool:
    """Whether SymPy's assumptions alone make `expression` nonnegative (term by term for sums)."""
    if isinstance(expression, sympy.Sum):
        return nonnegative(expression.function)
    if expression.is_Add or expression.is_Mul:
        return expression.is_nonnegative is True or all(nonnegative(part) for part in expression.args)
    return expression.is_nonnegative is True
