"""The dense sampler against exact finite-width laws, itself in other chunks, and everything it refuses.

Statistical assertions allow four standard errors; seeds are fixed, so that a pass stays a pass.
"""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo import dense
from residual_theory.montecarlo.dense import simulate
from residual_theory.montecarlo.estimate import pool
from residual_theory.stack import LlamaStack, Stack, described
from residual_theory.theory.forward import predict

NAMES = ("second_moment", "covariance", "increment_cosine")
SOME = Stack(loops=3, unique_layers=2, residual_scale=0.7, weight_variance=1.3, initial_variance=0.6)


def errors_off(drawn: xr.Dataset, exact: float) -> float:
    """How many standard errors the last second moment lies from its exact value."""
    return float(abs(drawn.second_moment[-1] - exact) / drawn.second_moment_stderr[-1])


def close(left: xr.Dataset, right: xr.Dataset, rtol: float) -> None:
    for name in NAMES:
        assert np.isfinite(left[f"{name}_stderr"]).all()
        for variable in (name, f"{name}_stderr"):
            np.testing.assert_allclose(left[variable], right[variable], rtol=rtol, atol=1e-13, err_msg=variable)


# Exact laws


@pytest.mark.parametrize("width", [1, 2, 3])
def test_two_tied_linear_loops_obey_their_polynomial_in_the_width(width: int) -> None:
    stack = Stack(loops=2, residual_scale=1.1, activation="linear", weight_variance=0.8, initial_variance=1.7)
    drawn = simulate(stack, width=width, samples=25_000, seed=3)
    s = 1.1**2 * 0.8
    leading, correction = 1 + 4 * s + s**2, 2 * s / width + 2 * s**2 / width**2
    assert errors_off(drawn, 1.7 * (leading + correction)) < 4
    if width == 1:
        assert errors_off(drawn, 1.7 * leading) > 4
        assert errors_off(drawn, 1.7 * (leading + 2 * s / width)) > 4


@pytest.mark.parametrize("width", [1, 2, 5])
def test_untied_linear_stacks_obey_their_law_at_every_width(width: int) -> None:
    stack = Stack(
        loops=2, unique_layers=2, residual_scale=0.5, activation="linear", tied=False,
        weight_variance=1.5, initial_variance=0.4,
    )  # fmt: skip
    drawn = simulate(stack, width=width, samples=6000, seed=4)
    exact = 0.4 * (1 + 0.25 * 1.5) ** np.arange(5)
    assert (np.abs(drawn.second_moment - exact) < 4 * drawn.second_moment_stderr).all()
    assert errors_off(drawn, 0.4 * (1 + 0.25) ** 4) > 4  # weight variance forgotten
    martingale = exact[np.minimum.outer(np.arange(5), np.arange(5))]
    assert (np.abs(drawn.covariance - martingale) < 4.5 * drawn.covariance_stderr).all()


@pytest.mark.parametrize(("activation", "half"), [("relu", 0.5), ("linear", 1.0)])
@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_the_first_visit_is_known_at_every_width(activation: str, half: float, normalization: str) -> None:
    stack = Stack.model_validate(
        {
            "loops": 1,
            "residual_scale": 0.9,
            "weight_variance": 1.4,
            "initial_variance": 2.5,
            "activation": activation,
            "normalization": normalization,
        }
    )
    size = 1.0 if normalization == "rms" else 2.5
    exact = 2.5 + 0.9**2 * 1.4 * half * size
    drawn = simulate(stack, width=3, samples=8000, seed=5)
    assert errors_off(drawn, exact) < 4
    assert errors_off(drawn, 2.5 + 0.9**2 * 1.4 * (1.5 - half) * size) > 4  # the other activation's law


@pytest.mark.parametrize("normalization", ["none", "rms"])
@pytest.mark.parametrize("tied", [True, False])
def test_wide_stacks_approach_the_infinite_width_recursion(normalization: str, tied: bool) -> None:
    stack = SOME.model_copy(update={"normalization": normalization, "tied": tied})
    drawn, limit = simulate(stack, width=192, samples=250, seed=6), predict(stack)
    for name in NAMES:
        bias = 4 / 192  # O(1/width), of order one relative to the values here
        gap = np.abs(drawn[name].values - limit[name].values)
        assert (gap <= 4.5 * drawn[f"{name}_stderr"].values + bias * np.abs(limit[name].values).max()).all(), name
    other = predict(stack.model_copy(update={"tied": not tied}))
    assert errors_off(drawn, float(other.second_moment[-1])) > 10


# Trials and chunks


def test_chunks_change_nothing() -> None:
    whole = simulate(SOME, width=13, samples=23, seed=7)
    with pytest.raises(InputError) as caught:
        simulate(SOME, width=13, samples=23, seed=7, memory_budget=1)
    least = int("".join(filter(str.isdigit, caught.value.mend)))
    for budget in (least, 3 * least, 10 * least + 1):
        drawn = simulate(SOME, width=13, samples=23, seed=7, memory_budget=budget)
        close(drawn, whole, rtol=1e-12)
        assert drawn.attrs == whole.attrs
    with pytest.raises(InputError, match="memory_budget"):
        simulate(SOME, width=13, samples=23, seed=7, memory_budget=least - 1)


