"""What a run left in its folder, for figures and the report to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from residual_theory.claims.claim import Observation
from residual_theory.errors import MissingResultError
from residual_theory.store import Store, digest, read_listing


@dataclass(frozen=True)
class Results:
    """The measurements in the folder of one preset."""

    folder: Path

    def of(self, claim: str, level: str, instrument: str) -> list[Observation]:
        """The measurements that a claim used at a level, of one instrument, in the order it planned them.

        Raises: MissingResultError when that claim has not been verified here.
        """
        store = Store(self.folder / "data")
        return [Observation(spec, store.require(spec)) for spec in self._listed(f"{claim}/{level}", instrument)]

    def digest_of(self, needs: Sequence[tuple[str, str]]) -> str:
        """A digest of everything that the claims (id, level) measured."""
        return digest({f"{claim}/{level}": self._listed(f"{claim}/{level}", None) for claim, level in needs})

    def _listed(self, key: str, instrument: str | None) -> list[dict[str, object]]:
        listed = read_listing(self.folder / "measurements.json")
        if key not in listed:
            claim = key.partition("/")[0]
            raise MissingResultError(f"{self.folder} has no results of {key}: run residual-theory verify {claim} first")
        return [spec for spec in listed[key] if instrument in (None, spec["instrument"])]
