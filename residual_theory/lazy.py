"""Packages that import each of their names at its first use, since libraries such as torch take seconds to import."""

import importlib
import sys
from collections.abc import Callable, Mapping


def attach(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package that offers names of other modules.

    Arguments: package: its `__name__`. names: those that each module of residual_theory gives, separated by blanks.
    """
    modules = {name: module for module, listed in names.items() for name in listed.split()}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"residual_theory.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, list_names, sorted(modules)
