"""Derivations that check themselves: every step is proved by SymPy, then tried at random rational points.

A step that is false, that SymPy cannot decide, or that says nothing (both sides the same expression) raises
DerivationError, so that a derivation which prints has been checked. The ways to prove a step are in `proof`,
`sign_proof` and `induction_proof`; how a derivation is printed is in `rendering`.
"""

import argparse
import random
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import mpmath
import sympy

from residual_theory.errors import DerivationError, FalseStepError
from residual_theory.proofs.rendering import formula_latex, formula_text
from residual_theory.proofs.rendering import latex as latex
from residual_theory.proofs.rendering import prose_latex as prose_latex
from residual_theory.proofs.rendering import text as text

Relation = Literal["=", "<=", ">=", ":="]
DIGITS, AGREE = 40, 30  # working precision where a value is not rational; digits in which both sides must agree
POINTS = 6


@dataclass(frozen=True, eq=False)
class Proof:
    """One way to prove a step: `run` returns when the proof goes through and raises DerivationError otherwise.

    `uses` are steps that must stand earlier in the same derivation. `evidence` marks a proof that is none:
    the step then rests on the numerical check alone, and says so wherever it is shown.
    """

    how: str
    run: Callable[["Step"], None]
    uses: tuple["Step", ...] = ()
    evidence: bool = False


def left_over(expression: Any) -> Any:
    """What simplification leaves of `expression`: 0 when SymPy can show that it vanishes identically."""
    rest = sympy.S(expression)
    forms: tuple[Callable[[Any], Any], ...] = (
        sympy.expand,
        lambda e: sympy.combsimp(e) if e.has(sympy.binomial, sympy.factorial, sympy.RisingFactorial) else e,
        lambda e: e.doit(),
        sympy.simplify,
        lambda e: sympy.simplify(sympy.expand_log(sympy.expand(e), force=True)),
    )
    for form in forms:
        if rest == 0:
            break
        rest = form(rest)
    return rest


def must_vanish(expression: Any, what: str) -> None:
    """Raise DerivationError, saying `what` was to hold, unless `expression` simplifies to 0."""
    rest = left_over(expression)
    if rest != 0:
        raise DerivationError(f"SymPy cannot show {what}; left over: {textwrap.shorten(str(rest), 120)}")


def simplification() -> Proof:
    """Sums, integrals and products are carried out and lhs − rhs simplifies to 0."""
    return Proof("simplification", lambda step: must_vanish(step.lhs - step.rhs, "that both sides agree"))


@dataclass(frozen=True, eq=False)
class Step:
    """One formula of a derivation, lhs `relation` rhs, with its reason and its proof.

    Arguments:
      title, because: short prose.
      lhs, rhs: SymPy expressions. A limit is an unevaluated `sympy.Limit` on the left.
      relation: "=", "<=", ">=", or ":=" for the definition of a new symbol.
      proof: how SymPy proves it; by default simplify(lhs − rhs) = 0.
      domain: the interval (low, high) a symbol is sampled from. By default integer symbols run over 1…7, positive
        and real ones over rationals (of both signs where the assumptions allow).
      given: hypotheses, each an expression taken to be nonnegative; sampled points respect them.
      along: where a limit's variable is sampled; the distance to the limit must shrink.
    """

    title: str
    lhs: Any
    rhs: Any
    because: str
    relation: Relation = "="
    proof: Proof = field(default_factory=simplification)
    domain: Mapping[Any, tuple[Any, Any]] = field(default_factory=dict)
    given: tuple[Any, ...] = ()
    along: tuple[int, ...] = (10**2, 10**4, 10**8, 10**16)

    @property
    def slack(self) -> Any:
        """The difference that the step says is nonnegative (an inequality) or zero (an identity)."""
        return self.rhs - self.lhs if self.relation == "<=" else self.lhs - self.rhs

    @property
    def latex(self) -> str:
        """The formula in LaTeX, without dollar signs."""
        return formula_latex(self)

    @property
    def pretty(self) -> str:
        """The formula in Unicode, over several lines."""
        return formula_text(self)


@dataclass(frozen=True)
class Record:
    """How one step was checked: at how many `points`, in which `sense` it held there, `seconds` spent."""

    title: str
    kind: Literal["symbolic", "numerical evidence", "definition"]
    how: str
    points: int
    sense: str  # "exactly", "to 30 digits", "in the limit", or "" for a definition
    seconds: float

    def __str__(self) -> str:
        if self.kind == "definition":
            return "definition, nothing to prove"
        noun = "point" if self.points == 1 else "random points"
        return f"{self.kind}, {self.how}; holds {self.sense} at {self.points} {noun}"


@dataclass(frozen=True, eq=False)
class Derivation:
    """A theorem and the chain of steps that proves it.

    Arguments:
      id: kebab-case.  title, statement: prose.  formula: the result, a SymPy expression or LaTeX.
      assumptions, not_proved: one line each.  steps: in the order of the argument.
      source: where arXiv:2606.18524 states it, or "this project".
    """

    id: str
    title: str
    statement: str
    formula: Any
    assumptions: tuple[str, ...]
    steps: tuple[Step, ...]
    not_proved: tuple[str, ...]
    source: str

    @property
    def latex(self) -> str:
        """The result in LaTeX, without dollar signs."""
        return self.formula if isinstance(self.formula, str) else str(sympy.latex(self.formula))


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
    except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError, RecursionError) as error:
        raise DerivationError(f"SymPy cannot decide it ({type(error).__name__}: {error})") from error
    kind: Literal["symbolic", "numerical evidence"] = "numerical evidence" if step.proof.evidence else "symbolic"
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
    exact = inner.has(sympy.Sum)  # elsewhere exact powers of large numbers would be endless
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
    value = _evaluate(sympy.S(expression).subs(point))
    if value.is_Rational:
        return value
    real, imaginary = sympy.N(value, DIGITS, maxn=400).as_real_imag()
    if not real.is_number or not real.is_finite or abs(imaginary) > abs(real) * 1e-25 + 1e-30:
        raise DerivationError(f"cannot be evaluated: {textwrap.shorten(str(expression), 80)} at {dict(point)}")
    return real


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
            return sum((_evaluate(body.subs(index, i)) for i in places), sympy.Integer(0))
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


def main(derivation: Derivation, arguments: list[str] | None = None) -> int:
    """Check and print one derivation: what a file in derivations/ does when run. Returns the exit status."""
    parser = argparse.ArgumentParser(description=f"Prove and print: {derivation.title}.")
    parser.add_argument("--latex", action="store_true", help="print LaTeX instead of text")
    options = parser.parse_args(arguments)
    try:
        records = check(derivation)
    except DerivationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write((latex if options.latex else text)(derivation, records))
    return 0
