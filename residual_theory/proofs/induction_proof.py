"""Inductions over the visits of a looped stack, and bounds from the number of pairs of visits."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sympy
from sympy import KroneckerDelta, Mod, Sum, cos, pi

from residual_theory.errors import DerivationError
from residual_theory.proofs.algebra import must_vanish, nonnegative
from residual_theory.proofs.exact_recursion import Covariance, shared
from residual_theory.proofs.pair_recursion import PAIR, Recursion, c, own, r, recursion, s
from residual_theory.proofs.relu_angle import RIGHT, theta
from residual_theory.proofs.sign_proof import known_nonnegative
from residual_theory.proofs.steps import Proof, Step

# An earlier bound: of a kernel, also at other values of its symbols, or of a function with what this is at a pair
Fact = Step | tuple[Step, Any]
_layer, _m, _p = sympy.symbols("l m p", integer=True, nonnegative=True)
_i, _j, _b = sympy.symbols("i j b", integer=True, nonnegative=True)
_N, _L = sympy.symbols("N L", integer=True, positive=True)


def partners(count: Callable[[Any], Any] = lambda loops: loops, domain: Mapping[Any, Any] | None = None) -> Step:
    """How many of all N L visits use the layer of a given one; `count` is the claimed number.

    >>> partners().rhs
    N
    """

    def run(step: Step) -> None:
        block = step.lhs.function.subs(_j, _m * _L + _p)  # visit p of loop m; p < L
        must_vanish(Mod(_m * _L + _p, _L).subs(_L, _p + 1 + _b) - _p, "that visit p of a loop uses layer p")
        here = block.subs(Mod(_m * _L + _p, _L), _p).subs(Mod(_p, _L), _p).subs(Mod(_i, _L), _layer)
        once = Sum(KroneckerDelta(_layer, _p), (_p, 0, _L - 1)).doit().subs(_L, _layer + 1 + _b)  # layer < L
        deltas = (KroneckerDelta(_layer, _p), KroneckerDelta(_p, _layer))
        if here not in deltas or step.lhs.limits != ((_j, 0, _N * _L - 1),) or step.relation != "=":
            raise DerivationError("the sum does not run over the layers of all loops")
        must_vanish(step.rhs - once * _N, "that each loop uses the layer once")

    return Step(
        "Visits that share a layer",
        Sum(shared(_i, _j, _L), (_j, 0, _N * _L - 1)),
        count(_N),
        "Visit j uses layer j mod L, so each of the N loops comes once to the layer of visit i.",
        proof=Proof("loop by loop", run),
        domain=domain or {_N: (1, 4), _L: (1, 4), _i: (0, 9)},
    )


def _number_of_partners(share: Step) -> tuple[Any, Any]:
    """N L and the number of partners that `partners` gives each of these visits."""
    if not isinstance(share.lhs, Sum) or share.relation != "=":
        raise DerivationError(f"“{share.title}” does not count the partners of a visit")
    ((_, low, high),) = share.lhs.limits
    if low != 0 or share.lhs.function != shared(_i, _j, _L) or high != _N * _L - 1:
        raise DerivationError(f"“{share.title}” does not count the partners of a visit")
    return high + 1, share.rhs


def _known_at_a_pair(lemma: Step, step: Step, sign: Step | bool, known: tuple[Any, ...] = ()) -> None:
    """The hypotheses of a bound on a kernel hold at every pair: with a `sign`, correlations are nonnegative."""
    if sign is not True and sign is not False:
        rec = recursion(sign.lhs)
        if sign.relation != ">=" or not nonnegative(sign.rhs) or not _any_two(rec.ends):
            raise DerivationError(f"“{sign.title}” does not say that no correlation is negative")
        if rec.correlation is None or sign.lhs.func not in recursion(step.lhs).stands:
            raise DerivationError(f"“{sign.title}” is about another stream")
        if not _same_stack(sign, sign.lhs, step) or not set(sign.given) <= set(step.given):
            raise DerivationError(f"“{sign.title}” is about another stream, or needs another hypothesis")
    for given in lemma.given:
        always = given in (pi - theta, 1 - c, *known) or known_nonnegative(given, step)
        if not always and not (sign and given == RIGHT):
            raise DerivationError(f"“{lemma.title}” needs {given} ≥ 0 at every pair")
    if lemma.slack.has(c) and not sign:
        raise DerivationError(f"“{lemma.title}” needs correlations that are not negative")


def _kernel_slack(fact: Fact, step: Step, sign: Step | bool, known: tuple[Any, ...]) -> Any:
    """The slack of an earlier inequality about a kernel."""
    lemma, at = fact if isinstance(fact, tuple) else (fact, {})
    slack = lemma.slack.subs(at)
    if lemma.relation not in ("<=", ">=") or slack.has(own) or not set(PAIR) & slack.free_symbols:
        raise DerivationError(f"“{lemma.title}” is no inequality about a pair of visits")
    for symbol, value in at.items():
        if not value.is_nonnegative or (symbol.is_integer and not value.is_integer) or symbol.is_positive:
            raise DerivationError(f"uses “{lemma.title}” at {symbol} = {value}")
    given = tuple(one.subs(at) for one in lemma.given)
    _known_at_a_pair(replace(lemma, lhs=slack, rhs=sympy.S.Zero, given=given), step, sign, known)
    return slack


def _slack(fact: tuple[Step, Any], step: Step, rec: Recursion) -> Any:
    """The slack of an earlier inequality about a function, at a pair of visits, in the symbols of a pair."""
    lemma, place = fact
    if lemma.relation not in ("<=", ">="):
        raise DerivationError(f"“{lemma.title}” is not an inequality")
    function = _function_in(lemma.lhs)
    said, stands = recursion(function), rec.stands.get(function.func, ())
    if lemma.lhs != (said.correlation if place == c else function) or place not in (*stands, c) or not stands:
        raise DerivationError(f"“{lemma.title}” is not about {place}")
    if lemma.rhs.has(*said.ends) or not (_any_two(said.ends) or (place in (r**2, s**2) and said.ends[0].is_Symbol)):
        raise DerivationError(f"“{lemma.title}” is not one bound for all visits")
    if not _same_stack(lemma, function, step):
        raise DerivationError(f"“{lemma.title}” is about another stack")
    if any(not (_inside(given, said.ends) or known_nonnegative(given, step)) for given in lemma.given):
        raise DerivationError(f"“{lemma.title}” needs another hypothesis")
    return place - lemma.rhs if lemma.relation == ">=" else lemma.rhs - place


def _same_stack(lemma: Step, function: Any, step: Step) -> bool:
    """Whether a lemma's parameters are those of the step, or free symbols that its bound does not have."""
    others = set(function.args[2:]) - set(step.lhs.args)
    return all(other.is_Symbol and not lemma.rhs.has(other) for other in others)


