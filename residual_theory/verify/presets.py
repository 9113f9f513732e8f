"""Presets: the sizes of every claim, from one TOML file each."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.verify.claim import Claim, Parameters


class RunParameters(Description):
    """The [run] table of a preset: the seed of everything drawn, and the chance that any verdict is wrong, at most."""

    seed: Annotated[int, Field(ge=0)] = 0
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01


@dataclass(frozen=True)
class Preset:
    """Sizes for every claim, from one TOML file."""

    name: str
    run: RunParameters
    parameters: Mapping[str, Parameters]  # by Claim.key


def preset_path(root: Path, name: str) -> Path:
    """The file of a preset. Raises: InputError for a name that no file has."""
    files = {path.stem: path for path in sorted((root / "simulations" / "presets").glob("*.toml"))}
    if name not in files:
        raise InputError("preset", name, f"choose from {', '.join(files)}")
    return files[name]


def load_preset(root: Path, name: str, claims: Sequence[Claim]) -> Preset:
    """The preset `name` from simulations/presets, each claim's table validated by the claim itself.

    A table is named after the claim's id, with sub-tables for its levels; what it leaves out keeps its default.
    Raises: InputError for an unknown preset, table or key, or a value out of range.
    """
    path = preset_path(root, name)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of TOML or of UTF-8
        raise InputError("preset", name, f"is not valid TOML: {error}") from None
    for title, table in tables.items():
        if not isinstance(table, dict) or (
            title != "run" and not all(isinstance(part, dict) for part in table.values())
        ):
            raise InputError(
                "preset", name, f"{title} must be a table [{'run' if title == 'run' else title + '.LEVEL'}]"
            )
    run = RunParameters(**_tuples(tables.pop("run", {})))
    parameters = {}
    for claim in claims:
        table = tables.get(claim.id, {}).pop(claim.level, {})
        try:
            parameters[claim.key] = claim.parameters(**_tuples(table))
        except InputError as error:
            raise InputError(
                f"preset {name}, [{claim.id}.{claim.level}] {error.argument}", error.value, error.mend
            ) from None
    unread = [f"{table}.{level}" for table, levels in tables.items() for level in levels]
    if unread:
        raise InputError("preset", name, f"its table [{unread[0]}] belongs to no claim")
    return Preset(name, run, parameters)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
