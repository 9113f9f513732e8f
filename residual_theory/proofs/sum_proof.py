"""Identities and inequalities between finite sums: certificates in which earlier steps stand under a sum."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import sympy
from sympy import Sum

from residual_theory.errors import DerivationError
from residual_theory.proofs.algebra import nonnegative
from residual_theory.proofs.steps import Proof, Step
from residual_theory.proofs.sums import reduced, sums_must_agree
from residual_theory.proofs.tables import Smallest
from residual_theory.proofs.ways import ASSUMPTIONS

# An earlier step, or one about any table or number, at those given: (step, {table: function of indices, symbol: value})
Use = Step | tuple[Step, Mapping[Any, Any]]
Ranges = Mapping[Any, tuple[Any, Any]]


def family(name: str) -> Any:
    """A function of indices for `by_sums`, each value of which is nonnegative.

    >>> family("g")(sympy.Symbol("n")).is_nonnegative
    True
    """
    return sympy.Function(name, nonnegative=True)


def _fresh(expression: Any) -> Any:
    """The expression with new names for bound indices, so that nothing put into it is bound by accident."""
    if isinstance(expression, (Sum, Smallest)):
        names = {index: sympy.Dummy(str(index), **index.assumptions0) for index, *_ in expression.limits}
        limits = [(names[index], low.xreplace(names), high.xreplace(names)) for index, low, high in expression.limits]
        return expression.func(_fresh(expression.function).xreplace(names), *limits)
    return expression.func(*map(_fresh, expression.args)) if expression.has(Sum, Smallest) else expression


def _put(expression: Any, at: Mapping[Any, Any], title: str) -> Any:
    """An expression about any tables and numbers, at those given."""
    expression = _fresh(sympy.S(expression))
    tables = {target: sympy.Function(f"at_{target.__name__}") for target in at if isinstance(target, type)}
    for target, marked in tables.items():  # first marked, so that what is put in stays as it is
        expression = expression.replace(target, marked)
    numbers = {target: sympy.S(value) for target, value in at.items() if target not in tables}
    for target, value in numbers.items():
        for name in ASSUMPTIONS:
            if getattr(target, f"is_{name}") and not getattr(value, f"is_{name}"):
                raise DerivationError(f"uses “{title}” at {target} = {value}, which is not known to be {name}")
    expression = expression.xreplace(numbers)
    for target, marked in tables.items():

        def of(*places: Any, target: Any = target) -> Any:
            found, any_place = sympy.S(at[target](*places)), target(*map(sympy.Dummy, map(str, places)))
            if (any_place.is_nonnegative and not nonnegative(found)) or not found.is_real:
                raise DerivationError(f"uses “{title}” for {found}, whose sign is not known to be right")
            return _fresh(found)

        expression = expression.replace(marked, of)
    return expression


def _split(use: Use) -> tuple[Step, Mapping[Any, Any]]:
    return (use, {}) if isinstance(use, Step) else use


def _difference(step: Step) -> Any:
    return step.lhs - step.rhs if step.relation == "=" else step.slack


def _ranges(expression: Any, function: Any, inside: Ranges) -> Iterator[tuple[tuple[Any, ...], Ranges]]:
    """The arguments at which a family stands, with the ranges of the indices that are bound there."""
    if isinstance(expression, Sum):
        inside = {**inside, **{index: (low, high) for index, low, high in expression.limits}}
    if expression.func == function:
        yield expression.args, inside
    for part in expression.args:
        yield from _ranges(part, function, inside)


def _same(given: Any, other: Any) -> bool:
    """Whether two hypotheses say the same."""
    if isinstance(given, Smallest) and isinstance(other, Smallest) and len(given.limits) == len(other.limits):
        names = {mine: its for (mine, *_), (its, *_) in zip(given.limits, other.limits, strict=True)}
        ends = [tuple(limit[1:]) for limit in given.limits] == [tuple(limit[1:]) for limit in other.limits]
        return ends and reduced(given.function.xreplace(names) - other.function) == 0
    return bool(given == other or reduced(given - other) == 0)


def _holds(given: Any, user: Step, inside: Ranges) -> bool:
    """Whether a hypothesis is one of the user's, visible, or says that an index is in its range."""
    if nonnegative(given) or any(_same(given, other) for other in user.given):
        return True
    if any(given in (index - low, high - index) for index, (low, high) in inside.items()):
        return True
    families = (other for other in user.given if isinstance(other, Smallest))
    return any(_is_member(given, other, inside) for other in families)


def _is_member(given: Any, family: Smallest, inside: Ranges) -> bool:
    """Whether a hypothesis is that about one member of a family, at indices that run over the family's ranges."""
    for order in itertools.permutations(inside, len(family.limits)):
        names = {index: mine for (index, *_), mine in zip(family.limits, order, strict=True)}
        alike = all(inside[names[index]] == (low, high) for index, low, high in family.limits)
        if alike and reduced(given - family.function.xreplace(names)) == 0:
            return True
    return False


