"""Running claims: measure what they plan, judge claim and twin, and say so as data."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from residual_theory.errors import InputError
from residual_theory.parallel import each
from residual_theory.store import Specification, Store, digest, provenance, read_listing, write_atomically
from residual_theory.verify.claim import Claim, Law, Observation, Parameters, Round, seed_for
from residual_theory.verify.folders import find_root
from residual_theory.verify.instruments import Instruments
from residual_theory.verify.presets import Preset, load_preset
from residual_theory.verify.registry import choose, claims_in
from residual_theory.verify.sequential import Looks, doubling, shares
from residual_theory.verify.statistics import Evidence, Word, decide

Progress = Callable[[int, int], None]  # measurements done, of how many; 0 of 0 ends the report


@dataclass(frozen=True)
class Outcome:
    """The verdict on one claim and on its twin, with the numbers of the decisive finding."""

    claim: Claim
    verdict: Word
    twin_verdict: Word
    evidence: Evidence
    twin_evidence: Evidence
    confidence: float
    seconds: float
    specifications: tuple[Specification, ...]

    @property
    def power(self) -> Literal["powered", "powerless"]:
        """Whether the check could tell the false twin; where it could not, its verdict is no evidence."""
        return "powered" if self.twin_verdict == "refuted" else "powerless"

    @property
    def as_recorded(self) -> bool:
        """Whether the verdict is the one on record and the check had the power to refute the twin."""
        return self.verdict == self.claim.recorded and self.power == "powered"

    @property
    def undecided(self) -> bool:
        """Whether the claim or its twin is still open, and neither contradicts the record."""
        words = {self.verdict, self.twin_verdict}
        return (
            "inconclusive" in words
            and self.verdict in (self.claim.recorded, "inconclusive")
            and self.twin_verdict != "confirmed"
        )

    def row(self) -> dict[str, Any]:
        """The outcome in the published fields, and the details that the report shows."""
        shown = self.evidence.decisive
        low, high = shown.interval(self.confidence)
        return {
            "id": self.claim.id,
            "statement": self.claim.statement,
            "source": self.claim.source,
            "level": self.claim.level,
            "verdict": self.verdict,
            "recorded": self.claim.recorded,
            "twin_verdict": self.twin_verdict,
            "power": self.power,
            "value": _number(shown.value),
            "predicted": _number(shown.predicted),
            "interval": None if _number(low) is None else [low, high],
            "margin": _number(shown.margin),
            "samples": shown.samples,
            "seconds": round(self.seconds, 3),
            "confidence": self.confidence,
            "where": shown.label,
            "reason": self.claim.reason,
            "margin_reason": self.claim.margin,
            "twin": self.claim.twin.statement,
            "findings": [_finding_row(finding, self.confidence) for finding in self.evidence.findings],
        }


def _finding_row(finding: Any, confidence: float) -> dict[str, Any]:
    low, high = finding.interval(confidence)
    row = {key: _number(value) if isinstance(value, float) else value for key, value in asdict(finding).items()}
    return row | {"interval": None if _number(low) is None else [low, high]}


def _number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: they are null."""
    return None if value is None or not abs(value) < float("inf") else value


@dataclass
class _Case:
    """One claim in a run: the measurements planned for it, and the looks at its law and at its twin's."""

    claim: Claim
    parameters: Parameters
    law: Looks
    twin: Looks
    words: tuple[Word, Word] = ("inconclusive", "inconclusive")
    specifications: list[Specification] = field(default_factory=list)

    def open(self, number: int) -> bool:
        """Whether round `number` may still decide something of it."""
        return number < self.parameters.rounds and "inconclusive" in self.words

    def look(self, results: Mapping[str, xr.Dataset]) -> None:
        """Take one more look at whatever is undecided."""
        distinct = {digest(spec): spec for spec in self.specifications}  # what is planned twice is measured once
        observations = [Observation(spec, results[key]) for key, spec in distinct.items()]

        def seen(law: Law) -> Evidence:
            return self.claim.check(self.parameters, observations, law)

        if self.words[0] == "inconclusive":
            self.law = self.law.and_at(seen(self.claim.law))
        if self.words[1] == "inconclusive":
            self.twin = self.twin.and_at(seen(self.claim.twin.law))


