"""Laws of branches, one kind a file; a file added here is known by its name wherever stacks are described."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping

from residual_theory.branches.law import BranchLaw


def _find_kinds() -> Iterator[tuple[str, type[BranchLaw]]]:
    """The name of each file of this package that holds a law, and the law."""
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for law in filter(inspect.isclass, vars(module).values()):
            if law.__module__ == module.__name__ and issubclass(law, BranchLaw) and not inspect.isabstract(law):
                yield file.name, law


KINDS: Mapping[str, type[BranchLaw]] = dict(
    sorted(_find_kinds(), key=lambda kind: len(kind[1]("linear").matrices(1)))  # the simplest first
)
