"""How often verdicts are wrong: the simulation claims of a preset, verified again and again under fresh seeds."""

import functools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import xarray as xr
from pydantic import BaseModel
from scipy import stats

from residual_theory.claims.claim import seed_for
from residual_theory.claims.files import is_claims_file
from residual_theory.claims.outcome import Outcome
from residual_theory.claims.session import Progress, Selection, Session
from residual_theory.description import Description
from residual_theory.errors import InputError, ResidualTheoryError
from residual_theory.fingerprint import fingerprint
from residual_theory.parallel import each
from residual_theory.statistics.findings import Word, holm
from residual_theory.store import CorruptResultWarning, Specification, Store, digest, provenance, write_atomically

CONFIDENCE = 0.95  # of the Clopper–Pearson intervals
LEVEL = 0.05  # of all tests together: the chance to call a rate worse than nominal when none is
_JUDGING = "residual_theory.claims.session:Session"  # the code that verdicts depend on, beside the claims' files
TWINS_REFUTED = 0.99  # the power wanted of every check
ANY = "any claim of a run"


class _Stored(BaseModel):
    model_config = Description.model_config


class ClaimVerdicts(_Stored):
    """One run's verdicts on one claim and its twin, with the samples and seconds that they took."""

    claim: str
    recorded: Word
    verdict: Word
    twin: Word
    samples: int
    seconds: float

    @classmethod
    def of(cls, outcome: Outcome) -> "ClaimVerdicts":
        """The verdicts of an outcome, the samples drawn for it and the seconds its measurements took."""
        return cls(
            claim=outcome.claim.id,
            recorded=outcome.claim.recorded,
            verdict=outcome.verdict,
            twin=outcome.twin_verdict,
            samples=sum(measurement.drawn for measurement in outcome.measurements.values()),
            seconds=outcome.seconds,
        )


class Record(_Stored):
    """One run of a calibration, as it is kept."""

    calibration: str
    number: int
    seed: int
    claims: tuple[ClaimVerdicts, ...]


class CalibrationRequest(NamedTuple):
    """What a calibration is of, as it is sent to worker processes."""

    preset: str
    results: Path
    ids: tuple[str, ...]
    root: Path | None


@dataclass(frozen=True)
class Memory(Store):
    """Results of one process held in memory: nothing is written to the folder."""

    held: dict[str, tuple[xr.Dataset, float]] = field(default_factory=dict)  # with the seconds each took

    def load(self, specification: Specification) -> xr.Dataset | None:
        """The result; None when it has not been made."""
        found = self.held.get(digest(specification))
        return None if found is None else found[0]

    def make(self, specification: Specification, instrument: Callable[[Specification], xr.Dataset]) -> None:
        """Hold what `instrument` makes of the specification."""
        start = time.perf_counter()
        result = instrument(specification)
        self.held[digest(specification)] = result, time.perf_counter() - start

    def seconds(self, specification: Specification) -> float:
        """How long a result took to compute."""
        return self.held[digest(specification)][1]


