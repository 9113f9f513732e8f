"""Optimizer steps on random stacks, and stacks whose weights drift from visit to visit."""

from typing import Any, Literal

import numpy as np
import pytest
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo.simulate import simulate
from residual_theory.montecarlo.steps import drifting_weights, optimizer_step
from residual_theory.stack import Stack


@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_a_gradient_step_moves_the_readout_by_the_tangent_kernel(normalization: Literal["none", "rms"]) -> None:
    """Of the very same stacks: simulate draws them as the step does."""
    stack = Stack(
        loops=3,
        unique_layers=2,
        residual_scale=0.4,
        weight_variance=1.7,
        initial_variance=0.6,
        normalization=normalization,
    )
    moved = optimizer_step(stack, optimizer="gradient-descent", rate=1e-6, width=40, samples=3, seed=2).readout_change
    kernel = simulate(stack, method="dense", with_gradients=True, width=40, samples=3, seed=2).tangent_kernel
    assert float(moved) / -1e-6 == pytest.approx(float(kernel), rel=1e-5)


def test_a_sign_step_of_one_linear_visit_is_known() -> None:
    """ΔW = −(η/d) sign(v) sign(h_0)ᵀ moves the output by ε η Σ|h_0|/d in every entry; ‖Δh‖ as that times √d."""
    stack = Stack(loops=1, residual_scale=0.7, activation="linear", weight_variance=2.0)
    drawn = optimizer_step(stack, optimizer="sign", rate=0.3, width=500, samples=24, seed=1)
    assert float(drawn.change) == pytest.approx(0.7 * 0.3 * np.sqrt(2 / np.pi), rel=6 * np.sqrt(0.57 / 12000))


def test_drifting_weights_have_the_correlation_asked_for() -> None:
    stack = Stack(loops=1, unique_layers=3, residual_scale=1e-3, tied=False, activation="linear", weight_variance=2.0)
    drawn = drifting_weights(stack, exponent=0.5, width=32, samples=400, seed=4)
    expected = 2e-6 * (3 + 4 * 2**-0.5 + 2 * 3**-0.5)
    assert abs(float(drawn.change_square) - expected) < 4 * float(drawn.change_square_stderr)
    assert float(drawn.change_square_stderr) < 0.05 * expected


def test_a_trial_is_the_same_in_whichever_run_it_is_drawn() -> None:
    """And its mean change, squared, stays below the mean of its square."""
    sizes: dict[str, Any] = {"width": 12, "seed": 7}
    tied, untied = Stack(loops=2, residual_scale=0.4), Stack(loops=2, residual_scale=0.4, tied=False)

    def check(whole: xr.Dataset, single: list[xr.Dataset]) -> None:
        for name in (str(name) for name in whole if f"{name}_stderr" in whole):
            values = [float(each[name]) for each in single]
            assert float(whole[name]) == pytest.approx(np.mean(values), rel=1e-12)
            assert float(whole[f"{name}_stderr"]) == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-9)
        assert int(whole.samples) == 4

    step: dict[str, Any] = {"optimizer": "sign", "rate": 0.1, **sizes}
    one = [optimizer_step(tied, samples=1, first_trial=trial, **step) for trial in range(3, 7)]
    check(optimizer_step(tied, samples=4, first_trial=3, **step), one)
    assert all(np.isnan(each.change_stderr) for each in one)
    drift: dict[str, Any] = {"exponent": 0.5, **sizes}
    check(
        drifting_weights(untied, samples=4, first_trial=3, **drift),
        [drifting_weights(untied, samples=1, first_trial=trial, **drift) for trial in range(3, 7)],
    )


def test_what_cannot_be_drawn_is_refused() -> None:
    sizes = {"width": 8, "samples": 2, "seed": 0}
    with pytest.raises(InputError, match=r"^exponent = 0\.0: must be above 0"):
        drifting_weights(Stack(loops=2, tied=False), exponent=0.0, **sizes)
    with pytest.raises(InputError, match=r"^branch = 'mlp': dense trials know branches of a single matrix$"):
        drifting_weights(Stack(loops=2, branch="mlp", tied=False), exponent=1.0, **sizes)
    with pytest.raises(InputError, match=r"^branch = 'gated': dense trials"):
        optimizer_step(Stack(loops=2, branch="gated"), optimizer="sign", rate=1.0, **sizes)
    with pytest.raises(InputError, match=r"^optimizer = 'newton': choose sign or gradient-descent$"):
        optimizer_step(Stack(loops=2), optimizer="newton", rate=1.0, **sizes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^tied = True: "):
        drifting_weights(Stack(loops=2), exponent=1.0, **sizes)
