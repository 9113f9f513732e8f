"""Inductions over the visits of a looped stack, and bounds from the number of pairs of visits."""

from collections.abc import Mapping
from typing import Any

import sympy
from sympy import KroneckerDelta, Sum, cos, pi

from residual_theory.errors import DerivationError
from residual_theory.proofs.algebra import must_vanish, nonnegative
from residual_theory.proofs.exact_recursion import Covariance, shared
from residual_theory.proofs.relu_angle import KAPPA, theta
from residual_theory.proofs.sign_proof import known_nonnegative
from residual_theory.proofs.steps import Proof, Relation, Step

r, s = sympy.symbols("r s", nonnegative=True)  # root mean squares of the stream at two visits
_i, _j = sympy.symbols("i j", integer=True)


def over_pairs(
    relation: Relation, each: Any, loops: Any, layers: Any, *uses: Step, start: Any = 1, also: tuple[Step, ...] = ()
) -> Proof:
    """`start` and, for each of the loops² layers pairs of visits that share a layer, at least (or at most) `each`.

    Arguments:
      relation: of the step and of all steps it `uses`; "=" for an exact count.
      also: inequalities of either sense that the bound on one pair rests on.
    Returns: a Proof; its `run` raises DerivationError when a pair is missing or a step points another way.
    """

    def run(step: Step) -> None:
        count = Sum(Sum(1, (_j, 1, loops)), (_i, 1, loops * layers)).doit()  # a visit has one partner a loop
        must_vanish(step.rhs - start - count * each, "that every pair is counted")
        if {step.relation, *(use.relation for use in uses)} != {relation}:
            raise DerivationError("the steps point in different ways")
        if any(use.relation not in ("<=", ">=") for use in also):
            raise DerivationError("the bound on one pair rests on something else than inequalities")

    return Proof("the number of pairs times the bound on one", run, (*uses, *also))


def no_negative_term(function: Any, floor: Step) -> Proof:
    """K(a, b) ≥ 1 where K(a, b) = 1 + Σ terms: none is negative while no earlier K is, by the `floor` of the kernel."""

    def run(step: Step) -> None:
        if step.lhs.func != function or (step.relation, floor.relation) != (">=", ">=") or not nonnegative(floor.rhs):
            raise DerivationError("terms may be negative, or the inequality points the other way")
        must_vanish(step.rhs - 1, "the value at the start")

    return Proof("induction over visits", run, (floor,))


def _squares_of_sums(expression: Any) -> Any:
    """The square of a sum over visits written as a sum over pairs of visits."""

    def square(power: Any) -> Any:
        (index, low, high) = power.base.limits[0]
        second = sympy.Dummy("j", integer=True, nonnegative=True)
        term = power.base.function
        return Sum(term * term.subs(index, second), (second, low, high), (index, low, high))

    return expression.replace(lambda e: e.is_Pow and e.exp == 2 and isinstance(e.base, Sum), square)


