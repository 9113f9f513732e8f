"""What `recommend` says of the rate beside the rule: what was measured, and what is worth trying."""

import csv
import json
import re
from pathlib import Path

import pytest

import residual_theory as rt
from residual_theory.claims.presets import load_preset
from residual_theory.claims.registry import claims_of
from residual_theory.cli import main
from residual_theory.theory import measured
from residual_theory.theory.measured import transfers

ROOT = Path(__file__).parents[2]


def losses(panel: str, layers: int) -> dict[str, float]:
    with (ROOT / measured.TABLE).open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["panel"], row["unique_layers"]) == (panel, str(layers))]
    return {row["learning_rate"]: float(row["validation_loss"]) for row in rows}


def test_costs_are_those_of_the_table_at_the_rate_best_at_one_layer() -> None:
    alone = losses("any", 1)
    rate = min(alone, key=alone.__getitem__)
    for one in transfers():
        with_it, without = (losses(f"ε = 1/√L, rate {name}", one.layers)[rate] for name in ("η/√L in blocks", "η"))
        assert one.cost == pytest.approx(with_it - without)
        assert one.learning_rate == pytest.approx(one.layers**-0.5)
    assert [one.layers for one in transfers()] == [2, 4, 8]
    assert transfers()[-1].cost > 5 * transfers()[-1].stderr  # the loss that used to go unsaid


def test_the_setting_is_that_of_the_claim_whose_trainings_they_are() -> None:
    (claim,) = claims_of(ROOT, ["lr-transfer-layers"])
    sizes = load_preset(ROOT, "laptop", claims_of(ROOT, ["lr-transfer-layers"]), shared=True).parameters[claim.key]
    loops, width, steps = map(int, re.findall(r"\d+", measured.SETTING))
    assert (loops, width, steps) == (sizes.loops, sizes.width, sizes.steps)  # type: ignore[attr-defined]
    assert transfers()[0].seeds == sizes.seeds  # type: ignore[attr-defined]


def test_what_contradicts_the_rule_is_said_and_acted_upon(capsys: pytest.CaptureFixture[str]) -> None:
    advice = rt.recommend(1, 8, tuned_layers=1)
    assert advice.learning_rate == pytest.approx(8**-0.5)  # the rule, which is a bound
    assert advice.to_try == (1.0, advice.learning_rate)
    assert advice.measured == transfers()[-1:]
    told = f"× 0.354 had a loss {transfers()[-1].cost:+.3f}"
    assert told in " ".join(str(advice).split())
    assert main(["recommend", "--loops", "1", "--layers", "8", "--tuned-layers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["to_try"] == [1.0, pytest.approx(8**-0.5)]
    assert found["measured"][0]["cost"] == pytest.approx(transfers()[-1].cost)
    assert found["measured"][0]["table"] == "docs/layer-transfer.csv"


@pytest.mark.parametrize(
    ("tuned", "layers", "first", "words"),
    [
        (12, 48, 0.5, "reports × 0.5 to transfer"),
        (4, 16, 0.5**0.5, "begin between the two"),
        (48, 12, 2.0, "reports × 2 to transfer"),
        (6, 6, 1.0, "no other rate"),
    ],
)
def test_the_papers_depths_and_those_of_nobody_are_told_apart(
    tuned: int, layers: int, first: float, words: str
) -> None:
    advice = rt.recommend(4, layers, tuned_layers=tuned)
    assert advice.to_try[0] == pytest.approx(first)
    assert {1.0, advice.learning_rate} <= set(advice.to_try)
    assert words in advice.advice
    assert bool(advice.measured) == (tuned != layers)
    assert ("measured:" in str(advice)) == bool(advice.measured)


def test_other_optimizers_were_not_measured() -> None:
    assert rt.recommend(4, 8, tuned_layers=2, optimizer="sign").measured == ()
    assert rt.recommend(4, 8, tuned_layers=2, optimizer="gradient-descent").to_try == (1.0,)
