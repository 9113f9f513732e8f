"""Every claim of a root folder: one for each derivation, and those that the simulations state."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from residual_theory.claims.claim import Claim, Observation, Parameters, Round, Twin
from residual_theory.claims.files import lack
from residual_theory.claims.instruments import derivation as derivation_specification
from residual_theory.errors import InputError
from residual_theory.loading import modules, part
from residual_theory.proofs.steps import Derivation
from residual_theory.statistics.findings import Evidence, proof
from residual_theory.store import Specification


def claims_in(root: Path) -> list[Claim]:
    """The claims, symbolic ones first, each file's in the order it states them.

    Raises: InputError when two claims share an id and a level.
    """
    claims = [symbolic_claim(module) for module in modules(root, "derivations")]
    for module in modules(root, "simulations"):
        claims += part(module, "CLAIMS", tuple)
    seen: set[str] = set()
    for claim in claims:
        if reason := lack(claim):
            raise InputError("CLAIMS", getattr(claim, "id", claim), reason)
        if claim.key in seen:
            raise InputError("claim", claim.key, "is stated twice; give each claim an id of its own")
        seen.add(claim.key)
    return claims


def derivations_in(root: Path) -> list[Derivation]:
    """The derivations in the order of their files."""
    return [part(module, "DERIVATION", Derivation) for module in modules(root, "derivations")]


def choose(claims: Sequence[Claim], ids: Sequence[str]) -> list[Claim]:
    """The claims with the given ids, at every level; all of them when no id is given.

    Raises: InputError for an id that no claim has.
    """
    known = {claim.id for claim in claims}
    for wanted in ids:
        if wanted not in known:
            raise InputError("claim", wanted, f"choose from {', '.join(sorted(known))}")
    return [claim for claim in claims if not ids or claim.id in ids]


def symbolic_claim(module: ModuleType) -> Claim:
    """The claim that a derivation's steps all hold; its twin is the module's derivation of a false law."""
    proved, false = (part(module, name, Derivation) for name in ("DERIVATION", "FALSE_TWIN"))
    path = Path(str(module.__file__))
    sources = {
        name: derivation_specification(path.name, path.read_bytes(), name) for name in ("DERIVATION", "FALSE_TWIN")
    }

    def plan(_: Parameters, draw: Round) -> Sequence[Specification]:
        return list(sources.values()) if draw.number == 0 else []

    def check(_: Any, observations: Sequence[Observation], law: str) -> Evidence:
        results = {observation.specification["name"]: observation.result for observation in observations}
        found = results[law].attrs
        return Evidence((proof(f"{len(proved.steps)} steps", str(found["failure"]), bool(found["disproved"])),))

    return Claim(
        id=proved.id,
        statement=proved.statement,
        source=proved.source,
        level="symbolic",
        recorded="confirmed",
        reason="every step is machine-checked, then checked at random rational points",
        margin="none: a step holds or it does not",
        law="DERIVATION",
        twin=Twin(false.statement, "FALSE_TWIN"),
        plan=plan,
        check=check,
    )
