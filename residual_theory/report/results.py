"""The results in a run's folder, for figures and the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from residual_theory.errors import MissingResultError
from residual_theory.measurements.measurement import Measurement, Observation
from residual_theory.store import Store, digest, read_listing

Kind = TypeVar("Kind", bound=Measurement)


@dataclass(frozen=True)
class Results:
    """The measurements in the folder of one preset."""

    folder: Path

    def of(self, claim: str, level: str, kind: type[Kind]) -> list[Observation[Kind]]:
        """The measurements that a claim used at a level, of one kind, in the order it planned them.

        Raises: MissingResultError when that claim has not been verified here.
        """
        store = Store(self.folder / "data")
        listed = self._list(f"{claim}/{level}", kind.kind)
        return [Observation(kind.read(spec), store.require(spec)) for spec in listed]

    def digest_of(self, needs: Sequence[tuple[str, str]]) -> str:
        """A digest of everything that the claims (id, level) measured."""
        return digest({f"{claim}/{level}": self._list(f"{claim}/{level}", None) for claim, level in needs})

    def _list(self, key: str, kind: str | None) -> list[dict[str, object]]:
        listed = read_listing(self.folder / "measurements.json")
        if key not in listed:
            claim = key.partition("/")[0]
            raise MissingResultError(f"{self.folder} has no results of {key}: run residual-theory verify {claim} first")
        return [spec for spec in listed[key] if kind in (None, spec["instrument"])]
