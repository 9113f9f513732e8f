"""Findings that end in confirmed, refuted or inconclusive, and the control of their joint error rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import special  # scipy.stats gives the same bits, a hundred times slower

from residual_theory.errors import InputError

Word = Literal["confirmed", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """One comparison of a measured value with what a law says of it.

    The law says |true value − predicted| ≤ margin; or, with margin = None, that the true value lies on that side of
    predicted which the label names; or, with predicted = None too, true value > 0. `confirm_p` is the p-value against
    "the law is wrong", `refute_p` the one against "the law is right". `systematic` bounds how far the estimate may be
    off on the mean, apart from `stderr`; p-values and intervals suppose that it is off by so much the worse way.
    """

    label: str
    value: float
    stderr: float
    degrees: float
    predicted: float | None
    margin: float | None
    samples: int
    confirm_p: float
    refute_p: float
    systematic: float = 0.0

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided interval of the true value at a confidence level such as 0.99: Student's, and the bias allowed."""
        reach = self.stderr * float(special.stdtrit(self.degrees, 0.5 + level / 2)) + self.systematic
        return self.value - reach, self.value + reach


def equivalence(
    label: str,
    value: float,
    stderr: float,
    *,
    predicted: float,
    margin: float,
    samples: int,
    degrees: float | None = None,
    systematic: float = 0.0,
) -> Finding:
    """Is the true value within predicted ± margin? Two one-sided Student tests (TOST) each way.

    Arguments:
      value, stderr: the estimate and its standard error, with `degrees` of freedom (samples − 1 unless given).
      systematic: a bound on the estimate's bias, as of a Finding.
      margin: half-width of the range that counts as agreement, > 0, in the units of value.
    Returns: a Finding. An estimate without a finite standard error above 0 decides nothing: both p-values are 1.
    Source: Schuirmann's two one-sided tests.

    >>> found = equivalence("R²", 1.02, 0.01, predicted=1.0, margin=0.1, samples=400)
    >>> found.confirm_p < 1e-9, found.refute_p
    (True, 1.0)
    """
    degrees = samples - 1 if degrees is None else degrees
    confirm_p, refute_p = _p_values(value, stderr, degrees, predicted - margin, predicted + margin, systematic)
    return Finding(label, value, stderr, degrees, predicted, margin, samples, confirm_p, refute_p, systematic)


def within(
    label: str,
    value: float,
    stderr: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    samples: int,
    degrees: float | None = None,
    systematic: float = 0.0,
) -> Finding:
    """Does the true value lie between two bounds, one of which may be open? One-sided Student tests at each.

    Arguments:
      value, stderr: the estimate and its standard error, with `degrees` of freedom (samples − 1 unless given).
      low, high: the bounds, in the units of value; leave one out where there is none.
      systematic: a bound on the estimate's bias, as of a Finding.
    Returns: a Finding whose label names the bounds; between two, predicted ± margin is the range, else predicted is the
      one bound and margin None. Bounds on several values hold together in one `Evidence`.
    Raises: InputError unless low < high, or if both are open.

    >>> found = within("R²", 1.55, 0.01, 1.5, 1.65, samples=400)
    >>> found.label, found.confirm_p < 1e-6
    ('R² within [1.5, 1.65]', True)
    >>> within("exponent", 0.4, 0.02, high=0.1, samples=9).refute_p < 1e-6
    True
    """
    if not low < high or (low == -math.inf and high == math.inf):
        raise InputError("low", (low, high), "must lie below high, and one of them be finite")
    degrees = samples - 1 if degrees is None else degrees
    p_values = _p_values(value, stderr, degrees, low, high, systematic)
    if math.isinf(low) or math.isinf(high):
        bound, relation = (high, "≤") if math.isinf(low) else (low, "≥")
        return Finding(
            f"{label} {relation} {bound:g}", value, stderr, degrees, bound, None, samples, *p_values, systematic
        )
    label = f"{label} within [{low:g}, {high:g}]"
    return Finding(label, value, stderr, degrees, (low + high) / 2, (high - low) / 2, samples, *p_values, systematic)


def positive(label: str, differences: Sequence[float]) -> Finding:
    """Is the mean of independent differences above zero? A one-sided Student test each way.

    Arguments: label: what differs. differences: (sample,); fewer than two, or equal ones, decide nothing.
    Returns: a Finding on their mean, with samples − 1 degrees of freedom.

    >>> positive("gain", [0.1, 0.2, 0.15, 0.12]).confirm_p < 0.01
    True
    """
    sample = np.asarray(differences, dtype=np.float64)
    stderr = float(sample.std(ddof=1) / math.sqrt(len(sample))) if len(sample) > 1 else math.nan
    value, degrees = float(sample.mean()), len(sample) - 1
    return Finding(
        label, value, stderr, degrees, None, None, len(sample),
        confirm_p=_upper_p(value, stderr, degrees),
        refute_p=_upper_p(-value, stderr, degrees),
    )  # fmt: skip


