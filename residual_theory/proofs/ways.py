"""The ways to prove a step of a derivation beside plain simplification.

Where a proof leans on steps proved before, it takes them as a `Step`, or as (step, {symbol: value}) for an instance;
`check` makes sure that they stand earlier, and an instance must keep the assumptions of the symbols it replaces.
"""

from collections.abc import Mapping
from typing import Any

import sympy

from residual_theory.errors import DerivationError
from residual_theory.proofs.algebra import left_over, must_vanish, nonnegative
from residual_theory.proofs.steps import Proof, Step

Use = Step | tuple[Step, Mapping[Any, Any]]
ASSUMPTIONS = ("integer", "real", "nonnegative", "positive")


def _step(use: Use) -> Step:
    return use if isinstance(use, Step) else use[0]


def _instance(use: Use, user: Step, also: tuple[Any, ...] = ()) -> tuple[Any, Any]:
    """Both sides of an earlier step at the values given, once its hypotheses are known to hold."""
    step, at = (use, {}) if isinstance(use, Step) else use
    for given in (hypothesis.subs(at) for hypothesis in step.given):
        if given not in (*user.given, *also) and not nonnegative(given):
            raise DerivationError(f"uses “{step.title}”, which needs {given} ≥ 0")
    for symbol, value in at.items():
        for name in ASSUMPTIONS:
            if getattr(symbol, f"is_{name}") and not getattr(sympy.S(value), f"is_{name}"):
                raise DerivationError(f"uses “{step.title}” at {symbol} = {value}, which is not known to be {name}")
    return step.lhs.subs(at), step.rhs.subs(at)


def _order(use: Use, user: Step) -> tuple[Any, Any]:
    """The smaller and the larger side of an inequality."""
    lhs, rhs = _instance(use, user)
    relation = _step(use).relation
    if relation not in ("<=", ">="):
        raise DerivationError(f"uses “{_step(use).title}” as an inequality")
    return (lhs, rhs) if relation == "<=" else (rhs, lhs)


def _uses(*values: Any) -> tuple[Step, ...]:
    return tuple(_step(v) for v in values if isinstance(v, (Step, tuple)))


def _positivity(step: Step, known: Mapping[Any, Any], own: tuple[Any, ...] = ()) -> dict[Any, Any]:
    """The expressions that the symbols of a certificate stand for, each shown to be nonnegative."""
    values: dict[Any, Any] = {}
    for symbol, value in known.items():
        if isinstance(value, (Step, tuple)):
            small, large = _order(value, step)
            values[symbol] = large - small
            continue
        values[symbol] = value
        if symbol not in own and value not in step.given and not nonnegative(value):
            raise DerivationError(f"the certificate needs {value} ≥ 0, which is not known")
    return values


def substitution(*uses: Use) -> Proof:
    """Replace the left side of each earlier identity by its right side; lhs − rhs then simplifies to 0."""

    def run(step: Step) -> None:
        difference = step.lhs - step.rhs
        for use in uses:
            if _step(use).relation not in ("=", ":="):
                raise DerivationError(f"uses “{_step(use).title}” as an identity")
            difference = difference.subs(*_instance(use, step))
        must_vanish(difference, "that both sides agree after substitution")

    return Proof("substitution of earlier steps", run, _uses(*uses))


def certificate(expression: Any, known: Mapping[Any, Any] | None = None, *, logarithm: bool = False) -> Proof:
    """An inequality: larger − smaller equals `expression`, in which every part is visibly nonnegative.

    `known` says what symbols of the certificate stand for: the slack of an earlier inequality, one of the step's
    hypotheses, or an expression that is itself visibly nonnegative. With `logarithm` the logarithms of the two
    (positive) sides are compared.
    """
    known = known or {}

    def run(step: Step) -> None:
        values = _positivity(step, known)
        if not nonnegative(expression):
            raise DerivationError(f"the certificate {expression} is not visibly nonnegative")
        slack = step.slack
        if logarithm:
            if not (step.lhs.is_positive and step.rhs.is_positive):
                raise DerivationError("cannot take logarithms: a side is not known to be positive")
            slack = sympy.log(step.rhs) - sympy.log(step.lhs)
            slack = sympy.expand_log(slack if step.relation == "<=" else -slack, force=True)
        must_vanish(slack - expression.subs(values), "that the certificate is the difference of the two sides")

    return Proof("certificate of positivity" + " of the logarithm" * logarithm, run, _uses(*known.values()))