def test_the_budget_is_of_one_chunk_of_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    streams = dense._streams

    def watched(stack: Stack, width: int, trials: range, *rest: Any) -> torch.Tensor:
        sizes.append(len(trials))
        return streams(stack, width, trials, *rest)

    monkeypatch.setattr(dense, "_streams", watched)
    one = 8 * 2 * 64**2  # two live matrices
    simulate(SOME, width=64, samples=10, memory_budget=4 * one)
    assert sum(sizes) == 10
    assert max(sizes) in (2, 3)  # streams take the rest
    sizes.clear()
    monkeypatch.setattr(dense, "_WORKING_SET", {"cpu": 4 * one})  # what is taken when no budget is given
    simulate(SOME, width=64, samples=10)
    assert max(sizes) in (2, 3)
    sizes.clear()
    simulate(SOME, width=200, samples=3)
    assert sizes == [1, 1, 1]  # at least one trial


def test_more_trials_extend_a_run() -> None:
    whole = simulate(SOME, width=12, samples=50, seed=8)
    parts = [
        simulate(SOME, width=12, samples=n, first_trial=first, seed=8) for first, n in ((0, 30), (30, 2), (32, 18))
    ]
    close(pool(parts), whole, rtol=1e-10)
    assert int(pool(parts).samples) == 50
    assert parts[1].attrs["first_trial"] == 30
    again = simulate(SOME, width=12, samples=30, seed=8)
    assert again.identical(parts[0])


def test_standard_errors_are_those_of_the_single_trials() -> None:
    trials = [simulate(SOME, width=12, samples=1, first_trial=trial, seed=9) for trial in range(5, 17)]
    together = simulate(SOME, width=12, samples=12, first_trial=5, seed=9)
    for name in NAMES:
        values = np.array([trial[name].values for trial in trials])
        np.testing.assert_allclose(together[name], values.mean(axis=0), rtol=1e-12, atol=1e-14)
        expected = values.std(axis=0, ddof=1) / math.sqrt(12)
        np.testing.assert_allclose(together[f"{name}_stderr"], expected, rtol=1e-9, atol=1e-14)
        assert (expected > 0).any()


def test_one_sample_has_no_standard_error() -> None:
    drawn = simulate(SOME, width=12, samples=1)
    for name in NAMES:
        assert np.isfinite(drawn[name]).all()
        assert np.isnan(drawn[f"{name}_stderr"]).all()
    assert int(drawn.samples) == 1


# Randomness


def test_the_same_seed_gives_the_same_numbers_and_another_others() -> None:
    drawn = simulate(SOME, width=12, samples=6, seed=10)
    assert drawn.identical(simulate(SOME, width=12, samples=6, seed=10))
    others = [
        simulate(SOME, width=12, samples=6, seed=11),
        simulate(SOME, width=12, samples=6, seed=10, first_trial=6),
        simulate(SOME, width=13, samples=6, seed=10),
        simulate(SOME, width=12, samples=6, seed=2**63 - 1),
    ]
    starts = [float(other.second_moment[0]) for other in [drawn, *others]]
    assert len(set(starts)) == 5


def test_trials_are_independent_of_each_other() -> None:
    starts = [float(simulate(SOME, width=1, samples=1, first_trial=t).second_moment[0]) for t in range(40)]
    assert len(set(starts)) == 40


