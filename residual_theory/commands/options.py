"""Options that several commands share, and how lists and targets are written."""

from pathlib import Path
from typing import Annotated

import typer

from residual_theory.errors import InputError

Ids = Annotated[list[str] | None, typer.Argument(help="Only these; all when none is given.", show_default=False)]
Root = Annotated[Path | None, typer.Option(help="A checkout to read claims and figures from.", show_default=False)]
PresetName = Annotated[str, typer.Option("--preset", help="Sizes to run at: quick, laptop, or a TOML file.")]
Folder = Annotated[Path, typer.Option("--results", help="Folder for results; each preset gets its own within.")]
Jobs = Annotated[int, typer.Option(help="Processes, one core each.", show_default="all cores")]
Text = Annotated[Path | None, typer.Option(help="A file or folder to train on, not Python's own library.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def whole_numbers(name: str, text: str) -> list[int]:
    """Integers separated by commas. Raises: InputError naming the option."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(name, text, "must be an integer, or several such as 256,512,1024") from None


def by_observable(targets: list[str] | None) -> dict[str, str] | None:
    """Targets such as "1%" (of second_moment) or "increment_cosine=0.01", by observable."""
    if not targets:
        return None
    pairs = [word.partition("=") if "=" in word else ("second_moment", "=", word) for word in targets]
    return {name.strip(): value for name, _, value in pairs}
