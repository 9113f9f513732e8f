"""The checks of learning-rate claims, on losses whose best rates are known."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory.transformer.data import load_corpus
from residual_theory.verify.claim import Claim, Observation, Round
from residual_theory.verify.folders import find_root
from residual_theory.verify.registry import claims_in
from residual_theory.verify.statistics import Evidence
from residual_theory.verify.training_experiments import at_best

CLAIMS = {claim.id: claim for claim in claims_in(find_root(None)) if claim.level == "model"}
DRAW = Round(0, 7, functools.cache(load_corpus))
BEST = 4e-3  # the best rate at N = L = 1
Shift = Callable[[dict[str, Any], dict[str, Any]], tuple[float, float]]


def observed(claim: Claim, world: Shift, noise: float = 0.01) -> tuple[Any, list[Observation]]:
    """Losses 2 + height + 0.1 (log(η/4e-3) − shift)² and noise; a world's `shift` of the best log rate, and height."""
    sizes = claim.parameters.model_validate({"seeds": 12, **LARGEST[claim.id]})
    random = np.random.default_rng(0)
    found = []
    for specification in claim.plan(sizes, DRAW):
        rate = specification["training"]["learning_rate"]
        shift, height = world(specification["model"], specification["training"])
        loss = 2 + height + 0.1 * (math.log(rate / BEST) - shift) ** 2 + noise * random.standard_normal()
        found.append(Observation(specification, xr.Dataset({"validation_loss": loss, "diverged": False})))
    return sizes, found


LOOPS = {"loops": (1, 2, 4, 8), "rates": (0.5e-3, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3)}
LAYERS = {"layers": (1, 2, 4, 8)}
LARGEST = {claim: LAYERS if claim.startswith("layer") or claim.endswith("layers") else LOOPS for claim in CLAIMS}


def by_rule(powers: dict[str, float], heights: dict[str, float] | None = None) -> Shift:
    """Worlds in which the best rate moves like N^p, by rule; with norms after loops the rule is "normalized"."""

    def world(model: dict[str, Any], _: dict[str, Any]) -> tuple[float, float]:
        rule = "normalized" if model["loop_normalization"] else model["residual_scale"]
        if model["loops"] == 1:
            return 0.0, 0.0
        return powers.get(rule, 0.0) * math.log(model["loops"]), (heights or {}).get(rule, 0.0)

    return world


def by_factors(powers: dict[str, float], heights: dict[str, float] | None = None) -> Shift:
    """Worlds in which the best base rate moves like L^p, by the rule of the blocks' rate."""

    def world(model: dict[str, Any], training: dict[str, Any]) -> tuple[float, float]:
        rule = training["block_rule"]
        if model["unique_layers"] == 1:
            return 0.0, 0.0
        return powers.get(rule, 0.0) * math.log(model["unique_layers"]), (heights or {}).get(rule, 0.0)

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


def p_values(claim: Claim, world: Shift) -> tuple[Evidence, Evidence]:
    """The evidence on the law and on its twin."""
    sizes, found = observed(claim, world)
    return claim.check(sizes, found, claim.law), claim.check(sizes, found, claim.twin.law)


@pytest.mark.parametrize("name", TRUE)
def test_a_true_law_is_confirmed_and_its_twin_refuted(name: str) -> None:
    law, twin = p_values(CLAIMS[name], TRUE[name])
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


def test_the_best_rate_is_one_that_no_seed_diverged_at() -> None:
    assert at_best(np.array([[1.0, np.nan], [3.0, 3.2], [3.1, 3.3]])).tolist() == [3.0, 3.2]
