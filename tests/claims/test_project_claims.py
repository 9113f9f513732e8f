"""The claims that this project states: complete, told in README, and without a parameter that changes nothing."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from residual_theory.claims.claim import Claim, Round
from residual_theory.claims.presets import load_preset
from residual_theory.claims.registry import claims_in, claims_of
from residual_theory.report.drawing import figures_in
from residual_theory.transformer.data import load_corpus

ROOT = Path(__file__).parents[2]


def test_the_claims_of_this_repository() -> None:
    claims = claims_in(ROOT)
    keys = {claim.key for claim in claims}
    for name in ("independent-growth", "looped-growth", "factored-scaling", "norm-at-init", "increment-cosine"):
        assert f"{name}/simulation" in keys
    assert {"norm-at-init/model", "increment-cosine/model", "loss-advantage/model"} <= keys
    assert {"correlated-updates/symbolic", "relu-kernel/symbolic", "tied-linear-growth/symbolic"} <= keys
    for claim in claims:
        assert claim.twin.statement != claim.statement
        assert claim.statement
        assert claim.reason
        assert claim.margin
    for path in (ROOT / "simulations/presets").glob("*.toml"):
        load_preset(ROOT, path.stem, claims)
    for figure in figures_in(ROOT):
        assert {f"{claim}/{level}" for claim, level in figure.needs} <= keys
    assert {claim.id for claim in claims_of(ROOT, ["norm-at-init"])} == {"norm-at-init"}


def test_readme_tells_every_claim_and_its_verdict_at_every_level() -> None:
    table = (ROOT / "README.md").read_text().partition("## What it says today")[2]
    rows = [re.split(r"(?<!\\)\|", line)[1:6] for line in table.splitlines() if re.match(r"\| [a-z]+-?[a-z]", line)]
    told = {
        (title.partition(":")[0].strip(), level): mark.strip()
        for title, _, *marks in rows[1:]
        for level, mark in zip(("symbolic", "simulation", "model"), marks, strict=True)
        if mark.strip()
    }
    words = {"confirmed": "✓", "refuted": "**refuted**", "inconclusive": "inconclusive"}
    claims = claims_in(ROOT)
    left_out = load_preset(ROOT, "quick", claims).run.leave_out
    assert told == {
        (claim.id, claim.level): words[claim.recorded] + " (laptop)" * (f"{claim.id}.{claim.level}" in left_out)
        for claim in claims
    }


def changed(value: Any) -> Any:
    """Another valid value of a parameter."""
    if isinstance(value, tuple):
        return (*value[:-1], changed(value[-1]))
    return "1/(2*N*L)" if isinstance(value, str) else 2 * value


@pytest.mark.parametrize(
    "claim", [claim for claim in claims_in(ROOT) if claim.level != "symbolic"], ids=lambda c: c.key
)
def test_every_parameter_reaches_the_plan(claim: Claim) -> None:
    """No dead knob: all but margins and rounds, which the verdicts above exercise, change what is measured."""
    current = Round(0, 5, functools.cache(load_corpus))
    usual = claim.parameters()
    for name, value in usual.model_dump().items():
        if not name.startswith("margin") and name != "rounds":
            other = claim.parameters(**{name: changed(value)})
            plans = [[one.specification() for one in claim.plan(sizes, current)] for sizes in (usual, other)]
            assert plans[0] != plans[1], name