@dataclass(frozen=True)
class Calibration:
    """The simulation claims of a run, to be verified many times over.

    Run number r has the seed `seed_for(seed of the preset, "calibration r")`, so that runs are independent of one
    another and of `verify`, and further runs extend those there are. The verdicts of a run are kept in a file of its
    own, under the digest of all that could change them; measurements are not kept.
    """

    request: CalibrationRequest
    selection: Selection

    @classmethod
    def prepare(cls, request: CalibrationRequest) -> "Calibration":
        """Look the claims up, as `verify` does, and keep those of level simulation.

        Raises: as `Selection.prepare`; InputError for a claim without evidence at that level, or one that has to be
          refused.
        """
        found = Selection.prepare(request.preset, request.results, ids=request.ids, root=request.root)
        if found.refused:
            raise InputError("claim", found.refused[0].claim or found.refused[0].file, found.refused[0].reason)
        claims = tuple(claim for claim in found.claims if claim.level == "simulation")
        for name in request.ids:
            if not is_claims_file(name) and name not in {claim.id for claim in claims}:
                raise InputError("claim", name, "has no evidence by simulation, which is what is calibrated")
        if not claims:
            raise InputError("claim", request.ids, "none has evidence by simulation, which is what is calibrated")
        return cls(request, found.only(*claims))

    @functools.cached_property
    def digest(self) -> str:
        """16 hex digits of all that a run's verdicts depend on, except its number."""
        selection = self.selection
        files = {Path(name) for name in selection.files.values()}
        if any(claim.key not in selection.files for claim in selection.claims):
            files |= set((selection.context.root / "simulations").glob("*.py"))
        parameters = selection.preset.parameters
        code = fingerprint(_JUDGING, *map(str, sorted(files)))
        return digest(
            {
                "code": code,
                "run": selection.preset.run.model_dump(mode="json"),
                "shares": {claim.key: selection.budget[claim.key].share for claim in selection.claims},
                "claims": {claim.key: parameters[claim.key].model_dump(mode="json") for claim in selection.claims},
            }
        )

    def measure(self, runs: int, jobs: int = 1, progress: Progress = lambda *_: None) -> list[Record]:
        """Make the runs 0 … runs − 1 that are not there yet, in parallel, and read all of them.

        Raises: InputError for fewer than one run; whatever `Session.judge` raises.
        """
        if runs < 1:
            raise InputError("runs", runs, "must be at least 1")
        found = {number: record for number in range(runs) if (record := self.load(number)) is not None}
        missing = [number for number in range(runs) if number not in found]
        progress(0, len(missing))
        try:
            for done, record in enumerate(each(_Verify(self.request, self.digest), missing, jobs), start=1):
                found[record.number] = record
                progress(done, len(missing))
        except BaseException:
            progress(0, 0)  # removes the progress bar
            raise
        return [found[number] for number in range(runs)]

    def verify(self, number: int) -> Record:
        """Make one run with its measurements in memory, and store its record."""
        seed = seed_for(self.selection.preset.run.seed, f"calibration {number}")
        session = Session(self.selection.under(seed), store=Memory(self.selection.folder))
        outcomes = session.judge()
        if session.refused:
            raise ResidualTheoryError(f"run {number} is refused: {session.refused[0]}")
        claims = tuple(ClaimVerdicts.of(outcome) for outcome in outcomes)
        record = Record(calibration=self.digest, number=number, seed=seed, claims=claims)
        write_atomically(self._path(number), record.model_dump_json(indent=1) + "\n")
        return record

    def load(self, number: int) -> Record | None:
        """A run made earlier; None when it is absent or, with a warning, when it is not intact."""
        path = self._path(number)
        try:
            record = Record.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            record = None
        if record is not None:
            found = (record.calibration, record.number, [item.claim for item in record.claims])
            if found == (self.digest, number, [claim.id for claim in self.selection.claims]):
                return record
        warnings.warn(f"run {path} is not intact and is made again", CorruptResultWarning, stacklevel=2)
        return None

    def _path(self, number: int) -> Path:
        return self.selection.folder / "calibration" / self.digest / f"{number:06d}.json"


@functools.lru_cache(maxsize=1)
def _prepare(request: CalibrationRequest, expected: str) -> Calibration:
    """The calibration as a worker process finds it. Raises: InputError when that is no longer what was asked for."""
    found = Calibration.prepare(request)
    if found.digest != expected:
        raise InputError("root", str(found.selection.context.root), "has changed since the runs began; run again")
    return found


@dataclass(frozen=True)
class _Verify:
    request: CalibrationRequest
    expected: str

    def __call__(self, number: int) -> Record:
        return _prepare(self.request, self.expected).verify(number)