def _function_in(expression: Any) -> Any:
    """The recursive function that an expression is about: that of two visits, if it occurs at two."""
    found = sorted(expression.atoms(sympy.Function), key=lambda e: len(set(e.args[:2])), reverse=True)
    found = [e for e in found if isinstance(e, Covariance) or hasattr(type(e), "recursion")]
    if not found:
        raise DerivationError(f"{expression} is about no recursion over visits")
    return found[0]


def _any_two(ends: tuple[Any, Any]) -> bool:
    """Whether these stand for any two visits."""
    return all(end.is_Symbol for end in ends) and ends[0] != ends[1]


def _inside(given: Any, ends: tuple[Any, Any]) -> bool:
    """Whether a hypothesis says that a visit is one of the N L of the stack."""
    return given in [_N * _L - end for end in ends]


def _at(fact: Fact) -> bool:
    """Whether a fact is a bound on a kernel at other values."""
    return isinstance(fact, tuple) and isinstance(fact[1], Mapping)


def _compare(step: Step, each: Any, certificate: Any, known: Mapping[Any, Fact], sign: Step | bool) -> None:
    """Every pair of visits brings at least, or at most, `each`: the certificate is the difference."""
    rec = recursion(step.lhs)
    if step.relation not in ("<=", ">=") or not nonnegative(certificate):
        raise DerivationError(f"not an inequality, or the certificate {certificate} is not visibly nonnegative")
    if certificate.has(own) and not any(isinstance(fact, tuple) and fact[1] == own for fact in known.values()):
        raise DerivationError("what the recursion found for the pair itself may be negative")
    about = {symbol: fact for symbol, fact in known.items() if isinstance(fact, tuple) and not _at(fact)}
    slacks = {symbol: _slack(fact, step, rec) for symbol, fact in about.items()}
    so_far = tuple(slacks.values())
    slacks |= {symbol: _kernel_slack(known[symbol], step, sign, so_far) for symbol in known.keys() - about.keys()}
    difference = (rec.summand - each) * (1 if step.relation == ">=" else -1)
    must_vanish(difference - certificate.subs(slacks), "that the certificate compares one pair of visits")


