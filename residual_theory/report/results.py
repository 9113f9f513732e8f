"""The results in a run's folder, for figures and the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from residual_theory.errors import InputError, MissingResultError
from residual_theory.measurements.kinds import read
from residual_theory.measurements.measurement import Measurement, Observation
from residual_theory.store import Specification, Store, digest, read_listing

Kind = TypeVar("Kind", bound=Measurement)


@dataclass(frozen=True)
class Results:
    """The measurements in the folder of one preset."""

    folder: Path

    def of(self, claim: str, level: str, kind: type[Kind], *, partial: bool = False) -> list[Observation[Kind]]:
        """The measurements that a claim used at a level, of one kind, in the order it planned them.

        Arguments: partial: leave out what a run that goes on, or was interrupted, has not made yet.
        Raises: MissingResultError when that claim has not been verified here, or what is listed of it is not intact.
        """
        pairs = self._planned(f"{claim}/{level}")
        return [
            Observation(measurement, self._store.require(specification))
            for specification, measurement in pairs
            if isinstance(measurement, kind) and (not partial or self._store.holds(specification))
        ]

    def planned(self, claim: str, level: str, kind: type[Kind]) -> list[Kind]:
        """The measurements of one kind that a claim uses at a level, whether or not they have been made.

        Raises: MissingResultError as `of`, but for results that are not there.
        """
        return [measurement for _, measurement in self._planned(f"{claim}/{level}") if isinstance(measurement, kind)]

    def _planned(self, key: str) -> list[tuple[Specification, Measurement]]:
        found = []
        for specification in self._list(key):
            try:
                found.append((specification, read(specification)))
            except InputError as error:
                mend = f"run residual-theory verify {key.partition('/')[0]} again"
                raise MissingResultError(f"{self._listing} is not intact at {key} ({error}): {mend}") from None
        return found

    def digest_of(self, needs: Sequence[tuple[str, str]]) -> str:
        """A digest of everything that the claims (id, level) have measured."""
        keys = [f"{claim}/{level}" for claim, level in needs]
        return digest({key: [one for one in self._list(key) if self._store.holds(one)] for key in keys})

    def missing(self, needs: Sequence[tuple[str, str]], *, partial: bool = False) -> list[str]:
        """Of the claims (id, level), the ids of those that have not been verified here, or, if partial, not begun."""
        listed = read_listing(self._listing)
        enough = any if partial else all
        return [
            claim
            for claim, level in needs
            if not (specifications := listed.get(f"{claim}/{level}"))
            or not enough(map(self._store.holds, specifications))
        ]

    @property
    def _store(self) -> Store:
        return Store(self.folder / "data")

    @property
    def _listing(self) -> Path:
        return self.folder / "measurements.json"

    def _list(self, key: str) -> Sequence[Specification]:
        listed = read_listing(self._listing)
        if key not in listed:
            claim = key.partition("/")[0]
            raise MissingResultError(f"{self.folder} has no results of {key}: run residual-theory verify {claim} first")
        return listed[key]
