"""Presets: the sizes of every claim, from one TOML file each."""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from residual_theory.claims.claim import Claim, Parameters
from residual_theory.claims.files import in_one_line
from residual_theory.description import Description
from residual_theory.errors import InputError


class RunParameters(Description):
    """The [run] table of a preset: the seed of everything drawn, and the chance that any verdict is wrong, at most.

    `residual_theory.claims.families` says how alpha is divided among claims. leave_out: claims, as "id.level", that run
    only when named, for these sizes cannot decide them.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """Sizes for every claim, from one TOML file."""

    name: str
    run: RunParameters
    parameters: Mapping[str, Parameters]  # by Claim.key


def preset_path(root: Path, name: str) -> Path:
    """The file of a preset: one of simulations/presets by name, or any by a path that ends in .toml.

    Raises: InputError for a name that no file has.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise InputError("preset", name, "there is no such file")
        return Path(name)
    files = {path.stem: path for path in sorted((root / "simulations" / "presets").glob("*.toml"))}
    if name not in files:
        raise InputError("preset", name, f"choose from {', '.join(files)}")
    return files[name]


def load_preset(
    root: Path, name: str, claims: Sequence[Claim], *, others: Collection[str] = (), shared: bool = False
) -> Preset:
    """The preset of that name or path, each claim's table validated by the claim itself.

    A table is named after the claim's id, with sub-tables for its levels; what it leaves out keeps its default.
    It may also have tables of the claims with the keys `others`, and, if `shared`, of any that are not given. A table
    [registration] is what its author said before the run; it sets nothing.
    Raises: InputError for an unknown preset, table or key, or a value out of range.
    """
    path = preset_path(root, name)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of TOML or of UTF-8
        raise InputError("preset", name, f"is not valid TOML: {error}") from None
    tables.pop("registration", None)
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
        except Exception as error:  # whatever a user's parameters may raise
            raise InputError(f"preset {name}, [{claim.id}.{claim.level}]", table, in_one_line(error)) from error
    known = {key.replace("/", ".") for key in (*others, *(claim.key for claim in claims))}
    for key in () if shared else run.leave_out:
        if key not in known:
            raise InputError(f"preset {name}, [run] leave_out", key, "is no claim; write id.level")
    unread = [f"{table}.{level}" for table, levels in tables.items() for level in levels]
    unread = [key for key in unread if key not in known]
    if unread and not shared:
        raise InputError("preset", name, f"its table [{unread[0]}] belongs to no claim")
    return Preset(path.stem, run, parameters)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
