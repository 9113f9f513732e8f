"""Reading a Python file without running it: the literal arguments of the calls that it assigns to a name."""

import ast
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any


class UnclearError(Exception):
    """The source does not say it literally; only running the file can."""


class Source:
    """A file's text, parsed. Only names that its top level binds once are resolved.

    Raises: UnclearError when it is no Python.

    >>> source = Source(b'from m import Thing; WHY = "by hand"; FOUND = (Thing(id="a", law=len), Thing(id=WHY))')
    >>> source.arguments("FOUND", "Thing", ("id", "reason"))
    [{'id': 'a'}, {'id': 'by hand'}]
    """

    def __init__(self, text: bytes) -> None:
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError) as error:
            raise UnclearError(str(error)) from error
        self._bound = Counter(name for statement in body for name in _bound_by(statement))
        self._assigned: dict[str, ast.expr] = {}
        self._functions: dict[str, ast.FunctionDef] = {}
        self._imported: set[str] = set()
        self._clear = b"global " not in text
        for node in body:
            if isinstance(node, ast.FunctionDef):
                self._functions[node.name] = node
            elif isinstance(node, ast.ImportFrom):
                self._imported |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                self._assigned[node.targets[0].id] = node.value

    def arguments(self, name: str, kind: str, wanted: Collection[str]) -> list[dict[str, Any]]:
        """The `wanted` arguments, those given, of each kind(…) that `name` is: one, a tuple, or what f() returns.

        Raises: UnclearError when the source does not say that, or when an argument wanted is no literal.
        """
        value, constants = self._once(name, self._assigned), True
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in self._functions:
            value = _return_value(self._once(value.func.id, self._functions))
            constants = False  # the function may use these names for something else
        calls = value.elts if isinstance(value, ast.Tuple) else [value]
        return [
            {
                name: self._value(given, constants)
                for name, given in self._arguments_of(call, kind).items()
                if name in wanted
            }
            for call in calls
        ]

    def _once(self, name: str, among: dict[str, Any]) -> Any:
        if not self._clear or self._bound[name] != 1 or name not in among:
            raise UnclearError(name)
        return among[name]

    def _arguments_of(self, call: ast.expr, kind: str) -> dict[str, ast.expr]:
        """What a call of `kind`, by its own name, is given, all of it by keyword."""
        imported = kind in self._imported and self._bound[kind] == 1
        if not (imported and isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == kind):
            raise UnclearError(ast.unparse(call))
        given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
        if call.args or len(given) < len(call.keywords):
            raise UnclearError(ast.unparse(call))
        return given

    def _value(self, value: ast.expr, constants: bool) -> Any:
        if constants and isinstance(value, ast.Name):
            value = self._once(value.id, self._assigned)
        try:
            return ast.literal_eval(value)
        except (ValueError, TypeError) as error:
            raise UnclearError(ast.unparse(value)) from error


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a file binds."""
    whole = not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    for node in ast.walk(statement) if whole else [statement]:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _return_value(function: ast.FunctionDef) -> ast.expr:
    """What a function returns whose only return is its last line."""
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
    if function.decorator_list or returns != function.body[-1:] or returns[0].value is None:
        raise UnclearError(function.name)
    return returns[0].value
