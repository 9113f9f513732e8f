"""Running claims: what was chosen, and a session that measures what they plan and judges each claim and its twin."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr

from residual_theory.claims.claim import Claim, Law, Parameters, Round, seed_for
from residual_theory.claims.families import Budget, budgets_of, budgets_of_files, budgets_of_given
from residual_theory.claims.files import (
    ClaimsFiles,
    Refusal,
    in_one_line,
    is_claims_file,
    require_measurements,
    require_numbers,
)
from residual_theory.claims.outcome import Outcome
from residual_theory.claims.presets import Preset, load_preset
from residual_theory.claims.registry import claims_in, claims_of, headers_in
from residual_theory.errors import InputError, ResidualTheoryError
from residual_theory.loading import find_root
from residual_theory.measurements.measurement import Context, Measurement, Observation
from residual_theory.measurements.texts import corpus_at
from residual_theory.parallel import each
from residual_theory.statistics.findings import Evidence, Word, word_at
from residual_theory.statistics.sequential import Looks, doubling, shares
from residual_theory.store import Specification, Store, digest, read_listing, write_atomically

Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # measurements done, of how many; 0 of 0 ends the report


@dataclass(frozen=True)
class Selection:
    """Some claims at the sizes of one preset, and the folder for what is measured: all looked up, nothing measured.

    files: the file of each user's claim, by key; such a claim is refused by name where others raise. refused: those
    that could not even be read. budgets: what each claim may err with, by key, fixed by what is stated where the claims
    come from and not by which of them were chosen; claims that have none are one family.
    """

    preset: Preset
    claims: tuple[Claim, ...]
    folder: Path
    context: Context
    files: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()
    budgets: Mapping[str, Budget] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        preset: str,
        results: Path,
        *,
        ids: Sequence[str] = (),
        text: Path | None = None,
        root: Path | None = None,
    ) -> "Selection":
        """Look everything up and refuse what cannot work, before anything is measured.

        An id that ends in .py or is a folder stands for the claims there; other ids then choose among these, and add
        claims of the root.
        Raises: InputError for an unknown preset or claim, an unwritable folder or an unreadable text.
        """
        found = find_root(root)
        given = ClaimsFiles.read([Path(word) for word in ids if is_claims_file(word)])
        names = [word for word in ids if not is_claims_file(word)]
        theirs = {claim.id for claim in given.claims} | {refusal.claim.partition("/")[0] for refusal in given.refused}
        mine, added = ([name for name in names if (name in theirs) == within] for within in (True, False))
        has_files = len(names) < len(ids)
        known = claims_of(found, added) if added else [] if has_files else claims_in(found)
        shared = has_files and (bool(given.refused) or not preset.endswith(".toml"))
        stated = headers_in(found) if known else ()
        others = [header.key for header in stated] if added else []
        chosen = load_preset(found, preset, [*known, *given.claims], others=others, shared=shared)
        left_out = () if ids else chosen.run.leave_out
        offered = [claim for claim in known if claim.key.replace("/", ".") not in left_out]
        claims = (*offered, *(claim for claim in given.claims if not mine or claim.id in mine))
        if text is not None:
            corpus_at(text)
        folder = results / chosen.name
        context = Context(found, text, folder / "unfinished")
        write_atomically(folder / ".gitignore", "*\n")  # results are made, not kept under version control
        budgets = budgets_of(stated) | budgets_of_files(given.files)
        return cls(chosen, claims, folder, context, given.files, tuple(given.refused), budgets)

    @functools.cached_property
    def budget(self) -> Mapping[str, Budget]:
        """The budget of every claim chosen, by key."""
        given = budgets_of_given(claim.key for claim in self.claims if claim.key not in self.budgets)
        return {**given, **self.budgets}

    def under(self, seed: int) -> "Selection":
        """The same with another seed."""
        settings = self.preset.run.model_copy(update={"seed": seed})
        return replace(self, preset=replace(self.preset, run=settings))

    def only(self, *claims: Claim, **parameters: Any) -> "Selection":
        """Some of the claims; with `parameters`, which are then their sizes beside the defaults."""
        sizes = {claim.key: claim.parameters(**parameters) for claim in claims} if parameters else {}
        preset = replace(self.preset, parameters={**self.preset.parameters, **sizes})
        return replace(self, claims=claims, preset=preset)


@dataclass
class _Case:
    """One claim in a session: the measurements planned for it, and the looks at its law and at its twin's."""

    claim: Claim
    parameters: Parameters
    law: Looks
    twin: Looks
    level: float  # what the verdict on either may err with
    verdicts: tuple[Word, Word] = ("inconclusive", "inconclusive")
    measurements: dict[str, Measurement] = field(default_factory=dict)  # by key: what is planned twice is measured once
    of_user: bool = False  # an error in it refuses this claim, and does not end the session

    def open(self, number: int) -> bool:
        """Whether round `number` may still decide something of it."""
        return number < self.parameters.rounds and "inconclusive" in self.verdicts

    def look(self, results: Mapping[str, xr.Dataset]) -> None:
        """Take one more look at whatever is undecided."""
        observations = [Observation(measurement, results[key]) for key, measurement in self.measurements.items()]

        def evidence_on(law: Law) -> Evidence:
            found = self.claim.check(self.parameters, observations, law)
            return require_numbers(found) if self.of_user else found

        if self.verdicts[0] == "inconclusive":
            self.law = self.law.and_at(evidence_on(self.claim.law))
        if self.verdicts[1] == "inconclusive":
            self.twin = self.twin.and_at(evidence_on(self.claim.twin.law))
        self.verdicts = word_at(self.law, self.level), word_at(self.twin, self.level)


