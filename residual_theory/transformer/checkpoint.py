"""The state of a training run on disk, from which it goes on exactly as if it had never stopped."""

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from residual_theory.errors import InputError
from residual_theory.store import write_atomically

_FORMAT = 1


def save(path: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the file whole or not at all.

    Arguments: run: what identifies the run, as JSON types. state: tensors, numbers and dictionaries of them.
    Raises: InputError("checkpoint", …) when the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, "run": json.dumps(run), **state}, buffer)
    write_atomically(path, buffer.getvalue(), argument="checkpoint")


def load(path: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state saved, on the CPU; None where there is no file.

    Raises: InputError("checkpoint", …) for a file that is not intact, or of another run, naming where they differ.
    """
    if not path.exists():
        return None
    with intact(path):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch itself does not look at the checksums
        if broken is not None:
            raise ValueError(f"checksum of {broken} differs")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found, version = json.loads(state["run"]), state["format"]
    if version != _FORMAT:
        raise InputError("checkpoint", str(path), f"has format {version}, not {_FORMAT}; delete it to start over")
    difference = _difference(found, run)
    if difference:
        mend = f"belongs to another run ({difference}); name another file, or delete it to start over"
        raise InputError("checkpoint", str(path), mend)
    return state


@contextlib.contextmanager
def intact(path: Path) -> Iterator[None]:
    """Whatever a damaged or incomplete file makes of zip, pickle and torch becomes an InputError("checkpoint", …)."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())[:80]
        raise InputError("checkpoint", str(path), f"is not intact ({reason}); delete it to start over") from None


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """The first entry that differs, in words; empty when none does."""
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if inner := _difference(old, new, f"{prefix}{name}."):
                return inner
        elif old != new:
            return f"{prefix}{name} was {old!r} and is {new!r}"
    return ""
