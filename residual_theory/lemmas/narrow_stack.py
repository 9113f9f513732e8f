"""A looped stack of width 2 as polynomials in the entries of its matrix: exact averages and integration by parts.

Two loops of h ← h + e W φ(h) with φ(x) = x + βx²/2, W_ij ~ N(0, 1/2) and h_0 ~ N(0, I). A polynomial is no Lipschitz
function, but identities that hold for it term by term are those of every φ: here they are exact and can be checked.
"""

from collections.abc import Callable
from functools import lru_cache, reduce
from itertools import product as product_of
from math import prod
from typing import Any

import numpy as np
import sympy
from sympy import QQ, Matrix, Rational, diag, eye
from sympy.polys.rings import ring

from residual_theory.errors import DerivationError
from residual_theory.proofs.algebra import must_vanish
from residual_theory.proofs.exact_recursion import recursive
from residual_theory.proofs.steps import Proof, Step

WIDTH, LAST = 2, 2
e, beta = sympy.symbols("e beta", real=True)
a, b = sympy.symbols("a b", integer=True, nonnegative=True)
entries, start = sympy.symbols("W:2:2", real=True), sympy.symbols("h:2", real=True)
W, h_0 = Matrix(WIDTH, WIDTH, entries), Matrix(start)


class Image(sympy.Function):  # type: ignore[misc]
    """An arbitrary φ, with the derivative `Slope`."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> Any:
        """φ'."""
        return Slope(self.args[0])


Slope = sympy.Function("Slope")


def streams(phi: Callable[[Any], Any]) -> list[Any]:
    """h_0, h_1, h_2 as columns of expressions in W and h_0.

    >>> streams(lambda value: value)[1][0].coeff(e)
    W00*h0 + W01*h1
    """
    found = [h_0]
    for _ in range(LAST):
        found.append(found[-1] + e * W * found[-1].applyfunc(phi))
    return found


def jacobian(h: list[Any], slope: Callable[[Any], Any], later: int, earlier: int) -> Any:
    """∂h_later/∂h_earlier, the product of I + e W D over the visits between."""
    factors = (eye(WIDTH) + e * W * diag(*h[n].applyfunc(slope)) for n in reversed(range(earlier, later)))
    return reduce(lambda so_far, factor: so_far * factor, factors, eye(WIDTH))


def _entry_moves_the_stream(step: Step) -> None:
    """The chain rule for any φ, at both streams and every entry of W; the step is one of these entries."""
    h = streams(Image)
    for n in range(1, LAST + 1):
        for row in range(WIDTH):
            for column in range(WIDTH):
                found = moved(h, Image, Slope, n, row, column)
                for place in range(WIDTH):
                    by_hand = sympy.diff(h[n][place], W[row, column])
                    must_vanish(by_hand - found[place], "the derivative of the stream in an entry of W")
    must_vanish(step.lhs.doit() - step.rhs, "that this is one of the entries")


def moved(h: list[Any], phi: Callable[[Any], Any], slope: Callable[[Any], Any], n: int, row: int, column: int) -> Any:
    """e Σ_{m<n} J(n, m + 1) e_row φ(h_m)_column: what an entry of W moves the stream by, per unit of the entry."""
    unit = eye(WIDTH).col(row)
    terms = (jacobian(h, slope, n, m + 1) * unit * phi(h[m][column]) for m in range(n))
    return e * sum(terms, sympy.zeros(WIDTH, 1))


def an_entry_moves_the_stream() -> Step:
    """∂h_n/∂W_ij for linear φ at one place; its proof goes through every place for an arbitrary φ.

    >>> an_entry_moves_the_stream().rhs
    W01*e**2*h0
    """
    shown = moved(streams(_linear), _linear, lambda value: sympy.Integer(1), LAST, 1, 0)[0]
    return Step(
        "How an entry of W moves the stream",
        sympy.Derivative(sympy.expand(streams(_linear)[LAST][0]), W[1, 0]),
        sympy.expand(shown),
        "∂h_n/∂W_ij = e Σ_{m<n} J(n, m + 1) e_i φ(h_m)_j, J(n, m) = ∂h_n/∂h_m being the product of I + e W D over the "
        "visits between and D = diag φ'(h). Shown is one entry at width 2 after two loops of linear φ.",
        proof=Proof("the chain rule at every entry, for any φ", _entry_moves_the_stream),
    )


def _linear(value: Any) -> Any:
    return value


def _moment(power: int) -> int:
    return prod(range(1, power, 2)) if power % 2 == 0 else 0


RING, *_generators = ring([e, beta, *entries, *start], QQ)
_e, _beta, _W, _h = _generators[0], _generators[1], _generators[2:-WIDTH], _generators[-WIDTH:]


