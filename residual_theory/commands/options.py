"""Options that several commands share, those that describe a Stack among them."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from residual_theory.branches import KINDS
from residual_theory.errors import InputError
from residual_theory.stack import Stack

Ids = Annotated[list[str] | None, typer.Argument(help="Only these; all when none is given.", show_default=False)]
Root = Annotated[Path | None, typer.Option(help="A checkout to read claims and figures from.", show_default=False)]
PresetName = Annotated[str, typer.Option("--preset", help="Sizes to run at: quick, laptop, or a TOML file.")]
Folder = Annotated[Path, typer.Option("--results", help="Folder for results; each preset gets its own within.")]
Jobs = Annotated[int, typer.Option(help="Processes, one core each.", show_default="all cores")]
Text = Annotated[Path | None, typer.Option(help="A file or folder to train on, not Python's own library.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

SHARING = "cyclic (layers 1 … L again and again), consecutive, or each visit's weights: 0,1,0,1."


def option(field: str, kind: type, words: str) -> tuple[str, Any, Any]:
    """An option of the field's name and default."""
    default = Stack.model_fields[field].default
    return field, Annotated[kind, typer.Option(help=words)], str(default) if kind is str else default


def sharing(words: str) -> str | tuple[int, ...]:
    """A pattern by name, or the numbers of each visit's weights."""
    if words in ("cyclic", "consecutive"):
        return words
    try:
        return tuple(int(number) for number in words.split(","))
    except ValueError:
        raise InputError("sharing", words, "choose 'cyclic' or 'consecutive', or write numbers such as 0,1,0") from None


STACK_OPTIONS: dict[str, tuple[str, Any, Any]] = {  # option: the field of Stack it sets, type and help, default
    "loops": ("loops", Annotated[int, typer.Option(help="N, the loops.")], inspect.Parameter.empty),
    "layers": ("unique_layers", Annotated[int, typer.Option(help="L, the unique layers.")], 1),
    "scale": (
        "residual_scale",
        Annotated[str, typer.Option(help='ε: a number or a rule in N and L, such as "1/N" or "1/(N*sqrt(L))".')],
        "1/(N*sqrt(L))",
    ),
    "activation": option("activation", str, "relu, leaky-relu, linear, erf, tanh, gelu or silu."),
    "branch": option("branch", str, "; ".join(f"{name} {law.formula}" for name, law in KINDS.items()) + "."),
    "normalization": option("normalization", str, "none (raw), rms (pre-norm), post, or rms-post (both)."),
    "weight_variance": option("weight_variance", float, "σ_w²: Var W = σ_w²/d."),
    "hidden_variance": option("hidden_variance", float, "σ_1²: Var W₁ = Var W₃ = σ_1²/d."),
    "expansion": option("expansion", int, "Rows of W₁ and W₃ as a multiple of d."),
    "initial_variance": option("initial_variance", float, "q0: the input's mean square."),
    "tied": option("tied", bool, "Loops share weights, or each visit has its own."),
    "sharing": option("sharing", str, SHARING),
    "skip": option("skip", str, "α: factor of the stream at every visit, a number or a rule."),
    "carry": option("carry", str, "a: factor of the stream once a loop, a number or a rule."),
    "injection": option("injection", str, "b: factor of the first loop's input, added once a loop."),
    "loop_normalization": option("loop_normalization", bool, "Divide by the root mean square after every loop."),
    "prelude": option("prelude", int, "Untied layers before the loops."),
    "coda": option("coda", int, "Untied layers after the loops."),
    "outer_scale": option("outer_scale", str, "ε of prelude and coda, a number or a rule."),
}


_RULES = {"scale", "skip", "carry", "injection", "outer_scale"}


def number(words: str) -> float | str:
    """The number that the words are, so that a description is the same as a library's user writes; or the words."""
    try:
        found = float(words)
    except ValueError:
        return words
    return found if math.isfinite(found) else words


def takes_stack(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that describe a Stack in place of its first parameter, `stack`."""
    own = list(inspect.signature(command).parameters.values())[1:]
    described = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (_, kind, default) in STACK_OPTIONS.items()
    ]

    def wrapped(**values: Any) -> None:
        values["sharing"] = sharing(values["sharing"])
        values = {name: number(value) if name in _RULES else value for name, value in values.items()}
        command(Stack(**{field: values.pop(name) for name, (field, _, _) in STACK_OPTIONS.items()}), **values)

    parameters = [*described, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def whole_numbers(name: str, words: str) -> list[int]:
    """Integers separated by commas. Raises: InputError naming the option."""
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise InputError(name, words, "must be an integer, or several such as 256,512,1024") from None


def by_observable(words: list[str] | None) -> dict[str, str] | None:
    """Targets such as "1%" (of second_moment) or "increment_cosine=0.01", by observable."""
    if not words:
        return None
    pairs = [word.partition("=") if "=" in word else ("second_moment", "=", word) for word in words]
    return {name.strip(): value for name, _, value in pairs}
