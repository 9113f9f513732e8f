"""Every step is proved by SymPy, or argued in words and said to be, then tried at random rational points.

A step that is false, that SymPy cannot decide, or that says nothing (both sides the same expression) raises
DerivationError, so that a derivation which prints has been checked.
"""

import random
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import mpmath
import sympy

from residual_theory.errors import DerivationError, FalseStepError
from residual_theory.proofs.steps import Derivation, Step

DIGITS, AGREE = 40, 30  # working precision where a value is not rational; digits in which both sides must agree
POINTS = 6
_UNDECIDED = (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError)


Kind = Literal["symbolic", "argued in words", "numerical evidence", "definition"]


@dataclass(frozen=True)
class Record:
    """How one step was checked: at how many `points`, in which `sense` it held there, `seconds` spent."""

    title: str
    kind: Kind
    how: str
    points: int
    sense: str  # "exactly", "to 30 digits", "in the limit", or "" for a definition
    seconds: float

    def __str__(self) -> str:
        if self.kind == "definition":
            return "definition, nothing to prove"
        noun = "point" if self.points == 1 else "random points"
        return f"{self.kind}, {self.how}; holds {self.sense} at {self.points} {noun}"

    @property
    def labelled(self) -> str:
        """The same after the word "Checked", or "Not checked" for a step that is argued in words."""
        return f"{'Not checked' if self.kind == 'argued in words' else 'Checked'}: {self}"


def count(records: tuple[Record, ...]) -> str:
    """How many steps were checked, and how many were argued in words."""
    argued = sum(record.kind == "argued in words" for record in records)
    return f"{len(records) - argued} steps checked" + f", {argued} argued in words" * bool(argued)


def check(derivation: Derivation, seed: int = 0) -> tuple[Record, ...]:
    """Prove every step and try it at random points.

    Returns: one record a step, in order.
    Raises: DerivationError naming the derivation, the step and, where one is found, a counterexample.
    """
    records: list[Record] = []
    earlier: list[Step] = []
    for step in derivation.steps:
        try:
            if any(used not in earlier for used in step.proof.uses):
                raise DerivationError("its proof uses a step that does not stand earlier in the derivation")
            if step.relation == ":=" and any(step.lhs in (other.lhs, *_symbols(other)) for other in earlier):
                raise DerivationError(f"defines {step.lhs}, which is already in use")
            records.append(check_step(step, random.Random(f"{seed}:{derivation.id}:{step.title}")))
        except DerivationError as error:
            message = " ".join(str(error).split())
            raise type(error)(f"{derivation.id}, step {len(earlier) + 1} “{step.title}”: {message}") from error
        earlier.append(step)
    for step in derivation.steps:
        if step.proof.argued and not any(f"“{step.title}”" in line for line in derivation.not_proved):
            raise DerivationError(f"{derivation.id}: “{step.title}” is argued in words; not_proved has to name it")
    return tuple(records)


def check_step(step: Step, rng: random.Random) -> Record:
    """Try one step at random points drawn from `rng`, then prove it; raises DerivationError when either fails."""
    began = time.perf_counter()
    if step.lhs == step.rhs:
        raise DerivationError("says nothing: both sides are the same expression")
    if step.relation == ":=":
        if not (step.lhs.is_Symbol or isinstance(step.lhs, sympy.core.function.AppliedUndef)) or step.rhs.has(step.lhs):
            raise DerivationError("a definition needs a new symbol on the left")
        return Record(step.title, "definition", "", 0, "", time.perf_counter() - began)
    try:
        tried = [_try(step, point) for point in _points(step, rng)]
        step.proof.run(step)
    except _UNDECIDED as error:
        raise DerivationError(f"SymPy cannot decide it ({type(error).__name__}: {error})") from error
    kind: Kind = "argued in words" if step.proof.argued else "symbolic"
    if step.proof.evidence:
        kind = "numerical evidence"
    sense = "exactly" if all(tried) else f"to {AGREE} digits"
    if isinstance(step.lhs, sympy.Limit):
        sense = "in the limit"
    return Record(step.title, kind, step.proof.how, len(tried), sense, time.perf_counter() - began)


def _symbols(step: Step) -> list[Any]:
    free = set().union(*(sympy.S(e).free_symbols for e in (step.lhs, step.rhs, *step.given)))
    return sorted(free, key=str)


def _points(step: Step, rng: random.Random) -> Iterator[dict[Any, Any]]:
    symbols, found = _symbols(step), 0
    for _ in range(100 * POINTS):
        point = {symbol: _draw(symbol, step.domain.get(symbol), rng) for symbol in symbols}
        if all(_number(given, point) >= 0 for given in step.given):
            yield point
            found += 1
        if found == (POINTS if symbols else 1):
            return
    raise DerivationError(f"only {found} of {POINTS} sampled points satisfy its hypotheses")


def _draw(symbol: Any, interval: tuple[Any, Any] | None, rng: random.Random) -> Any:
    if symbol.is_integer:
        low, high = interval or (1, 7)
        return sympy.Integer(rng.randint(int(low), int(high)))
    if interval is not None:
        low, high = map(sympy.Rational, interval)
        return low + (high - low) * sympy.Rational(rng.randint(1, 98), 99)
    size = sympy.Rational(rng.randint(1, 30), rng.randint(7, 13))
    return size if symbol.is_nonnegative or rng.random() < 0.5 else -size


