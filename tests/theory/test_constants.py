"""The constants that the paper assumes, at infinite width, and the bounds made of them."""

import math
from typing import Any

import numpy as np
import pytest

from residual_theory.errors import InputError
from residual_theory.stack import Stack
from residual_theory.theory.constants import constants, theorem_1, theorem_6
from residual_theory.theory.forward import predict

SIZES: dict[str, Any] = {"weight_variance": 1.7, "initial_variance": 0.6}


@pytest.mark.parametrize("normalization", ["none", "rms"])
@pytest.mark.parametrize(("loops", "layers"), [(1, 3), (5, 1), (4, 3)])
def test_what_layers_add_makes_the_predicted_stream(loops: int, layers: int, normalization: Any) -> None:
    """Different layers' outputs are orthogonal in the limit, so R² = q0 + ε²N² Σ_l E q(Y_l)."""
    stack = Stack(loops=loops, unique_layers=layers, residual_scale=0.3, normalization=normalization, **SIZES)
    found, squares = constants(stack), predict(stack, with_gradients=False).second_moment.values
    added = (0.3 * loops) ** 2 * found.output_square.sum()
    assert 0.6 + added == pytest.approx(squares[-1], rel=1e-12)
    read = squares[:-1].reshape(loops, layers) if normalization == "none" else np.ones((loops, layers))
    assert found.input_square == pytest.approx(read.mean(axis=0) / 2, rel=1e-12)
    assert found.input_mean == pytest.approx(np.sqrt(read / math.tau).mean(axis=0), rel=1e-12)


def test_redrawing_a_layer_is_known_where_each_is_visited_once() -> None:
    """Of two layers the second reads two streams of mean square k and product q0; the first does not see the second."""
    found = constants(Stack(loops=1, unique_layers=2, residual_scale=0.5, **SIZES))
    k = 0.6 * (1 + 0.25 * 1.7 / 2)
    c = 0.6 / k
    kappa = (math.sqrt(1 - c * c) + (math.pi - math.acos(c)) * c) / math.tau
    assert found.redraw_change[1, 0] == pytest.approx(1.7 * k * (0.5 - kappa), rel=1e-12)
    assert found.redraw_change[0, 1] == 0
    assert np.diag(found.redraw_change) == pytest.approx(found.output_square, rel=1e-12)
    assert found.other_change == found.redraw_change[1, 0]


@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_the_bounds_hold_at_infinite_width_and_stay_close(normalization: Any) -> None:
    for loops, layers in ((2, 1), (16, 1), (2, 4), (8, 4), (4, 16)):
        stack = Stack(loops=loops, unique_layers=layers, normalization=normalization)
        found = constants(stack)
        square = float(predict(stack, with_gradients=False).second_moment[-1])
        output = (float(found.output_square.min()), float(found.output_square.max()))
        low, high = theorem_6(
            stack, output_square=output, own_product=found.own_product, other_change=found.other_change
        )
        added = (square - 1) / stack.epsilon**2
        assert 0.7 * added < low <= added * (1 + 1e-12)
        assert added * (1 - 1e-12) <= high < 1.35 * added
        if layers == 1:
            mean, q = float(found.input_mean[0]), float(found.input_square[0])
            low, high = theorem_1(stack, input_mean=mean, input_square=q, gains=(found.gain, found.gain))
            assert low <= math.sqrt(square) <= high < 1.5 * math.sqrt(square)


def test_a_lower_bound_that_says_nothing_is_zero() -> None:
    stack = Stack(loops=2, unique_layers=3)
    assert theorem_6(stack, output_square=(0.5, 1.0), own_product=0.0, other_change=0.3)[0] == 0
    assert theorem_6(stack, output_square=(0.5, 1.0), own_product=0.6, other_change=0.0)[0] == 0
    assert theorem_1(Stack(loops=2), input_mean=0.4, input_square=0.5, gains=(1.0, 1.0))[0] == 0


def test_a_mean_over_the_layers_own_weights_adds_up_coherently() -> None:
    """Y_l = B for all l has E q(ΣY) = L² q(B), which the bound must hold: D_l = 0 then, and a₊ = b."""
    _, high = theorem_6(Stack(loops=3, unique_layers=5), output_square=(2.0, 2.0), own_product=2.0, other_change=0.0)
    assert high >= 9 * 25 * 2.0


def test_stacks_beyond_the_papers_notation_are_refused() -> None:
    with pytest.raises(InputError, match=r"^activation = 'erf': the constants are known for 'relu'$"):
        constants(Stack(loops=2, activation="erf"))
    with pytest.raises(InputError, match=r"^tied = False: "):
        constants(Stack(loops=2, tied=False))
    with pytest.raises(InputError, match=r"^branch = 'mlp': "):
        constants(Stack(loops=2, branch="mlp"))
    with pytest.raises(InputError, match=r"^normalization = 'post': "):
        constants(Stack(loops=2, normalization="post"))
