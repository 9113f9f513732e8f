"""Derivations as claims: that all steps hold, and those of the false twin do not."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from residual_theory.claims.claim import Claim, Parameters, Round, Twin
from residual_theory.claims.headers import PROVED
from residual_theory.loading import part
from residual_theory.measurements.kinds import Proof
from residual_theory.measurements.measurement import Observations
from residual_theory.measurements.observations import pooled
from residual_theory.proofs import Derivation
from residual_theory.statistics.findings import Evidence, proof


def symbolic_claim(module: ModuleType) -> Claim:
    """The claim that a derivation's steps all hold; its twin is the module's derivation of a false law."""
    proved, false = (part(module, name, Derivation) for name in ("DERIVATION", "FALSE_TWIN"))
    path = Path(str(module.__file__))

    def plan(_: Parameters, current: Round) -> Sequence[Proof]:
        root = path.parent.parent
        return [Proof.of(root, path.name, name) for name in ("DERIVATION", "FALSE_TWIN")] if current.number == 0 else []

    def check(_: Any, observations: Observations, law: str) -> Evidence:
        (found,) = (result.attrs for checked, result in pooled(Proof, observations) if checked.name == law)
        argued = sum(step.proof.argued for step in proved.steps)
        steps = f"{len(proved.steps) - argued} steps" + f", {argued} argued in words" * bool(argued)
        return Evidence((proof(steps, str(found["failure"]), bool(found["disproved"])),))

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