def _p_values(
    value: float, stderr: float, degrees: float, low: float, high: float, systematic: float = 0.0
) -> tuple[float, float]:
    """Against "outside" (all bounds must hold) and "inside" (any may fail: Bonferroni); an open side is not tested."""
    inside = ([] if low == -math.inf else [value - low]) + ([] if high == math.inf else [high - value])
    confirm_p = max((_upper_p(excess - systematic, stderr, degrees) for excess in inside), default=1.0)
    refute_p = min((_upper_p(-excess - systematic, stderr, degrees) for excess in inside), default=1.0)
    return confirm_p, min(1.0, len(inside) * refute_p)


def _upper_p(excess: float, stderr: float, degrees: float) -> float:
    """p-value of "the true excess is ≤ 0" given its estimate."""
    if not (math.isfinite(excess) and math.isfinite(stderr)) or stderr <= 0 or degrees < 1:
        return 1.0  # equal samples give no estimate of the error
    return float(special.stdtr(degrees, -excess / stderr))


@dataclass(frozen=True)
class Evidence:
    """Several findings that must all hold for the law to be confirmed; one that fails refutes it."""

    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        """Raises: InputError for no findings at all, or one whose p-values are not probabilities."""
        if not self.findings:
            raise InputError("findings", (), "a check needs at least one")
        for finding in self.findings:
            if not (0 <= finding.confirm_p <= 1 and 0 <= finding.refute_p <= 1):
                raise InputError("findings", finding.label, "its p-values must lie between 0 and 1")

    @property
    def confirm_p(self) -> float:
        """Against "some finding is wrong": the largest p-value (intersection–union, no correction needed)."""
        return max(finding.confirm_p for finding in self.findings)

    @property
    def refute_p(self) -> float:
        """Against "every finding is right": the smallest p-value times the number of findings (Bonferroni)."""
        return min(1.0, len(self.findings) * min(finding.refute_p for finding in self.findings))

    @property
    def decisive(self) -> Finding:
        """The finding to show: the one that refutes, else the one that confirms least surely."""
        if self.refute_p < self.confirm_p:
            return min(self.findings, key=lambda finding: finding.refute_p)
        return max(self.findings, key=lambda finding: (finding.confirm_p, _reach(finding)))


def _reach(finding: Finding) -> float:
    if finding.predicted is None or finding.margin is None:
        return 0.0
    return abs(finding.value - finding.predicted) / finding.margin


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects with family-wise error at most alpha.

    >>> holm([0.001, 0.04, 0.012], alpha=0.05)
    [True, True, True]
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


class PValues(Protocol):
    """What has a p-value against either null hypothesis: the Evidence of one look, or the `sequential.Looks` so far."""

    @property
    def confirm_p(self) -> float: ...

    @property
    def refute_p(self) -> float: ...


def word_at(evidence: PValues, level: float) -> Word:
    """The verdict on one piece of evidence, wrong with probability at most `level`.

    Of its null hypotheses, "the law is wrong" and "the law is right", exactly one is true, so that each may be tested
    at the whole level. Where both are rejected the evidence contradicts itself and decides nothing.
    """
    confirmed, refuted = evidence.confirm_p <= level, evidence.refute_p <= level
    return "inconclusive" if confirmed == refuted else "confirmed" if confirmed else "refuted"


def decide(evidence: Sequence[PValues], alpha: float) -> list[Word]:
    """A verdict on each piece of evidence of one experiment, all right together with probability at least 1 − alpha.

    Both null hypotheses of every piece ("wrong", "right") enter one Holm family, so that all have to be at hand.
    """
    p_values = [p for item in evidence for p in (item.confirm_p, item.refute_p)]
    rejected = holm(p_values, alpha)
    verdicts: list[Word] = []
    for confirmed, refuted in zip(rejected[::2], rejected[1::2], strict=True):
        verdicts.append("inconclusive" if confirmed == refuted else "confirmed" if confirmed else "refuted")
    return verdicts


def computed(label: str, value: float, low: float, high: float) -> Finding:
    """Does a number that is known exactly, such as a prediction, lie between two bounds? There is nothing to estimate.

    Arguments: label: what it is. value: the number. low, high: the bounds, in the units of value.
    Returns: a Finding of no samples, whose p-values are 0 or 1; a number that is not finite decides nothing.
    Raises: InputError unless low < high.

    >>> computed("R", 8.6, 7.0, 9.2).confirm_p, computed("R", 9.3, 7.0, 9.2).refute_p
    (0.0, 0.0)
    """
    if not low < high:
        raise InputError("low", (low, high), "must lie below high")
    known, inside = math.isfinite(value), low <= value <= high
    return Finding(
        f"{label}: {value:.4g}", value, 0.0, math.inf, (low + high) / 2, (high - low) / 2, 0,
        confirm_p=float(not (known and inside)), refute_p=float(not known or inside),
    )  # fmt: skip


def proof(label: str, failure: str, disproved: bool) -> Finding:
    """What a machine-checked derivation found, for certain; a failure without a counterexample decides nothing.

    `failure` names the step that does not go through and is empty when all do.
    """
    confirm_p, refute_p = float(bool(failure)), float(not disproved)
    return Finding(failure or label, math.nan, 0.0, math.inf, None, None, 0, confirm_p=confirm_p, refute_p=refute_p)
