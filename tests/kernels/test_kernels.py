"""Kernels of branches and of functions at the ends of float64, and functions that warn."""

import math
import warnings

import numpy as np
import pytest

from residual_theory.arrays import Array
from residual_theory.branches import KINDS
from residual_theory.branches.single import Single
from residual_theory.kernels.branch import Elementwise
from residual_theory.kernels.dual import ACTIVATIONS, Dual, dual_of, function_of


def value(dual: Dual, k: float, q: float, p: float) -> float:
    left, right = dual.state(np.array([q])), dual.state(np.array([[p]]))
    return float(dual.value(np.array([[[k]]]), left, right).item())


def test_warnings_of_a_function_are_its_own_affair() -> None:
    def warns(x: Array) -> Array:
        warnings.warn("careful", stacklevel=1)
        return x

    with warnings.catch_warnings(action="error"):
        assert value(dual_of(warns), 0.5, 1.0, 1.0) == pytest.approx(0.5, rel=1e-12)


def test_erf_is_linear_down_to_the_smallest_variances() -> None:
    assert value(dual_of("erf"), 3e-310, 1e-309, 2e-309) == pytest.approx(4 / math.pi * 3e-310, rel=1e-12)
    assert value(dual_of("erf"), 1e-156, 1.0, 2e-311) == pytest.approx(4 / math.pi / math.sqrt(3) * 1e-156, rel=1e-9)


@pytest.mark.parametrize("epsilon", [None, 0.0])
def test_the_error_is_measured_where_streams_are_finite(epsilon: float | None) -> None:
    def cube(x: Array) -> Array:
        return x**3

    kernel = Elementwise(Single(cube, epsilon=epsilon), dual_of(cube))
    states = [kernel.state(np.array([[q]])) for q in (0.0, 1.0, 1e150, np.inf, np.nan)]
    with warnings.catch_warnings(action="error"):
        assert kernel.error(tuple(np.stack(parts) for parts in zip(*states, strict=True))) < 1e-12
        assert kernel.error(tuple(part[None] for part in states[-1])) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_vanishes_has_normalised_covariances_of_zero(kind: str) -> None:
    kernel = Elementwise(KINDS[kind]("linear", epsilon=0.0), dual_of("linear"))
    with warnings.catch_warnings(action="error"):
        state = kernel.state(np.zeros((1, 1)))
        stacked = tuple(part[None] for part in state)
        assert kernel.forward(np.zeros((1, 1, 1)), state, stacked).item() == 0.0
        assert kernel.slopes(np.zeros((1, 1, 1)), state, stacked).weights.item() == 0.0


def test_the_functions_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x = np.linspace(-6, 6, 101)
    for name in ACTIVATIONS:
        space = torch if name == "erf" else torch.nn.functional
        theirs = torch.positive if name == "linear" else getattr(space, name.replace("-", "_"))
        np.testing.assert_allclose(function_of(name)(x), theirs(torch.from_numpy(x)).numpy(), rtol=1e-13, atol=1e-15)
    assert function_of(np.sin) is np.sin
