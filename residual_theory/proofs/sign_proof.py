"""Inequalities proved by a sign: of a certificate, of a derivative, of the slope up to a right angle; and symmetry."""

from collections.abc import Mapping
from typing import Any

import sympy
from sympy import cos, oo, pi, sin, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs.algebra import must_vanish, nonnegative
from residual_theory.proofs.steps import Proof, Step
from residual_theory.proofs.ways import Use

gap = sympy.Symbol("g", nonnegative=True)  # the slack of an earlier step
SINE, COSINE, REST = symbols("S C p", nonnegative=True)  # of an angle up to π/2, and what it lacks to π/2


def known_nonnegative(expression: Any, step: Step) -> bool:
    """Whether an expression is nonnegative by assumption, or exceeds a hypothesis of the step by what is."""
    return any(nonnegative(sympy.expand(expression - given)) for given in (sympy.Integer(0), *step.given))


def _instance(use: Use, user: Step) -> tuple[Any, Any]:
    """Both sides of an earlier inequality, larger side first, at the values given; what it needs must be known."""
    step, at = (use, {}) if isinstance(use, Step) else use
    if step.relation not in ("<=", ">="):
        raise DerivationError(f"uses “{step.title}” as an inequality")
    needed = [given.subs(at) for given in step.given]
    needed += [value for symbol, value in at.items() if symbol.is_nonnegative]
    for expression in map(sympy.S, needed):
        if not known_nonnegative(expression, user):
            raise DerivationError(f"uses “{step.title}”, which needs {expression} ≥ 0")
    for symbol, value in at.items():
        for name in ("integer", "real", "positive"):
            if getattr(symbol, f"is_{name}") and not getattr(sympy.S(value), f"is_{name}"):
                raise DerivationError(f"uses “{step.title}” at {symbol} = {value}, which is not known to be {name}")
    sides = (step.lhs.subs(at), step.rhs.subs(at))
    return sides if step.relation == ">=" else sides[::-1]


def _slack(value: Any, user: Step) -> Any:
    """What a symbol of a certificate stands for: a hypothesis, or the slack of an instance of an earlier step."""
    if isinstance(value, (Step, tuple)):
        larger, smaller = _instance(value, user)
        return larger - smaller
    if not known_nonnegative(value, user):
        raise DerivationError(f"the certificate needs {value} ≥ 0, which is not known")
    return value


def _uses(*values: Any) -> tuple[Step, ...]:
    return tuple(value if isinstance(value, Step) else value[0] for value in values if isinstance(value, (Step, tuple)))


def by_sign(certificate: Any, known: Mapping[Any, Use | Any], variable: Any = None, order: int = 0) -> Proof:
    """An inequality: larger − smaller is `certificate`, visibly nonnegative in the symbols that are `known`.

    With a `variable` ≥ 0, larger − smaller vanishes at 0 with its derivatives below `order`, and its derivative of
    that order is the certificate. Every hypothesis then has to hold on the whole way from 0.
    `known` says what symbols stand for: an instance of an earlier inequality, or what the hypotheses make nonnegative.

    Arguments:
      certificate: a SymPy expression.  known: symbol → Step, (Step, {symbol: value}) or expression.
      variable: a nonnegative symbol, or None for order 0.  order: of the derivative.
    Returns: a Proof; its `run` raises DerivationError when the certificate does not prove the step.
    """

    def run(step: Step) -> None:
        for given in step.given:
            if variable is not None and not nonnegative(-sympy.diff(given, variable)):
                raise DerivationError(f"{given} ≥ 0 may fail on the way from {variable} = 0")
        if order and not variable.is_nonnegative:
            raise DerivationError(f"{variable} may be negative")
        if not nonnegative(certificate):
            raise DerivationError(f"the certificate {certificate} is not visibly nonnegative")
        if step.relation not in ("<=", ">="):
            raise DerivationError("this proves inequalities only")
        derivative = step.slack
        for n in range(order):
            must_vanish(derivative.subs(variable, 0), f"that derivative {n} vanishes at {variable} = 0")
            derivative = sympy.diff(derivative, variable)
        values = {symbol: _slack(value, step) for symbol, value in known.items()}
        must_vanish(derivative - certificate.subs(values), "that the certificate is what it should be")

    return Proof(
        f"the sign of derivative {order} in {variable}" if order else "certificate of positivity",
        run,
        _uses(*known.values()),
    )


