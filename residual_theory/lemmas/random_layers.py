"""A looped stack of independent layers as functions of its matrices: what each adds, and moments of its parts.

Y_l is W_l times the mean of φ over the visits to layer l; B_l its average over W_l given the others; M_l = Y_l − B_l.
At numbers the matrices take two values each, so that every mean is a finite sum and exact.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from itertools import product

import sympy

from residual_theory.proofs.tables import evaluated

Choice = tuple[int, ...]  # which of its two values each matrix has
Vector = tuple[Fraction, Fraction]
Values = dict[Choice, Vector]  # a random vector: its value at each choice
N, L = sympy.symbols("N L", integer=True, positive=True)
beta = sympy.Symbol("beta", positive=True)  # β = εN
STACK = (L, N, beta)


def _apply(layer: int, value: int, u: Vector) -> Vector:
    """W_s u, where W_s is 2S or −S with probability ⅓ and ⅔, so of mean zero, and S a matrix of its own."""
    x, y, factor = Fraction(layer + 1, 2), Fraction(1, layer + 2), Fraction((2, -1)[value - 1], 2)
    return factor * (x * u[0] - y * u[1]), factor * (y * u[0] + x * u[1])


@lru_cache(maxsize=512)
def _outputs(layers: int, loops: int, scale: Fraction) -> tuple[Values, ...]:
    """Y_1 … Y_L of a ReLU stack of width 2."""
    found: tuple[Values, ...] = tuple({} for _ in range(layers))
    for choice in product((1, 2), repeat=layers):
        stream: Vector = (Fraction(1), Fraction(1, 2))
        images: list[Vector] = [(Fraction(0), Fraction(0))] * layers
        for s in [*range(layers)] * loops:
            u = (max(stream[0], Fraction(0)), max(stream[1], Fraction(0)))
            images[s] = (images[s][0] + u[0] / loops, images[s][1] + u[1] / loops)
            made = _apply(s, choice[s], u)
            stream = (stream[0] + scale / loops * made[0], stream[1] + scale / loops * made[1])
        for s in range(layers):
            found[s][choice] = _apply(s, choice[s], images[s])
    return found


def _output(layer: Fraction, stack: tuple[Fraction, ...]) -> Values:
    layers, loops, scale = stack
    return _outputs(int(layers), int(loops), scale)[int(layer) - 1]


def _all_of(values: Values, _: int) -> Values:
    return values


def _average(values: Values, s: int) -> Values:
    """P_s: over W_s, given the others."""

    def entry(choice: Choice, place: int) -> Fraction:
        return sum((Fraction(v, 3) * values[(*choice[:s], v, *choice[s + 1 :])][place] for v in (1, 2)), Fraction(0))

    return {choice: (entry(choice, 0), entry(choice, 1)) for choice in values}


def _rest(values: Values, s: int) -> Values:
    """(1 − P_s)."""
    averaged = _average(values, s)
    return {c: (values[c][0] - averaged[c][0], values[c][1] - averaged[c][1]) for c in values}


def _moment(one: Values, two: Values) -> Fraction:
    """E⟨·, ·⟩/d."""
    chances = {c: Fraction(2 ** c.count(2), 3 ** len(c)) for c in one}
    return sum((chances[c] * (one[c][0] * two[c][0] + one[c][1] * two[c][1]) / 2 for c in one), Fraction(0))


Part = Callable[[Values, int], Values]


def _square(part: Part) -> Callable[..., Fraction]:
    """E q of one part of Y_l."""

    def value(layer: Fraction, *stack: Fraction) -> Fraction:
        found = part(_output(layer, stack), int(layer) - 1)
        return _moment(found, found)

    return value


def _total(part: Part) -> Callable[..., Fraction]:
    """E q of the sum over layers of one part of Y_l."""

    def value(*stack: Fraction) -> Fraction:
        each = [part(_output(Fraction(s + 1), stack), s) for s in range(int(stack[0]))]
        sums = {
            c: (sum((one[c][0] for one in each), Fraction(0)), sum((one[c][1] for one in each), Fraction(0)))
            for c in each[0]
        }
        return _moment(sums, sums)

    return value


def _between(one: Fraction, other: Fraction, *stack: Fraction) -> Fraction:
    """E⟨M_l, M_k⟩/d."""
    first, second = (_rest(_output(layer, stack), int(layer) - 1) for layer in (one, other))
    return _moment(first, second)


def _drawn_again(layer: Fraction, other: Fraction, *stack: Fraction) -> Fraction:
    """½ E q(Y_l − Y_l^(s)), over both draws of W_s."""
    values, s, found = _output(layer, stack), int(other) - 1, Fraction(0)
    for v in (1, 2):
        again = {c: values[(*c[:s], v, *c[s + 1 :])] for c in values}
        change = {c: (values[c][0] - again[c][0], values[c][1] - again[c][1]) for c in values}
        found += Fraction(v, 3) * _moment(change, change) / 2
    return found


m = evaluated("m", _between, shown=2)  # m(l, k) = E⟨M_l, M_k⟩/d
V = evaluated("V", _drawn_again, "nonnegative", shown=2)  # V(l, s) = ½ E q(Y_l − Y_l^(s)), W_s being drawn again
y = evaluated("y", _square(_all_of), "nonnegative", shown=1)  # E q(Y_l)
b = evaluated("b", _square(_average), "nonnegative", shown=1)  # E q(B_l)
noise = evaluated("Q_M", _total(_rest), "nonnegative", shown=1)(*STACK)  # E q(M_1 + … + M_L)
bias = evaluated("Q_B", _total(_average), "nonnegative", shown=1)(*STACK)  # E q(B_1 + … + B_L)
whole = evaluated("Q_Y", _total(_all_of), "nonnegative", shown=1)(*STACK)  # E q(Y_1 + … + Y_L)
