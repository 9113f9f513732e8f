"""The outcome of a claim: as the published fields, as text, and as an exit status."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from residual_theory.claims.claim import Claim
from residual_theory.claims.files import Refusal
from residual_theory.measurements.measurement import Measurement
from residual_theory.statistics.findings import Evidence, Finding, Word
from residual_theory.store import provenance


@dataclass(frozen=True)
class Outcome:
    """The verdict on one claim and on its twin, with the numbers of the decisive finding."""

    claim: Claim
    verdict: Word
    twin_verdict: Word
    evidence: Evidence
    twin_evidence: Evidence
    family: str  # whose error budget it shares
    confidence: float
    seconds: float
    measurements: Mapping[str, Measurement]  # those used, by key

    @property
    def power(self) -> Literal["powered", "powerless"]:
        """Whether the check refuted the false twin; where it did not, its verdict is no evidence."""
        return "powered" if self.twin_verdict == "refuted" else "powerless"

    @property
    def as_recorded(self) -> bool:
        """Whether the verdict is the one on record and the check had the power to refute the twin."""
        return self.verdict == self.claim.recorded and self.power == "powered"

    @property
    def undecided(self) -> bool:
        """Whether the claim or its twin is still open, and neither contradicts the record."""
        both = {self.verdict, self.twin_verdict}
        return (
            "inconclusive" in both
            and self.verdict in (self.claim.recorded, "inconclusive")
            and self.twin_verdict != "confirmed"
        )

    def __str__(self) -> str:
        law, twin = (_in_words(item.decisive, self.confidence) for item in (self.evidence, self.twin_evidence))
        return (
            f"{self.claim.key} is {self.verdict} (on record: {self.claim.recorded}): {law}; "
            f"its false twin ({self.claim.twin.statement}) is {self.twin_verdict}: {twin}"
        )

    def row(self) -> dict[str, Any]:
        """The outcome in the published fields, and the details that the report shows."""
        shown = self.evidence.decisive
        low, high = shown.interval(self.confidence)
        return {
            "id": self.claim.id,
            "statement": self.claim.statement,
            "source": self.claim.source,
            "regime": self.claim.regime,
            "level": self.claim.level,
            "family": self.family,
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


def _in_words(finding: Finding, confidence: float) -> str:
    if not finding.samples:
        return finding.label  # a proof
    low, high = finding.interval(confidence)
    value = f"{finding.label} is {finding.value:.4g} [{low:.4g}, {high:.4g}]"
    if finding.margin is not None:
        value += f", predicted {finding.predicted:.4g} ± {finding.margin:.2g}"
    elif finding.predicted is None:
        value += ", predicted above 0"  # one-sided bounds stand in the label
    return f"{value} ({finding.samples} samples)"


def _finding_row(finding: Any, confidence: float) -> dict[str, Any]:
    low, high = finding.interval(confidence)
    row = {key: _number(value) if isinstance(value, float) else value for key, value in asdict(finding).items()}
    return row | {"interval": None if _number(low) is None else [low, high]}


def _number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: they are null."""
    return None if value is None or not abs(value) < float("inf") else value


def document(preset: str, outcomes: Sequence[Outcome], refused: Sequence[Refusal] = ()) -> str:
    """A run as `verify --json` writes it, in the form that verdicts.schema.json states."""
    found = {
        "preset": preset,
        "claims": [outcome.row() for outcome in outcomes],
        "refused": [refusal.row() for refusal in refused],
        "provenance": provenance(),
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def exit_status(outcomes: Sequence[Outcome], refused: Sequence[Refusal] = ()) -> int:
    """0 all as recorded, 1 some verdict differs or a false twin is confirmed, 2 some refused, 3 only undecided."""
    if refused:
        return 2
    if all(outcome.as_recorded for outcome in outcomes):
        return 0
    return 3 if all(outcome.as_recorded or outcome.undecided for outcome in outcomes) else 1