def average(polynomial: Any) -> Any:
    """The exact mean over W and h_0 of a polynomial in RING, an expression in e and β.

    >>> average(RING(W[0, 1] ** 4 * h_0[0] ** 2 * beta))
    3*beta/4
    """
    total = sympy.Integer(0)
    for powers, coefficient in polynomial.terms():
        weights, moments = powers[2:-WIDTH], prod(map(_moment, powers[2:]))
        if moments:
            factor = Rational(coefficient.numerator, coefficient.denominator) * moments / WIDTH ** (sum(weights) // 2)
            total += factor * e ** powers[0] * beta ** powers[1]
    return total


@lru_cache(maxsize=1)
def averages() -> dict[str, dict[tuple[int, int], Any]]:
    """Of two streams a, b ≤ 2: M, their mean product; G, the pairs of images; T, the traces; F, the feedback.

    M = E⟨h_a, h_b⟩/d, G = Σ E ĝ_ij over i < a, j < b with ĝ_ij = ⟨φ(h_i), φ(h_j)⟩/d,
    T = E tr(J(b, 0) − I)/d + e² Σ E ĝ_ij tr(J(b, j + 1) − I)/d, and
    F = (e²/d) Σ E⟨D_i φ(h_m), J(i, m + 1) h_b⟩/d over m < i < a.
    """
    matrix, unit = np.array(_W, dtype=object).reshape(WIDTH, WIDTH), np.array([[1, 0], [0, 1]], dtype=object)
    h, images, slopes = [np.array(_h, dtype=object)], [], []
    for _ in range(LAST):
        images.append(h[-1] + h[-1] ** 2 * _beta * QQ(1, 2))
        slopes.append(h[-1] * _beta + 1)
        h.append(h[-1] + (matrix @ images[-1]) * _e)

    def jacobian_(later: int, earlier: int) -> Any:
        product = unit * RING(1)
        for n in range(earlier, later):
            product = (unit + matrix * slopes[n] * _e) @ product
        return product

    def trace(later: int, earlier: int) -> Any:
        return np.trace(jacobian_(later, earlier) - unit)

    gram = {(i, j): images[i] @ images[j] for i in range(LAST) for j in range(LAST)}
    found: dict[str, dict[tuple[int, int], Any]] = {name: {} for name in "MGTF"}
    for one, other in product_of(range(1, LAST + 1), repeat=2):
        both, at = list(product_of(range(one), range(other))), (one, other)
        found["M"][at] = average(h[one] @ h[other]) / WIDTH
        found["G"][at] = sum(average(gram[pair]) for pair in both) / WIDTH
        traces = sum((_e**2 * gram[i, j] * trace(other, j + 1) for i, j in both), RING(0))
        found["T"][at] = average(RING(trace(other, 0))) / WIDTH + average(traces) / WIDTH**2
        back = [(m, i) for i in range(one) for m in range(i)]
        sent = sum(((slopes[i] * images[m]) @ (jacobian_(i, m + 1) @ h[other]) for m, i in back), RING(0))
        found["F"][at] = average(sent * _e**2) / WIDTH**2
    return found


def _named(name: str) -> Any:
    def value(one: Any, other: Any, scale: Any, bend: Any) -> Any:
        if not {int(one), int(other)} <= {1, 2}:
            raise DerivationError(f"{name} is known of the streams after one and two loops")
        return averages()[name][int(one), int(other)].subs({e: scale, beta: bend})._to_mpmath(200)

    return recursive(name, value, "real")


M, G, T, F = map(_named, "MGTF")
SMALL = {a: (1, 2), b: (1, 2), e: (0, 1), beta: (-1, 1)}


def by_parts(moves: Step, corrections: Any = 1) -> Step:
    """E⟨h_a, h_b⟩/d by Gaussian integration by parts, exactly; T and F count so many times as `corrections`.

    >>> str(by_parts(an_entry_moves_the_stream()).rhs)
    'e**2*G(a, b, e, beta) + F(a, b, e, beta) + T(a, b, e, beta) + 1'
    """

    def run(step: Step) -> None:
        if moves.relation != "=" or not isinstance(moves.lhs, sympy.Derivative):
            raise DerivationError(f"“{moves.title}” is no derivative")
        must_vanish(moves.lhs.doit() - moves.rhs, "how an entry moves the stream")
        must_vanish(moves.lhs.args[0] - streams(_linear)[LAST][0], "that it is this stream's")
        if step.lhs != M(a, b, e, beta) or step.relation != "=":
            raise DerivationError("this is not about a product of two streams")
        for one in (1, 2):
            for other in (1, 2):
                at = averages()
                named = {f(a, b, e, beta): at[name][one, other] for f, name in zip((M, G, T, F), "MGTF", strict=True)}
                must_vanish((step.lhs - step.rhs).subs(named), f"the identity of streams {one} and {other}")

    return Step(
        "The mean product of two streams, at finite width",
        M(a, b, e, beta),
        1 + e**2 * G(a, b, e, beta) + corrections * (T(a, b, e, beta) + F(a, b, e, beta)),
        "q_0 = 1. Integrate by parts in h_0 and in each entry of h_a = h_0 + e Σ W φ(h_i). G sums the mean products of "
        "images, T = E tr(J(b, 0) − I)/d + e² Σ E ĝ_ij tr(J(b, j + 1) − I)/d, and F = (e²/d) Σ E⟨D_i φ(h_m), "
        "J(i, m + 1) h_b⟩/d is the feedback, over m < i < a. (At numbers: width 2, two loops, φ = x + βx²/2, exactly.)",
        proof=Proof("exact averages over W and h_0", run, (moves,)),
        domain=SMALL,
    )
