"""Where claims and figures live: the derivations, simulations and figures folders, read file by file."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import residual_theory
from residual_theory.errors import InputError

FOLDERS = ("derivations", "simulations", "figures")
PACKAGE = Path(residual_theory.__file__).parent


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
        if all((folder / name).is_dir() for name in FOLDERS):
            return folder
    raise InputError("root", str(here), "no claims are installed; name a checkout of residual-theory")


def load_module(path: Path) -> ModuleType:
    """The module in a file, under a name that no import statement can reach."""
    name = f"residual_theory_catalog.{path.parent.name}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up
    spec.loader.exec_module(module)
    return module


def modules(root: Path, folder: str) -> Iterator[ModuleType]:
    """The folder's modules in the order of their names."""
    return (load_module(path) for path in sorted((root / folder).glob("*.py")))
