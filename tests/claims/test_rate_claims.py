"""The checks of learning-rate claims, on losses whose best rates are known."""

import functools
import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory.claims.claim import Claim, Round
from residual_theory.claims.registry import claims_in
from residual_theory.claims.trainings import at_best, rate_exponent
from residual_theory.errors import InputError
from residual_theory.loading import find_root
from residual_theory.measurements.kinds import Training
from residual_theory.measurements.measurement import Observation
from residual_theory.report.drawing import figures_in
from residual_theory.statistics.findings import Evidence
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import load_corpus

CLAIMS = {claim.id: claim for claim in claims_in(find_root(None)) if claim.level == "model"}
DRAW = Round(0, 7, functools.cache(load_corpus))
BEST = 4e-3  # the best rate at N = L = 1
Shift = Callable[[ModelConfig, TrainConfig], tuple[float, float]]


def observed(
    claim: Claim, world: Shift, diverged: float = math.inf, noise: float = 0.01
) -> tuple[Any, list[Observation[Training]]]:
    """Losses 2 + height + 0.1 (log(η/4e-3) − shift)² and noise; a world's `shift` of the best log rate, and height.

    The first seed diverges at rates from `diverged` on.
    """
    sizes = claim.parameters.model_validate({"seeds": 12, **LARGEST[claim.id]})
    random = np.random.default_rng(0)
    found = []
    first = DRAW.seed % 2**40
    for run in claim.plan(sizes, DRAW):
        assert isinstance(run, Training)
        rate = run.training.learning_rate
        shift, height = world(run.model, run.training)
        loss = 2 + height + 0.1 * (math.log(rate / BEST) - shift) ** 2 + noise * random.standard_normal()
        lost = rate >= diverged and run.training.seed == first
        found.append(Observation(run, xr.Dataset({"validation_loss": loss, "diverged": lost})))
    return sizes, found


LOOPS = {"loops": (1, 2, 4, 8), "rates": (0.5e-3, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3)}
LAYERS = {"layers": (1, 2, 4, 8), "rates": (0.5e-3, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3)}
LARGEST = {claim: LAYERS if claim.startswith("layer") or claim.endswith("layers") else LOOPS for claim in CLAIMS}


def by_rule(powers: dict[str, float], heights: dict[str, float] | None = None) -> Shift:
    """Worlds in which the best rate moves like N^p, by rule; with norms after loops the rule is "normalized"."""

    def world(model: ModelConfig, _: TrainConfig) -> tuple[float, float]:
        rule = "normalized" if model.loop_normalization else str(model.residual_scale)
        if model.loops == 1:
            return 0.0, 0.0
        return powers.get(rule, 0.0) * math.log(model.loops), (heights or {}).get(rule, 0.0)

    return world


def by_factors(powers: dict[str, float], heights: dict[str, float] | None = None) -> Shift:
    """Worlds in which the best base rate moves like L^p, by the rule of the blocks' rate."""

    def world(model: ModelConfig, training: TrainConfig) -> tuple[float, float]:
        rule = training.block_rule
        if model.unique_layers == 1:
            return 0.0, 0.0
        return powers.get(rule, 0.0) * math.log(model.unique_layers), (heights or {}).get(rule, 0.0)

    return world


TRUE = {
    "lr-transfer-loops": by_rule({"1/N": 0.0, "1/sqrt(N)": -0.5}),
    "lr-direction": by_rule({"1/sqrt(N)": -0.3}),
    "lr-normalized-loops": by_rule({"normalized": -0.4, "1": 0.4}),
    "lr-division": by_rule({"1/N": 0.0}),
    "lr-division-unscaled": by_rule({"1": -0.5, "normalized": 0.5}),
    "loss-advantage-at-best": by_rule({}, {"1/sqrt(N)": 0.1}),
    "lr-transfer-layers": by_factors({"paper": 0.0, "none": 0.5}),
    "layer-rival": by_factors({}, {"paper": 0.1}),
}
FALSE = {
    "lr-transfer-loops": by_rule({"1/N": -0.5, "1/sqrt(N)": 0.0}),
    "lr-direction": by_rule({"1/sqrt(N)": 0.3}),
    "lr-normalized-loops": by_rule({"normalized": 0.4, "1": -0.4}),
    "lr-division": by_rule({"1/N": -0.5}),
    "lr-division-unscaled": by_rule({"1": 0.0, "normalized": -0.5}),
    "loss-advantage-at-best": by_rule({}, {"1/N": 0.1}),
    "lr-transfer-layers": by_factors({"paper": -0.5, "none": 0.0}),
    "layer-rival": by_factors({}, {"completep": 0.1}),
}


def p_values(claim: Claim, world: Shift, diverged: float = math.inf) -> tuple[Evidence, Evidence]:
    """The evidence on the law and on its twin."""
    sizes, found = observed(claim, world, diverged)
    return claim.check(sizes, found, claim.law), claim.check(sizes, found, claim.twin.law)


