"""Derivations as claims: that all steps hold, and those of the false twin do not."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from residual_theory.claims.claim import Claim, Observation, Parameters, Round, Twin
from residual_theory.claims.headers import PROVED
from residual_theory.claims.instruments import derivation as derivation_specification
from residual_theory.loading import part
from residual_theory.proofs import Derivation
from residual_theory.statistics.findings import Evidence, proof
from residual_theory.store import Specification


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
        paper=proved.paper,
        **PROVED,
        margin="none: a step holds or it does not",
        law="DERIVATION",
        twin=Twin(false.statement, "FALSE_TWIN"),
        plan=plan,
        check=check,
    )