def up_to_a_right_angle(angle: Any, start: Any, slope: Any, *uses: Step) -> Proof:
    """An inequality for 0 ≤ angle ≤ π/2: the slack vanishes at `start`, one of the two ends, and grows away from it.

    Arguments:
      slope: of the slack away from `start`, visibly nonnegative in SINE and COSINE of the angle, REST = π/2 − angle
        and gap, the slack of the inequality among the steps it `uses`.
    Returns: a Proof; its `run` raises DerivationError when the slope is another, or may be negative.
    """

    def run(step: Step) -> None:
        right = pi - 2 * angle
        if right not in step.given or start not in (0, pi / 2) or not nonnegative(slope):
            raise DerivationError("the slope may be negative")
        if step.relation not in ("<=", ">="):
            raise DerivationError("this proves inequalities only")
        must_vanish(step.slack.subs(angle, start), f"the case {angle} = {start}")
        values = {SINE: sin(angle), COSINE: cos(angle), REST: pi / 2 - angle}
        for use in (use for use in uses if use.relation != "="):
            if gap in values or use.relation == ":=" or right not in use.given:
                raise DerivationError("an earlier step does not hold between 0 and π/2")
            values[gap] = use.slack
        must_vanish(sympy.diff(step.slack, angle) * (1 if start == 0 else -1) - slope.subs(values), "the slope")

    return Proof("one end of the interval and the sign of the slope", run, uses)


def odd_integrand() -> Proof:
    """An integral over the whole line vanishes by symmetry."""

    def run(step: Step) -> None:
        integrand, (variable, low, high) = step.lhs.function, step.lhs.limits[0]
        must_vanish(integrand.subs(variable, -variable) + integrand, "that the integrand is odd")
        must_vanish(step.rhs, "the right side")
        if (low, high) != (-oo, oo):
            raise DerivationError("the range is not symmetric")

    return Proof("an odd integrand over a symmetric range", run)


def squeeze(exponent: Any, lower: Use, upper: Use | None = None, scale: Any = 1) -> Proof:
    """A limit from earlier inequalities, both sides times a positive `scale`, at an exponent between 0 and 1.

    SymPy decides limits of powers by the signs of their exponents. So the limit is taken term by term, with
    exponent = 1 − p and p > 0, or, where that leaves a sign open, with the exponent itself known to be positive only.
    For an infinite limit a lower bound is enough.
    """

    def run(step: Step) -> None:
        inner, variable, _ = step.lhs.args[:3]
        if 1 - exponent not in step.given or not (exponent.is_positive and sympy.S(scale).is_positive):
            raise DerivationError(f"needs a positive scale, and {exponent} between 0 and 1")
        if upper is None and step.rhs is not sympy.oo:
            raise DerivationError("a finite limit needs two bounds")
        for use, place in ((lower, 1), (upper, 0)):
            if use is not None:
                sides = _instance(use, step)
                must_vanish(inner - scale * sides[1 - place], "that the bound is one of this expression")
                found = sum(of(term, variable) for term in sympy.Add.make_args(sympy.expand(scale * sides[place])))
                if found is not step.rhs:
                    must_vanish(found - step.rhs, f"the limit of the bound: it finds {found}")

    def of(term: Any, variable: Any) -> Any:
        rest = sympy.Dummy("p", positive=True)
        try:
            swapped = sympy.simplify(term.subs(exponent, 1 - rest))
            return sympy.limit(swapped, variable, sympy.oo).subs(rest, 1 - exponent)
        except NotImplementedError:  # the sign of an exponent is open
            return sympy.limit(term, variable, sympy.oo)

    return Proof("SymPy's limits of " + ("both bounds" if upper else "the lower bound"), run, _uses(lower, upper))
