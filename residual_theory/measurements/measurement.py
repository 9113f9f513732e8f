"""A measurement as data: a frozen description of everything that its result depends on."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from residual_theory.description import Description
from residual_theory.fingerprint import fingerprint
from residual_theory.store import Specification, digest

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Context:
    """What measurements need beside their description: where the claims lie, and which text to read.

    unfinished: a folder for the state of long measurements, from which they go on after an interruption.
    """

    root: Path
    text: Path | None = None
    unfinished: Path | None = None


class Measurement(Description):
    """The base of every kind of measurement. A kind adds the fields that its result depends on, and `measure`.

    `varies` names the fields in which measurements of one quantity may differ, as those of successive rounds do:
    their results are then samples of the same law, and `observations.pooled` pools them.
    """

    kind: ClassVar[str]
    varies: ClassVar[tuple[str, ...]] = ()

    def measure(self, context: Context) -> "xr.Dataset":
        """Make the measurement."""
        raise NotImplementedError

    @property
    def alone(self) -> bool:
        """Whether it takes so much memory that none should be made beside it, and all cores work on it instead."""
        return False

    @property
    def drawn(self) -> int:
        """Samples that it draws; 0 where nothing is drawn."""
        return 0

    @property
    def key(self) -> str:
        """16 hex digits that name the measurement and the code that makes it."""
        return digest(self.specification())

    @property
    def pool(self) -> str:
        """16 hex digits that measurements have in common when they differ in `varies` only."""
        return digest({name: value for name, value in self.specification().items() if name not in self.varies})

    def specification(self) -> Specification:
        """The measurement in plain JSON types, as it is stored."""
        code = _code(f"{type(self).__module__}:{type(self).__qualname__}.measure")
        return {"instrument": self.kind, **self.model_dump(mode="json"), "code": code}

    @classmethod
    def read(cls, specification: Specification) -> Self:
        """The measurement of this kind that was stored so. Raises: InputError when it is none."""
        return cls(**{name: _tuples(value) for name, value in specification.items() if name not in _STORED_BESIDE})


_code = functools.cache(fingerprint)  # imported code does not change while the process runs
_STORED_BESIDE = ("instrument", "code")


def _tuples(value: Any) -> Any:
    """The value with tuples for lists, since JSON has no tuples."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


Kind = TypeVar("Kind", bound=Measurement, covariant=True)


class Observation(NamedTuple, Generic[Kind]):
    """A measurement and its result."""

    measurement: Kind
    result: "xr.Dataset"


Observations = Sequence[Observation[Measurement]]