def _try(step: Step, point: dict[Any, Any]) -> bool:
    """Whether the values compared are exact; raises FalseStepError when the step fails at `point`."""
    at = ", ".join(f"{symbol} = {value}" for symbol, value in point.items()) or "its only point"
    if isinstance(step.lhs, sympy.Limit):
        return _try_limit(step, point, at)
    lhs, rhs = _number(step.lhs, point), _number(step.rhs, point)
    exact = bool(lhs.is_Rational and rhs.is_Rational)
    slip = 0 if exact else sympy.Float(10, DIGITS) ** -AGREE * max(1, abs(lhs), abs(rhs))
    gap = rhs - lhs if step.relation == "<=" else lhs - rhs
    if gap < -slip or (step.relation == "=" and gap > slip):
        shown = f"{sympy.N(lhs, 8)} {step.relation} {sympy.N(rhs, 8)}"
        raise FalseStepError(f"false at {at}: {shown} does not hold")
    return exact


def _try_limit(step: Step, point: dict[Any, Any], at: str) -> bool:
    inner, variable, target = step.lhs.args[:3]
    if target is not sympy.oo or step.relation != "=":
        raise DerivationError("a limit is taken at infinity and stands on the left of an identity")
    exact = inner.has(sympy.Sum)  # elsewhere exact powers of large numbers would take too long
    places = [sympy.Integer(n) if exact else sympy.Float(n, 2 * DIGITS) for n in step.along]
    values = [_number(inner, {**point, variable: place}) for place in places]
    if step.rhs is sympy.oo:
        near = values[-1] > 4 * values[0] and all(a < b for a, b in pairwise(values))
    else:
        goal = _number(step.rhs, point)
        gaps = [abs(value - goal) for value in values]
        floor = sympy.Float(10, DIGITS) ** -AGREE * max(1, abs(goal))
        shrinks = all(b < a or b <= floor for a, b in pairwise(gaps))
        near = shrinks and (gaps[-1] <= floor or (4 * gaps[-1] < gaps[0] and 20 * gaps[-1] < max(1, abs(goal))))
    if not near:
        trail = ", ".join(str(sympy.N(value, 6)) for value in values)
        raise FalseStepError(f"false at {at}: {trail} for {variable} = {step.along} does not approach {step.rhs}")
    return False


def _number(expression: Any, point: Mapping[Any, Any]) -> Any:
    value = _evaluate(_at(sympy.S(expression), point))
    if value.is_Rational:
        return value
    real, imaginary = sympy.N(value, DIGITS, maxn=400).as_real_imag()
    if not real.is_number or not real.is_finite or abs(imaginary) > abs(real) * 1e-25 + 1e-30:
        raise DerivationError(f"cannot be evaluated: {textwrap.shorten(str(expression), 80)} at {dict(point)}")
    return real


def _at(expression: Any, point: Mapping[Any, Any]) -> Any:
    """The expression at a point; in sums by plain replacement, which is quicker, where that is the same."""
    if not expression.has(sympy.Sum) or expression.has(sympy.Integral, sympy.Derivative, sympy.Product):
        return expression.subs(point)
    bound = {index for one in expression.atoms(sympy.Sum) for index, *_ in one.limits}
    return expression.subs(point) if bound & point.keys() else expression.xreplace(dict(point))


def _evaluate(expression: Any) -> Any:
    """Carry out sums term by term and integrals by quadrature, independently of SymPy's summation and integration."""
    if isinstance(expression, sympy.Sum):
        *inner, (index, low, high) = expression.limits
        body = sympy.Sum(expression.function, *inner) if inner else expression.function
        if high is not sympy.oo:
            places = range(int(low), int(high) + 1)
            if len(places) > 50 and not body.has(sympy.Sum):  # fractions would grow without bound
                choose = sympy.Function("choose")  # lambdify would write binomials as quotients of huge factorials
                body, names = body.replace(sympy.binomial, choose), [{"choose": mpmath.binomial}, "mpmath"]
                function = sympy.lambdify(index, body, names)
                with mpmath.workdps(2 * DIGITS):
                    return sympy.Float(mpmath.fsum(map(function, places)), DIGITS)
            return sum((_evaluate(_at(body, {index: sympy.Integer(i)})) for i in places), sympy.Integer(0))
        total, place, small = sympy.Float(0, DIGITS), int(low), 0
        while small < 5:  # five negligible terms in a row end a series; ours fall like powers of factorials
            term = sympy.N(_evaluate(body.subs(index, place)), DIGITS)
            total, place = total + term, place + 1
            small = small + 1 if abs(term) <= abs(total) * sympy.Float(10, DIGITS) ** -DIGITS else 0
            if place > 1000:
                raise DerivationError("a series does not settle within 1000 terms")
        return total
    if isinstance(expression, sympy.Integral):
        (index, low, high), *outer = expression.limits
        if outer:
            raise DerivationError("the numerical check takes single integrals")
        function = sympy.lambdify(index, expression.function, "mpmath")
        with mpmath.workdps(DIGITS):
            ends = [mpmath.mpf(str(sympy.N(end, DIGITS)).replace("oo", "inf")) for end in (low, high)]
            if any(mpmath.isinf(end) for end in ends):  # Gaussian tails: panels of a few standard deviations
                inside = [mpmath.mpf(x) for x in (-12, -6, -3, 0, 3, 6, 12) if ends[0] < x < ends[1]]
                ends = [ends[0], *inside, ends[1]]
            return sympy.Float(mpmath.quad(function, ends), DIGITS)
    nested = expression.has(sympy.Sum, sympy.Integral)
    return expression.func(*map(_evaluate, expression.args)) if nested else expression.doit()
