"""Claims as data: what is asserted, how it is checked, and the false twin that the same check must refute."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from residual_theory.claims.headers import Level
from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.measurements.measurement import Measurement, Observations
from residual_theory.stack import Count
from residual_theory.statistics.findings import Evidence, Word

if TYPE_CHECKING:
    from residual_theory.transformer.data import Corpus

Law = Any  # whatever the claim's own check compares with: a prediction, a sign, a derivation


class Parameters(Description):
    """What a preset may set for one claim. Subclasses add sizes and their defaults; no list may be empty."""

    rounds: Count = 1  # how often more samples may be drawn until the verdict is decided

    @model_validator(mode="after")
    def _nothing_is_empty(self) -> Self:
        for name, value in self:
            if value == ():
                raise InputError(name, value, "give at least one")
        return self


@dataclass(frozen=True)
class Round:
    """What a plan gets: the number of the round (0, 1, …), the claim's seed, and the text for claims that read one."""

    number: int
    seed: int
    read: "Callable[[], Corpus]"


@dataclass(frozen=True)
class Twin:
    """A law known to be false; the claim's own check must refute it."""

    statement: str
    law: Law


@dataclass(frozen=True)
class Record:
    """What a claim said at a time: the date, the verdict on record, the data behind it, and why it came or changed."""

    date: str
    verdict: Word
    data: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One assertion at one level of evidence.

    `plan(parameters, current)` lists the measurements that the current round adds; `check(parameters, observations,
    law)` turns all of them into findings on a law. `recorded` is the verdict on record, with its `reason`; `margin`
    says what range counts as agreement and why. `paper` names what of arXiv:2606.18524 it belongs to, such as
    "Theorem 1" or ("Fig. 4", "Fig. 9"): places of `residual_theory.claims.paper`; nothing where it goes beyond it.
    `regime` says at which sizes it was tried, such as "N = 1 … 8, width 64", where those of its source are others: what
    is refuted there is told as not reproduced.
    `history` has its records, oldest first, where statement, margin or verdict followed data; the last is `recorded`.
    """

    id: str
    statement: str
    level: Level
    recorded: Word
    reason: str
    margin: str
    law: Law
    plan: Callable[[Any, Round], Sequence[Measurement]]
    check: Callable[[Any, Observations, Law], Evidence]
    parameters: type[Parameters] = Parameters
    source: str = ""  # a claim without it, or without twin, is refused by name, and others of its file run
    paper: tuple[str, ...] | str = ()
    regime: str = ""
    twin: Twin = Twin("", None)
    history: tuple[Record, ...] = ()
    drawn_with: str = ""  # the id of a claim whose seed it takes, so that what both plan is measured once

    @property
    def key(self) -> str:
        """Identity within a run: one id may have evidence at several levels."""
        return f"{self.id}/{self.level}"


def seed_for(seed: int, claim: str) -> int:
    """The seed of one claim in a run, so that claims draw independently whatever their order."""
    return int.from_bytes(hashlib.sha256(f"{seed} {claim}".encode()).digest()[:7], "big")
