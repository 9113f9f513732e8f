"""Recursions over pairs of visits, said once: their terms are SymPy expressions that proofs read and that numbers run.

A function of this kind is S(a, b) = start + weight Σ δ term over i < a and j < b, δ = 1 where i and j share a layer.
The term of a pair is an expression in what is known of the pair: r and s, the root mean squares of the stream at its
two visits, their angle theta or correlation c, and own, what a recursion found earlier for the pair itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from sympy import cos, sqrt

from residual_theory.errors import DerivationError
from residual_theory.proofs.exact_recursion import Covariance, Pairs, Rows, correlation, recursive
from residual_theory.proofs.relu_angle import KAPPA, theta

r, s, c, own = sympy.symbols("r s c m", nonnegative=True)
PAIR = (r, s, theta, c, own)
STREAM = (r**2, s**2, r * s * cos(theta), r * s * c)  # what K(i, i), K(j, j) and K(i, j) are at a pair
Value = Callable[..., Any]


@dataclass(frozen=True)
class Recursion:
    """One function at given arguments.

    Arguments:
      ends: a and b.  layers: L.  summand: weight times term.  start: the value before any visit.
      stands: functions, and the expressions in r, s, theta, c and own that they are at a pair of earlier visits.
      correlation: of visits a and b, where the function is the stream's covariance.
    """

    ends: tuple[Any, Any]
    layers: Any
    summand: Any
    start: Any = sympy.S.One
    stands: Mapping[Any, tuple[Any, ...]] = field(default_factory=dict)
    correlation: Any = None


def stream_recursion(function: Any, arguments: tuple[Any, ...], layers: Any, summand: Any) -> Recursion:
    """The recursion of a covariance of the stream, whose first two arguments are the visits."""
    a, b, *rest = arguments
    sizes = sqrt(function(a, a, *rest) * function(b, b, *rest))
    return Recursion((a, b), layers, summand, stands={function: STREAM}, correlation=function(a, b, *rest) / sizes)


def recursion(expression: Any) -> Recursion:
    """The recursion of a function applied to arguments.

    >>> a, x = sympy.Symbol("a", integer=True), sympy.Symbol("x", positive=True)
    >>> recursion(Covariance(a, a, 1, x)).summand.subs({theta: 0, r: 1, s: 1})
    x**2
    """
    if isinstance(expression, Covariance):
        _, _, layers, x = expression.args
        return stream_recursion(Covariance, expression.args, layers, 2 * x**2 * r * s * KAPPA)
    found = getattr(type(expression), "recursion", None)
    if found is None:
        raise DerivationError(f"{expression} has no recursion over pairs of visits")
    said: Recursion = found(*expression.args)
    return said


def compiled(term: Any, parameters: tuple[Any, ...] = ()) -> Value:
    """The term of a pair at numbers, of r, s, theta, c, own and the parameters.

    >>> round(float(compiled(r * s * KAPPA)(1, 2, 0, 1, 0)), 12)
    1.0
    """
    function: Value = sympy.lambdify((*PAIR, *parameters), term, "mpmath", dummify=True)
    return function


@lru_cache(maxsize=256)
def _table(term: Value, weight: Value, layers: int, given: tuple[Any, ...], _: int) -> Pairs:
    def of_pair(S: Rows, i: int, j: int) -> Any:
        cosine = correlation(S, i, j)
        return term(mpmath.sqrt(S[i][i]), mpmath.sqrt(S[j][j]), mpmath.acos(cosine), cosine, S[i][j], *given)

    return Pairs(layers, weight(*given), of_pair)


def covariance_of(
    name: str, parameters: tuple[Any, ...], weight: Any, term: Any, layers: Any, sign: str = "positive"
) -> Any:
    """The covariance K(a, b)/q_0 of a stream as a SymPy function of a, b and the parameters.

    Arguments:
      parameters: symbols, among them `layers`.  weight, term: expressions in them, the term in those of a pair as well.

    >>> L, t = sympy.symbols("L t", positive=True)
    >>> K = covariance_of("K", (L, t), t, r * s * KAPPA, L)
    >>> round(float(K(8, 8, 1, sympy.Rational(1, 32)) * 0.5), 8)  # ε = 1/8, σ_w² = 2, q0 = 0.5
    1.10659806
    """
    of_pair, at_weight = compiled(term, parameters), sympy.lambdify(parameters, weight, "mpmath", dummify=True)
    place = parameters.index(layers)

    def value(a: Any, b: Any, *given: Any) -> Any:
        return _table(of_pair, at_weight, int(given[place]), given, mpmath.mp.prec)(int(a), int(b))

    def said(a: Any, b: Any, *given: Any) -> Recursion:
        at = dict(zip(parameters, given, strict=True))
        summand = (weight * term).subs(at, simultaneous=True)
        return stream_recursion(function, (a, b, *given), sympy.S(given[place]), summand)

    function = recursive(name, value, sign)
    function.recursion = staticmethod(said)
    return function
