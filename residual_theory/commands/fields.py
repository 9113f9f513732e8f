"""Options made from the fields of a description: their types, defaults and help stand there and nowhere else."""

import inspect
import math
import re
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from residual_theory.description import Description

OPTION_NAMES = {  # of fields that they do not share the name with
    "residual_scale": "scale",
    "unique_layers": "layers",
    "block_rule": "rule",
    "learning_rates": "rates",
}
Command = Callable[..., None]


class Option(NamedTuple):
    """An option that sets a field: its type, default and help, and what makes the field's value of its own."""

    field: str
    kind: Any
    default: Any
    help: str
    read: Callable[[Any], Any]

    def parameter(self, name: str) -> inspect.Parameter:
        """The parameter of a command that takes it."""
        option = typer.Option(help=self.help)
        annotation = Annotated[self.kind | None, option] if self.default is None else Annotated[self.kind, option]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=self.default)


Options = dict[str, Option]  # by the name of the option, without dashes


def options(description: type[Description], **changes: dict[str, Any]) -> Options:
    """An option for every field; `changes` are parts of an Option that a field has otherwise."""
    helps = _arguments(description)
    found = {}
    for name, field in description.model_fields.items():
        kind, read = _kind(field)
        default = str(field.default) if kind is str and field.default is not None else field.default
        if field.is_required():
            default = inspect.Parameter.empty
        option = Option(name, kind, default, helps[name], read)
        found[OPTION_NAMES.get(name, name)] = option._replace(**changes.get(name, {}))
    return found


def leave_open(table: Options, *names: str) -> Options:
    """Some of the options, each None unless it is given."""
    return {name: table[name]._replace(default=None) for name in names}


def takes(*tables: Options, make: Callable[..., Any] = dict) -> Callable[[Command], Command]:
    """Give a command options in place of its first parameters, one for each table.

    The command is called with what `make` makes of the fields that a table's options set.
    """

    def with_options(command: Command) -> Command:
        own = list(inspect.signature(command).parameters.values())[len(tables) :]
        parameters = [option.parameter(name) for table in tables for name, option in table.items()]
        parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

        def call(**values: Any) -> None:
            fields = [
                {option.field: option.read(values.pop(name)) for name, option in table.items()} for table in tables
            ]
            command(*(make(**each) for each in fields), **values)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return with_options


def number(text: str) -> float | str:
    """The text as a number where it is one, so that a description is the same as in Python; else the text."""
    try:
        found = float(text)
    except ValueError:
        return text
    return found if math.isfinite(found) else text


def _arguments(description: type[Description]) -> dict[str, str]:
    """What the docstring's section "Arguments" says of each field."""
    section = inspect.cleandoc(description.__doc__ or "").partition("Arguments:\n")[2].partition("\nRaises:")[0]
    entries = re.findall(r"^  (\w+): (.+(?:\n    .+)*)", section, flags=re.MULTILINE)
    return {name: _sentence(" ".join(text.split())) for name, text in entries}


def _sentence(text: str) -> str:
    """With a capital letter, unless it begins with a symbol such as d."""
    return text[:1].upper() + text[1:] if text[1:2].isalpha() else text


def _kind(field: FieldInfo) -> tuple[Any, Callable[[Any], Any]]:
    """The type of a field's option, str where a field has several, and what reads the field's value from it."""
    kinds = _kinds(field.annotation) - {type(None)}
    if kinds in ({bool}, {int}, {float}):
        return kinds.pop(), _same
    return str, number if kinds == {float, str} else _same


def _kinds(annotation: Any) -> set[Any]:
    """The plain types in an annotation."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(parts[0])
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, parts))
    return {str} if origin is Literal else {annotation}


def _same(value: Any) -> Any:
    return value