@pytest.mark.parametrize("diverged", [math.inf, 32e-3], ids=["all survive", "a seed diverges at the largest rate"])
@pytest.mark.parametrize("name", TRUE)
def test_a_true_law_is_confirmed_and_its_twin_refuted(name: str, diverged: float) -> None:
    law, twin = p_values(CLAIMS[name], TRUE[name], diverged)
    assert law.confirm_p < 1e-4
    assert twin.refute_p < 1e-4


@pytest.mark.parametrize("name", FALSE)
def test_a_false_law_is_refuted_and_its_twin_not(name: str) -> None:
    law, twin = p_values(CLAIMS[name], FALSE[name])
    assert law.refute_p < 1e-4
    assert twin.refute_p > 0.05


def test_a_best_rate_at_the_edge_decides_nothing() -> None:
    law, twin = p_values(CLAIMS["lr-direction"], by_rule({"1/sqrt(N)": -3.0}))
    assert min(law.confirm_p, law.refute_p, twin.confirm_p, twin.refute_p) > 0.05


def test_a_curve_that_does_not_turn_decides_nothing() -> None:
    losses = np.array([2.201, 2.2, 2.5, 2.6, 2.61])[:, None] + 1e-4 * np.random.default_rng(0).standard_normal((5, 8))
    turning = np.array([2.6, 2.3, 2.2, 2.3, 2.6])[:, None] + np.zeros((5, 8))
    found = rate_exponent("", (1e-3, 2e-3, 4e-3, 8e-3, 16e-3), {1: turning, 4: losses}, predicted=-0.5, margin=0.25)
    assert (found.confirm_p, found.refute_p) == (1.0, 1.0)


def test_a_seed_is_judged_at_the_rate_that_the_others_choose() -> None:
    assert at_best(np.array([[1.0, np.nan, 1.0], [3.0, 3.2, 3.1], [3.1, 3.3, 2.0]])).tolist() == [3.1, 3.3, 3.1]
    assert np.isnan(at_best(np.array([[np.nan, 2.0], [2.0, np.nan]]))).all()


def test_dividing_the_rate_is_judged_where_the_quotient_was_tried() -> None:
    law, _ = p_values(CLAIMS["lr-division"], TRUE["lr-division"])
    assert "at N = 4, η = 0.004" in law.findings[0].label  # √8 is no power of 2
    claim = CLAIMS["lr-division"]
    sizes, found = observed(claim, TRUE["lr-division"])
    with pytest.raises(InputError, match=r"^rates = .*have to hold η/√N"):
        claim.check(sizes.model_copy(update={"loops": (1, 2, 8)}), found, claim.law)


def test_rates_that_all_diverge_are_named() -> None:
    claim = CLAIMS["lr-division"]
    sizes, found = observed(claim, TRUE["lr-division"], diverged=0.0)
    with pytest.raises(InputError, match=r"^rates = .*try smaller ones"):
        claim.check(sizes, found, claim.law)


@pytest.mark.parametrize(
    ("figure", "panel", "name", "world", "power"),
    [
        ("rate-transfer", "ε = 1/√N", "lr-transfer-loops", by_rule({"1/sqrt(N)": -0.3}), -0.3),
        ("rate-transfer", "ε = 1", "lr-transfer-loops", by_rule({"1": -0.3}), -0.3),
        ("rate-transfer", "ε = 1, norms between loops", "lr-transfer-loops", by_rule({"normalized": -0.3}), -0.3),
        ("layer-transfer", "ε = 1/√L, rate η/√L in blocks", "lr-transfer-layers", by_factors({"paper": 0.3}), 0.3),
        ("layer-transfer", "ε = 1/L, rate η", "lr-transfer-layers", by_factors({"completep": 0.3}), 0.3),
    ],
)
def test_figures_show_each_rule_in_its_panel(figure: str, panel: str, name: str, world: Shift, power: float) -> None:
    _, found = observed(CLAIMS[name], world, noise=0.001)
    drawn = {item.id: item for item in figures_in(find_root(None))}[figure]
    canvas, table = drawn.draw(SimpleNamespace(of=lambda *_: found))  # type: ignore[arg-type]
    size = table.columns[1]
    best = table.drop_duplicates(["panel", size]).set_index(["panel", size]).best_rate
    assert best["any", 1] == pytest.approx(BEST, rel=0.02)
    for title in {title for title, _ in best.index} - {"any"}:
        moved = 8 ** (power if title == panel else 0.0)
        assert best[title, 8] == pytest.approx(BEST * moved, rel=0.03)
    titles = dict(place.get_title().split("\n") for place in canvas.axes)
    assert re.search(rf"∝ [NL]\^\({'−' if power < 0 else ''}0\.(29|30|31) ± 0\.0\d ± 0\.0\d\)", titles[panel])
