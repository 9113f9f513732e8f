"""What claims, derivations and figures say of themselves, read from their files without running them.

A file whose fields are literals, or names that stand for literals, is read in milliseconds; any other has to be
imported, which `registry` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from residual_theory.claims.paper import places_of
from residual_theory.errors import InputError
from residual_theory.source import Source, UnclearError

Level = Literal["symbolic", "simulation", "model"]
LEVELS: tuple[Level, ...] = get_args(Level)
PROVED: Mapping[str, Any] = {  # what the claims of all derivations have in common
    "level": "symbolic",
    "recorded": "confirmed",
    "reason": "every step is machine-checked or said to be argued in words, then checked at random rational points",
}
_CLAIM = ("id", "statement", "source", "paper", "level", "recorded", "reason", "regime")
_DERIVATION = ("id", "statement", "source", "paper")
_FIGURE = ("id", "title", "paper")
_OPTIONAL: Mapping[str, Any] = {"paper": (), "regime": ""}


def told(word: str, regime: str) -> str:
    """A verdict as readers are told it: with the regime in which the claim was tried, where it has one.

    >>> told("refuted", "width 64"), told("confirmed", "width 64"), told("refuted", "")
    ('not reproduced at width 64', 'confirmed at width 64', 'refuted')
    """
    return f"{'not reproduced' if word == 'refuted' else word} at {regime}" if regime else word


@dataclass(frozen=True)
class Header:
    """A claim without its measurements: what it says, at which level, with which verdict on record, and its file.

    `paper` names places of `residual_theory.claims.paper`; `regime` is as of a Claim.
    """

    id: str
    statement: str
    source: str
    paper: tuple[str, ...]
    level: Level
    recorded: str
    reason: str
    file: Path
    regime: str = ""

    @property
    def key(self) -> str:
        """As of the claim."""
        return f"{self.id}/{self.level}"


@dataclass(frozen=True)
class FigureHeader:
    """A figure without its drawing."""

    id: str
    title: str
    paper: tuple[str, ...]
    file: Path


def read_derivation(file: Path) -> list[Header] | None:
    """The header of a derivation's claim, as its file states it; None where it has to be imported."""
    found = _read(file, "DERIVATION", "Derivation", _DERIVATION)
    return None if found is None else [Header(**fields, **PROVED, file=file) for fields in found]


def read_claims(file: Path) -> list[Header] | None:
    """The headers of a file's claims, in order; None where it has to be imported."""
    found = _read(file, "CLAIMS", "Claim", _CLAIM)
    if found is None or any(fields["level"] not in LEVELS for fields in found):
        return None
    return [Header(**fields, file=file) for fields in found]


def read_figure(file: Path) -> list[FigureHeader] | None:
    """The header of a file's figure; None where it has to be imported."""
    found = _read(file, "FIGURE", "Figure", _FIGURE)
    return None if found is None else [FigureHeader(**fields, file=file) for fields in found]


def _read(file: Path, name: str, kind: str, wanted: tuple[str, ...]) -> list[dict[str, Any]] | None:
    try:
        usual = {name: value for name, value in _OPTIONAL.items() if name in wanted}
        found = [usual | fields for fields in Source(file.read_bytes()).arguments(name, kind, wanted)]
        found = [fields | {"paper": places_of(fields["paper"])} for fields in found]
    except (UnclearError, InputError):
        return None
    complete = all(len(fields) == len(wanted) for fields in found)
    given = [value for fields in found for key, value in fields.items() if key not in _OPTIONAL]
    said = all(isinstance(value, str) and value.strip() for value in given)
    said &= all(isinstance(fields.get("regime", ""), str) for fields in found)
    return found if found and complete and said else None
