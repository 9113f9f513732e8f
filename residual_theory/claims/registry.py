"""Every claim of a root folder: one for each derivation, and those that the simulations state.

Headers are read without importing anything that computes; claims and derivations import the files that hold them.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from residual_theory.claims.headers import FigureHeader, Header, read_claims, read_derivation, read_figure
from residual_theory.claims.paper import places_of
from residual_theory.errors import InputError
from residual_theory.loading import load_module, part

if TYPE_CHECKING:
    from residual_theory.claims.claim import Claim
    from residual_theory.proofs import Derivation


def headers_in(root: Path) -> tuple[Header, ...]:
    """The headers of the claims, symbolic ones first, each file's in the order it states them.

    Raises: InputError when two claims share an id and a level, or where a file that has to be imported is refused.
    """
    found = [header for file in _files(root, "derivations") for header in _read(file, read_derivation)]
    found += [header for file in _files(root, "simulations") for header in _read(file, read_claims)]
    for key, times in Counter(header.key for header in found).items():
        if times > 1:
            raise InputError("claim", key, "is stated twice; give each claim an id of its own")
    return tuple(found)


def figure_headers_in(root: Path) -> tuple[FigureHeader, ...]:
    """The headers of the figures, in the order of their files."""
    return tuple(header for file in _files(root, "figures") for header in read_figure(file) or [_import_figure(file)])


def claims_in(root: Path) -> "list[Claim]":
    """The claims, symbolic ones first, each file's in the order it states them.

    Raises: InputError when two claims share an id and a level, or one cannot be judged.
    """
    headers = headers_in(root)
    return [claim for file in dict.fromkeys(header.file for header in headers) for claim in _claims(file, headers)]


def claims_of(root: Path, ids: Collection[str]) -> "list[Claim]":
    """The claims with the given ids, at every level, in the order of `claims_in`; imports only files that hold one.

    Raises: InputError for an id that no claim has, and as `claims_in`.
    """
    headers = headers_in(root)
    require_known(headers, ids)
    files = dict.fromkeys(header.file for header in headers if header.id in ids)
    return [claim for file in files for claim in _claims(file, headers) if claim.id in ids]


def require_known(headers: "Sequence[Header | Claim]", ids: Collection[str]) -> None:
    """Raises: InputError for an id that none of the claims has."""
    known = {header.id for header in headers}
    for wanted in ids:
        if wanted not in known:
            raise InputError("claim", wanted, f"choose from {', '.join(sorted(known))}")


def derivations_in(root: Path) -> "list[Derivation]":
    """The derivations in the order of their files."""
    return [_derivation(file) for file in _files(root, "derivations")]


def derivations_of(root: Path, ids: Sequence[str]) -> "list[Derivation]":
    """The derivations with the given ids, in their order; only the files that hold them are imported.

    Raises: InputError for an id that none has.
    """
    found = [header for file in _files(root, "derivations") for header in _read(file, read_derivation)]
    files = {header.id: header.file for header in found}
    for name in ids:
        if name not in files:
            raise InputError("derivation", name, f"choose from {', '.join(files)}")
    return [_derivation(files[name]) for name in ids]


def _files(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).glob("*.py"))


def _read(file: Path, read: Callable[[Path], list[Header] | None]) -> list[Header]:
    """The headers in a file: as its text states them, else as it does when imported."""
    return read(file) or _headers(_run(file), file)


def _claims(file: Path, headers: Sequence[Header]) -> "list[Claim]":
    """The claims of a file, which must be what was read of it."""
    claims = _run(file)
    if _headers(claims, file) != [header for header in headers if header.file == file]:
        raise InputError("file", str(file), "states other claims when it runs than its text; write their words there")
    return claims


def _run(file: Path) -> "list[Claim]":
    """The claims of a file, imported. Raises: InputError when one cannot be judged."""
    from residual_theory.claims.files import lack
    from residual_theory.claims.symbolic import symbolic_claim

    module = _load(file, file.read_bytes())
    claims = [symbolic_claim(module)] if file.parent.name == "derivations" else list(part(module, "CLAIMS", tuple))
    for claim in claims:
        if reason := lack(claim):
            raise InputError("CLAIMS", getattr(claim, "id", claim), reason)
    return claims


def _derivation(file: Path) -> "Derivation":
    from residual_theory.proofs import Derivation

    return part(_load(file, file.read_bytes()), "DERIVATION", Derivation)


@functools.lru_cache(maxsize=128)
def _load(file: Path, _content: bytes) -> ModuleType:
    """The module in a file, run once as long as the file stays what it is."""
    return load_module(file)


def _headers(claims: "Sequence[Claim]", file: Path) -> list[Header]:
    return [
        Header(
            one.id,
            one.statement,
            one.source,
            places_of(one.paper),
            one.level,
            one.recorded,
            one.reason,
            file,
            one.regime,
        )
        for one in claims
    ]


def _import_figure(file: Path) -> FigureHeader:
    found: Any = part(load_module(file), "FIGURE", object)
    if type(found).__name__ != "Figure":
        raise InputError("file", str(file), "must define FIGURE, a Figure")
    return FigureHeader(found.id, found.title, places_of(found.paper), file)
