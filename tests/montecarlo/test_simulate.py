"""Simulations against exact finite-width laws, and everything they refuse.

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
from residual_theory.montecarlo.simulate import simulate
from residual_theory.montecarlo.values import spoil
from residual_theory.stack import LlamaStack, Stack, described
from residual_theory.theory.forward import predict

NAMES = ("second_moment", "log_second_moment", "covariance", "increment_cosine")
METHODS = ("matrix-free", "dense")
SOME = Stack(loops=3, unique_layers=2, residual_scale=0.7, weight_variance=1.3, initial_variance=0.6)


def errors_off(drawn: xr.Dataset, exact: float) -> float:
    """How many standard errors the last second moment lies from its exact value."""
    return float(abs(drawn.second_moment[-1] - exact) / drawn.second_moment_stderr[-1])


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
    drawn = simulate(stack, width=width, samples=20_000, seed=4)
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
@pytest.mark.parametrize("method", METHODS)
def test_wide_stacks_approach_the_infinite_width_recursion(normalization: str, tied: bool, method: str) -> None:
    stack = SOME.model_copy(update={"normalization": normalization, "tied": tied})
    drawn, limit = simulate(stack, width=192, samples=250, seed=6, method=method), predict(stack)
    for name in ("second_moment", "covariance", "increment_cosine"):
        bias = 4 / 192  # O(1/width), of order one relative to the values here
        gap = np.abs(drawn[name].values - limit[name].values)
        assert (gap <= 4.5 * drawn[f"{name}_stderr"].values + bias * np.abs(limit[name].values).max()).all(), name
    other = predict(stack.model_copy(update={"tied": not tied}))
    assert errors_off(drawn, float(other.second_moment[-1])) > 10


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


# Several inputs


CORRELATIONS = [[1.0, 0.3, -0.6], [0.3, 1.0, 0.2], [-0.6, 0.2, 1.0]]


@pytest.mark.parametrize("method", METHODS)
def test_several_inputs_share_the_weights(method: str) -> None:
    settings: dict[str, Any] = {"samples": 200, "seed": 9, "method": method, "inputs": CORRELATIONS}
    predicted = predict(SOME, inputs=CORRELATIONS)
    small, large = (simulate(SOME, width=width, **settings) for width in (64, 128))
    for name in ("second_moment", "covariance", "increment_cosine", "input_covariance"):
        limit = 2 * large[name] - small[name]
        stderr = np.hypot(2 * large[f"{name}_stderr"], small[f"{name}_stderr"])
        assert (np.abs(limit - predicted[name]) <= 5 * stderr + 3e-3 * np.abs(predicted[name]).max()).all(), name
    untied = predict(SOME.model_copy(update={"tied": False}), inputs=CORRELATIONS)
    assert (np.abs(large.input_covariance - untied.input_covariance)[-1] > 8 * large.input_covariance_stderr[-1]).any()


def test_a_narrow_stack_falls_back_to_dense_and_says_so() -> None:
    narrow = simulate(SOME, width=3, samples=4)
    assert "dense" in narrow.attrs["method"]
    assert "width of 3 is not above the 3 products" in narrow.attrs["fallback"]
    xr.testing.assert_equal(narrow, simulate(SOME, width=3, samples=4, method="dense"))
    assert "matrix-free" in simulate(SOME, width=4, samples=4).attrs["method"]
    assert "6 products" in simulate(SOME, width=4, samples=4, inputs=2).attrs["fallback"]
    assert "fallback" not in simulate(SOME, width=3, samples=4, method="dense").attrs


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


@pytest.mark.parametrize("method", METHODS)
def test_an_overflow_is_named_and_not_averaged(method: str) -> None:
    stack = Stack(loops=5, residual_scale=1e60, activation="linear")
    drawn = simulate(stack, width=6, samples=7, method=method, with_gradients=True)
    assert drawn.attrs["first_nonfinite_visit"] == 3  # the square of 1e180
    np.testing.assert_array_equal(np.isfinite(drawn.second_moment), np.arange(6) < 3)
    np.testing.assert_array_equal(np.isfinite(drawn.covariance), np.add.outer(np.arange(6) > 2, np.arange(6) > 2) < 1)
    np.testing.assert_array_equal(np.isfinite(np.diag(drawn.increment_cosine)), np.arange(5) < 2)
    assert not any(np.isinf(drawn[name]).any() for name in NAMES)
    assert np.isnan(drawn.tangent_kernel)


@pytest.mark.parametrize("method", METHODS)
def test_streams_beyond_what_squares_can_hold_are_drawn(method: str) -> None:
    """R² of 7e52 and 1.5e-60 lie outside float32, whose entries still hold the stream."""
    for fields in ({"loops": 300, "residual_scale": 1.0}, {"loops": 2, "initial_variance": 1e-60}):
        stack = Stack(tied=False, **fields)  # type: ignore[arg-type]
        drawn = simulate(stack, width=400, samples=32, dtype="float32", method=method)
        assert "first_nonfinite_visit" not in drawn.attrs
        gap = abs(drawn.log_second_moment[-1] - math.log(float(predict(stack).second_moment[-1])))
        assert gap < 4 * drawn.log_second_moment_stderr[-1] + 0.5 * fields["loops"] / 400  # E log R² < log E R²


@pytest.mark.parametrize("method", METHODS)
def test_an_infinite_branch_is_an_overflow(method: str) -> None:
    stack = Stack(loops=3, residual_scale=0.5, activation=lambda x: np.exp(1e3 * x))
    drawn = simulate(stack, width=16, samples=4, method=method)
    assert drawn.attrs["first_nonfinite_visit"] == 1
    assert np.isnan(drawn.second_moment[1:]).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_function_of_ones_own_may_write_into_its_argument_but_must_return_as_many_numbers(method: str) -> None:
    plain = simulate(Stack(loops=2, residual_scale=0.5, activation=np.tanh), width=16, samples=8, method=method)
    stack = Stack(loops=2, residual_scale=0.5, activation=lambda x: np.tanh(x, out=x))
    xr.testing.assert_equal(simulate(stack, width=16, samples=8, method=method), plain)
    wrong: list[Any] = [
        lambda x: x[..., :1],
        lambda x: 1j * x,
        lambda x: 1.0,
        math.tanh,
        lambda x: np.ma.masked_less(x, 0),
    ]
    for function in wrong:
        with pytest.raises(InputError) as caught:
            simulate(Stack(loops=2, activation=function), width=16, samples=2, method=method)
        assert caught.value.argument == "activation"


def test_the_callers_modes_change_nothing() -> None:
    settings: dict[str, Any] = {"width": 20, "samples": 4, "with_gradients": True, "dtype": "float32"}
    plain = simulate(SOME, **settings)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        xr.testing.assert_equal(simulate(SOME, **settings), plain)


def test_trials_in_which_nothing_changes_are_counted() -> None:
    """A ReLU layer of few entries may read nothing but negative ones."""
    drawn = simulate(Stack(loops=2, residual_scale=0.5), width=4, samples=400)
    assert drawn.attrs["trials_without_change"] > 0
    assert np.isfinite(drawn.second_moment).all()


def test_an_overflow_that_a_norm_would_hide_is_named() -> None:
    stack = Stack(loops=3, residual_scale=1e200, normalization="post")
    drawn = simulate(stack, width=6, samples=4)
    assert drawn.attrs["first_nonfinite_visit"] == 1
    assert np.isnan(drawn.second_moment[1:]).all()


@pytest.mark.parametrize(("visit", "whole_loops"), [(1, 0), (2, 0), (3, 1), (4, 1)])
def test_what_comes_at_or_after_an_overflow_is_spoilt(visit: int, whole_loops: int) -> None:
    arrays = {"second_moment": np.ones((1, 5)), "increment_cosine": np.ones((1, 2, 2))}
    arrays["second_moment"][0, visit] = np.inf
    spoil(arrays, (0, 2, 4))
    assert np.isnan(arrays["second_moment"][0]).tolist() == [False] * visit + [True] * (5 - visit)
    spoilt = np.isnan(arrays["increment_cosine"][0])
    assert not spoilt[:whole_loops, :whole_loops].any()
    assert spoilt[whole_loops:].all()
    assert spoilt[:, whole_loops:].all()


def test_a_change_of_zero_has_no_direction() -> None:
    drawn = simulate(SOME.model_copy(update={"residual_scale": 0.0}), width=9, samples=4)
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
        ("width", [4], "two different widths"),
        ("width", [4, 8, 8], "each once"),
        ("stack", Stack(loops=10**9), "covariances between its 1000000000 visits need"),
        ("max_samples", 1, "at least samples = 2"),
        ("method", np.array(["dense"]), "choose"),
        ("device", 10**30, "choose"),
        ("width", [4, 4], "two different widths"),
        ("width", [], "two different widths"),
        ("width", [4, 0], "at least 1"),
        ("width", "4", "integer"),
        ("with_gradients", 1, "True or False"),
        ("antithetic", None, "True or False"),
        ("inputs", 0, "from 1 to"),
        ("tolerance", 0, "between 0 and 1"),
        ("tolerance", -1e-3, "between 0 and 1"),
        ("tolerance", 1, "between 0 and 1"),
        ("tolerance", math.nan, "between 0 and 1"),
        ("target_stderr", 0, "positive"),
        ("target_stderr", {"tangent_kernel": "1%"}, "not estimated here"),
        ("max_samples", 0, "at least 1"),
        ("control", SOME, "give (Stack, its exactly known mean"),
        ("control", (SOME, math.nan), "give (Stack, its exactly known mean"),
        ("control", (Stack(loops=3), 1.0), "same weights at the same visits"),
        ("earlier", 3, "give a whole Dataset of simulate"),
        ("device", "tpu", "choose 'cpu', 'cuda' or 'mps'"),
        ("device", "meta", "choose 'cpu', 'cuda' or 'mps'"),
        ("device", None, "choose 'cpu', 'cuda' or 'mps'"),
        ("device", "mps", "no MPS device is here"),
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
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    arguments: dict[str, Any] = {"stack": SOME, "width": 4, "samples": 2} | {argument: value}
    with pytest.raises(InputError) as caught:
        simulate(**arguments)
    assert caught.value.argument == ("loops" if (argument, type(value)) == ("stack", Stack) else argument)
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
