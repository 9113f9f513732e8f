"""Results on disk: one netCDF file and one JSON sidecar for each specification, named by its digest.

The sidecar is written last and holds the file's checksum, so a result is intact exactly when its sidecar matches it; an
interrupted write leaves nothing that could be mistaken for a result. The files lie in a subfolder named after the
version of the layout; results of other versions are neither read nor touched.
"""

import functools
import hashlib
import json
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residual_theory.errors import InputError, MissingResultError

if TYPE_CHECKING:
    import xarray as xr

Specification = Mapping[str, Any]
VERSION = 2  # of the layout: one more whenever files of the earlier one can no longer be read
_LIBRARIES = ("numpy", "scipy", "sympy", "torch", "xarray")


class OldResultsWarning(UserWarning):
    """A folder holds results of another version of the layout, which are left as they are."""


class CorruptResultWarning(UserWarning):
    """A stored result does not match its sidecar and is computed again."""


def digest(specification: Specification) -> str:
    """16 hex digits that name a specification: plain JSON types, key order irrelevant."""
    text = json.dumps(specification, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def provenance() -> dict[str, Any]:
    """What a sidecar records of the program and the machine."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
        commit = described.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    return {
        "residual-theory": metadata.version("residual-theory"),
        "commit": commit if (here.parent / ".git").exists() else None,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }


def write_atomically(path: Path, content: str | bytes, *, argument: str = "results") -> None:
    """Replace `path` by `content` whole or not at all.

    Raises: InputError naming `argument` when the folder cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():  # a device or a pipe is written to, never replaced
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(argument, str(path), f"cannot be written ({error.strerror}); name a writable folder") from None


def require_writable(path: Path, *, argument: str = "results") -> None:
    """Raises: InputError naming `argument` unless a file could be written there. Leaves what is there as it is."""
    if path.is_dir():
        raise InputError(argument, str(path), "is a folder; name a file")
    trial = path.with_name(f".{path.name}.{os.getpid()}.trial")  # never the file itself, which another may be writing
    try:
        write_atomically(trial, "", argument=argument)
    except InputError as error:
        raise InputError(argument, str(path), error.mend) from None
    trial.unlink(missing_ok=True)


def read_listing(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Which measurements each claim used, as a run saved it; empty when absent or, with a warning, when corrupt."""
    try:
        listed = json.loads(path.read_text())
        if all(isinstance(specs, list) and all(isinstance(spec, dict) for spec in specs) for specs in listed.values()):
            return dict(listed)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    warnings.warn(
        f"{path} is not intact: verify claims again to list their results", CorruptResultWarning, stacklevel=2
    )
    return {}


@dataclass(frozen=True)
class Store:
    """The results in one folder."""

    folder: Path

    def path(self, specification: Specification) -> Path:
        """Where the result of a specification lies, whether or not it is there."""
        name = f"{specification.get('instrument', 'result')}-{digest(specification)}.nc"
        return self.folder / f"v{VERSION}" / name

    def load(self, specification: Specification) -> "xr.Dataset | None":
        """The stored result, or None when it is absent or, with a CorruptResultWarning, not intact.

        Where the folder has results of another version only, an OldResultsWarning says so, once a process.
        """
        from residual_theory.netcdf import decode

        path = self.path(specification)
        if not path.exists() and not path.with_suffix(".json").exists():
            _warn_of_old(self.folder)
            return None
        try:
            sidecar = json.loads(path.with_suffix(".json").read_text())
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sidecar["sha256"]:
                raise ValueError("checksum differs")
            if sidecar["specification"] != json.loads(json.dumps(specification)):
                raise ValueError("it belongs to another specification")
            float(sidecar["seconds"])
            return decode(content, sidecar["integers"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            warnings.warn(
                f"result {path} is not intact ({reason}) and has to be computed again",
                CorruptResultWarning,
                stacklevel=2,
            )
            return None

    def holds(self, specification: Specification) -> bool:
        """Whether there is a result, intact or not."""
        return self.path(specification).with_suffix(".json").exists()

    def require(self, specification: Specification) -> "xr.Dataset":
        """The stored result.

        Raises: MissingResultError when it is absent.
        """
        found = self.load(specification)
        if found is None:
            raise MissingResultError(f"no intact result {self.path(specification)}: run residual-theory verify again")
        return found

    def make(self, specification: Specification, instrument: Callable[[Specification], "xr.Dataset"]) -> None:
        """Store what `instrument` makes of the specification, in place of whatever is there."""
        start = time.perf_counter()
        result = instrument(specification)
        self.save(specification, result, time.perf_counter() - start)

    def seconds(self, specification: Specification) -> float:
        """How long a stored result took to compute."""
        return float(json.loads(self.path(specification).with_suffix(".json").read_text())["seconds"])

    def save(self, specification: Specification, result: "xr.Dataset", seconds: float) -> None:
        """Store a result that took `seconds` to compute, in place of whatever is there."""
        from residual_theory.netcdf import encode

        path = self.path(specification)
        content, integers = encode(result)
        write_atomically(path, content)
        sidecar = {
            "specification": specification,
            "sha256": hashlib.sha256(content).hexdigest(),
            "integers": integers,
            "seconds": round(seconds, 3),
            "device": result.attrs.get("device", "cpu"),
            "provenance": provenance(),
        }
        write_atomically(path.with_suffix(".json"), json.dumps(sidecar, indent=1, sort_keys=True) + "\n")


@functools.cache
def _warn_of_old(folder: Path) -> None:
    """Say that a folder has results, and none of this version."""
    name = f"*-{'[0-9a-f]' * 16}.nc"
    if not (folder / f"v{VERSION}").exists() and any([*folder.glob(name), *folder.glob(f"v*/{name}")]):
        warnings.warn(
            f"{folder} holds results of another version, which are left as they are: all is measured anew",
            OldResultsWarning,
            stacklevel=3,
        )
