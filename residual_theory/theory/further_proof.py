"""Further ways to prove a step: signs of derivatives, and inductions over the visits of a tied ReLU stack."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Interval, KroneckerDelta, Mod, Sum, cos, pi, sin

from residual_theory.errors import DerivationError
from residual_theory.theory.derivation import Proof, Step, must_vanish
from residual_theory.theory.proof import Use, nonnegative

_EXACT = 64  # visits up to which K is computed to _DIGITS digits; limits need more visits and fewer digits
_DIGITS = 60
theta, gap = sympy.symbols("theta g", nonnegative=True)  # an angle up to π; the slack of an earlier step
r, s = sympy.symbols("r s", nonnegative=True)  # root mean squares of the stream at two visits
_ANGLES: dict[str, Any] = {"domain": {theta: (0, 3)}, "given": (pi - theta,)}
KAPPA = (sin(theta) + (pi - theta) * cos(theta)) / (2 * pi)


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
    def eval(cls, a: Any, b: Any, layers: Any, x: Any) -> Any:
        """The value where all four are numbers, or where no visit has been made."""
        if 0 in (a, b):
            return sympy.Integer(1)
        if not all(value.is_number for value in (a, b, layers, x)):
            return None
        size = next((few for few in (16, _EXACT) if max(a, b) <= few), max(int(a), int(b)))
        return sympy.Float(_table(int(layers), str(sympy.N(x, _DIGITS)), size)[int(a), int(b)], _DIGITS)

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
def _table(layers: int, scale: str, visits: int) -> NDArray[Any]:
    """K/q0 (visit, visit) for up to so many visits, row by row; few of them in high precision."""
    exact = visits <= _EXACT
    number = mpmath.mpf if exact else float
    sqrt_, acos, sin_, cos_ = (
        (np.frompyfunc(f, 1, 1) for f in (mpmath.sqrt, mpmath.acos, mpmath.sin, mpmath.cos))
        if exact
        else (np.sqrt, np.arccos, np.sin, np.cos)
    )
    with mpmath.workdps(_DIGITS):
        weight, half_turn = 2 * number(scale) ** 2, number(mpmath.pi)
        K = np.full((visits + 1, visits + 1), number(1))
        for a in range(visits):
            before = np.arange(a % layers, a + 1, layers)  # visits to the same layer, up to this one
            size = sqrt_(K[a, a] * K[before, before])
            angle = acos(np.minimum(number(1), K[a, before] / size))
            update = np.full(a + 1, number(0))
            update[before] = weight * size * (sin_(angle) + (half_turn - angle) * cos_(angle)) / (2 * half_turn)
            total = np.cumsum(update)
            K[a + 1, 1 : a + 1] = K[1 : a + 1, a + 1] = K[a, 1 : a + 1] + total[:-1]
            K[a + 1, a + 1] = K[a + 1, a] + total[-1]
        return K


def shared(one: Any, another: Any, layers: Any) -> Any:
    """1 where two visits use the same layer, 0 elsewhere.

    >>> shared(2, 5, 3), shared(2, 4, 3)
    (1, 0)
    """
    return KroneckerDelta(Mod(one, layers), Mod(another, layers))


def _known(expression: Any, step: Step) -> bool:
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
        if not _known(expression, user):
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
    if not _known(value, user):
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


def sine() -> Step:
    """sin θ ≥ 0 for 0 ≤ θ ≤ π, by SymPy's range of the sine.

    >>> sine().relation
    '>='
    """

    def run(step: Step) -> None:
        values = sympy.calculus.util.function_range(sin(theta), theta, Interval(0, pi))
        if not (step.relation == ">=" and step.lhs == sin(theta) and step.rhs == values.inf and values.inf >= 0):
            raise DerivationError("the smallest value is another")

    return Step(
        "The sine between 0 and π",
        sin(theta),
        sympy.Integer(0),
        "It is nonnegative for every angle 0 ≤ θ ≤ π.",
        ">=",
        Proof("SymPy's range of the sine", run),
        **_ANGLES,
    )


def kernel_bounds(wave: Step) -> tuple[Step, Step, Step]:
    """κ ≥ cos θ/2, κ ≤ 1/2 and κ ≥ 0, from `sine()`.

    >>> [str(step.rhs) for step in kernel_bounds(sine())]
    ['cos(theta)/2', '1/2', '0']
    """
    rest = sympy.Symbol("p", nonnegative=True)
    half = Step(
        "The kernel lies above half the correlation",
        KAPPA,
        cos(theta) / 2,
        "Both are 1/2 at θ = 0, and the difference (sin θ − θ cos θ)/(2π) has derivative θ sin θ/(2π).",
        ">=",
        by_sign(theta * gap / (2 * pi), {gap: wave}, theta, 1),
        **_ANGLES,
    )
    most = Step(
        "and below one half",
        KAPPA,
        sympy.Rational(1, 2),
        "Equal at θ = 0, and κ falls with the angle: dκ/dθ = −(π − θ) sin θ/(2π).",
        "<=",
        by_sign(rest * gap / (2 * pi), {gap: wave, rest: pi - theta}, theta, 1),
        **_ANGLES,
    )
    least = Step(
        "The kernel is nonnegative",
        KAPPA,
        sympy.Integer(0),
        "κ(θ) = κ(π − θ) + cos θ/2, which is the lower bound at the angle π − θ.",
        ">=",
        by_sign(gap, {gap: (half, {theta: pi - theta})}),
        **_ANGLES,
    )
    return half, most, least


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
            if bound.given != _ANGLES["given"] or bound.relation not in ("<=", ">="):
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
        if any(not _known(given, step) for used in uses for given in used.given):
            raise DerivationError("a hypothesis of an earlier step is missing")
        if not all(end.is_Symbol for end in step.lhs.args[:2]):
            raise DerivationError("the induction needs a claim for every visit")
        if any(not nonnegative(-sympy.diff(given, end)) for given in step.given for end in step.lhs.args[:2]):
            raise DerivationError("a hypothesis may fail at an earlier visit")
        target = replaced(bound, by or step)
        if closed is not None:
            if closed.relation not in ("=", {"<=": ">=", ">=": "<="}[step.relation]):
                raise DerivationError(f"“{closed.title}” points the other way")
            must_vanish(closed.rhs - target, f"that “{closed.title}” is about the same sum")
            target = closed.lhs
        must_vanish(step.rhs - target, "the claimed bound")

    def replaced(bound: Step, profile: Step) -> Any:
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