class Session:
    """The claims of a selection measured and judged, once.

    refused: the users' claims that could not be judged, as far as is known. store: where the measurements are, the
    folder of the selection unless given.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        jobs: int = 1,
        progress: Progress = lambda *_: None,
        store: Store | None = None,
    ) -> None:
        self.selection = selection
        self.store = store or Store(selection.folder / "data")
        self.refused = list(selection.refused)
        self._jobs, self._progress = jobs, progress
        self._unfit: set[str] = set()  # keys of claims refused while running
        self._results: dict[str, xr.Dataset] = {}  # read once, by key
        self._specifications: dict[str, Specification] = {}  # made once, by key

    def verify(self) -> list[Outcome]:
        """Measure and judge, and list in the selection's folder which measurements each claim uses.

        They are listed before they are made, so that figures of an interrupted run can be drawn.
        """
        outcomes = self.judge(listing=True)
        self._list({outcome.claim.key: outcome.measurements for outcome in outcomes})
        return outcomes

    def judge(self, *, listing: bool = False) -> list[Outcome]:
        """Measure and judge: more samples for what is undecided, round after round, until the rounds end.

        Every claim is judged at the level of its own budget (`families`), whatever is judged beside it. The looks at
        growing data share that level: `sequential.Looks` says how, and why its error stays below. A verdict once
        reached stays, with the evidence that it was reached on.
        """
        preset = self.selection.preset
        cases = [self._case(claim) for claim in self.selection.claims]
        for number in range(max((case.parameters.rounds for case in cases), default=0)):
            open_cases = [case for case in cases if case.open(number)]
            added: dict[str, Measurement] = {}
            for case in open_cases:
                added |= self._attempt(case, "plan", self._plan, number) or {}
            if not number and not added and not self.refused:
                raise InputError("preset", preset.name, "its sizes leave nothing to measure")
            if added and listing:
                self._list({case.claim.key: case.measurements for case in cases if not case.of_user})
            if added:
                self._refuse_unmeasured(self.measure(added), cases)
            for case in self._fit(open_cases):
                self._attempt(case, "check", _Case.look, self._results)
            cases = self._fit(cases)
        return [self._outcome(case) for case in cases]

    def _fit(self, cases: Sequence[_Case]) -> list[_Case]:
        return [case for case in cases if case.claim.key not in self._unfit]

    def _case(self, claim: Claim) -> _Case:
        preset = self.selection.preset
        parameters = preset.parameters[claim.key]
        level = self.selection.budget[claim.key].level(preset.run.alpha)
        looks = Looks(shares(doubling(parameters.rounds), level))
        return _Case(claim, parameters, looks, looks, level, of_user=claim.key in self.selection.files)

    def _plan(self, case: _Case, number: int) -> dict[str, Measurement]:
        seed = seed_for(self.selection.preset.run.seed, case.claim.drawn_with or case.claim.id)
        current = Round(number, seed, functools.partial(corpus_at, self.selection.context.text))
        added = {}
        for measurement in require_measurements(case.claim.plan(case.parameters, current)):
            specification = measurement.specification()
            key = digest(specification)
            added[key], self._specifications[key] = measurement, specification
        if not added and not number and case.of_user:
            raise InputError("plan", [], "lists nothing to measure")
        case.measurements |= added
        return added

    def _attempt(self, case: _Case, what: str, work: Callable[..., Result], *arguments: Any) -> Result | None:
        """What work(case, …) returns. An error refuses the claim if it is of a user's file, and is raised otherwise."""
        try:
            return work(case, *arguments)
        except (Exception, SystemExit) as error:
            if not case.of_user:
                raise
            self._refuse(case, f"its {what} fails: {in_one_line(error)}")
            return None

    def _refuse(self, case: _Case, reason: str) -> None:
        key = case.claim.key
        self._unfit.add(key)
        self.refused.append(Refusal(self.selection.files[key], key, reason))

    def _refuse_unmeasured(self, failed: Mapping[str, str], cases: Sequence[_Case]) -> None:
        """Refuse every claim that needs a measurement which failed."""
        for case in self._fit(cases):
            reason = next((failed[key] for key in case.measurements if key in failed), None)
            if reason is not None and not case.of_user:
                raise ResidualTheoryError(reason)
            if reason is not None:
                self._refuse(case, f"its measurement fails: {reason}")

    def measure(self, planned: Mapping[str, Measurement]) -> dict[str, str]:
        """Bring measurements, by key, into the store, in parallel.

        Returns: why measurements failed, by key. Without claims of users an error is raised instead.
        """
        missing = []
        for key, measurement in planned.items():
            specification = self._specifications[key]
            found = self._results.get(key)
            found = self.store.load(specification) if found is None else found
            if found is None:
                missing.append((key, specification, measurement))
            else:
                self._results[key] = found
        failed: dict[str, str] = {}
        self._progress(0, len(missing))
        try:
            for done, (key, reason) in enumerate(self._make(missing), start=1):
                failed |= {key: reason} if reason else {}
                self._progress(done, len(missing))
        except BaseException:
            self._progress(0, 0)  # removes the progress bar
            raise
        for key, specification, _ in missing:
            if key not in failed:
                self._results[key] = self.store.require(specification)
        return failed

    def _make(self, missing: Sequence[tuple[str, Specification, Measurement]]) -> Iterator[tuple[str, str]]:
        """Keys of measurements as they are made, and why they failed: first, one by one, those that are made alone."""
        make = _Make(self.store, self.selection.context, forgiving=bool(self.selection.files))
        yield from each(make, [one for one in missing if one[2].alone], 1, threads=self._jobs)
        yield from each(make, [one for one in missing if not one[2].alone], self._jobs)

    def _outcome(self, case: _Case) -> Outcome:
        """The verdicts on a case; every interval by itself has its look's share of the level."""
        return Outcome(
            case.claim, *case.verdicts, case.law.last, case.twin.last,
            family=self.selection.budget[case.claim.key].family,
            confidence=1 - case.law.share * case.level,
            seconds=sum(self.store.seconds(self._specifications[key]) for key in case.measurements),
            measurements=case.measurements,
        )  # fmt: skip

    def _list(self, used: Mapping[str, Mapping[str, Measurement]]) -> None:
        """Which measurements each claim uses, for figures: kept beside those of claims verified earlier."""
        path = self.selection.folder / "measurements.json"
        listed = read_listing(path)
        for claim, measurements in used.items():
            listed[claim] = [dict(self._specifications[key]) for key in measurements]
        write_atomically(path, json.dumps(listed, indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True)
class _Make:
    store: Store
    context: Context
    forgiving: bool

    def __call__(self, missing: tuple[str, Specification, Measurement]) -> tuple[str, str]:
        """The measurement's key, and why it failed, or nothing; unless forgiving, an error is raised instead."""
        key, specification, measurement = missing
        try:
            self.store.make(specification, lambda _: measurement.measure(self.context))
        except Exception as error:
            if not self.forgiving:
                raise
            return key, in_one_line(error)
        return key, ""
