"""Which code a result depends on: a digest of all that a function reaches in this package, and of its libraries.

Nothing is imported or run: the sources are read. From a function or class, every name it uses is followed to its
definition, in its own module or where that imports it from, and from there on. Of a module only the definitions that
are reached count, and its bare statements; docstrings and comments never do. A library counts by its version.
"""

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).parent
_FINDERS = {"import_module", "iter_modules", "walk_packages"}  # code that finds modules by itself uses its whole folder


def fingerprint(*entries: str, package: Path = PACKAGE) -> str:
    """16 hex digits of the code that the entries reach, and of the versions of the libraries it names.

    Arguments: entries: "module:name", "module:Class.method", or the path of a Python file, all of which counts.
    Raises: LookupError for an entry that is not there.
    """
    reach = _Reach(package)
    for entry in entries:
        reach.enter(entry)
    parts = [f"{name} {reach.parts[name]}" for name in sorted(reach.parts)]
    parts += [f"{name} {_version(name)}" for name in sorted(reach.libraries)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Uses:
    """What some statements name, and a digest of them."""

    digest: str
    imports: dict[str, str]  # within the statements, as in `_Source`
    names: frozenset[str]
    attributes: frozenset[tuple[str, str]]  # of a name
    finds: bool  # modules by itself

    @classmethod
    def of(cls, statements: list[ast.stmt]) -> "_Uses":
        nodes = [node for statement in statements for node in ast.walk(statement)]
        imports: dict[str, str] = {}
        for node in nodes:
            imports |= _imports_of(node)
        names = frozenset(node.id for node in nodes if isinstance(node, ast.Name))
        named = [node for node in nodes if isinstance(node, ast.Attribute)]
        attributes = frozenset((node.value.id, node.attr) for node in named if isinstance(node.value, ast.Name))
        finds = bool(_FINDERS & (names | {node.attr for node in named}))
        text = "".join(map(ast.dump, statements))
        return cls(hashlib.sha256(text.encode()).hexdigest(), imports, names, attributes, finds)


@dataclass
class _Source:
    """A module's definitions and imports by name, and the statements that only run."""

    name: str
    is_package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)  # what a name stands for: "module", or "module:name"
    bare: list[ast.stmt] = field(default_factory=list)
    uses: dict[str, _Uses] = field(default_factory=dict)  # of what has been followed so far

    def take(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.imports |= _imports_of(statement)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            for inner in statement.body:  # a name that only types use, or that is imported when first asked for
                self.imports |= _imports_of(inner)
        elif names := list(_names_bound_by(statement)):
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
        else:
            self.bare.append(statement)


def _read(path: Path, name: str) -> _Source:
    return _parse(name, path.name == "__init__.py", path.read_bytes())


@functools.lru_cache(maxsize=512)
def _parse(name: str, is_package: bool, content: bytes) -> _Source:
    found = _Source(name, is_package)
    for statement in _without_docstrings(ast.parse(content)).body:
        found.take(statement)
    return found


class _Reach:
    """What has been reached so far."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self._sources: dict[str, _Source | None] = {}
        self._waiting: list[tuple[_Source, _Uses]] = []
        self.parts: dict[str, str] = {}  # digest of the source by "module:name"
        self.libraries: set[str] = set()

    def enter(self, entry: str) -> None:
        """Follow an entry of `fingerprint`."""
        if entry.endswith(".py"):
            source = _read(Path(entry), Path(entry).name)
            self._sources[source.name] = source
            self._whole(source)
        else:
            self._start(entry)
        while self._waiting:
            self._follow(*self._waiting.pop())

    def _start(self, entry: str) -> None:
        module, _, path = entry.partition(":")
        name, _, method = path.partition(".")
        source = self._source(module)
        statements = [] if source is None else source.definitions.get(name, [])
        if method:
            inside = [part for one in statements if isinstance(one, ast.ClassDef) for part in one.body]
            statements = [part for part in inside if method in _names_bound_by(part)]
        if source is None or not statements:
            raise LookupError(f"{entry} is not there")
        self._take(source, entry, statements)

    def _source(self, module: str) -> _Source | None:
        """The module's source; None for one outside the package."""
        if module not in self._sources:
            first, *rest = module.split(".")
            path = self._package.joinpath(*rest)
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            known = first == self._package.name and file.is_file()
            self._sources[module] = _read(file, module) if known else None
        return self._sources[module]

    def _whole(self, source: _Source) -> None:
        self._take(source, source.name, source.bare)
        for name in (*source.definitions, *source.imports):
            self._name(source, name)

    def _take(self, source: _Source, label: str, statements: list[ast.stmt]) -> None:
        """Take in statements of a source, to be followed."""
        if label not in self.parts:
            if label not in source.uses:
                source.uses[label] = _Uses.of(statements)
            self.parts[label] = source.uses[label].digest
            self._waiting.append((source, source.uses[label]))

    def _follow(self, source: _Source, uses: "_Uses") -> None:
        """Take in whatever statements name, and what runs when their module is imported."""
        for target in uses.imports.values():
            self._target(target)
        local = source.imports | uses.imports
        for owner, name in uses.attributes:
            module = self._as_module(local.get(owner, ""))
            if module is not None:
                self._name(module, name)
        for name in uses.names - uses.imports.keys():
            self._name(source, name)
        if uses.finds:
            self._folder_of(source)
        self._take(source, source.name, source.bare)

    def _name(self, source: _Source, name: str) -> None:
        """Follow a name of a module; local names of functions, and builtins, are not followed."""
        if name in source.definitions:
            self._take(source, f"{source.name}:{name}", source.definitions[name])
        elif source.imports.get(name, f"{source.name}:{name}") != f"{source.name}:{name}":
            self._target(source.imports[name])
        elif source.is_package and self._source(f"{source.name}.{name}") is not None:
            self._target(f"{source.name}.{name}")

    def _target(self, target: str) -> None:
        module, _, name = target.partition(":")
        source = self._source(module)
        if source is None:
            library = module.partition(".")[0]
            self.libraries |= {library} - sys.stdlib_module_names - {self._package.name}
        elif name:
            self._name(source, name)

    def _as_module(self, target: str) -> _Source | None:
        module, _, name = target.partition(":")
        return self._source(f"{module}.{name}" if name else module) if module else None

    def _folder_of(self, source: _Source) -> None:
        parent = source.name if source.is_package else source.name.rpartition(".")[0]
        folder = self._package.joinpath(*parent.split(".")[1:])
        for file in sorted(folder.glob("*.py")):
            inner = self._source(f"{parent}.{file.stem}")
            if inner is not None and inner.name not in self.parts:
                self._whole(inner)


def _imports_of(node: ast.AST) -> dict[str, str]:
    """What each name that an import statement binds stands for."""
    if isinstance(node, ast.Import):
        bound = {alias.asname: alias.name for alias in node.names if alias.asname}
        return bound | {(first := alias.name.partition(".")[0]): first for alias in node.names if not alias.asname}
    if isinstance(node, ast.ImportFrom) and node.module not in (None, "__future__"):
        return {alias.asname or alias.name: f"{node.module}:{alias.name}" for alias in node.names}
    return {}


def _names_bound_by(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module or class binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


def _without_docstrings(module: ast.Module) -> ast.Module:
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                node.body = node.body[1:] or [ast.Pass()]
    return module


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return " ".join(sorted(map(metadata.version, metadata.packages_distributions().get(library, []))))
