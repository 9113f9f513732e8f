"""What claims share: pooling rounds, and curves of values against sizes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory import InputError, predict
from residual_theory.claims.claim import Round, Twin
from residual_theory.claims.growth import Curve, curves, exponent, gain
from residual_theory.claims.stacks import WideParameters, gains, separate_simulations, stack_claim, untied
from residual_theory.measurements.kinds import OptimizerStep, Probe, Simulation
from residual_theory.measurements.measurement import Context, Measurement, Observation
from residual_theory.measurements.observations import pooled
from residual_theory.observables import dataset
from residual_theory.stack import Stack
from residual_theory.statistics.findings import Evidence
from residual_theory.transformer.config import ModelConfig

HERE = Context(Path())  # what follows needs neither folder nor text
ROUND = Round(0, 11, lambda: pytest.fail("reads no text"))


def test_rounds_are_merged_and_keep_what_is_no_mean() -> None:
    def observation(first: int, value: float) -> Observation[Measurement]:
        result = dataset({"second_moment": np.array([value])}, stderr={"second_moment": np.array([0.1])}, samples=4)
        read = result.assign(tokens=(("window", "position"), np.array([[3, 5]])))
        probe = Probe(model=ModelConfig(), models=4, first_model=first, windows=1, seed=0, corpus="a text")
        return Observation(probe, read)

    (merged,) = pooled(Probe, [observation(0, 1.0), observation(4, 2.0)])
    assert merged.result.tokens.values.tolist() == [[3, 5]]
    assert int(merged.result.samples) == 8
    assert float(merged.result.second_moment[0]) == 1.5


def test_rounds_of_a_step_are_merged_as_if_drawn_at_once() -> None:
    stack = Stack(loops=2, residual_scale=0.3)

    def stepped(first: int, samples: int) -> Observation[Measurement]:
        step = OptimizerStep(
            stack=stack, optimizer="sign", rate=0.1, width=24, seed=5, samples=samples, first_trial=first
        )
        return Observation(step, step.measure(HERE))

    (merged,) = pooled(OptimizerStep, [stepped(0, 3), stepped(3, 5)])
    xr.testing.assert_allclose(
        merged.result[["change", "change_stderr"]], stepped(0, 8).result[["change", "change_stderr"]]
    )
    assert int(merged.result.samples) == 8


def test_stacks_of_one_curve_have_trials_of_their_own_that_later_rounds_extend() -> None:
    stacks = [Stack(loops=loops) for loops in (1, 2)]
    sizes = WideParameters(samples=4)
    for plan in (separate_simulations, gains):
        taken = []
        for number in (0, 1, 2):
            planned = plan(stacks, sizes, Round(number, 11, ROUND.read))
            taken += [range(item.first_trial, item.first_trial + item.samples) for item in planned]
        drawn = [trial for part in taken for trial in part]
        assert len(drawn) == len(set(drawn)) == 2 * 16


def test_gains_are_sharp_at_a_small_scale() -> None:
    stack = Stack(loops=4, residual_scale=0.01, weight_variance=2.0, initial_variance=0.5)
    (planned,) = gains([stack], WideParameters(width=256, samples=40), ROUND)
    value, stderr = gain(stack, planned.measure(HERE))
    exact = 0.5 * 0.01**2 * 16  # q0 ε²σ_w²κ(1) N², less what is of order ε³
    assert abs(value - exact) < 4 * stderr + 0.03 * exact
    assert stderr < 0.05 * exact


def test_curves_and_the_exponent_at_their_largest_sizes() -> None:
    found: dict[float, Curve] = {}
    for power in (1.0, 2.0):
        observations = []
        for loops in (16, 2, 8, 4, 32):
            moment = np.array([1.0, 1.0 + 1e-3 * loops**power])
            result = dataset(
                {"second_moment": moment}, stderr={"second_moment": 1e-5 * loops**power + 0 * moment}, samples=40
            )
            stack = Stack(loops=loops, weight_variance=power)
            observations.append(Observation(Simulation(stack=stack, width=8, samples=40, seed=0), result))
        found |= curves(observations, lambda stack: stack.weight_variance, lambda stack: stack.loops, gain)
    assert list(found[1.0].sizes) == [2, 4, 8, 16, 32]
    assert found[2.0].values == pytest.approx([1e-3 * n**2 for n in (2, 4, 8, 16, 32)])
    for predicted, right in ((2.0, True), (1.5, False), (2.5, False)):
        evidence = Evidence(exponent("gain", found[2.0], predicted=predicted, margin=0.2))
        assert (evidence.confirm_p < 1e-6) == right
        assert (evidence.refute_p < 1e-6) != right


def test_an_exponent_of_curved_data_is_that_of_the_largest_sizes() -> None:
    sizes = (2, 4, 8, 16, 32)
    curve = Curve(sizes, tuple(n + 10.0 for n in sizes), (1e-3,) * 5, samples=200)
    low, high = exponent("curved", curve, predicted=0.65, margin=0.1)
    assert (
        low.value == high.value == pytest.approx(np.polyfit(np.log([8, 16, 32]), np.log([18, 26, 42]), 1)[0], abs=0.1)
    )
    assert max(low.confirm_p, high.confirm_p) < 1e-6


WRONG = {
    "a negative margin": ({"margin": -0.05}, "margin = -0.05"),
    "an infinite margin": ({"margin": float("inf")}, "margin = inf"),
    "no margin": ({"margin": 0}, "margin = 0"),
    "a margin that is no number": ({"margin": float("nan")}, "margin = nan"),
    "a margin in words": ({"margin": "5%"}, "margin = '5%'"),
    "one sample": ({"samples": 1}, "samples = 1"),
    "a negative width": ({"width": -3}, "width = -3"),
    "no stacks": ({"stacks": []}, "stacks = "),
    "a stack in place of a list": ({"stacks": Stack(loops=4)}, "stacks = "),
    "no observables": ({"observables": ()}, "observables = "),
    "an observable in place of a list": ({"observables": "second_moment"}, "observables = 'second_moment'"),
    "an unknown observable": ({"observables": ("third_moment",)}, "list some of second_moment, gradient_second_moment"),
    "no law": ({"law": None}, "law = None"),
    "a twin without a law": ({"twin": Twin("none", None)}, "of the twin, too"),
    "no reason": ({"because": " "}, "because = ' '"),
}


@pytest.mark.parametrize(("changed", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_claim_that_cannot_be_judged_is_refused_where_it_is_stated(changed: dict[str, Any], words: str) -> None:
    usual: dict[str, Any] = {
        "id": "x", "statement": "it holds", "source": "this project", "stacks": [Stack(loops=4)], "law": predict,
        "twin": Twin("it is untied", untied), "margin": 0.05, "because": "half of the difference",
    }  # fmt: skip
    assert stack_claim(**usual).margin == "5 % of the prediction: half of the difference"
    with pytest.raises(InputError, match=re.escape(words)):
        stack_claim(**usual | changed)
