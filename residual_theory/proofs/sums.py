"""Finite sums of tables over ranges of symbolic length, brought to a form in which equal ones look equal."""

import itertools
from collections import defaultdict
from typing import Any

import sympy
from sympy import KroneckerDelta, Sum

from residual_theory.errors import DerivationError
from residual_theory.proofs.algebra import must_vanish
from residual_theory.proofs.tables import evaluated

Index = tuple[Any, Any, Any]  # a bound symbol with its first and last value
Monomial = tuple[tuple[Index, ...], tuple[Any, ...]]  # a product summed over indices

apart = evaluated("apart", lambda one, other: int(one != other), "nonnegative")  # 1 for two different indices, else 0
weight = evaluated("p", lambda place, count: 2 * place / (count * (count + 1)), "positive", shown=1)
# weight(a, A): any probability of value a among A. Proofs use that they add up to 1; at numbers they grow like a.


def reduced(expression: Any) -> Any:
    """The expression with every sum written in symbols, one for each sum that cannot be factored.

    Products and powers are expanded, sums of products of independent terms become products of sums, the order of
    summation and the names of indices are forgotten, and Σ_a weight(a, A) is 1. Equal polynomials in sums, and
    functions of such, then simplify to the same.

    >>> from residual_theory.proofs.tables import table
    >>> x, y = table("x"), table("y")
    >>> i, j, d = sympy.symbols("i j d", integer=True, positive=True)
    >>> square, lagrange = Sum(x(i), (i, 1, d)) ** 2, Sum((x(i) - x(j)) ** 2, (i, 1, d), (j, 1, d)) / 2
    >>> reduced(square + lagrange - d * Sum(x(i) ** 2, (i, 1, d)))
    0
    """
    return _walk(sympy.S(expression).replace(apart, lambda one, other: 1 - KroneckerDelta(one, other)))


def _walk(expression: Any) -> Any:
    if isinstance(expression, Sum):
        return sympy.Add(*(_valued(monomial) for monomial in _monomials(expression)))
    return expression.func(*map(_walk, expression.args)) if expression.has(Sum) else expression


def _monomials(expression: Any) -> list[Monomial]:
    """An expression as products, each summed over indices of its own."""
    masks: dict[Any, Any] = {}

    def mask(inner: Any) -> Any:
        if isinstance(inner, Sum):
            masks[inner] = masks.get(inner) or sympy.Dummy(real=True, nonnegative=inner.is_nonnegative)
            return masks[inner]
        return inner.func(*map(mask, inner.args)) if inner.has(Sum) else inner

    if isinstance(expression, Sum):
        if any(high - low == -1 for _, low, high in expression.limits):
            return []
        fresh = {index: sympy.Dummy(str(index), integer=True) for index, *_ in expression.limits}
        indices = tuple(
            (fresh[index], low.xreplace(fresh), high.xreplace(fresh)) for index, low, high in expression.limits
        )
        return [(indices + more, factors) for more, factors in _monomials(expression.function.xreplace(fresh))]
    found: list[Monomial] = []
    expanded = sympy.expand(mask(expression))
    inside = {symbol: inner for inner, symbol in masks.items()}
    for term in sympy.Add.make_args(expanded):
        products: list[Monomial] = [((), ())]
        for factor in sympy.Mul.make_args(term):
            base, power = factor.as_base_exp()
            if base in inside and power.is_Integer and power > 0:
                for _ in range(int(power)):
                    pairs = itertools.product(products, _monomials(inside[base]))
                    products = [(mine + its, left + right) for (mine, left), (its, right) in pairs]
            else:
                products = [(mine, (*left, factor.xreplace(inside))) for mine, left in products]
        found += products
    return found


def _valued(monomial: Monomial) -> Any:
    """The product of its connected parts, each a symbol."""
    indices, factors = _without_deltas(*monomial)
    factors = sympy.Mul.make_args(sympy.Mul(*factors))
    powers = [factor.as_base_exp() for factor in factors]
    if any(isinstance(base, Sum) and power.is_Integer and power > 0 for base, power in powers):
        again = _monomials(sympy.Mul(*factors))  # two roots of one sum have met
        return sympy.Add(*(_valued((indices + more, others)) for more, others in again))
    bound = {index for index, *_ in indices}
    if any(set(sympy.S(end).free_symbols) & bound for _, *ends in indices for end in ends):
        raise DerivationError("the range of an index depends on another index")
    value = sympy.Integer(1)
    free = [factor for factor in factors if not factor.free_symbols & bound]
    rest = [factor for factor in factors if factor.free_symbols & bound]
    for factor in free:
        value *= _walk(factor)
    remaining = list(indices)
    while remaining:
        part, held = {remaining[0][0]}, list[Any]()
        while more := [factor for factor in rest if factor.free_symbols & part]:
            rest = [factor for factor in rest if factor not in more]
            held += more
            part |= set().union(*(factor.free_symbols & bound for factor in more))
        value *= _part([index for index in remaining if index[0] in part], held)
        remaining = [index for index in remaining if index[0] not in part]
    return value


def _without_deltas(indices: tuple[Index, ...], factors: tuple[Any, ...]) -> Monomial:
    """Sums over an index that a Kronecker delta fixes are carried out."""
    for factor in factors:
        base, power = factor.as_base_exp()
        if isinstance(base, KroneckerDelta) and power.is_Integer and power > 0:
            others = list(factors)
            others.remove(factor)
            ranges = {index: ends for index, *ends in indices}
            one, other = base.args
            if one not in ranges or ranges.get(other) != ranges[one]:
                raise DerivationError("a Kronecker delta is about two indices of one range")
            kept = tuple(index for index in indices if index[0] != one)
            return _without_deltas(kept, tuple(rest.xreplace({one: other}) for rest in others))
    return indices, factors


_SYMBOLS: dict[tuple[Any, ...], Any] = {}


def _part(indices: list[Index], factors: list[Any]) -> Any:
    """A sum of a product whose factors hang together, by its form."""
    if not factors:
        ((_, low, high),) = indices
        return high - low + 1
    if len(factors) == 1 and isinstance(factors[0], weight):
        ((index, low, high),) = indices
        if (low, factors[0].args) == (1, (index, high)):
            return sympy.Integer(1)
    groups: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for index, low, high in indices:
        others = {other: sympy.Symbol("_") for other, *_ in indices if other != index}
        looks = sorted(str(_walk(factor.xreplace({index: sympy.Symbol("#"), **others}))) for factor in factors)
        groups[(str(low), str(high), *looks)].append(index)
    ordered = [members for _, members in sorted(groups.items())]
    ends = {index: sympy.Tuple(low, high) for index, low, high in indices}
    forms = []
    for order in itertools.product(*map(itertools.permutations, ordered)):
        names = {index: sympy.Symbol(f"#{place}") for place, index in enumerate(itertools.chain(*order))}
        forms.append(sorted((_walk(factor.xreplace(names)) for factor in factors), key=str))
    key = (*(ends[index] for index in itertools.chain(*ordered)), *min(forms, key=str))
    product = sympy.Mul(*factors)
    known = {"nonnegative": True} if product.is_nonnegative else {"real": product.is_real}
    return _SYMBOLS.setdefault(key, sympy.Symbol(f"S_{len(_SYMBOLS)}", **known))


def sums_must_agree(expression: Any, what: str) -> None:
    """Raise DerivationError, saying `what` was to hold, unless the reduced expression simplifies to 0."""
    must_vanish(reduced(expression), what)
