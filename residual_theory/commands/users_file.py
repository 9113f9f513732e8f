"""Files of users: what a name in one stands for, and one line for whatever their code raises."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from residual_theory.errors import InputError, ResidualTheoryError


@contextmanager
def named(argument: str, value: object) -> Iterator[None]:
    """What somebody's code raises becomes one line; what this package raises stays."""
    try:
        yield
    except ResidualTheoryError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(argument, value, f"raised {reason}") from error


@contextmanager
def loaded(file: Path, argument: str) -> Iterator[ModuleType]:
    """The module in a file, which may import its neighbours while it is in use, as a script may.

    Raises: InputError naming `argument` when it cannot be read.
    """
    from residual_theory.loading import load_module

    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield load_module(file.resolve(), argument)
    finally:
        sys.path.remove(folder)