def _hypotheses_hold(use: Use, here: Mapping[Any, Any], user: Step, inside: Ranges) -> None:
    """What an earlier step needs, at the indices `here`, is known to the user."""
    used, at = _split(use)
    for given in used.given:
        needed = (_put(given, at, used.title) if at else given).xreplace(dict(here))
        if not _holds(needed, user, inside):
            raise DerivationError(f"uses “{used.title}”, which needs {needed} ≥ 0")


def _member(hypothesis: Any, indices: tuple[Any, ...], user: Step) -> tuple[Any, ...]:
    """The limits of the user's hypothesis Smallest(hypothesis, …) ≥ 0."""
    for given in user.given:
        if isinstance(given, Smallest) and given.function == hypothesis:
            limits = {index: (low, high) for index, low, high in given.limits}
            if set(limits) == set(indices):
                return tuple(limits[index] for index in indices)
    raise DerivationError(f"{hypothesis} ≥ 0 for all {indices} is no hypothesis of the step")


def _filled(certificate: Any, function: Any, fact: tuple[Any, tuple[Any, ...]], user: Step) -> Any:
    """The certificate with a family written out: an earlier step, or a hypothesis about all members, at each index."""
    what, indices = fact
    about = isinstance(what, (Step, tuple))
    step, at = _split(what) if about else (None, {})
    value = _put(_difference(step), at, step.title) if step is not None else _fresh(what)
    limits = () if step is not None else _member(what, indices, user)
    for places, inside in _ranges(certificate, function, {}):
        here = dict(zip(indices, places, strict=True))
        if step is None and tuple(inside.get(place) for place in places) != limits:
            raise DerivationError(f"{what} ≥ 0 is known for other indices only")
        if step is not None:
            _hypotheses_hold((step, at), here, user, inside)
    return certificate.replace(function, lambda *places: value.xreplace(dict(zip(indices, places, strict=True))))


def _steps(known: Mapping[Any, Any]) -> tuple[Step, ...]:
    found = []
    for key, value in known.items():
        use = value[0] if _is_family(key) else value
        if isinstance(use, (Step, tuple)):
            found.append(_split(use)[0])
    return tuple(found)


def _is_family(key: Any) -> bool:
    return isinstance(key, sympy.core.function.UndefinedFunction)


def _checked(
    certificate: Any,
    known: Mapping[Any, Any],
    step: Step,
    difference: Any,
    through: tuple[tuple[Use, Any], ...] = (),
) -> None:
    """The certificate is the difference, and what is left of it without earlier identities has the sign needed."""
    certificate = _fresh(sympy.S(certificate))
    plain, values = certificate, dict[Any, Any]()
    for key, value in known.items():
        use = value[0] if _is_family(key) else value
        if isinstance(use, (Step, tuple)) and _split(use)[0].relation == "=":
            identity, nothing = _split(use)[0], sympy.Integer(0)
            if reduced(identity.lhs - identity.rhs) == 0:
                raise DerivationError(f"“{identity.title}” holds for any tables, and nothing follows from it")
            plain = (
                plain.replace(key, lambda *_: sympy.Integer(0)) if _is_family(key) else plain.xreplace({key: nothing})
            )
    if step.relation == "=" and sympy.expand(plain.doit()) != 0:
        raise DerivationError("an identity follows from identities alone")
    if step.relation != "=" and not nonnegative(plain):
        raise DerivationError(f"the certificate {plain} is not visibly nonnegative")
    for key, value in known.items():
        if _is_family(key):
            certificate = _filled(certificate, key, value, step)
        elif isinstance(value, (Step, tuple)):
            used, at = _split(value)
            _hypotheses_hold(value, {}, step, {})
            values[key] = _put(_difference(used), at, used.title)
        else:
            if not _holds(value, step, {}):
                raise DerivationError(f"the certificate needs {value} ≥ 0, which is not known")
            values[key] = _fresh(sympy.S(value))
    left = _written_out(difference - certificate.xreplace(values), through)
    sums_must_agree(left, "that the certificate is the difference of the two sides")


def _written_out(expression: Any, through: tuple[tuple[Use, Any], ...]) -> Any:
    """The expression with the left side of each identity, at any index, replaced by its right side."""
    for use, index in through:
        identity, at = _split(use)
        left, right = (_put(side, at, identity.title) for side in (identity.lhs, identity.rhs))
        if identity.relation != "=" or index not in left.args or identity.given:
            raise DerivationError(f"uses “{identity.title}” as an identity for every {index}")
        expression = _fresh(expression)
        if not any(type(one) is type(left) for one in sympy.preorder_traversal(expression)):
            raise DerivationError(f"uses “{identity.title}”, which is about something else")

        def of(
            *places: Any, left: Any = left, right: Any = right, index: Any = index, title: str = identity.title
        ) -> Any:
            here = {mine: place for mine, place in zip(left.args, places, strict=True) if mine != place}
            return _put(right, here, title) if set(here) <= {index} else left.func(*places)

        expression = expression.replace(left.func, of)
    return expression