def _steps(known: Mapping[Any, Fact], *others: Any) -> tuple[Step, ...]:
    facts = (fact[0] if isinstance(fact, tuple) else fact for fact in known.values())
    return (*facts, *(step for step in others if isinstance(step, Step)))


def over_pairs(each: Any, share: Step, certificate: Any, known: Mapping[Any, Fact], sign: Step | bool = False) -> Proof:
    """Every one of the pairs of visits that share a layer brings at least (or at most) `each`; their number is known.

    Arguments:
      each: the claimed bound on the summand of one pair.  share: `partners`.
      certificate: the difference to the recursion's summand, in the symbols of a pair and those that are `known`.
      known: symbol → a bound on a kernel, (such a bound, {symbol: value}), or (a bound on a function, what this is at a
        pair of visits).
      sign: says that no correlation is negative, where bounds need that.
    Returns: a Proof; its `run` raises DerivationError when a pair is missing or a bound is about something else.
    """

    def run(step: Step) -> None:
        rec, (visits, each_visit) = recursion(step.lhs), _number_of_partners(share)
        early = step.relation == "<=" and nonnegative(each) and set(step.given) >= {visits - end for end in rec.ends}
        if rec.layers != _L or not (rec.ends == (visits, visits) or early):
            raise DerivationError("this is not about all visits of the stack")
        must_vanish(step.rhs - rec.start - visits * each_visit * each, "that every pair is counted")
        _compare(step, each, certificate, known, sign)

    return Proof("the number of pairs times the bound on one", run, _steps(known, share, sign))


def alone(value: Any) -> Proof:
    """One loop: no two visits share a layer, and each of V visits pairs with itself, where the summand is `value`."""

    def run(step: Step) -> None:
        rec = recursion(step.lhs)
        (visits, other), layers = rec.ends, rec.layers
        if step.relation != "=" or not visits == other == layers:
            raise DerivationError("this is not one loop of as many layers as visits")
        must_vanish(Mod(_i, _L).subs(_L, _i + 1 + _m) - _i, "that no two visits share a layer")
        if rec.summand.has(r, s, own):
            raise DerivationError("the summand depends on the stream")
        must_vanish(rec.summand.subs({c: 1, theta: 0}) - value, "the summand of a visit with itself")
        must_vanish(step.rhs - rec.start - visits * value, "that every visit is counted")

    return Proof("each visit pairs with itself alone", run)


def no_negative_term(floor: Step, sign: Step | bool = True) -> Proof:
    """S(a, b) ≥ 1 where S(a, b) = 1 + Σ terms: none is negative while no earlier S is, by the `floor` of the kernel.

    `sign` says that no correlation of the stream is negative; by default that is what the induction shows.
    """

    def run(step: Step) -> None:
        rec = recursion(step.lhs)
        if (step.relation, floor.relation) != (">=", ">=") or not nonnegative(floor.rhs):
            raise DerivationError("terms may be negative, or the inequality points the other way")
        if not _any_two(rec.ends) or (sign is True and rec.correlation is None):
            raise DerivationError("the induction needs a claim for every visit of the stream")
        _known_at_a_pair(floor, step, sign)
        factor = sympy.simplify(rec.summand / floor.lhs)
        if factor.has(theta, c) or not nonnegative(factor):
            raise DerivationError(f"“{floor.title}” is about another kernel, or terms may be negative")
        must_vanish(step.rhs - rec.start, "the value at the start")

    return Proof("induction over visits", run, (floor, *((sign,) if isinstance(sign, Step) else ())))


