"""Real text, read as bytes: by default the Python standard library's own source, so no download is needed."""

import hashlib
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from residual_theory.errors import InputError

VALIDATION_SHARE = 0.1
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """Text as token ids, in two parts that share no document (or, of a single file, no byte).

    name: what was read.  train, validation: integers (token,), uint8 for bytes.  digest: SHA-256 of the content and its
    split.  vocabulary: ids are below it.  unit: what a token is, "byte" or "token".
    """

    name: str
    train: Tensor
    validation: Tensor
    digest: str
    vocabulary: int = 256
    unit: str = "byte"

    def must_hold(self, context: int) -> None:
        """Raises: InputError("text", …) if either part is shorter than one sequence and its last target."""
        for split in (self.train, self.validation):
            _positions(split, context)


def load_corpus(path: str | Path | None = None) -> Corpus:
    """Read a corpus and split it into a training and a validation part, the same way on every call.

    Arguments:
      path: None for the Python standard library's own *.py files, less its tests, IDLE and installed packages (some
        ten MB; the digest tells versions of Python apart); or a folder, of which every text file is read, in order of
        its relative path, hidden, empty and binary ones left out; or one text file.
    Several files are split by file: the tenth of them (rounded up) whose paths have the smallest SHA-256 is for
    validation. A single file is split by position: its last tenth is for validation.
    Raises: InputError("text", …) for a path that is missing, unreadable or empty, or not UTF-8 text.
    """
    if path is None:
        root = Path(sysconfig.get_path("stdlib"))
        name = f"python-{sys.version_info.major}.{sys.version_info.minor}-standard-library"
        documents = _read_folder(root, ".py", _NOT_LIBRARY)
        if not documents:
            raise InputError("text", None, "this Python lacks its library's source: name a file or a folder of text")
        return _corpus(name, documents)
    root = Path(path)
    try:
        documents = _read_folder(root, "", set()) if root.is_dir() else {root.name: _read_file(root)}
    except OSError as error:
        raise InputError("text", str(path), f"cannot be read: {error.strerror or error}") from None
    if not documents:
        raise InputError("text", str(path), "name a folder that holds at least one text file")
    return _corpus(root.name or str(root), documents)


def batch(split: Tensor, size: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`size` windows of a split at uniformly random positions: (inputs, targets), each int64 (batch, time).

    targets are inputs one token on. Raises: InputError("text", …) if the split is shorter than one window.

    >>> inputs, targets = batch(torch.arange(9, dtype=torch.uint8), 2, 8, torch.Generator().manual_seed(3))
    >>> targets.tolist()
    [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]]
    """
    starts = torch.randint(_positions(split, context), (size,), generator=generator)
    return _cut(split, starts, context)


def evaluation_windows(split: Tensor, count: int, context: int) -> tuple[Tensor, Tensor]:
    """`count` windows spread evenly over a split, the same for every run: (inputs, targets), each int64 (window, time).

    Arguments: split: ids (position,), such as `corpus.validation`. count: of windows; at most as
      many are given as the split has positions. context: the length of a window.
    Raises: InputError("text", …) if it is shorter than one window.

    >>> evaluation_windows(torch.arange(10), 2, 3)[0].tolist()
    [[0, 1, 2], [6, 7, 8]]
    """
    last = _positions(split, context) - 1
    count = min(count, last + 1)
    return _cut(split, torch.arange(count) * last // max(count - 1, 1), context)


def _positions(split: Tensor, context: int) -> int:
    if len(split) < context + 1:
        unit = "bytes" if split.dtype == torch.uint8 else "tokens"
        mend = f"too short for one sequence: training and validation part each need context + 1 = {context + 1} {unit}"
        raise InputError("text", f"{len(split)} {unit}", mend)
    return len(split) - context


def _cut(split: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    windows = split[starts[:, None] + torch.arange(context + 1)].long()  # (batch, time + 1)
    return windows[:, :-1], windows[:, 1:]


def _read_file(path: Path) -> bytes:
    if not path.exists():
        raise InputError("text", str(path), "no such file or folder")
    if not path.is_file():
        raise InputError("text", str(path), "name a regular file or a folder")
    content = path.read_bytes()
    if not content:
        raise InputError("text", str(path), "the file is empty: name one with text in it")
    if not _is_text(content):
        raise InputError("text", str(path), "the file is not UTF-8 text: convert it, or name another")
    return content


def _read_folder(root: Path, ending: str, without: set[str]) -> dict[str, bytes]:
    """The text files under a folder by relative path, in that order."""

    def refuse(error: OSError) -> None:
        raise error

    documents = {}
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name not in without and not name.startswith(".")]
        for file in (Path(folder, name) for name in files if name.endswith(ending) and not name.startswith(".")):
            if file.is_file():  # neither a pipe nor a dangling link
                documents[file.relative_to(root).as_posix()] = file.read_bytes()
    return {name: content for name, content in sorted(documents.items()) if content and _is_text(content)}


def _is_text(content: bytes) -> bool:
    if b"\0" in content:
        return False
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _corpus(name: str, documents: dict[str, bytes]) -> Corpus:
    train, validation = _split(documents)
    digest = hashlib.sha256(f"{len(train)} {len(validation)} ".encode() + train + validation).hexdigest()
    return Corpus(name, _tokens(train), _tokens(validation), digest)


def _split(documents: dict[str, bytes]) -> tuple[bytes, bytes]:
    if len(documents) == 1:
        (content,) = documents.values()
        cut = len(content) - max(1, round(VALIDATION_SHARE * len(content)))
        return content[:cut], content[cut:]
    by_hash = sorted(documents, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(by_hash[: -(-len(documents) // round(1 / VALIDATION_SHARE))])
    train = b"".join(content for name, content in documents.items() if name not in held_out)
    return train, b"".join(documents[name] for name in documents if name in held_out)


def _tokens(content: bytes) -> Tensor:
    if not content:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
