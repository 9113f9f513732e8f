"""Running claims: measure what they plan, judge claim and twin, and say so as data."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from residual_theory.errors import InputError
from residual_theory.parallel import each
from residual_theory.store import Specification, Store, digest, provenance, read_listing, write_atomically
from residual_theory.verify.claim import Claim, Observation, Round, seed_for
from residual_theory.verify.folders import find_root
from residual_theory.verify.instruments import Instruments
from residual_theory.verify.presets import Preset, load_preset
from residual_theory.verify.registry import choose, claims_in
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
    def as_recorded(self) -> bool:
        """Whether the verdict is the one on record and the check had the power to refute the twin."""
        return self.verdict == self.claim.recorded and self.twin_verdict == "refuted"

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

        Every look at growing data counts: p-values are multiplied by the most rounds that any claim may take.
        """
        claims = self.claims
        looks = max(self.preset.parameters[claim.key].rounds for claim in claims)
        plans: dict[str, list[Specification]] = {claim.key: [] for claim in claims}
        open_claims = list(claims)
        for number in range(looks):
            added: list[Specification] = []
            for claim in open_claims:
                parameters = self.preset.parameters[claim.key]
                if number < parameters.rounds:
                    planned = claim.plan(
                        parameters, Round(number, seed_for(self.preset.run.seed, claim.id), self.instruments.read)
                    )
                    plans[claim.key] += planned
                    added += planned
            if not number and not added:
                raise InputError("preset", self.preset.name, "its sizes leave nothing to measure")
            if not added:
                break
            self.measure(added)
            outcomes = self._judge(claims, plans, looks)
            open_claims = [
                outcome.claim for outcome in outcomes if "inconclusive" in (outcome.verdict, outcome.twin_verdict)
            ]
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

    def _judge(self, claims: Sequence[Claim], plans: dict[str, list[Specification]], looks: int) -> list[Outcome]:
        evidence: list[Evidence] = []
        for claim in claims:
            distinct = {digest(spec): spec for spec in plans[claim.key]}  # what is planned twice is measured once
            observations = [Observation(spec, self.results[key]) for key, spec in distinct.items()]
            parameters = self.preset.parameters[claim.key]
            evidence += [claim.check(parameters, observations, law) for law in (claim.law, claim.twin.law)]
        words = decide(evidence, self.preset.run.alpha, looks)
        confidence = 1 - self.preset.run.alpha / (looks * len(evidence))
        return [
            Outcome(
                claim, words[2 * i], words[2 * i + 1], evidence[2 * i], evidence[2 * i + 1], confidence,
                sum(self.store.seconds(spec) for spec in plans[claim.key]), tuple(plans[claim.key]),
            )
            for i, claim in enumerate(claims)
        ]  # fmt: skip

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
    """0 all as recorded, 1 some verdict differs or a twin survives, 3 undecided and nothing differs."""
    if all(outcome.as_recorded for outcome in outcomes):
        return 0
    return 3 if all(outcome.as_recorded or outcome.undecided for outcome in outcomes) else 1
