"""The claims that this project states: complete, told in README, and without a parameter that changes nothing."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from residual_theory.claims.claim import Claim, Parameters, Round
from residual_theory.claims.headers import told as in_words
from residual_theory.claims.presets import Preset, load_preset
from residual_theory.claims.registry import claims_in, claims_of
from residual_theory.measurements.kinds import Training
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
    marks = {"confirmed": "✓", "refuted": "**refuted**", "not reproduced": "**not reproduced**"}
    claims = claims_in(ROOT)
    left_out = load_preset(ROOT, "quick", claims).run.leave_out
    for claim in claims:
        word = in_words(claim.recorded, claim.regime)
        mark = re.sub("|".join(marks), lambda said: marks[said[0]], word)
        laptop = " (laptop)" * (f"{claim.id}.{claim.level}" in left_out)
        assert told.pop((claim.id, claim.level)) == mark + laptop
    assert told == {}


def changed(value: Any) -> Any:
    """Another valid value of a parameter."""
    if isinstance(value, tuple) and isinstance(value[-1], str) and len(value) > 1:
        return value[:-1]  # of names to choose from
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


@functools.cache
def presets() -> list[Preset]:
    return [load_preset(ROOT, name, claims_in(ROOT)) for name in ("quick", "laptop")]


def shown_sizes(claim: Claim) -> Parameters:
    """The sizes at the preset whose verdict README shows: quick, or laptop where quick leaves the claim out."""
    quick, laptop = presets()
    out = f"{claim.id}.{claim.level}" in quick.run.leave_out
    return (laptop if out else quick).parameters[claim.key]


@pytest.mark.parametrize("claim", [claim for claim in claims_in(ROOT) if claim.regime], ids=lambda c: c.key)
def test_a_regime_says_the_sizes_that_are_measured(claim: Claim) -> None:
    sizes: Any = shown_sizes(claim)
    said = dict(re.findall(r"(width|N|L)(?: =)? (?:\d+ … )?(\d+)", claim.regime))
    counts = {name: getattr(sizes, field, (1,)) for name, field in (("N", "loops"), ("L", "layers"))}
    largest = {name: count[-1] if isinstance(count, tuple) else count for name, count in counts.items()}
    assert {name: int(number) for name, number in said.items()} == {"width": sizes.width, **largest}
    steps = re.search(r"(\d+) step", claim.regime)
    assert steps is None or int(steps[1]) == sizes.steps


def test_training_claims_say_their_regime() -> None:
    """A Transformer trained here is small, and trained for a short while: no such claim is told without its sizes."""
    current = Round(0, 5, functools.cache(load_corpus))
    for claim in claims_in(ROOT):
        if claim.level == "model" and any(isinstance(one, Training) for one in claim.plan(claim.parameters(), current)):
            assert claim.regime, claim.key
