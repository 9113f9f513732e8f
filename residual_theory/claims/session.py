"""Running claims: measure what they plan, and judge claim and twin."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr

from residual_theory.claims.claim import Claim, Law, Observation, Parameters, Round, seed_for
from residual_theory.claims.files import ClaimsFiles, Refusal, in_one_line, is_claims_file, numeric, planned
from residual_theory.claims.instruments import Instruments
from residual_theory.claims.outcome import Outcome
from residual_theory.claims.presets import Preset, load_preset
from residual_theory.claims.registry import choose, claims_in
from residual_theory.errors import InputError, ResidualTheoryError
from residual_theory.loading import find_root
from residual_theory.parallel import each
from residual_theory.statistics.findings import Evidence, Word, decide
from residual_theory.statistics.sequential import Looks, doubling, shares
from residual_theory.store import Specification, Store, digest, read_listing, write_atomically

Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # measurements done, of how many; 0 of 0 ends the report


@dataclass
class _Case:
    """One claim in a run: the measurements planned for it, and the looks at its law and at its twin's."""

    claim: Claim
    parameters: Parameters
    law: Looks
    twin: Looks
    words: tuple[Word, Word] = ("inconclusive", "inconclusive")
    specifications: list[Specification] = field(default_factory=list)
    of_user: bool = False  # what it does wrong refuses it, and does not end the run

    def open(self, number: int) -> bool:
        """Whether round `number` may still decide something of it."""
        return number < self.parameters.rounds and "inconclusive" in self.words

    def look(self, results: Mapping[str, xr.Dataset]) -> None:
        """Take one more look at whatever is undecided."""
        distinct = {digest(spec): spec for spec in self.specifications}  # what is planned twice is measured once
        observations = [Observation(spec, results[key]) for key, spec in distinct.items()]

        def seen(law: Law) -> Evidence:
            found = self.claim.check(self.parameters, observations, law)
            return numeric(found) if self.of_user else found

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
    files: Mapping[str, str] = field(default_factory=dict)  # of users' claims, by key: refused where others raise
    refused: list[Refusal] = field(default_factory=list)
    unfit: set[str] = field(default_factory=set)  # keys of claims refused while running
    results: dict[str, xr.Dataset] = field(default_factory=dict)  # read once, by digest
    memory: Store | None = None  # keeps the measurements in place of the folder

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

        An id that ends in .py or is a folder stands for the claims there; other ids then choose among these, and add
        claims of the root.
        Raises: InputError for an unknown preset or claim, an unwritable folder or an unreadable text.
        """
        place = find_root(root)
        given = ClaimsFiles.read([Path(word) for word in ids if is_claims_file(word)])
        names = [word for word in ids if not is_claims_file(word)]
        theirs = {claim.id for claim in given.claims} | {refusal.claim.partition("/")[0] for refusal in given.refused}
        mine, added = ([name for name in names if (name in theirs) == within] for within in (True, False))
        has_files = len(names) < len(ids)
        known = claims_in(place) if added or not has_files else []
        shared = has_files and (bool(given.refused) or not preset.endswith(".toml"))
        chosen = load_preset(place, preset, [*known, *given.claims], shared=shared)
        left_out = () if ids else chosen.run.leave_out
        offered = [claim for claim in known if claim.key.replace("/", ".") not in left_out]
        claims = (*choose(offered, added), *(claim for claim in given.claims if not mine or claim.id in mine))
        instruments = Instruments(place, text)
        if text is not None:
            instruments.read()
        folder = results / chosen.name
        write_atomically(folder / ".gitignore", "*\n")  # results are made, not kept under version control
        return cls(chosen, claims, folder, instruments, jobs, progress, given.files, given.refused)

    @property
    def store(self) -> Store:
        """The measurements of this run."""
        return self.memory or Store(self.folder / "data")

    def verify(self) -> list[Outcome]:
        """Measure and judge, and list in the run's folder which measurements each claim used."""
        outcomes = self.judge()
        self._save(outcomes)
        return outcomes

    def judge(self) -> list[Outcome]:
        """Measure and judge: more samples for what is undecided, round after round, until the rounds end.

        Every look at growing data is paid for: `sequential.Looks` says how, and why the error of the run stays below
        alpha. A verdict once reached stays, with the evidence that it was reached on.
        """
        cases = [self._case(claim) for claim in self.claims]
        for number in range(max((case.parameters.rounds for case in cases), default=0)):
            open_cases = [case for case in cases if case.open(number)]
            added = [spec for case in open_cases for spec in self._attempt(case, "plan", self._plan, number) or ()]
            if not number and not added and not self.refused:
                raise InputError("preset", self.preset.name, "its sizes leave nothing to measure")
            if added:
                self._refuse_unmeasured(self.measure(added), cases)
            for case in self._fit(open_cases):
                self._attempt(case, "check", _Case.look, self.results)
            cases = self._fit(cases)
            words = iter(decide([looks for case in cases for looks in (case.law, case.twin)], self.preset.run.alpha))
            for case in cases:
                case.words = next(words), next(words)
        return [self._outcome(case, len(cases)) for case in cases]

    def _fit(self, cases: Sequence[_Case]) -> list[_Case]:
        return [case for case in cases if case.claim.key not in self.unfit]

    def _case(self, claim: Claim) -> _Case:
        parameters = self.preset.parameters[claim.key]
        looks = Looks(shares(doubling(parameters.rounds), self.preset.run.alpha))
        return _Case(claim, parameters, looks, looks, of_user=claim.key in self.files)

    def _plan(self, case: _Case, number: int) -> Sequence[Specification]:
        seed = seed_for(self.preset.run.seed, case.claim.drawn_with or case.claim.id)
        draw = Round(number, seed, self.instruments.read)
        added = planned(case.claim.plan(case.parameters, draw))
        if not added and not number and case.of_user:
            raise InputError("plan", added, "lists nothing to measure")
        case.specifications += added
        return added

    def _attempt(self, case: _Case, what: str, work: Callable[..., Result], *arguments: Any) -> Result | None:
        """What work(case, …) returns; where it raises, the claim of a user's file is refused and others let it pass."""
        try:
            return work(case, *arguments)
        except (Exception, SystemExit) as error:
            if not case.of_user:
                raise
            self._refuse(case, f"its {what} fails: {in_one_line(error)}")
            return None

    def _refuse(self, case: _Case, reason: str) -> None:
        key = case.claim.key
        self.unfit.add(key)
        self.refused.append(Refusal(self.files[key], key, reason))

    def _refuse_unmeasured(self, failed: Mapping[str, str], cases: Sequence[_Case]) -> None:
        """Refuse every claim that needs a measurement which failed."""
        for case in self._fit(cases):
            reason = next((failed[key] for key in map(digest, case.specifications) if key in failed), None)
            if reason is not None and not case.of_user:
                raise ResidualTheoryError(reason)
            if reason is not None:
                self._refuse(case, f"its measurement fails: {reason}")

    def measure(self, specifications: Sequence[Specification]) -> dict[str, str]:
        """Bring every measurement into the store, in parallel.

        Returns: why measurements failed, by digest; without claims of users none may, and the error passes through.
        """
        unique = {digest(specification): specification for specification in specifications}
        missing = []
        for key, specification in unique.items():
            found = self.results.get(key)
            found = self.store.load(specification) if found is None else found
            if found is None:
                missing.append(specification)
            else:
                self.results[key] = found
        make = _Make(self.store, self.instruments, forgiving=bool(self.files))
        failed: dict[str, str] = {}
        self.progress(0, len(missing))
        try:
            for done, (key, reason) in enumerate(each(make, missing, self.jobs), start=1):
                failed |= {key: reason} if reason else {}
                self.progress(done, len(missing))
        except BaseException:
            self.progress(0, 0)  # leaves the terminal as it was
            raise
        made = {key: unique[key] for key in map(digest, missing) if key not in failed}
        self.results.update((key, self.store.require(specification)) for key, specification in made.items())
        return failed

    def _outcome(self, case: _Case, claims: int) -> Outcome:
        """An interval has its look's share of alpha over claims and twins; where several are shown, each by itself."""
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
    forgiving: bool

    def __call__(self, specification: Specification) -> tuple[str, str]:
        """The measurement's digest, and why it failed: empty, for it raises instead unless forgiving."""
        try:
            self.store.make(specification, self.instruments)
        except Exception as error:
            if not self.forgiving:
                raise
            return digest(specification), in_one_line(error)
        return digest(specification), ""
