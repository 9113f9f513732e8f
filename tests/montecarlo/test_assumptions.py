"""The paper's assumptions on the forward pass, measured on random stacks, and gains on nonnegative vectors."""

from typing import Any

import numpy as np
import pytest
import torch

from residual_theory.errors import InputError
from residual_theory.montecarlo import assumptions as module
from residual_theory.montecarlo.assumptions import assumptions
from residual_theory.montecarlo.cone import _climb, _gain, cone_gain
from residual_theory.montecarlo.simulate import simulate
from residual_theory.stack import Stack
from residual_theory.theory.constants import constants

ERRORS = 4.5  # standard errors: of some 40 comparisons one passes by chance in 3000 runs


@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_wide_stacks_have_the_constants_of_infinite_width(normalization: Any) -> None:
    stack = Stack(
        loops=3,
        unique_layers=2,
        residual_scale=0.3,
        normalization=normalization,
        weight_variance=1.7,
        initial_variance=0.6,
    )
    found, law = assumptions(stack, redraw=True, width=4000, samples=24, seed=3), constants(stack)
    for name in ("input_mean", "input_square", "output_square", "redraw_change"):
        error = np.abs(found[name].values - getattr(law, name))
        size = np.abs(getattr(law, name)).max()
        assert (error < ERRORS * found[f"{name}_stderr"].values + 0.003 * size).all(), name
        assert (found[f"{name}_stderr"].values < 0.03 * size).all(), name
    assert float(found.total_square) == pytest.approx(found.output_square.values.sum(), rel=0.05)
    assert found.gain.values == pytest.approx(1.7**0.5, rel=0.03)
    assert abs(float(found.own_product)) < ERRORS * float(found.own_product_stderr)
    assert float(found.other_change) == pytest.approx((found.redraw_change[0, 1] + found.redraw_change[1, 0]) / 2)


def test_the_mean_over_a_layers_own_weights_is_exact_at_width_2() -> None:
    """Of a linear layer looped twice B = (ε/2)(σ_w²/d)h_0: E q(B) = ε²σ_w⁴q0/(4d²), 0 at infinite width only."""
    stack = Stack(loops=2, residual_scale=1.5, activation="linear", weight_variance=2.0, initial_variance=0.5)
    found = assumptions(stack, redraw=True, width=2, samples=6000, seed=5)
    exact = 1.5**2 * 2.0**2 * 0.5 / 16
    assert abs(float(found.own_product) - exact) < ERRORS * float(found.own_product_stderr)
    assert float(found.own_product_stderr) < 0.15 * exact
    assert float(found.other_change) == 0


def test_matrices_drawn_or_not_have_one_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a width where only matrices in full are used, products without them have the same means."""
    stack, sizes = Stack(loops=2, unique_layers=2, residual_scale=0.8), {"width": 12, "samples": 800, "seed": 1}
    dense = assumptions(stack, redraw=True, **sizes)
    monkeypatch.setattr(module, "_DIRECTIONS", 0)
    free = assumptions(stack, redraw=True, **sizes)
    for name in ("output_square", "redraw_change", "redraw_product", "total_square"):
        error = np.hypot(dense[f"{name}_stderr"], free[f"{name}_stderr"])
        assert (np.abs(dense[name] - free[name]) <= ERRORS * error).all(), name
    assert float(dense.output_square[0]) != float(free.output_square[0])


def test_the_streams_are_those_that_simulate_draws() -> None:
    """And a later layer's redrawing changes nothing before it."""
    stack = Stack(loops=1, unique_layers=3, residual_scale=0.7)
    drawn = simulate(stack, width=40, samples=1, seed=2)
    found = assumptions(stack, redraw=False, width=40, samples=1, seed=2)
    assert float(found.end_norm) ** 2 == pytest.approx(float(drawn.second_moment[-1]), rel=1e-12)
    again = assumptions(stack, redraw=True, width=40, samples=3, seed=2)
    change = again.redraw_change.values
    assert (change[np.triu_indices(3, 1)] < 1e-30).all()
    assert (change[np.tril_indices(3, -1)] > 1e-3).all()


def test_a_trial_is_the_same_in_whichever_run_it_is_drawn() -> None:
    stack = Stack(loops=2, unique_layers=2)
    whole = assumptions(stack, redraw=True, width=60, samples=19, seed=4, first_trial=2)
    parts = [assumptions(stack, redraw=True, width=60, samples=n, seed=4, first_trial=t) for t, n in ((2, 7), (9, 12))]
    for name in ("output_square", "redraw_change", "own_product"):
        mean = (7 * parts[0][name].values + 12 * parts[1][name].values) / 19
        assert whole[name].values == pytest.approx(mean, rel=1e-10), name


def test_what_the_notation_does_not_cover_is_refused() -> None:
    for name, value in (("branch", "mlp"), ("tied", False), ("sharing", "consecutive"), ("prelude", 1)):
        given: dict[str, Any] = {name: value}
        stack = Stack(loops=2, **given)
        with pytest.raises(InputError, match=rf"^{name} = "):
            assumptions(stack, redraw=False, width=8, samples=2, seed=0)


def test_the_search_finds_the_extremes_of_a_plane() -> None:
    """Of two columns the gains at all nonnegative directions are known."""
    matrix = torch.tensor([[1.0, -0.4], [0.3, 0.9], [0.2, -0.7]], dtype=torch.float64)
    angles = torch.linspace(0, torch.pi / 2, 2001, dtype=torch.float64)
    gains = _gain(matrix, torch.stack([angles.cos(), angles.sin()], dim=1))
    starts = torch.tensor([[1.0, 0.7], [0.2, 1.0]], dtype=torch.float64)
    square = matrix.mT @ matrix
    most = _gain(matrix, _climb(square, starts, 500)).max()
    least = _gain(matrix, _climb(3 * torch.eye(2, dtype=torch.float64) - square, starts, 500)).min()
    assert float(most) == pytest.approx(float(gains.max()), rel=1e-5)
    assert float(least) == pytest.approx(float(gains.min()), rel=1e-5)


def test_nonnegative_vectors_are_stretched_less_than_all() -> None:
    found = cone_gain(width=100, steps=200, samples=6, seed=1)
    assert float(found.least) == pytest.approx(1 - 0.5**0.5, abs=0.05)
    assert float(found.most) == pytest.approx(1 + 0.5**0.5, abs=0.06)
    assert float(found.singular_least) < 0.03
    assert float(found.singular_most) > 1.9