def taylor(variable: Any, order: int) -> Proof:
    """An inequality for variable ≥ 0: larger − smaller has nonnegative derivatives at 0 below `order`, and its
    derivative of that order is nonnegative throughout."""

    def run(step: Step) -> None:
        if not variable.is_nonnegative:
            raise DerivationError(f"{variable} may be negative")
        derivative = step.slack
        for _ in range(order):
            if not nonnegative(sympy.simplify(derivative.subs(variable, 0))):
                raise DerivationError(f"the derivative {derivative} is negative at 0")
            derivative = sympy.factor(sympy.simplify(sympy.diff(derivative, variable)))
        if not nonnegative(derivative):
            raise DerivationError(f"the derivative {derivative} is not visibly nonnegative")

    return Proof(f"derivatives at 0 and the sign of derivative {order}", run)


def _next(expression: Any, variable: Any) -> Any:
    """`expression` at variable + 1, with the last term of each sum split off."""
    following = expression.subs(variable, variable + 1)

    def peel(total: Any) -> Any:
        *inner, (index, low, high) = total.limits
        if not (isinstance(high, sympy.Expr) and high.has(variable)):
            return total
        body = sympy.Sum(total.function, *inner) if inner else total.function
        return sympy.Sum(body, (index, low, high - 1)) + body.subs(index, high)

    return following.replace(lambda e: isinstance(e, sympy.Sum), peel)


def induction(
    *variables: Any,
    start: int = 0,
    hypothesis: Any = None,
    certificate: Any = None,
    known: Mapping[Any, Any] | None = None,
) -> Proof:
    """Induction on the first variable; what its step leaves is proved by induction on the second, and so on.

    An identity holds at `start`, and both sides grow alike. An inequality holds at `start`, and at variable + 1 its
    slack equals `certificate`, a visibly nonnegative expression in `hypothesis` (the slack at variable) and in what
    is `known`, as for `certificate`.
    """
    known = known or {}

    def grows_alike(difference: Any, left: tuple[Any, ...]) -> None:
        variable = left[0]
        must_vanish(difference.subs(variable, start).doit(), f"the case {variable} = {start}")
        growth = sympy.expand(_next(difference, variable) - difference)
        if len(left) > 1:
            grows_alike(growth, left[1:])
        else:
            must_vanish(growth, f"the step from {variable} to {variable} + 1")

    def run(step: Step) -> None:
        if step.relation == "=":
            grows_alike(step.lhs - step.rhs, variables)
            return
        (variable,) = variables
        if not nonnegative(left_over(step.slack.subs(variable, start).doit())):
            raise DerivationError(f"SymPy cannot show the case {variable} = {start}")
        values = _positivity(step, {**known, hypothesis: step.slack}, own=(hypothesis,))
        if not nonnegative(certificate):
            raise DerivationError(f"the certificate {certificate} is not visibly nonnegative")
        reached = _next(step.slack, variable)
        must_vanish(reached - certificate.subs(values), f"the step from {variable} to {variable} + 1")

    names = " and ".join(str(variable) for variable in variables)
    return Proof(
        f"induction on {names}" + " with a certificate" * (certificate is not None), run, _uses(*known.values())
    )


def ratio(variable: Any) -> Proof:
    """Two sequences of factors agree at 0, and so do their ratios of consecutive terms."""

    def run(step: Step) -> None:
        must_vanish((step.lhs - step.rhs).subs(variable, 0), f"the case {variable} = 0")
        ratios = [sympy.combsimp(side.subs(variable, variable + 1) / side) for side in (step.lhs, step.rhs)]
        must_vanish(ratios[0] - ratios[1], "that consecutive terms have the same ratio")

    return Proof(f"equal ratios of consecutive terms in {variable}", run)