def only_grows(step_sign: Step, floor: Step) -> Proof:
    """S(a, b) ≤ S(NL, NL), as more pairs add nothing negative."""

    def run(step: Step) -> None:
        rec, last = recursion(step.lhs), recursion(step.rhs)
        if step.relation != "<=" or last.ends != (_N * _L, _N * _L) or step.rhs.func != step.lhs.func:
            raise DerivationError("the comparison is not with all visits of the stack")
        if step.lhs.args[2:] != step.rhs.args[2:] or not set(step.given) >= {_N * _L - end for end in rec.ends}:
            raise DerivationError("the comparison is with another stack, or needs a hypothesis")
        signed = Step("", step.lhs, rec.start, "", ">=", given=step.given)
        no_negative_term(floor, step_sign).run(signed)

    return Proof("more pairs, none negative", run, (step_sign, floor))


def _squares_of_sums(expression: Any) -> Any:
    """The square of a sum over visits written as a sum over pairs of visits."""

    def square(power: Any) -> Any:
        (index, low, high) = power.base.limits[0]
        second = sympy.Dummy("j", integer=True, nonnegative=True)
        term = power.base.function
        return Sum(term * term.subs(index, second), (second, low, high), (index, low, high))

    return expression.replace(lambda e: e.is_Pow and e.exp == 2 and isinstance(e.base, Sum), square)


def _one_sum(expression: Any, ends: tuple[Any, ...], function: Any) -> tuple[Any, Any, Any]:
    """f, S and the sum itself when `expression` is f(S) of one sum over all visits before those at which it `ends`."""
    outer = (e for e in sympy.preorder_traversal(expression) if isinstance(e, Sum))
    total = next(outer, None)
    if total is None or any((low, high + 1) not in [(0, end) for end in ends] for _, low, high in total.limits):
        raise DerivationError("needs a sum over all earlier visits")
    S = sympy.Dummy("S", real=True, nonnegative=True if nonnegative(total.function) else None)
    form = expression.xreplace({total: S})
    if form.has(Sum, function):
        raise DerivationError("needs one sum and nothing else")
    return form, S, total


def pair_by_pair(certificate: Any, known: Mapping[Any, Fact], sign: Step | bool = False) -> Proof:
    """S(a, b) against 1 + ΣΣ over earlier visits: by the recursion it is enough to compare one pair of visits.

    For two visits to one layer the recursion's summand differs from that of the step by `certificate`, visibly
    nonnegative in the symbols of a pair and in the slacks of what is `known`, as for `over_pairs`.
    """

    def run(step: Step) -> None:
        rec, function, rest = recursion(step.lhs), step.lhs.func, step.lhs.args[2:]
        (a, b), summand = rec.ends, sympy.Integer(0)
        if step.rhs != rec.start:
            form, S, total = _one_sum(_squares_of_sums(step.rhs), (a, b), function)
            (j, _, last), (i, _, first) = total.limits
            if (first + 1, last + 1) != (a, b):
                raise DerivationError("the sums run over other visits than those of the recursion")
            alone, stream = (i, j), rec.correlation is not None
            stands = {(i, i): r**2, (j, j): s**2} | {alone: r * s * cos(theta) if stream else own}
            values = {function(*pair, *rest): value for pair, value in stands.items() if stream or pair == alone}
            summand = form.subs(S, total.function.xreplace(values)) - rec.start
            must_vanish(form.subs(S, 0) - rec.start, "the case of no visit")
            must_vanish(sympy.diff(form, S, 2), "that the sums enter linearly")
            weight = shared(i, j, rec.layers)
            if weight != 1:
                must_vanish(summand.subs(weight, 0), "that visits to different layers do not count")
                summand = summand.subs(weight, 1)
        _compare(step, summand, certificate, known, sign)

    return Proof("the recursion, pair of visits by pair", run, _steps(known, sign))


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
        form, S, total = _one_sum(bound.rhs, bound.lhs.args[:2], bound.lhs.func)
        free, bounds = {}, {}
        for term in total.function.atoms(bound.lhs.func):
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
