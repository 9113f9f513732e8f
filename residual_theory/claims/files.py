"""Claims in files of users: checked one by one, so that a bad one is refused by name and the rest still runs."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from residual_theory.claims.claim import Claim, Parameters, Twin
from residual_theory.claims.headers import LEVELS
from residual_theory.claims.paper import PLACES, places_of
from residual_theory.errors import InputError, ResidualTheoryError
from residual_theory.loading import load_module
from residual_theory.measurements.measurement import Measurement
from residual_theory.statistics.findings import Evidence, Word


@dataclass(frozen=True)
class Refusal:
    """A claim, or a whole file when `claim` is empty, that cannot be judged, and why, on one line."""

    file: str
    claim: str  # its id and level, as id/level
    reason: str

    def __str__(self) -> str:
        where = f"{self.claim} of {self.file}" if self.claim else self.file
        return " ".join(f"{where}: {self.reason}".split())

    def row(self) -> dict[str, str | None]:
        """The refusal as `verify --json` writes it."""
        return {"file": self.file, "claim": self.claim or None, "reason": self.reason}


@dataclass(frozen=True)
class ClaimsFiles:
    """What some files hold: sound claims, the file of each by Claim.key, and what had to be refused."""

    claims: list[Claim] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "ClaimsFiles":
        """The claims of every file, in order, those of a folder's files by name.

        Raises: InputError for a path with no file, or a folder with no Python file.
        """
        found = cls()
        files = {file.resolve(): file for path in paths for file in _files(path)}  # what is named twice is read once
        for file in files.values():
            found._add(file)
        return found

    def _add(self, file: Path) -> None:
        try:
            claims = getattr(load_module(file.resolve(), "claims"), "CLAIMS", None)
        except ResidualTheoryError as error:
            reason = error.mend if isinstance(error, InputError) and error.argument == "claims" else str(error)
            self.refused.append(Refusal(str(file), "", reason))
            return
        if not isinstance(claims, tuple | list) or not claims:
            self.refused.append(Refusal(str(file), "", "must define CLAIMS, a tuple of at least one Claim"))
            return
        for claim in claims:
            name = f"{getattr(claim, 'id', 'CLAIMS')}/{getattr(claim, 'level', type(claim).__name__)}"
            reason = lack(claim)
            if not reason and name in self.files:
                reason = f"is stated already in {self.files[name]}; give each claim an id of its own"
            if reason:
                self.refused.append(Refusal(str(file), name, reason))
            else:
                self.claims.append(claim)
                self.files[name] = str(file)


def is_claims_file(word: str) -> bool:
    """Whether a word of the command line names a file or folder of claims, and not a claim."""
    return word.endswith(".py") or Path(word).is_dir()


def _files(path: Path) -> list[Path]:
    inside = [file for file in sorted(path.glob("*.py")) if not file.name.startswith(("test_", "conftest"))]
    files = inside if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError("claims", str(path), "holds no claims; name a Python file, or a folder of such files")
    return files


def _words(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _in_paper(value: Any) -> bool:
    try:
        places_of(value)
    except InputError:
        return False
    return True


_NEEDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_words, "a name"),
    "statement": (_words, "one sentence"),
    "source": (_words, "where the statement comes from, such as 'this project'"),
    "paper": (_in_paper, f"nothing, or one or several of {', '.join(PLACES)}"),
    "regime": (lambda value: isinstance(value, str), "the sizes at which it was tried, or nothing"),
    "level": (LEVELS.__contains__, f"one of {', '.join(LEVELS)}"),
    "recorded": (get_args(Word).__contains__, f"one of {', '.join(get_args(Word))}"),
    "reason": (_words, "why that verdict is on record"),
    "margin": (_words, "what counts as agreement, and why"),
    "twin": (
        lambda twin: isinstance(twin, Twin) and _words(twin.statement),
        "a Twin, a law known to be false, without which the check shows nothing",
    ),
    "plan": (callable, "a function"),
    "check": (callable, "a function"),
    "parameters": (lambda kind: isinstance(kind, type) and issubclass(kind, Parameters), "a subclass of Parameters"),
}


def lack(claim: object) -> str:
    """What is missing for this to be a claim that can be judged; empty when nothing is."""
    if not isinstance(claim, Claim):
        return "is no Claim"
    for name, (holds, what) in _NEEDS.items():
        if not holds(getattr(claim, name)):
            return str(InputError(name, getattr(claim, name), f"give {what}"))
    return ""


def in_one_line(error: BaseException) -> str:
    """The message of an error in a user's code, after its class unless that is of this package."""
    message = str(error) if isinstance(error, ResidualTheoryError) else f"{type(error).__name__}: {error}"
    return " ".join(message.split())


def require_measurements(measurements: Any) -> list[Measurement]:
    """What a plan returned, checked. Raises: InputError unless each is a measurement that can be stored."""
    found = list(measurements)
    for measurement in found:
        if not isinstance(measurement, Measurement):
            raise InputError("plan", measurement, "must list measurements, such as Simulation(...)")
    return found


def require_numbers(evidence: Any) -> Evidence:
    """What a check returned, checked. Raises: InputError unless it is Evidence of numbers, those measured not NaN."""
    if not isinstance(evidence, Evidence):
        raise InputError("check", evidence, "must return Evidence")
    for finding in evidence.findings:
        numbers = {"predicted": finding.predicted, "margin": finding.margin}
        if finding.samples:  # a proof has no value
            numbers["value"] = finding.value
        for name, number in numbers.items():
            if number is not None and math.isnan(number):
                raise InputError(name, number, f"{finding.label} must be a number")
        try:
            json.dumps(asdict(finding) | {"label": finding.label + ""})
        except TypeError as error:
            raise InputError("check", finding.label, f"give str, int and float of Python ({error})") from None
    return evidence