def termwise(use: Use, factor: Any) -> Proof:
    """An inequality between Σ_{k≤n} and Σ_{k<∞}: summand by summand the earlier step times a nonnegative factor;
    the terms beyond n have the sign that helps."""

    def run(step: Step) -> None:
        (index, low, last), (other, low_other, end) = step.lhs.limits[0], step.rhs.limits[0]
        if (index, low, end) != (other, low_other, sympy.oo) or not nonnegative(factor):
            raise DerivationError("the sums run over different indices, or the factor may be negative")
        summands = _instance(use, step, also=(last - index,))
        for mine, its in zip((step.lhs.function, step.rhs.function), summands, strict=True):
            must_vanish(mine - its * factor, "that the summands are those of the earlier step")
        if _step(use).relation != step.relation:
            raise DerivationError("the earlier step points the other way")
        beyond = sympy.Dummy("m", integer=True, nonnegative=True)
        tail = summands[1].subs(index, last + 1 + beyond) * (1 if step.relation == "<=" else -1)
        if not nonnegative(sympy.expand(sympy.numer(sympy.together(tail)))):
            raise DerivationError("the terms beyond the finite sum may have the wrong sign")

    return Proof("comparison term by term", run, _uses(use))


def first_terms(count: int) -> Proof:
    """A sum of nonnegative terms is at least the sum of the first `count`, given on the right."""

    def run(step: Step) -> None:
        index, low, last = step.lhs.limits[0]
        beginning = sympy.Sum(step.lhs.function, (index, low, low + count - 1)).doit()
        must_vanish(step.rhs - beginning, "that the right side is the beginning of the sum on the left")
        if step.relation != ">=" or not (nonnegative(step.lhs.function) and nonnegative(last - low - count + 1)):
            raise DerivationError("a term left out may be negative, or the inequality points the other way")

    return Proof("the terms left out are nonnegative", run)


def logarithms(use: Use) -> Proof:
    """The logarithms of both sides of an earlier inequality between positive quantities."""

    def positive(side: Any) -> bool:
        if isinstance(side, sympy.Sum):
            first = side.function.subs(side.limits[0][0], side.limits[0][1])
            return nonnegative(side.function) and bool(first.is_positive)
        return bool(side.is_positive) or (side.is_Mul and all(positive(factor) for factor in side.args))

    def run(step: Step) -> None:
        small, large = _order(use, step)
        if not (positive(small) and positive(large)):
            raise DerivationError("a side is not known to be positive")
        gap = sympy.expand_log(sympy.log(large) - sympy.log(small), force=True)
        must_vanish(step.slack - gap, "that both sides are the logarithms")

    return Proof("logarithms of an earlier step", run, _uses(use))


def limit() -> Proof:
    """SymPy's limit (Gruntz's algorithm) of the left side is the right side."""

    def run(step: Step) -> None:
        found = step.lhs.doit()
        if found is not step.rhs:
            must_vanish(found - step.rhs, f"the limit: it finds {found}")

    return Proof("SymPy's limit", run)


def squeeze(lower: Use | None = None, upper: Use | None = None, scale: Any = 1) -> Proof:
    """A limit from earlier inequalities, both sides multiplied by a positive `scale`: the outer sides converge to
    the same value. For an infinite limit a lower bound is enough."""

    def run(step: Step) -> None:
        inner, variable, target = step.lhs.args[:3]
        if not sympy.S(scale).is_positive or (step.rhs is not sympy.oo and (lower is None or upper is None)):
            raise DerivationError("a finite limit needs two bounds, and a positive scale")
        for use, place in ((lower, 0), (upper, 1)):
            if use is not None:
                sides = _order(use, step)
                must_vanish(inner - scale * sides[1 - place], "that the bound is one of this expression")
                found = sympy.limit(sympy.expand(scale * sides[place].doit()), variable, target)
                if found is not step.rhs:
                    must_vanish(found - step.rhs, f"the limit of the bound: it finds {found}")

    uses = _uses(*(use for use in (lower, upper) if use is not None))
    return Proof("SymPy's limits of " + ("both bounds" if len(uses) == 2 else "the lower bound"), run, uses)


def evidence(why: str) -> Proof:
    """No proof: only the check at random points, said so in every record."""
    return Proof(f"not proved ({why})", lambda step: None, evidence=True)
