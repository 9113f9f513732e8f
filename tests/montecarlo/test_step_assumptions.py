"""The paper's assumptions on an optimizer step, measured on steps taken exactly."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from residual_theory.errors import InputError
from residual_theory.montecarlo.step_assumptions import Update, _jacobians, _run, step_assumptions
from residual_theory.montecarlo.steps import optimizer_step
from residual_theory.stack import Stack
from residual_theory.theory.forward import predict

SIZES: dict[str, Any] = {"width": 24, "samples": 3, "seed": 2}
STACK: dict[str, Any] = {"residual_scale": 0.4, "weight_variance": 1.7, "initial_variance": 0.6}


@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_jacobians_are_those_of_autograd(normalization: Any) -> None:
    stack = Stack(loops=2, unique_layers=2, normalization=normalization, **STACK)
    generator = torch.Generator().manual_seed(1)
    weights = 0.3 * torch.randn(2, 9, 9, dtype=torch.float64, generator=generator)
    start = torch.randn(9, dtype=torch.float64, generator=generator)
    streams = _run(stack, weights, start).streams
    found = _jacobians(stack, weights, streams)
    assert found.shape == (4, 9, 9)
    shorter = Stack(loops=1, unique_layers=2, normalization=normalization, **STACK)  # the last two visits
    exact = torch.func.jacrev(lambda h: _run(shorter, weights, h).streams[-1])(streams[2])
    assert torch.allclose(found[1], exact, rtol=0, atol=1e-12)
    assert torch.equal(found[3], torch.eye(9, dtype=torch.float64))


@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_a_sign_step_is_the_optimizers(normalization: Any) -> None:
    """On the very same stacks; and a small one is linear."""
    stack = Stack(loops=3, unique_layers=2, normalization=normalization, **STACK)
    found = step_assumptions(stack, update="sign", rate=1e-4, **SIZES)
    assert float(found.change) == pytest.approx(
        float(optimizer_step(stack, optimizer="sign", rate=1e-4, **SIZES).change), rel=1e-9
    )
    assert float(found.linear_change) == pytest.approx(float(found.change), rel=1e-3)
    assert "bound_2" not in found


def test_one_visit_is_known() -> None:
    """Nothing follows it: Δh = ε ΔW u, whatever the update."""
    updates: tuple[Update, ...] = ("sign", "random")
    for update in updates:
        found = step_assumptions(Stack(loops=1, **STACK), update=update, rate=0.3, **SIZES)
        assert float(found.theta) == pytest.approx(0, abs=1e-12)
        assert float(found.coherence) == pytest.approx(1, rel=1e-12)
        assert float(found.jacobian_gain) == pytest.approx(1, rel=1e-12)
        assert float(found.visit_gain) * 0.4 * 0.3 == pytest.approx(float(found.change), rel=1e-12)
        assert float(found.bound_7) == pytest.approx(float(found.change), rel=1e-12)


def test_a_random_step_moves_the_output_by_the_tangent_kernel() -> None:
    stack = Stack(loops=4, residual_scale=0.25, weight_variance=1.7, initial_variance=0.6)
    found = step_assumptions(stack, update="random", rate=0.01, width=200, samples=12, seed=3)
    expected = 0.01 * math.sqrt(float(predict(stack).tangent_kernel))
    assert abs(float(found.change) - expected) < 4 * float(found.change_stderr) + 0.02 * expected
    assert float(found.change_stderr) < 0.05 * expected
    assert float(found.zeta) == pytest.approx(1, abs=0.05)


def test_the_papers_bounds_hold_of_every_trial() -> None:
    for normalization in ("none", "rms"):
        for trial in range(4):
            stack = Stack(loops=4, residual_scale="1/sqrt(N)", normalization=normalization)
            found = step_assumptions(stack, update="sign", rate=0.05, width=24, samples=1, seed=1, first_trial=trial)
            assert float(found.linear_change) <= float(found.bound_7)
            assert 0 < float(found.coherence) <= 1
            assert np.isnan(found.change_stderr)
            if normalization == "none":
                assert float(found.change) <= float(found.bound_2)
                assert float(found.looseness_2) == pytest.approx(float(found.bound_2 / found.change))


def test_what_cannot_be_measured_is_refused() -> None:
    def measure(stack: Stack, **changes: Any) -> None:
        step_assumptions(stack, **({"update": "sign", "rate": 0.1, **SIZES} | changes))

    with pytest.raises(InputError, match=r"^update = 'adam': choose sign or random$"):
        measure(Stack(loops=2), update="adam")
    with pytest.raises(InputError, match=r"^rate = 0\.0: must be above 0$"):
        measure(Stack(loops=2), rate=0.0)
    for name, value in (("activation", "erf"), ("normalization", "post"), ("carry", 0.5), ("tied", False)):
        given: dict[str, Any] = {name: value}
        with pytest.raises(InputError, match=rf"^{name} = "):
            measure(Stack(loops=2, **given))
