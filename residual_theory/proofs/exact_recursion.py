"""Recursions over pairs of visits as SymPy functions: symbols stay symbols, at numbers the recursion runs."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import KroneckerDelta, Mod

Rows = list[list[Any]]
Term = Callable[[Rows, int, int], Any]
_EXACT = 64  # visits up to which a Covariance has _DIGITS digits; limits need more visits and fewer digits
_DIGITS = 60


class Pairs:
    """S(a, b) = 1 + t Σ term(S, i, j) over i < a and j < b of one layer, at the working precision of mpmath.

    Arguments:
      layers: visits i and j share a layer when i mod layers = j mod layers.  t: the weight of a pair.
      term: of the rows of S so far and two visits i ≥ j.
    Calling it with a and b returns S(a, b); `upto` returns all rows up to a visit. Rows are kept.

    >>> constant = Pairs(2, 3, lambda S, i, j: 1)  # 1 + 3·(number of pairs of one layer)
    >>> [int(constant(n, n)) for n in range(5)]
    [1, 4, 7, 16, 25]
    """

    def __init__(self, layers: int, t: Any, term: Term) -> None:
        self._layers, self._t, self._term = layers, t, term
        self._rows: Rows = [[mpmath.mpf(1)]]

    def upto(self, visit: int) -> Rows:
        """The rows S(a, ·) for all a up to `visit`."""
        S = self._rows
        while len(S) <= visit:
            i, grown, new = len(S) - 1, mpmath.mpf(0), [mpmath.mpf(1)]
            for j in range(i + 1):
                grown += self._term(S, i, j) if (i - j) % self._layers == 0 else 0
                new.append((S[i][j + 1] if j < i else new[i]) + self._t * grown)
            for row, value in zip(S, new, strict=False):
                row.append(value)
            S.append(new)
        return S

    def __call__(self, a: int, b: int) -> Any:
        return self.upto(max(a, b))[a][b]


@lru_cache(maxsize=256)
def _cached_pairs(layers: int, t: Any, term: Term, precision: int) -> Pairs:
    return Pairs(layers, t, term)


def pairs(layers: Any, t: Any, term: Term) -> Pairs:
    """The `Pairs` of these arguments, shared by all calls at one working precision; `term` must be hashable."""
    return _cached_pairs(int(layers), mpmath.mpf(t), term, mpmath.mp.prec)


def correlation(S: Rows, i: int, j: int) -> Any:
    """S(i, j)/√(S(i, i) S(j, j)), not above 1."""
    return min(S[i][j] / mpmath.sqrt(S[i][i] * S[j][j]), mpmath.mpf(1))


def kappa(cosine: Any) -> Any:
    """E[relu relu] at unit variances and this correlation, (sin θ + (π − θ) cos θ)/(2π).

    >>> float(kappa(mpmath.mpf(1)))
    0.5
    """
    angle = mpmath.acos(cosine)
    return (mpmath.sin(angle) + (mpmath.pi - angle) * mpmath.cos(angle)) / (2 * mpmath.pi)


def relu(S: Rows, i: int, j: int) -> Any:
    """E[relu relu] of visits i and j without normalisation: the `term` of a raw ReLU stack."""
    return mpmath.sqrt(S[i][i] * S[j][j]) * kappa(correlation(S, i, j))


def normalised_relu(S: Rows, i: int, j: int) -> Any:
    """E[relu relu] of visits i and j, each divided by its size: the `term` of a pre-norm ReLU stack."""
    return kappa(correlation(S, i, j))


def recursive(name: str, value: Callable[..., Any], sign: str = "positive", start: Any = None) -> Any:
    """A SymPy function of this name that numbers evaluate, at any precision, by calling `value`.

    Arguments:
      value: of the arguments as mpmath numbers, at a working precision somewhat above the one asked for.
      sign: "positive" or "nonnegative", what SymPy may assume of it.
      start: its value where the first argument is 0, if that is always the same.

    >>> recursive("f", lambda n, t: n * t)(2, sympy.Rational(1, 7)).n(5)
    0.28571
    """

    def evaluate(self: Any, precision: int) -> Any:
        if not self.is_number:
            return None
        with mpmath.workprec(precision + 30):
            found = value(*(argument._to_mpmath(precision + 30) for argument in self.args))
            return sympy.Float(found, precision=precision)

    def begin(cls: Any, first: Any, *_: Any) -> Any:
        return sympy.S(start) if start is not None and first == 0 else None

    return type(name, (sympy.Function,), {"_eval_evalf": evaluate, "eval": classmethod(begin), f"is_{sign}": True})


def covariance(a: Any, b: Any, layers: Any, t: Any) -> Any:
    """K(a, b)/q0 of a raw ReLU stack, t = ε²σ_w²: a `value` for `recursive`.

    >>> round(float(covariance(8, 8, 1, mpmath.mpf(1) / 32)) * 0.5, 8)  # ε = 1/8, σ_w² = 2, q0 = 0.5
    1.10659806
    """
    return pairs(layers, t, relu)(int(a), int(b))


class Covariance(sympy.Function):  # type: ignore[misc]
    """K(a, b)/q0 after a and b visits of a tied ReLU stack of infinite width, as a SymPy function.

      K(a, b)/q0 = 1 + 2x² Σ_{i<a} Σ_{j<b} δ(i mod L, j mod L) r_i r_j κ(θ_ij),   x = εσ_w/√2,
    with r_i² = K(i, i)/q0, r_i r_j cos θ_ij = K(i, j)/q0 and κ = (sin θ + (π − θ) cos θ)/(2π): L Gaussian matrices
    used in turn, without normalisation. ReLU being homogeneous, q0 is only a unit.

    Arguments:
      a, b: numbers of visits ≥ 0.  L: unique layers.  x: > 0.
    Returns: an unevaluated function of symbols; at numbers a Float, of 60 digits up to 64 visits and beyond that of
      double precision.
    Source: docs/theory.md, "The forward recursion"; κ from derivations/relu_kernel.py.

    >>> round(float(Covariance(8, 8, 1, sympy.Rational(1, 8))) * 0.5, 8)  # ε = 1/8, σ_w² = 2, q0 = 0.5
    1.10659806
    """

    nargs = 4
    is_real = True

    @classmethod
    def value(cls, a: Any, b: Any, layers: Any, x: Any) -> Any:
        """The value where all four are numbers, or where no visit has been made."""
        if 0 in (a, b):
            return sympy.Integer(1)
        if not all(given.is_number for given in (a, b, layers, x)):
            return None
        if max(a, b) > _EXACT:
            return sympy.Float(_many(max(int(a), int(b)), int(layers), float(x))[int(a), int(b)], _DIGITS)
        with mpmath.workdps(_DIGITS):
            return sympy.Float(covariance(a, b, layers, 2 * x._to_mpmath(mpmath.mp.prec) ** 2), _DIGITS)

    eval = value  # the name under which SymPy calls it

    def _eval_is_positive(self) -> bool | None:
        return True if self.args[0] == self.args[1] else None  # 1 + 2x² times the mean square of a sum of updates

    def _shown(self) -> Any:
        a, b, _, x = self.args
        return sympy.Function("K")(a, b) if x.is_Symbol else sympy.Function("K")(a, b, x)

    def _latex(self, printer: Any) -> str:
        return str(printer.doprint(self._shown()))

    def _pretty(self, printer: Any) -> Any:
        return printer._print(self._shown())


@lru_cache(maxsize=8)
def _many(visits: int, layers: int, x: float) -> NDArray[Any]:
    """K/q0 (visit, visit), in double precision: the recursion of `Pairs` with `relu`, a whole row at a time."""
    K = np.ones((visits + 1, visits + 1))
    for i in range(visits):
        partners = np.arange(i % layers, i + 1, layers)  # the visits up to this one that share its layer
        sizes = np.sqrt(K[i, i] * K[partners, partners])
        cosine = np.minimum(K[i, partners] / sizes, 1)
        angle = np.arccos(cosine)
        terms = np.zeros(i + 1)
        terms[partners] = x**2 / np.pi * sizes * (np.sin(angle) + (np.pi - angle) * cosine)
        grown = np.cumsum(terms)
        K[i + 1, 1 : i + 1] = K[1 : i + 1, i + 1] = K[i, 1 : i + 1] + grown[:-1]
        K[i + 1, i + 1] = K[i + 1, i] + grown[-1]
    return K


def shared(one: Any, another: Any, layers: Any) -> Any:
    """1 where two visits use the same layer, 0 elsewhere.

    >>> shared(2, 5, 3), shared(2, 4, 3)
    (1, 0)
    """
    return KroneckerDelta(Mod(one, layers), Mod(another, layers))