def test_the_global_random_states_are_left_alone() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    simulate(SOME, width=12, samples=6)
    assert torch.equal(torch.get_rng_state(), torch_before)
    for before, after in zip(numpy_before, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(before, after)


# Precision and overflow


def test_float32_agrees_with_float64() -> None:
    double = simulate(SOME, width=16, samples=2000, seed=12)
    single = simulate(SOME, width=16, samples=2000, seed=13, dtype="float32")
    for name in NAMES:
        assert single[name].dtype == np.float64
        error = np.hypot(double[f"{name}_stderr"], single[f"{name}_stderr"])
        assert (np.abs(double[name] - single[name]) <= 4.5 * error + 1e-6).all()
    assert (double.attrs["dtype"], single.attrs["dtype"]) == ("float64", "float32")


def test_the_stream_is_of_the_stated_dtype() -> None:
    large = SOME.model_copy(update={"initial_variance": 1e80})  # entries of 1e40 are beyond float32
    assert "first_nonfinite_visit" not in simulate(large, width=4, samples=3).attrs
    assert simulate(large, width=4, samples=3, dtype="float32").attrs["first_nonfinite_visit"] == 0


def test_an_overflow_is_shown_where_it_happens() -> None:
    stack = Stack(loops=5, residual_scale=1e60, activation="linear")
    drawn = simulate(stack, width=6, samples=7)
    assert drawn.attrs["first_nonfinite_visit"] == 3  # the square of 1e180
    np.testing.assert_array_equal(np.isfinite(drawn.second_moment), np.arange(6) < 3)
    assert np.isfinite(drawn.covariance[:3, :3]).all()


def test_a_change_of_zero_has_no_direction() -> None:
    drawn = simulate(SOME.model_copy(update={"residual_scale": 0.0}), width=3, samples=4)
    assert np.isnan(drawn.increment_cosine).all()
    np.testing.assert_allclose(drawn.covariance, np.full((7, 7), float(drawn.covariance[0, 0])), rtol=1e-14)


# What it says and what it refuses


def test_attributes_say_what_was_run() -> None:
    drawn = simulate(SOME, width=4, samples=6, seed=14, first_trial=2)
    assert json.loads(drawn.attrs["description"]) == described(SOME)
    stated = {key: drawn.attrs[key] for key in ("width", "seed", "first_trial", "dtype", "device")}
    assert stated == {"width": 4, "seed": 14, "first_trial": 2, "dtype": "float64", "device": "cpu"}
    assert int(drawn.samples) == 6
    assert dict(drawn.sizes) == {"visit": 7, "visit_other": 7, "loop": 3, "loop_other": 3}


@pytest.mark.parametrize(
    ("argument", "value", "mend"),
    [
        ("stack", LlamaStack(loops=1, width=4, mlp_width=4, heads=1), "measured with probe"),
        ("stack", {"loops": 3}, "give a Stack"),
        ("width", 0, "at least 1"),
        ("width", -1, "at least 1"),
        ("width", 2.0, "integer"),
        ("width", True, "integer"),
        ("samples", 0, "at least 1"),
        ("samples", 1.5, "integer"),
        ("first_trial", -1, "at least 0"),
        ("seed", -1, "from 0 to 2^63 - 1"),
        ("seed", 2**63, "from 0 to 2^63 - 1"),
        ("seed", 0.5, "integer"),
        ("seed", None, "integer"),
        ("method", "sparse", "choose"),
        ("method", "", "choose"),
        ("dtype", "float16", "choose 'float64' or 'float32'"),
        ("dtype", torch.float64, "choose 'float64' or 'float32'"),
        ("device", "tpu", "choose 'cpu' or 'cuda'"),
        ("device", "meta", "choose 'cpu' or 'cuda'"),
        ("device", None, "choose 'cpu' or 'cuda'"),
        ("device", "cuda", "0 CUDA devices are here; choose 'cpu'"),
        ("device", "cuda:3", "0 CUDA devices are here; choose 'cpu'"),
        ("memory_budget", 0, "integer of at least"),
        ("memory_budget", -5, "integer of at least"),
        ("memory_budget", 1e9, "integer of at least"),
        ("memory_budget", True, "integer of at least"),
    ],
)
def test_bad_input_names_the_argument_and_the_mend(
    argument: str, value: object, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    arguments: dict[str, Any] = {"stack": SOME, "width": 4, "samples": 2} | {argument: value}
    with pytest.raises(InputError) as caught:
        simulate(**arguments)
    assert caught.value.argument == argument
    assert mend in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_gpu_obeys_the_same_law_and_repeats_itself(dtype: str) -> None:
    stack = Stack(loops=2, residual_scale=1.1, activation="linear", weight_variance=0.8, initial_variance=1.7)
    drawn = simulate(stack, width=3, samples=4000, seed=3, device="cuda", dtype=dtype)
    s = 1.1**2 * 0.8
    exact = 1.7 * (1 + 4 * s + s**2 + 2 * s / 3 + 2 * s**2 / 9)
    assert errors_off(drawn, exact) < 4
    assert drawn.attrs["device"] == torch.cuda.get_device_name()
    again = simulate(stack, width=3, samples=4000, seed=3, device="cuda", dtype=dtype)
    np.testing.assert_array_equal(drawn.second_moment, again.second_moment)


@pytest.mark.parametrize(
    "fields",
    [
        {"activation": np.sin, "normalization": "rms", "weight_variance": 1.5},
        {"activation": "gelu", "branch": "mlp", "expansion": 3, "hidden_variance": 1.4},
        {"activation": "silu", "branch": "gated", "sharing": "consecutive", "unique_layers": 2, "normalization": "rms"},
        {"prelude": 1, "coda": 2, "outer_scale": 0.3, "carry": 0.5, "injection": 0.7},
        {"normalization": "rms-post", "skip": 1.3, "loop_normalization": True, "initial_variance": 2.0},
    ],
    ids="-".join,
)
def test_every_kind_of_stack_is_sampled_as_predicted(fields: dict[str, Any]) -> None:
    """What is left after extrapolation is of order 1/d²: 2e-3 of the value; 5 standard errors for 30 values."""
    stack = Stack(**({"loops": 3, "residual_scale": 0.5} | fields))
    predicted = predict(stack)
    small, large = (simulate(stack, width=width, samples=400, seed=8) for width in (64, 128))
    for name in ("covariance", "increment_cosine"):
        limit = 2 * large[name] - small[name]
        stderr = np.hypot(2 * large[f"{name}_stderr"], small[f"{name}_stderr"])
        gap = np.abs(limit - predicted[name])
        assert (gap <= 5 * stderr + 2e-3 * np.abs(predicted[name]) + 1e-9).all(), (name, float((gap / stderr).max()))
