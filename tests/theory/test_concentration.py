"""Bounds on the mean and the variance of R² at finite width: against exact polynomials, brute force and scaling."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import sympy

from residual_theory.errors import InputError
from residual_theory.kernels.dual import _FUNCTIONS
from residual_theory.stack import LlamaStack, Stack
from residual_theory.theory import concentration
from residual_theory.theory.concentration import REGULARITY, mean_error_bound, variance_bound
from residual_theory.theory.finite_width import second_moment_at_width
from residual_theory.theory.forward import predict

LINEAR: list[dict[str, Any]] = [
    {"loops": 2, "residual_scale": 0.05},
    {"loops": 4, "residual_scale": "1/N", "initial_variance": 0.3, "weight_variance": 0.5},
    {"loops": 2, "unique_layers": 2},
    {"loops": 4, "sharing": (0, 0, 1, 0), "residual_scale": 0.1},
]


@pytest.mark.parametrize("fields", LINEAR)
def test_exact_errors_of_linear_stacks_lie_below(fields: dict[str, Any]) -> None:
    stack = Stack(activation="linear", **fields)
    limit = float(predict(stack, with_gradients=False).second_moment[-1])
    for width in (1, 3, 64, 10**6):
        error = abs(second_moment_at_width(stack, width) - limit)
        assert 0 < error < mean_error_bound(stack, width)


def test_where_branches_are_weak_the_bounds_are_near() -> None:
    """So that a bound too small by a factor of two, as one forgotten term makes it, does not pass."""
    stack = Stack(loops=2, residual_scale=0.02, activation="linear", initial_variance=3.0)
    limit, width = float(predict(stack, with_gradients=False).second_moment[-1]), 1000
    error = second_moment_at_width(stack, width) - limit
    assert error < mean_error_bound(stack, width) < 1.5 * error
    once = Stack(loops=1, residual_scale=0.02, activation="linear", initial_variance=3.0)
    assert _exact_variance(once, width) < variance_bound(once, width) < 2.5 * _exact_variance(once, width)


def _exact_variance(stack: Stack, d: int) -> float:
    """Of h_0 + εWh_0: R² is R(0)² times 1 + 2εξ/√d + ε²χ²/d, with ξ normal and χ² of d degrees, uncorrelated."""
    e2 = stack.epsilon**2 * stack.weight_variance
    second = (1 + 2 / d) * ((1 + e2) ** 2 + (4 * e2 + 2 * e2**2) / d)
    return stack.initial_variance**2 * (second - (1 + e2) ** 2)


@pytest.mark.parametrize("width", [1, 2, 30])
@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0])
def test_exact_variance_lies_below(width: int, scale: float) -> None:
    stack = Stack(loops=1, residual_scale=scale, activation="linear", initial_variance=0.7, weight_variance=1.5)
    assert _exact_variance(stack, width) < variance_bound(stack, width)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_rates(activation: Any) -> None:
    stack = Stack(loops=4, unique_layers=2, residual_scale=0.05, activation=activation)
    widths = np.array([10, 10**3, 10**5, 10**7])
    power = 0.5 if activation == "relu" else 1.0
    for bound, rate in ((mean_error_bound, power), (variance_bound, 1.0)):
        scaled = np.array([bound(stack, int(width)) for width in widths]) * widths**rate
        assert np.all(np.diff(scaled) <= 0.02 * scaled[:-1])  # windows are tried on a grid
        assert scaled[-1] > 0.7 * scaled[1]


def test_one_layer_has_bounds_that_loops_do_not_move() -> None:
    bounds = [mean_error_bound(Stack(loops=n, residual_scale=f"1/(4*{n})", activation="tanh"), 1000) for n in (8, 64)]
    assert bounds[0] < bounds[1] < 1.5 * bounds[0]


def test_units() -> None:
    """ReLU is homogeneous, and ε enters with σ_w."""
    for bound, power in ((mean_error_bound, 1), (variance_bound, 2)):
        at = partial(Stack, loops=3, unique_layers=2)
        plain = bound(at(residual_scale=0.1), 50)
        assert bound(at(residual_scale=0.1, initial_variance=7.0), 50) == pytest.approx(7.0**power * plain)
        assert bound(at(residual_scale=0.05, weight_variance=4.0), 50) == pytest.approx(plain)
        assert bound(at(residual_scale=0.1, tied=False), 50) < plain


def test_pairs_are_counted() -> None:
    weights = (0, 1, 0, 2, 1, 0, 0)
    pairs = [(m, n) for n in range(7) for m in range(n) if weights[m] == weights[n]]
    found = concentration._counts(weights)
    assert (found.visits, found.most, found.pairs) == (7, 4, 7 + 2 * len(pairs))
    assert (found.earlier, found.between) == (len(pairs), sum(n - m - 1 for m, n in pairs))


@pytest.mark.parametrize("name", sorted(REGULARITY))
def test_slopes_are_those_of_the_activation(name: str) -> None:
    phi, of = _FUNCTIONS[name], REGULARITY[name]
    step = 1e-3
    x = np.arange(-8, 8, step) + step / 3
    slopes = np.diff(phi(x)) / step
    largest = float(np.abs(slopes).max())
    assert largest <= of.slope + 1e-9
    assert largest > 0.9999 * of.slope
    assert float(np.ptp(slopes)) <= of.oscillation + 1e-9
    assert float(np.ptp(slopes)) >= 0.9999 * of.oscillation - 1e-9
    assert abs(float(phi(np.zeros(1))[0])) == of.origin
    if math.isfinite(of.bend):
        bends = np.abs(np.diff(slopes)) / step
        assert 0.9999 * of.bend - 1e-6 <= float(bends.max()) <= of.bend + 1e-6


def test_beyond_floats() -> None:
    stack = Stack(loops=200, residual_scale=1e3)
    assert (mean_error_bound(stack, 100), variance_bound(stack, 100)) == (math.inf, math.inf)
    still = Stack(loops=5, residual_scale=0.0, activation="tanh")
    assert mean_error_bound(still, 10) == 0
    assert variance_bound(still, 10) >= 0.2  # a normal start has 2/d


def _by_the_text(stack: Stack, width: int) -> float:
    """|E R² − K| for q0 = 1 and φ(0) = 0, from the formulas of docs/theory.md, each sum written out."""
    of, d = REGULARITY[str(stack.activation)], width
    e, bend = stack.epsilon * math.sqrt(stack.weight_variance) * of.slope, of.bend / of.slope
    weights = [visit.weights for visit in stack.visits]
    V = len(weights)

    def same(i: int, j: int) -> bool:
        return weights[i] == weights[j]

    times = [weights.count(name) for name in set(weights)]
    pairs = sum(same(i, j) for i in range(V) for j in range(V))
    earlier = [(m, n) for n in range(V) for m in range(n) if same(m, n)]
    between = sum(n - m - 1 for m, n in earlier)
    A, x, norm = sympy.symbols("A x w")  # norm stands for ‖W‖
    starts = [1, 1, 1, math.sqrt(1 + 2 / d) ** 1.5, 1 + 2 / d]  # E x^q, an odd one by the next even one

    def mean(expression: Any) -> float:
        total = 0.0
        for (p, q, alone), coefficient in sympy.Poly(expression, A, x, norm).terms():
            slopes = [p * n * e / (1 + 2 * e) for n in times]
            exponent = sum(s * s for s in slopes) / (2 * d)
            if alone:  # ‖W‖ ≤ 2 exp((‖W‖ − 2)/2); p ≤ 5 in the library
                exponent += (5 * max(times) * e / (1 + 2 * e) + 0.25) / (2 * d)
            total += float(coefficient) * (1 + 2 * e) ** (p * V) * 2**alone * math.exp(exponent) * starts[q]
        return total

    K = predict(stack, with_gradients=False).second_moment.values
    k, rho = math.sqrt(K.max()), A * x

    def traces(f: Any, slopes: Any) -> Any:
        inner = len(earlier) * f + bend * (len(earlier) + e * norm * between) * rho * f + pairs * rho * slopes
        return A * ((1 + e**2 * pairs * rho**2) * inner + 2 * e**2 * pairs**2 * rho**2 * f / math.sqrt(d))

    last = e**2 / d * mean(traces(1, 0) + len(earlier) * rho**2)
    f = 1 + 2 * (rho + (math.sqrt(3) + 0.5) * k)
    slopes = 2 * bend + 2 * (bend * (rho + (math.sqrt(3) + 1) * k) + 1)
    sensitivity = A**2 + e**2 * pairs * rho**2
    deviations = math.sqrt(mean(sensitivity * 4 * rho**2) * mean(sensitivity * slopes**2))
    pair = e**2 / d * (mean(traces(f, slopes) + 2 * len(earlier) * rho * (rho + k)) + pairs * deviations)
    b: dict[tuple[int, int], float] = {}

    def before(i: int, j: int) -> float:
        return sum(b[max(p, q), min(p, q)] for p in range(i) for q in range(j) if same(p, q))

    for i in range(V):
        c = [math.sqrt(K[n] + e**2 * before(n, n) + last * float(n > 0)) + k / 2 for n in range(i + 1)]
        for j in range(i + 1):
            sums = before(i, j) + c[j] * before(i, i) + c[i] * before(j, j)
            b[i, j] = e**2 * sums + pair if i else 0.0
    return e**2 * before(V, V) + last


@pytest.mark.parametrize(
    "fields",
    [
        {"loops": 3, "activation": "tanh"},
        {"loops": 3, "unique_layers": 2, "activation": "gelu", "weight_variance": 0.5},
    ],
)
def test_the_bound_is_the_one_of_the_text(fields: dict[str, Any]) -> None:
    stack = Stack(residual_scale=0.03, **fields)
    assert mean_error_bound(stack, 50) == pytest.approx(_by_the_text(stack, 50), rel=1e-9)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"normalization": "rms"}, "normalization"),
    ({"loop_normalization": True}, "loop_normalization"),
    ({"branch": "gated"}, "branch"),
    ({"carry": 0.5}, "carry"),
    ({"prelude": 1}, "prelude"),
    ({"activation": np.sin}, "activation"),
    ({"loops": 2000}, "loops"),
]


@pytest.mark.parametrize("bound", [mean_error_bound, variance_bound])
def test_what_the_theorem_does_not_cover_is_refused(bound: Any) -> None:
    for fields, name in REFUSED:
        with pytest.raises(InputError, match=f"^{name}") as caught:
            bound(Stack(**({"loops": 2} | fields)), 8)
        assert "\n" not in str(caught.value)
    for width in (0, 1.5, True, "8"):
        with pytest.raises(InputError, match=r"^width"):
            bound(Stack(loops=2), width)
    with pytest.raises(InputError, match=r"^stack"):
        bound(LlamaStack(loops=2, width=8, mlp_width=8, heads=1), 8)
