"""Files read as modules: those of the derivations, simulations and figures folders, and files of a user's own."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from residual_theory.errors import InputError, ResidualTheoryError

FOLDERS = ("derivations", "simulations", "figures")
PACKAGE = Path(__file__).parent
Kind = TypeVar("Kind")


def find_root(given: Path | None) -> Path:
    """The folder that holds the three: as given, else from the working directory upward, else the installed copy.

    Raises: InputError when the given folder lacks one of the three.
    """
    if given is not None:
        missing = [name for name in FOLDERS if not (given / name).is_dir()]
        if missing:
            raise InputError("root", str(given), f"has no folder {missing[0]}; name a checkout of residual-theory")
        return given.resolve()
    here = Path.cwd()
    for folder in (here, *here.parents, PACKAGE / "_catalog", PACKAGE.parent):
        if all((folder / name).is_dir() for name in (*FOLDERS, "simulations/presets")):
            return folder
    raise InputError("root", str(here), "no claims are installed; name a checkout of residual-theory")


def load_module(path: Path, argument: str = "file") -> ModuleType:
    """The module in a file, under a name that no import statement can reach.

    Raises: InputError naming `argument` when it cannot be read; what this package raises within it, as it is.
    """
    name = f"residual_theory_catalog.{path.parent.name}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up
    try:
        spec.loader.exec_module(module)
    except ResidualTheoryError:
        raise
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(argument, str(path), f"cannot be read ({reason}); mend the file or remove it") from error
    return module


def part(module: ModuleType, name: str, kind: type[Kind]) -> Kind:
    """What a module of the three folders has to define.

    Raises: InputError when it is absent or of another type.
    """
    found = getattr(module, name, None)
    if not isinstance(found, kind):
        raise InputError("file", str(module.__file__), f"must define {name}, a {kind.__name__}")
    return found


def modules(root: Path, folder: str) -> Iterator[ModuleType]:
    """The folder's modules in the order of their names."""
    return (load_module(path) for path in sorted((root / folder).glob("*.py")))


@contextmanager
def named(argument: str, value: object) -> Iterator[None]:
    """Errors of a user's code become one line; errors of this package are raised as they are."""
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
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield load_module(file.resolve(), argument)
    finally:
        sys.path.remove(folder)