@dataclass(frozen=True)
class Run:
    """Some claims at the sizes of one preset, measured into one folder."""

    preset: Preset
    claims: tuple[Claim, ...]
    folder: Path
    instruments: Instruments
    jobs: int
    progress: Progress
    results: dict[str, xr.Dataset] = field(default_factory=dict)  # read once, by digest

    @classmethod
    def prepare(
        cls,
        preset: str,
        results: Path,
        *,
        ids: Sequence[str] = (),
        text: Path | None = None,
        jobs: int = 1,
        root: Path | None = None,
        progress: Progress = lambda *_: None,
    ) -> "Run":
        """Look everything up and refuse what cannot work, before anything is measured.

        Raises: InputError for an unknown preset or claim, an unwritable folder or an unreadable text.
        """
        place = find_root(root)
        known = claims_in(place)
        chosen = load_preset(place, preset, known)
        claims = tuple(choose(known, ids))
        instruments = Instruments(place, text)
        if text is not None:
            instruments.read()
        folder = results / preset
        write_atomically(folder / ".gitignore", "*\n")  # results are made, not kept under version control
        return cls(chosen, claims, folder, instruments, jobs, progress)

    @property
    def store(self) -> Store:
        """The measurements of this run."""
        return Store(self.folder / "data")

    def verify(self) -> list[Outcome]:
        """Measure and judge: more samples for what is undecided, round after round, until the rounds end.

        Every look at growing data is paid for: `sequential.Looks` says how, and why the error of the run stays below
        alpha. A verdict once reached stays, with the evidence that it was reached on.
        """
        cases = [self._case(claim) for claim in self.claims]
        for number in range(max(case.parameters.rounds for case in cases)):
            open_cases = [case for case in cases if case.open(number)]
            added = [spec for case in open_cases for spec in self._plan(case, number)]
            if not number and not added:
                raise InputError("preset", self.preset.name, "its sizes leave nothing to measure")
            if added:
                self.measure(added)
            for case in open_cases:
                case.look(self.results)
            words = iter(decide([looks for case in cases for looks in (case.law, case.twin)], self.preset.run.alpha))
            for case in cases:
                case.words = next(words), next(words)
        outcomes = [self._outcome(case, len(cases)) for case in cases]
        self._save(outcomes)
        return outcomes

    def measure(self, specifications: Sequence[Specification]) -> None:
        """Bring every measurement into the store, in parallel."""
        unique = {digest(specification): specification for specification in specifications}
        missing = []
        for key, specification in unique.items():
            found = self.results.get(key)
            found = self.store.load(specification) if found is None else found
            if found is None:
                missing.append(specification)
            else:
                self.results[key] = found
        make = _Make(self.store, self.instruments)
        self.progress(0, len(missing))
        try:
            for done, _ in enumerate(each(make, missing, self.jobs), start=1):
                self.progress(done, len(missing))
        except BaseException:
            self.progress(0, 0)  # leaves the terminal as it was
            raise
        self.results.update((digest(specification), self.store.require(specification)) for specification in missing)

    def _case(self, claim: Claim) -> _Case:
        parameters = self.preset.parameters[claim.key]
        looks = Looks(shares(doubling(parameters.rounds), self.preset.run.alpha))
        return _Case(claim, parameters, looks, looks)

    def _plan(self, case: _Case, number: int) -> Sequence[Specification]:
        draw = Round(number, seed_for(self.preset.run.seed, case.claim.id), self.instruments.read)
        added = case.claim.plan(case.parameters, draw)
        case.specifications += added
        return added

    def _outcome(self, case: _Case, claims: int) -> Outcome:
        """Intervals hold together over claims, twins and looks: each gets its look's share of alpha."""
        return Outcome(
            case.claim, *case.words, case.law.last, case.twin.last,
            confidence=1 - case.law.share * self.preset.run.alpha / (2 * claims),
            seconds=sum(self.store.seconds(spec) for spec in case.specifications),
            specifications=tuple(case.specifications),
        )  # fmt: skip

    def _save(self, outcomes: Sequence[Outcome]) -> None:
        """Which measurements each claim used, for figures: kept beside those of claims verified earlier."""
        path = self.folder / "measurements.json"
        listed = read_listing(path)
        listed |= {outcome.claim.key: [dict(spec) for spec in outcome.specifications] for outcome in outcomes}
        write_atomically(path, json.dumps(listed, indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True)
class _Make:
    store: Store
    instruments: Instruments

    def __call__(self, specification: Specification) -> None:
        self.store.make(specification, self.instruments)


def document(preset: str, outcomes: Sequence[Outcome]) -> str:
    """A run as `verify --json` writes it."""
    found = {"preset": preset, "claims": [outcome.row() for outcome in outcomes], "provenance": provenance()}
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 all as recorded, 1 some verdict differs or a claim is powerless as its twin stands, 3 only undecided."""
    if all(outcome.as_recorded for outcome in outcomes):
        return 0
    return 3 if all(outcome.as_recorded or outcome.undecided for outcome in outcomes) else 1