def _one_sum(expression: Any, ends: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """f, S and the sum itself when `expression` is f(S) of one sum over all visits before those at which it `ends`."""
    outer = (e for e in sympy.preorder_traversal(expression) if isinstance(e, Sum))
    total = next(outer, None)
    if total is None or any((low, high + 1) not in [(0, end) for end in ends] for _, low, high in total.limits):
        raise DerivationError("needs a sum over all earlier visits")
    S = sympy.Dummy("S", real=True, nonnegative=True if nonnegative(total.function) else None)
    form = expression.xreplace({total: S})
    if form.has(Sum, Covariance):
        raise DerivationError("needs one sum and nothing else")
    return form, S, total


def pair_by_pair(certificate: Any, known: Mapping[Any, Step]) -> Proof:
    """K(a, b)/q0 against 1 + ΣΣ over earlier visits: by the recursion it is enough to compare one pair of visits.

    For two visits to one layer, with root mean squares r, s and at angle θ, the recursion's 2x² r s κ(θ) differs from
    the summand by `certificate`, visibly nonnegative in x, r, s and in the slacks of earlier inequalities about θ.
    """

    def run(step: Step) -> None:
        a, b, layers, x = step.lhs.args
        if step.relation not in ("<=", ">=") or not nonnegative(certificate):
            raise DerivationError(f"not an inequality, or the certificate {certificate} is not visibly nonnegative")
        summand = sympy.Integer(0)
        if step.rhs != 1:
            form, S, total = _one_sum(_squares_of_sums(step.rhs), (a, b))
            (j, _, last), (i, _, first) = total.limits
            if (first + 1, last + 1) != (a, b):
                raise DerivationError("the sums run over other visits than those of the recursion")
            stands = {(i, j): r * s * cos(theta), (i, i): r**2, (j, j): s**2}
            values = {Covariance(*pair, layers, x): value for pair, value in stands.items()}
            summand = form.subs(S, total.function.xreplace(values)) - 1
            must_vanish(form.subs(S, 0) - 1, "the case of no visit")
            must_vanish(sympy.diff(form, S, 2), "that the sums enter linearly")
            weight = shared(i, j, layers)
            if weight != 1:
                must_vanish(summand.subs(weight, 0), "that visits to different layers do not count")
                summand = summand.subs(weight, 1)
        slacks = {symbol: bound.slack for symbol, bound in known.items()}
        for bound in known.values():
            if bound.given != (pi - theta,) or bound.relation not in ("<=", ">="):
                raise DerivationError(f"“{bound.title}” is not an inequality for every angle")
        difference = (2 * x**2 * r * s * KAPPA - summand) * (1 if step.relation == ">=" else -1)
        must_vanish(difference - certificate.subs(slacks), "that the certificate compares one pair of visits")

    return Proof("the recursion, pair of visits by pair", run, tuple(known.values()))


def over_earlier_visits(bound: Step, closed: Step | None = None, by: Step | None = None) -> Proof:
    """Induction over the visits: K ≤ f(Σ earlier K), f increasing, and f(Σ earlier g) ≤ g give K ≤ g. Likewise for ≥.

    With `by`, an earlier step K ≤ g, no hypothesis is needed, and K ≤ f(Σ earlier g) itself may be the claim.

    Arguments:
      bound: K ≤ f(Σ …), a sum over all earlier visits.  closed: g = f(Σ earlier g), or the inequality that helps.
    """

    def run(step: Step) -> None:
        if step.lhs != bound.lhs or step.relation != bound.relation:
            raise DerivationError(f"is not about what “{bound.title}” bounds, or points the other way")
        if any(not known_nonnegative(given, step) for used in uses for given in used.given):
            raise DerivationError("a hypothesis of an earlier step is missing")
        if not all(end.is_Symbol for end in step.lhs.args[:2]):
            raise DerivationError("the induction needs a claim for every visit")
        if any(not nonnegative(-sympy.diff(given, end)) for given in step.given for end in step.lhs.args[:2]):
            raise DerivationError("a hypothesis may fail at an earlier visit")
        target = replace(bound, by or step)
        if closed is not None:
            if closed.relation not in ("=", {"<=": ">=", ">=": "<="}[step.relation]):
                raise DerivationError(f"“{closed.title}” points the other way")
            must_vanish(closed.rhs - target, f"that “{closed.title}” is about the same sum")
            target = closed.lhs
        must_vanish(step.rhs - target, "the claimed bound")

    def replace(bound: Step, profile: Step) -> Any:
        """The bound with every earlier K replaced by its own bound, which must move it the same way."""
        form, S, total = _one_sum(bound.rhs, bound.lhs.args[:2])
        free, bounds = {}, {}
        for term in total.function.atoms(Covariance):
            at = dict(zip(profile.lhs.args[:2], term.args[:2], strict=True))
            bounds[term] = profile.rhs.subs(at, simultaneous=True)
            free[term] = sympy.Dummy(real=True, positive=True if term.args[0] == term.args[1] else None)
            if profile.lhs.subs(at, simultaneous=True) != term or not nonnegative(bounds[term]):
                raise DerivationError(f"“{profile.title}” is about something else, or may be negative")
        if profile.relation != bound.relation:
            raise DerivationError(f"“{profile.title}” points the other way")
        deltas = {delta: sympy.Dummy(nonnegative=True) for delta in total.function.atoms(KroneckerDelta)}
        summand = total.function.xreplace(free | deltas)
        if not all(map(nonnegative, (sympy.diff(form, S), *(sympy.diff(summand, x) for x in free.values())))):
            raise DerivationError("the bound is not visibly increasing in what went before")
        function = total.function.xreplace(bounds)
        if S.is_nonnegative and not nonnegative(function):
            raise DerivationError("the sum of the bounds may be negative")
        return form.subs(S, Sum(function, *total.limits))

    uses = tuple(step for step in (bound, closed, by) if step is not None)
    return Proof("the earlier bound in every summand" if by else "induction over the visits", run, uses)
