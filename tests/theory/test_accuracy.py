"""Simulations to a wanted accuracy: targets, stored results, several widths, heavy tails, less variance."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo.extrapolation import at_infinite_width
from residual_theory.montecarlo.plan import Plan
from residual_theory.montecarlo.simulate import simulate
from residual_theory.montecarlo.trials import draw_trials
from residual_theory.montecarlo.values import Values
from residual_theory.stack import Stack
from residual_theory.statistics.comparison import compare
from residual_theory.theory.finite_width import second_moment_at_width
from residual_theory.theory.forward import predict

NAMES = ("second_moment", "log_second_moment", "covariance", "increment_cosine")
METHODS = ("matrix-free", "dense")
SOME = Stack(loops=3, unique_layers=2, residual_scale=0.7, weight_variance=1.3, initial_variance=0.6)


def errors_off(drawn: xr.Dataset, exact: float) -> float:
    """How many standard errors the last second moment lies from its exact value."""
    return float(abs(drawn.second_moment[-1] - exact) / drawn.second_moment_stderr[-1])


# Accuracy on request


NEAR = Stack(loops=8, residual_scale="1/N", weight_variance=1.3)


def test_draws_until_the_standard_error_is_reached() -> None:
    drawn = simulate(NEAR, width=48, samples=20, target_stderr={"second_moment": "1.5%", "increment_cosine": 0.004})
    assert drawn.attrs["target_reached"] == 1
    assert (drawn.second_moment_stderr <= 0.015 * drawn.second_moment).all()
    assert float(drawn.increment_cosine_stderr.max()) <= 0.004
    count = int(drawn.samples)
    assert 100 < count < 2000
    xr.testing.assert_equal(drawn, simulate(NEAR, width=48, samples=count))  # one stream
    few = simulate(NEAR, width=48, samples=20, target_stderr=1e-3, max_samples=90)
    assert (few.attrs["target_reached"], int(few.samples)) == (0, 90)


def test_a_stored_result_is_extended_and_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = simulate(NEAR, width=48, samples=64, first_trial=5)
    asked: list[range] = []

    def watched(plan: Plan, trials: range) -> Iterator[Values]:
        asked.append(trials)
        return draw_trials(plan, trials)

    monkeypatch.setattr("residual_theory.montecarlo.simulate.draw_trials", watched)
    more = simulate(NEAR, width=48, samples=96, earlier=stored, target_stderr="3%")
    assert asked[0] == range(69, 101)
    assert len(asked) > 1
    assert [trials.start for trials in asked[1:]] == [trials.stop for trials in asked[:-1]]
    assert int(more.samples) == 64 + sum(map(len, asked))
    assert more.attrs["first_trial"] == 5
    for other in (
        {"width": 49},
        {"seed": 1},
        {"method": "dense"},
        {"dtype": "float32"},
        {"inputs": 1},
        {"antithetic": True},
    ):
        with pytest.raises(InputError) as caught:
            simulate(NEAR, **({"width": 48, "samples": 2, "earlier": stored} | other))  # type: ignore[arg-type]
        assert caught.value.argument == "earlier"
    xr.testing.assert_identical(simulate(NEAR, width=48, samples=64, earlier=stored), stored)
    reached = stored.assign_attrs(target_reached=1)
    assert "target_reached" not in simulate(NEAR, width=48, samples=64, earlier=reached).attrs
    assert "target_reached" in reached.attrs  # what was given stays as it is
    with pytest.raises(InputError, match="other observables"):
        simulate(NEAR, width=48, samples=2, earlier=stored, with_gradients=True)


def test_several_widths_give_the_limit() -> None:
    widths = (32, 48, 64, 96)
    limit = simulate(NEAR, width=widths, samples=400, seed=2)
    xr.testing.assert_equal(
        limit, at_infinite_width([simulate(NEAR, width=width, samples=400, seed=2) for width in widths])
    )
    law = predict(NEAR)
    assert errors_off(limit, float(law.second_moment[-1])) < 4
    assert errors_off(limit, float(predict(NEAR.model_copy(update={"tied": False})).second_moment[-1])) > 8
    assert json.loads(limit.attrs["widths"]) == list(widths)
    assert int(limit.samples) == 1600


def test_logarithms_are_compared_where_means_are_not_to_be_trusted() -> None:
    heavy = Stack(loops=64, residual_scale="1/sqrt(N)")
    drawn = simulate(heavy, width=4096, samples=100, seed=3)
    law, untied = predict(heavy), predict(heavy.model_copy(update={"tied": False}))
    assert compare(law, drawn, observable="log_second_moment", margin=0.15).verdict == "confirmed"
    assert compare(untied, drawn, observable="log_second_moment", margin=0.15).verdict == "refuted"


def test_a_target_is_of_the_limit_where_there_are_several_widths() -> None:
    limit = simulate(NEAR, width=[32, 64, 128], samples=50, target_stderr="2%")
    assert limit.attrs["target_reached"] == 1
    assert (limit.second_moment_stderr <= 0.02 * limit.second_moment).all()
    assert int(limit.samples) > 3 * 50


def test_a_function_of_ones_own_cannot_be_told_from_another() -> None:
    own = NEAR.model_copy(update={"activation": np.sin})
    stored = simulate(own, width=48, samples=4)
    with pytest.raises(InputError, match="start anew"):
        simulate(own, width=48, samples=8, earlier=stored)
    with pytest.raises(InputError, match="other observables"):
        simulate(NEAR, width=48, samples=8, earlier=simulate(NEAR, width=48, samples=4).drop_vars("covariance"))


def test_a_mean_that_rests_on_a_few_trials_is_flagged() -> None:
    heavy = Stack(loops=64, residual_scale="1/sqrt(N)")
    assert simulate(heavy, width=80, samples=100).attrs["heavy_tailed"] == 1
    light = simulate(heavy.model_copy(update={"residual_scale": "1/N"}), width=80, samples=100)
    assert light.attrs["heavy_tailed"] == 0
    trials = [simulate(NEAR, width=48, samples=1, first_trial=trial).second_moment.values for trial in range(6)]
    logs = simulate(NEAR, width=48, samples=6).log_second_moment
    np.testing.assert_allclose(logs, np.log(trials).mean(axis=0), rtol=1e-12)


# Less variance, without bias


LINEAR = Stack(loops=2, residual_scale=1.1, activation="linear", weight_variance=0.8, initial_variance=1.7)


@pytest.mark.parametrize("width", [2, 3, 8])
def test_antithetic_trials_obey_the_exact_law(width: int) -> None:
    drawn = simulate(LINEAR, width=width, samples=20_000, seed=3, antithetic=True)
    assert errors_off(drawn, second_moment_at_width(LINEAR, width)) < 4


@pytest.mark.parametrize("method", METHODS)
def test_antithetic_trials_are_worth_more_than_twice_as_many(method: str) -> None:
    """Once the input's size, which both share, is taken off by a control: the stack with no branches."""
    still = (NEAR.model_copy(update={"residual_scale": 0.0}), 1.0)
    plain = simulate(NEAR, width=256, samples=400, seed=4, method=method)
    paired = simulate(NEAR, width=256, samples=400, seed=4, method=method, antithetic=True, control=still)
    assert float(paired.second_moment_stderr[-1] / plain.second_moment_stderr[-1]) < 0.6  # 0.71 for twice as many
    gap = abs(plain.second_moment[-1] - paired.second_moment[-1])
    assert gap < 4 * np.hypot(plain.second_moment_stderr[-1], paired.second_moment_stderr[-1])


@pytest.mark.parametrize("method", METHODS)
def test_an_exactly_known_stack_takes_variance_away(method: str) -> None:
    relu = LINEAR.model_copy(update={"activation": "relu", "residual_scale": 0.5})
    known = LINEAR.model_copy(update={"residual_scale": 0.5})
    exact = second_moment_at_width(known, 32)
    settings: dict[str, Any] = {"width": 32, "samples": 2000, "method": method}
    plain = simulate(relu, **settings, seed=5)
    controlled = simulate(relu, **settings, seed=6, control=(known, exact))
    ratio = float(controlled.second_moment_stderr[-1] / plain.second_moment_stderr[-1])
    assert ratio < 0.7
    gap = abs(plain.second_moment[-1] - controlled.second_moment[-1])
    assert gap < 4 * np.hypot(plain.second_moment_stderr[-1], controlled.second_moment_stderr[-1])
    with pytest.raises(InputError, match="is not its stack's mean"):
        simulate(relu, **settings, seed=6, control=(known, 1.5 * exact))