@dataclass(frozen=True)
class Rate:
    """How many of some runs did something, and what share of them may (`most`) or should (`least`)."""

    count: int
    runs: int
    most: float | None = None
    least: float | None = None

    @property
    def value(self) -> float:
        """count/runs."""
        return self.count / self.runs

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's at 95 %.

        >>> low, high = Rate(0, 200).interval
        >>> low, round(high, 4)
        (0.0, 0.0183)
        """
        found = stats.binomtest(self.count, self.runs).proportion_ci(CONFIDENCE, method="exact")
        return float(found.low), float(found.high)

    @property
    def p_value(self) -> float | None:
        """Of the exact one-sided binomial test against "no worse than nominal"; None where nothing is nominal.

        Where the rate has bounds on both sides, twice the smaller of the two.

        >>> round(Rate(3, 50, most=0.01).p_value, 4), round(Rate(48, 50, least=0.99).p_value, 4)
        (0.0138, 0.0894)
        >>> round(Rate(3, 50, most=0.01, least=0.01).p_value, 4)
        0.0276
        """
        found = []
        if self.most is not None:
            found.append(float(stats.binomtest(self.count, self.runs, self.most, alternative="greater").pvalue))
        if self.least is not None:
            found.append(float(stats.binomtest(self.count, self.runs, self.least, alternative="less").pvalue))
        return min(1.0, len(found) * min(found)) if found else None

    def row(self) -> dict[str, Any]:
        """The rate as `calibrate --json` writes it."""
        low, high = self.interval
        return {"count": self.count, "rate": self.value, "low": low, "high": high, "p_value": self.p_value}


RateName = Literal["contradicted", "twin_confirmed", "wrong", "twin_refuted", "inconclusive"]


@dataclass(frozen=True)
class ClaimRates:
    """The rates of one claim over all runs, or those of any claim of a run."""

    claim: str
    contradicted: Rate  # the verdict is neither the one on record nor inconclusive
    twin_confirmed: Rate
    wrong: Rate  # either of these
    twin_refuted: Rate  # of any claim: all twins
    inconclusive: Rate  # the claim's own verdict
    samples_mean: float
    samples_max: int
    seconds_mean: float

    def tested(self) -> dict[RateName, Rate]:
        """The rates that have a nominal value."""
        rates: dict[RateName, Rate] = {"wrong": self.wrong, "twin_refuted": self.twin_refuted}
        return {name: rate for name, rate in rates.items() if rate.p_value is not None}

    def row(self) -> dict[str, Any]:
        """The row as `calibrate --json` writes it."""
        return {key: value.row() if isinstance(value, Rate) else value for key, value in vars(self).items()}


@dataclass(frozen=True)
class Rates:
    """The outcome of a calibration: rates claim by claim and overall, and which are worse than nominal.

    Tested are, one-sided and exactly (binomial), "wrong ≤ alpha" for every claim and for the run as a whole, and
    "twin refuted ≥ 99 %" for every claim; Holm's procedure over all these tests keeps their joint error at 5 %.
    """

    alpha: float
    overall: ClaimRates
    claims: tuple[ClaimRates, ...]

    @classmethod
    def of(cls, records: Sequence[Record], alpha: float) -> "Rates":
        """The rates over runs of one calibration. Raises: InputError for none."""
        if not records:
            raise InputError("records", records, "give at least one run")
        by_claim = zip(*(record.claims for record in records), strict=True)
        claims = tuple(
            _rates_of(items[0].claim, [[item] for item in items], alpha, TWINS_REFUTED) for items in by_claim
        )
        return cls(alpha, _rates_of(ANY, [record.claims for record in records], alpha, None), claims)

    @property
    def runs(self) -> int:
        """How many runs they are over."""
        return self.overall.wrong.runs

    @property
    def tests(self) -> list[tuple[ClaimRates, RateName, Rate]]:
        """Every rate that is tested, with its row and name; a claim alone is not tested twice."""
        rows = [self.overall, *self.claims] if len(self.claims) > 1 else self.claims
        return [(row, name, rate) for row in rows for name, rate in row.tested().items()]

    @property
    def worse(self) -> list[tuple[ClaimRates, RateName, Rate]]:
        """The rates that are significantly worse than nominal."""
        rejected = holm([rate.p_value or 0.0 for _, _, rate in self.tests], LEVEL)
        return [test for test, reject in zip(self.tests, rejected, strict=True) if reject]

    def document(self, preset: str) -> dict[str, Any]:
        """The rates as `calibrate --json` writes them, in the form that calibration.schema.json states."""
        return {
            "preset": preset,
            "runs": self.runs,
            "alpha": self.alpha,
            "twins_refuted_wanted": TWINS_REFUTED,
            "confidence": CONFIDENCE,
            "level": LEVEL,
            "tests": len(self.tests),
            "worse": [{"claim": row.claim, "rate": name, "p_value": rate.p_value} for row, name, rate in self.worse],
            "overall": self.overall.row(),
            "claims": [row.row() for row in self.claims],
            "provenance": provenance(),
        }


def _rates_of(name: str, runs: Sequence[Sequence[ClaimVerdicts]], alpha: float, twins: float | None) -> ClaimRates:
    """The rates over runs, in each of which something counts when it happens to any of the claims given."""

    def rate(
        happens: Callable[[ClaimVerdicts], bool],
        *,
        most: float | None = None,
        least: float | None = None,
        of_all: bool = False,
    ) -> Rate:
        counts = all if of_all else any
        return Rate(sum(counts(happens(item) for item in items) for items in runs), len(runs), most, least)

    def contradicts(item: ClaimVerdicts) -> bool:
        return item.verdict not in (item.recorded, "inconclusive")

    samples = [sum(item.samples for item in items) for items in runs]
    return ClaimRates(
        name,
        contradicted=rate(contradicts),
        twin_confirmed=rate(lambda item: item.twin == "confirmed"),
        wrong=rate(lambda item: contradicts(item) or item.twin == "confirmed", most=alpha),
        twin_refuted=rate(lambda item: item.twin == "refuted", least=twins, of_all=True),
        inconclusive=rate(lambda item: item.verdict == "inconclusive"),
        samples_mean=sum(samples) / len(runs),
        samples_max=max(samples),
        seconds_mean=math.fsum(item.seconds for items in runs for item in items) / len(runs),
    )
