"""Errors to plant in derivations: in a step itself, and in a lemma as the steps that cite it see it."""

import importlib.util
import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
import sympy

from residual_theory.errors import DerivationError
from residual_theory.proofs.checking import check_step
from residual_theory.proofs.steps import Derivation, Step

FOLDER = Path(__file__).parents[2] / "derivations"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SECONDS = 8.0  # what one check may take; a proof that has not gone through by then has not accepted the error
OTHER_WAY = {"<=": ">=", ">=": "<="}
IN_A_STEP = ("constant", "index", "relation", "hypothesis")
IN_A_LEMMA = ("emptied", "swapped")


class SlowError(BaseException):
    """A check that took too long."""


@dataclass(frozen=True)
class Planted:
    """One error: which derivation, which of its steps, of what kind."""

    name: str
    title: str
    kind: str

    def __str__(self) -> str:
        return f"{self.name}, “{self.title}”: {self.kind}"


@cache
def module_of(name: str) -> ModuleType:
    """The module of one file in derivations/."""
    spec = importlib.util.spec_from_file_location(f"planted_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(step: Step, kind: str, others: tuple[Step, ...] = ()) -> dict[str, Any]:
    """The fields of a step that an error of this kind changes; none where it has no room for one."""
    rhs = sympy.S(step.rhs)
    if kind == "constant":
        numbers = sorted((n for n in rhs.atoms(sympy.Rational) if n not in (0, 1, -1)), key=sympy.default_sort_key)
        tighter = {"<=": sympy.Rational(1, 2)}.get(step.relation, sympy.Integer(2)) * rhs
        other = rhs.xreplace({numbers[0]: numbers[0] + 1}) if numbers else tighter
        return {"rhs": sympy.Integer(3) if other in (rhs, sympy.oo) else other}
    if kind == "index":
        indices = sorted((n for n in rhs.free_symbols if n.is_integer), key=str)
        shifted = [rhs.subs(n, n + 1) for n in indices]
        return {"rhs": shifted[0]} if shifted and shifted[0] != rhs else {}
    if kind == "relation":
        return {"relation": OTHER_WAY[step.relation]} if step.relation in OTHER_WAY else {}
    if kind == "hypothesis":
        return {"given": ()} if step.given else {}
    if kind == "emptied":
        side = sympy.Integer(0) if step.relation == "<=" else sympy.Integer(1)
        return {"lhs": side, "rhs": sympy.Integer(1), "given": ()}
    alike = [other for other in others if other.relation == step.relation and other.lhs != step.lhs]
    return {field: getattr(alike[0], field) for field in ("lhs", "rhs", "given")} if alike else {}


def errors(name: str) -> list[Planted]:
    """All errors to plant in one derivation."""
    steps = [step for step in module_of(name).DERIVATION.steps if step.relation != ":="]
    cited = {used.title for step in steps for used in step.proof.uses}
    found = [Planted(name, step.title, kind) for step in steps for kind in IN_A_STEP if changed(step, kind)]
    found += [Planted(name, step.title, kind) for step in steps if step.title in cited for kind in IN_A_LEMMA]
    return list(dict.fromkeys(found))


@contextmanager
def limited() -> Iterator[None]:
    """At most so many seconds of processor time."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SlowError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def refused(step: Step) -> bool:
    """Whether the check of a step does not go through."""
    try:
        with limited():
            check_step(step, random.Random(step.title))
    except (DerivationError, SlowError):
        return True
    return False


@contextmanager
def with_lemma(title: str, fields: Mapping[str, Any]) -> Iterator[list[Step]]:
    """Every step of this title is built with these fields instead; those that were are in the list."""
    made: list[Step] = []
    build = Step.__init__

    def other(self: Step, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if self.title == title:
            for field, value in fields.items():
                object.__setattr__(self, field, value)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__init__", other)
        yield made


def noticed(error: Planted) -> bool | None:
    """Whether an error is found; None where it changes nothing that a step cites."""
    derivation: Derivation = module_of(error.name).DERIVATION
    place, step = next((k, s) for k, s in enumerate(derivation.steps) if s.title == error.title)
    others = derivation.steps[place + 1 :] + derivation.steps[:place]
    fields = changed(step, error.kind, others)
    if not fields:
        return None
    if error.kind in IN_A_STEP and refused(replace(step, **fields)):
        return True
    with with_lemma(error.title, fields) as made:
        try:
            again = module_of(error.name).derive()
        except (DerivationError, AttributeError, TypeError, ValueError, KeyError, IndexError):
            return True  # the derivation cannot even be written down
    users = [user for user in again.steps if any(used in made for used in user.proof.uses)]
    if not users and error.kind in IN_A_LEMMA:
        return None
    return any(refused(user) for user in users)


def campaign(each: int, seed: str = "planted") -> list[Planted]:
    """So many errors of each kind from each derivation, drawn once and for all."""
    drawn: list[Planted] = []
    for name in NAMES:
        found = errors(name)
        random.Random(f"{seed} {name}").shuffle(found)
        for kind in (*IN_A_STEP, *IN_A_LEMMA):
            drawn += [error for error in found if error.kind == kind][:each]
    return drawn