def by_sums(
    certificate: Any = 0, known: Mapping[Any, Any] | None = None, through: tuple[tuple[Use, Any], ...] = ()
) -> Proof:
    """Both sides agree as polynomials in sums (`reduced`), or differ by what is visibly nonnegative.

    The certificate is larger − smaller, in symbols and families that are `known`: a symbol stands for the slack of
    an earlier step, possibly at other tables and numbers, or for a hypothesis. A `family` g stands under sums;
    known[g] = (what, indices) says what g is at indices: the slack of such a step, or a hypothesis about all members
    (`Smallest` among the step's hypotheses). Earlier identities have the slack left − right, of no sign; those that
    the comparison goes `through`, as (step, index), are first put in for their left sides, at every index.

    >>> from residual_theory.proofs.tables import table
    >>> x, (i, j, d) = table("x"), sympy.symbols("i j d", integer=True, positive=True)
    >>> apart = Sum((x(i) - x(j)) ** 2, (i, 1, d), (j, 1, d)) / 2
    >>> step = Step("Means", Sum(x(i), (i, 1, d)) ** 2, d * Sum(x(i) ** 2, (i, 1, d)), "", "<=", by_sums(apart))
    >>> step.proof.run(step)
    """
    known = known or {}

    def run(step: Step) -> None:
        _checked(certificate, known, step, _difference(step), through)

    uses = (*_steps(known), *(_split(use)[0] for use, _ in through))
    return Proof("sums brought to one form" + " with a certificate" * bool(certificate), run, uses)


def by_squares(certificate: Any, known: Mapping[Any, Any] | None = None) -> Proof:
    """An inequality whose larger side is visibly nonnegative: `certificate`, as for `by_sums`, is the difference of
    the squares."""
    known = known or {}

    def run(step: Step) -> None:
        larger, smaller = (step.rhs, step.lhs) if step.relation == "<=" else (step.lhs, step.rhs)
        if step.relation == "=" or not nonnegative(larger):
            raise DerivationError("the larger side is not visibly nonnegative")
        _checked(certificate, known, step, larger**2 - smaller**2)

    return Proof("the difference of the squares, with a certificate", run, _steps(known))


def written_as(meanings: Mapping[Any, Callable[..., Any]], proof: Proof) -> Proof:
    """A step about functions that are defined as sums: the `proof` is of what it says once they are written out.

    Arguments:
      meanings: function → its definition, of as many of its arguments as the definition takes.

    >>> from residual_theory.proofs.tables import evaluated, table
    >>> x, (i, d) = table("x"), sympy.symbols("i d", integer=True, positive=True)
    >>> size = evaluated("q", lambda d: 0)
    >>> step = Step("Not negative", size(d), sympy.Integer(0), "", ">=")
    >>> written_as({size: lambda d: Sum(x(i) ** 2, (i, 1, d))}, by_sums(Sum(x(i) ** 2, (i, 1, d)))).run(step)
    """

    def run(step: Step) -> None:
        sides = [step.lhs, step.rhs, *step.given]
        for function, meaning in meanings.items():
            count = meaning.__code__.co_argcount

            def of(*places: Any, meaning: Callable[..., Any] = meaning, count: int = count) -> Any:
                return _fresh(sympy.S(meaning(*places[:count])))

            sides = [_fresh(sympy.S(side)).replace(function, of) for side in sides]
        proof.run(replace(step, lhs=sides[0], rhs=sides[1], given=tuple(sides[2:])))

    return Proof(f"definitions written out, and {proof.how}", run, proof.uses)


def unrolled(
    following: Callable[[Callable[[Any], Any]], Any],
    place: Any,
    index: Any,
    rewrite: Callable[[Any], Any] = lambda grown: grown,
) -> Proof:
    """A sequence of vectors in closed form from index 0 on, by induction.

    Arguments:
      following: the entry at `place` one index later, of the vector before as a function of its place.
      place, index: the symbols that stand for both on the left of the step.
      rewrite: what other sequences of the closed form are at index + 1.

    >>> from residual_theory.proofs.tables import evaluated
    >>> n, i = sympy.symbols("n i", integer=True, nonnegative=True)
    >>> h = evaluated("h", lambda n, i: i + 2 * n)
    >>> step = Step("Steps of two", h(n, i), h(0, i) + 2 * n, "", proof=unrolled(lambda old: old(i) + 2, i, n))
    >>> step.proof.run(step)
    """

    def peel(function: Any, *limits: Any) -> Any:
        for spot, (bound, low, high) in enumerate(limits):
            if high.has(index):
                others = [limit for k, limit in enumerate(limits) if k != spot]
                last = function.subs(bound, high)
                return Sum(function, (bound, low, high - 1), *others) + (Sum(last, *others) if others else last)
        return Sum(function, *limits)

    def run(step: Step) -> None:
        if step.relation != "=" or index not in step.lhs.args or place not in step.lhs.args:
            raise DerivationError("this is not the sequence at any index and place")
        sums_must_agree(step.lhs.subs(index, 0) - step.rhs.subs(index, 0), f"the case {index} = 0")
        grown = rewrite(_fresh(step.rhs.subs(index, index + 1)).replace(Sum, peel))
        after = following(lambda other: _put(step.rhs, {place: other}, step.title))
        sums_must_agree(after - grown, f"the step from {index} to {index} + 1")

    return Proof(f"induction on {index}", run)
