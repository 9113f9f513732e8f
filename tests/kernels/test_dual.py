"""Dual kernels against quadrature, against each other and against what they say about their own error."""

import itertools
import math
import warnings
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtr

from residual_theory.arrays import Array
from residual_theory.branches.law import Activation
from residual_theory.errors import InputError
from residual_theory.kernels import dual as module
from residual_theory.kernels import pairs
from residual_theory.kernels.dual import ACTIVATIONS, Dual, dual_of, function_of
from residual_theory.kernels.hermite import Series

Function = Callable[[Array], Array]
COSINES = (-1.0, -0.999999, -0.5, 0.0, 0.3, 0.99, 1 - 1e-9, 1.0)
VARIANCES = ((0.5, 2.0), (4.5, 0.5), (1e-8, 1e-8), (32.0, 0.5), (1e4, 625.0), (1e4, 1e4))  # of exact geometric means


SLOPES: dict[str, Function] = {
    "relu": lambda x: np.heaviside(x, 0.5),
    "leaky-relu": lambda x: np.where(x > 0, 1.0, 0.01),
    "linear": np.ones_like,
    "erf": lambda x: 2 / math.sqrt(math.pi) * np.exp(-(x**2)),
    "tanh": lambda x: 1 / np.cosh(np.clip(x, -300, 300)) ** 2,
    "gelu": lambda x: ndtr(x) + x * np.exp(-(x**2) / 2) / math.sqrt(math.tau),
    "silu": lambda x: expit(x) * (1 + x * expit(-x)),
}


def relu_squared(x: Array) -> Array:
    return np.maximum(x, 0.0) ** 2


def relu_squared_dual(k: float, q: float, p: float) -> float:
    """The arc-cosine kernel of degree 2: qp [3 sin θ cos θ + (π − θ)(1 + 2 cos² θ)]/(2π)."""
    c = max(-1.0, min(1.0, k / math.sqrt(q * p)))
    theta = math.acos(c)
    return q * p * (3 * math.sin(theta) * c + (math.pi - theta) * (1 + 2 * c * c)) / math.tau


def hard_tanh(x: Array) -> Array:
    return np.clip(x, -1.0, 1.0)


# Two ways to evaluate a kernel at one point


def pair(dual: Dual, k: float, q: float, p: float) -> tuple[Array, Array, Array]:
    return np.array([[[k]]]), dual.state(np.array([q])), dual.state(np.array([[p]]))


def value(dual: Dual, k: float, q: float, p: float) -> float:
    return dual.value(*pair(dual, k, q, p)).item()


def slope(dual: Dual, k: float, q: float, p: float) -> float:
    return dual.slope(*pair(dual, k, q, p)).item()


UNIT, WEIGHT = np.polynomial.legendre.leggauss(16)


def panels(ends: Array) -> tuple[Array, Array]:
    ends = np.unique(ends)
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    return (middle + half * UNIT).ravel(), (half * WEIGHT).ravel()


def mean_product(f: Function, g: Function, c: float, q: float, p: float) -> float:
    """E[f(u) g(v)] in polar coordinates, with panels that shrink towards the rays u = 0 and v = 0 and the origin."""
    angle = math.acos(c)
    rays = np.array([0.5, 1.5]) * math.pi
    rays = np.concatenate([rays, (rays + angle) % math.tau])
    rays = np.concatenate([rays, rays - math.tau, rays + math.tau])[:, None]
    away = np.concatenate([[0.0], 4.0 ** np.arange(-12, 1)])
    phi, by_angle = panels(np.clip(np.concatenate([rays + away, rays - away]), 0.0, math.tau))
    r, by_radius = panels(np.concatenate([[0.0], 4.0 ** np.arange(-8, 0), np.arange(1.0, 13.0)]))
    left, right = f(math.sqrt(q) * np.outer(r, np.cos(phi))), g(math.sqrt(p) * np.outer(r, np.cos(phi - angle)))
    return float((by_radius * r * np.exp(-(r**2) / 2)) @ (left * right) @ by_angle / math.tau)


def norm(f: Function, q: float, p: float) -> float:
    """√(E f(u)² E f(v)²)."""
    return math.sqrt(mean_product(f, f, 1.0, q, q) * mean_product(f, f, 1.0, p, p))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_value_and_slope_against_quadrature(activation: str) -> None:
    dual, f, g = dual_of(activation), function_of(activation), SLOPES[activation]
    for q, p in VARIANCES:
        size, slope_size = norm(f, q, p), norm(g, q, p)
        allowed = max(dual.error(q), dual.error(p))
        assert allowed <= 1e-9
        for c in COSINES:
            k = c * math.sqrt(q * p)
            assert abs(value(dual, k, q, p) - mean_product(f, f, c, q, p)) <= (allowed + 1e-14) * size
            assert abs(slope(dual, k, q, p) - mean_product(g, g, c, q, p)) <= (2 * allowed + 2e-13) * slope_size


@pytest.mark.parametrize("activation", ["erf", "gelu", "silu", "tanh"])
def test_parallel_inputs_against_mpmath(activation: str) -> None:
    f = {
        "erf": mpmath.erf,
        "gelu": lambda x: x * mpmath.ncdf(x),
        "silu": lambda x: x / (1 + mpmath.exp(-x)),
        "tanh": mpmath.tanh,
    }[activation]
    dual = dual_of(activation)
    for (q, p), sign in itertools.product([(0.5, 2.0), (4.0, 4e4), (4e6, 1e6)], (1, -1)):
        left, right = mpmath.sqrt(q), sign * mpmath.sqrt(p)

        def integrand(x: mpmath.mpf, left: mpmath.mpf = left, right: mpmath.mpf = right) -> mpmath.mpf:
            even = f(left * x) * f(right * x) + f(-left * x) * f(-right * x)
            return even * mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)

        expected = float(mpmath.quad(integrand, [0, *(4.0 ** np.arange(-7, 0)), 1, 3, 6, 10], maxdegree=4))
        allowed = (max(dual.error(q), dual.error(p)) + 1e-14) * math.sqrt(value(dual, q, q, q) * value(dual, p, p, p))
        assert abs(value(dual, sign * math.sqrt(q * p), q, p) - expected) <= allowed


OWN: dict[str, Function] = {
    "own cosine": lambda x: np.cos(x) + 0.3 * x,
    "own relu²": relu_squared,
    "own softplus": lambda x: np.logaddexp(0.0, x, out=x),  # one that writes into its argument
}


NAMES = [*ACTIVATIONS, *OWN]
DUALS = {name: dual_of(OWN.get(name, name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_is_the_derivative_of_the_value(name: str) -> None:
    dual = DUALS[name]
    for (q, p), c in itertools.product([(0.4, 1.3), (2.0, 9.0)], [-0.6, 0.0, 0.3, 0.8]):
        size = math.sqrt(q * p)
        step = 2e-3 * size
        near, far = (
            (value(dual, c * size + h, q, p) - value(dual, c * size - h, q, p)) / (2 * h) for h in (step, 2 * step)
        )
        assert slope(dual, c * size, q, p) == pytest.approx((4 * near - far) / 3, rel=2e-8, abs=1e-9)


# Kernels against each other


@pytest.mark.parametrize("activation", ["linear", "erf", "tanh", "gelu", "silu"])
def test_the_series_of_a_callable_is_the_named_kernel(activation: str) -> None:
    function = function_of(activation)
    own, dual = dual_of(function), dual_of(activation)
    for (q, p), c in itertools.product([(1.5, 1.5), (0.3, 2.0), (3.0, 0.01)], COSINES):
        k = c * math.sqrt(q * p)
        size = math.sqrt(value(own, q, q, q) * value(own, p, p, p))
        slope_size = math.sqrt(slope(own, q, q, q) * slope(own, p, p, p))
        allowed = max(dual.error(q), dual.error(p), own.error(q), own.error(p)) + 1e-14
        assert abs(value(own, k, q, p) - value(dual, k, q, p)) <= 2 * allowed * size
        assert abs(slope(own, k, q, p) - slope(dual, k, q, p)) <= 4 * allowed * slope_size


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_series_and_mixture_meet(activation: str) -> None:
    dual = dual_of(activation)
    assert isinstance(dual, module._Blend)
    variances = np.geomspace(0.3, 30.0, 41)
    short = dual.short(dual.state(variances))
    assert short.any()
    assert not short.all()
    state = dual.state(variances[short])
    for c in COSINES:
        k = c * np.sqrt(variances[short] * variances[short][-1])[:, None, None]
        for ours, other in ((dual.value, dual.mixture.value), (dual.slope, dual.mixture.slope)):
            np.testing.assert_allclose(
                ours(k, state[-1:], state[:, None]), other(k, state[-1:], state[:, None]), rtol=2e-11, atol=1e-11
            )


def test_leaky_relu_is_two_relus() -> None:
    relu, leaky = dual_of("relu"), dual_of("leaky-relu")
    for c in COSINES:  # relu(x) − 0.01 relu(−x)
        k = c * 2.1
        expected = 1.0001 * value(relu, k, 0.7, 6.3) - 0.02 * value(relu, -k, 0.7, 6.3)
        assert value(leaky, k, 0.7, 6.3) == pytest.approx(expected, rel=1e-14, abs=1e-16)
        expected = 1.0001 * slope(relu, k, 0.7, 6.3) + 0.02 * slope(relu, -k, 0.7, 6.3)
        assert slope(leaky, k, 0.7, 6.3) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("same", [True, False])
def test_stacks_are_their_entries(name: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over several blocks, with long and short series side by side, and with one variance throughout."""
    dual, rng = DUALS[name], np.random.default_rng(3)
    q, p = np.exp(rng.uniform(-3, 3, 3)), np.exp(rng.uniform(-3, 3, (7, 5)))
    p[:4] /= 20
    if same:
        q[:], p[:] = 1.4, 1.4
    k = rng.uniform(-1, 1, (7, 3, 5)) * np.sqrt(q[:, None] * p[:, None, :])
    monkeypatch.setattr(pairs, "BLOCK", 40)
    left, right = dual.state(q), dual.state(p)
    np.testing.assert_array_equal(left[..., 0], q)
    np.testing.assert_array_equal(right[..., 0], p)
    for whole, of in ((dual.value, value), (dual.slope, slope)):
        found = whole(k, left, right)
        assert found.shape == k.shape
        expected = [of(dual, k[i, t, u], float(q[t]), float(p[i, u])) for i, t, u in np.ndindex(k.shape)]
        np.testing.assert_allclose(found.ravel(), expected, rtol=2e-11, atol=1e-11)
    assert dual.value(k[:0], left, right[:0]).shape == (0, 3, 5)


VARIANCE = st.floats(-8, 6).map(lambda x: 10.0**x)


@given(st.sampled_from(NAMES), VARIANCE, VARIANCE, st.floats(-1, 1))
@settings(deadline=None, max_examples=150)
def test_symmetry_and_cauchy_and_schwarz(name: str, q: float, p: float, c: float) -> None:
    if name in OWN:
        q, p = min(q, 50.0), min(p, 50.0)
    dual, k = DUALS[name], c * math.sqrt(q) * math.sqrt(p)
    for of in (value, slope):
        bound = math.sqrt(of(dual, q, q, q) * of(dual, p, p, p))
        assert abs(of(dual, k, q, p)) <= bound * (1 + 3e-11)
        assert abs(of(dual, k, q, p) - of(dual, k, p, q)) <= 1e-13 * bound


# What a kernel says of its own error


@pytest.mark.parametrize(("terms", "most"), [(16, 2e-3), (64, 1e-4), (1024, 1e-8)])
def test_the_measured_error_of_a_kinked_function_is_truthful(terms: int, most: float) -> None:
    series = Series(relu_squared, terms)
    for q, p in ((1.0, 1.0), (0.3, 0.3), (5.0, 5.0), (0.3, 5.0)):
        reported, size = max(series.error(q), series.error(p)), 1.5 * q * p
        actual = max(
            abs(value(series, c * math.sqrt(q * p), q, p) - relu_squared_dual(c * math.sqrt(q * p), q, p)) / size
            for c in (*COSINES, 0.9, 0.999)
        )
        assert actual <= reported <= most
        assert reported <= 100 * actual  # a bound, not an alarm
        for c in (-1.0, 1.0):
            expected = relu_squared_dual(c * math.sqrt(q * p), q, p)
            assert value(series, c * math.sqrt(q * p), q, p) == pytest.approx(expected, rel=1e-13, abs=1e-13 * size)


@pytest.mark.parametrize("q", [0.3, 0.77, 2.6])
def test_the_measured_error_sees_kinks_away_from_zero(q: float) -> None:
    series = Series(hard_tanh, 1024)
    inside = math.erf(1 / math.sqrt(2 * q))
    size = 1 - 2 * math.exp(-1 / (2 * q)) * math.sqrt(q / math.tau) + (q - 1) * inside  # E min(u², 1)
    actual = abs(value(series, q, q, q) - size) / size
    assert 1e-7 < actual <= series.error(q)
    with pytest.raises(InputError, match="relative error of"):
        dual_of(hard_tanh).state(np.array([q]))


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_the_measured_error_of_a_mixture_is_truthful(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MIXTURE", 5)
    coarse, dual, f = module._Blend(activation), dual_of(activation), function_of(activation)
    for q in (6.0, 70.0, 1e4):
        actual = max(
            abs(coarse.mixture.value(*pair(dual, c * q, q, q)).item() - mean_product(f, f, c, q, q)) for c in COSINES
        ) / norm(f, q, q)
        assert actual <= 1.01 * coarse.error(q) + 1e-14
        assert coarse.error(q) <= 10 * actual
        assert dual.error(q) < 1e-3 * coarse.error(q) + 1e-14


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_errors_over_all_variances(activation: str) -> None:
    errors = [dual_of(activation).error(q) for q in (0.0, *np.geomspace(1e-8, 1e12, 41), 1e300, math.inf)]
    assert max(errors) <= (1e-11 if activation in ("tanh", "silu") else 0.0)


# The ends of the range


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a not in ("erf", "tanh")])
def test_large_variances_do_not_overflow(activation: str) -> None:
    dual, negative = dual_of(activation), {"linear": 1.0, "leaky-relu": 0.01}.get(activation, 0.0)
    for q, p in ((1e300, 1e300), (1e300, 1e-300), (1e305, 1e200)):
        size = math.sqrt(q) * math.sqrt(p)
        if activation in ("gelu", "silu") and p < 1:
            continue  # not yet a relu at 1e-300
        assert value(dual, size, q, p) == pytest.approx((1 + negative**2) / 2 * size, rel=1e-14)
        assert value(dual, -size, q, p) == pytest.approx(-negative * size, rel=1e-14, abs=1e-15 * size)
        assert slope(dual, 0.0, q, p) == pytest.approx((1 + negative) ** 2 / 4, rel=1e-14)


def test_saturated_sigmoids_are_signs() -> None:
    for activation, q in itertools.product(("erf", "tanh"), (1e30, 1e290)):
        for c in (0.3, 1.0):
            expected = 2 / math.pi * math.asin(c)
            assert value(DUALS[activation], c * q, q, q) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_zero_variance(name: str) -> None:
    dual, f = DUALS[name], function_of(OWN.get(name, name))
    start, rise = f(np.zeros(1)).item(), float(np.diff(f(np.array([-1e-6, 1e-6])))[0]) / 2e-6
    mean = mean_product(f, np.ones_like, 1.0, 1.7, 1.7)
    mean_rise = mean_product(f, np.positive, 1.0, 1.7, 1.7) / 1.7
    assert value(dual, 0.0, 0.0, 0.0) == pytest.approx(start**2, rel=1e-13)
    assert value(dual, 0.0, 0.0, 1.7) == pytest.approx(start * mean, rel=1e-11)
    assert value(dual, 0.0, 1.7, 0.0) == pytest.approx(start * mean, rel=1e-11)
    assert slope(dual, 0.0, 0.0, 0.0) == pytest.approx(rise**2, abs=2e-6)
    assert slope(dual, 0.0, 0.0, 1.7) == pytest.approx(rise * mean_rise, abs=2e-6)


def test_a_small_variance_beside_a_large_constant() -> None:
    dual = DUALS["own cosine"]  # φ(0) = 1, φ'(0) = 0.3
    for q in (1e-30, 1e-14, 1e-6):
        assert slope(dual, 0.2 * q, q, q) == pytest.approx(0.09, rel=1e-5)
        assert slope(dual, 0.0, q, 0.8) == pytest.approx(0.09, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_covariances_beyond_the_variances_are_clipped(name: str) -> None:
    dual = DUALS[name]
    for excess, k, of in itertools.product((1 + 1e-15, 1 + 1e-8, 1.5), (2.0, -2.0), (value, slope)):
        if (name, of) != ("linear", value):  # which is the covariance itself
            assert of(dual, k * excess, 1.0, 4.0) == pytest.approx(of(dual, k, 1.0, 4.0), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_warns_at_infinity_or_nan(name: str) -> None:
    dual = DUALS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beyond = value(dual, math.inf, math.inf, math.inf)
        slope(dual, math.inf, math.inf, math.inf)
        assert math.isnan(value(dual, math.nan, 1.0, 2.0))
        if name in ("relu", "leaky-relu", "linear", "gelu", "silu"):
            assert beyond == math.inf
        if name == "own relu²":
            assert value(dual, 1e200, 1e200, 1e200) == math.inf


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "leaky-relu"])
def test_the_diagonal_is_exact(activation: str) -> None:
    dual, g = dual_of(activation), SLOPES[activation]
    for q in (0.1, 0.7, 3.3):  # √q √q is not always q; then c would miss 1, and the slope by 1e-8
        assert slope(dual, q, q, q) == pytest.approx(mean_product(g, g, 1.0, q, q), rel=1e-13)


# Functions and refusals


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("swish", "^activation = 'swish': give one of relu, leaky-relu, linear, erf, tanh, gelu, silu, or a vector"),
        (3.0, "^activation = 3.0: give one of"),
        (np.sum, r"^activation = 'sum': maps float64 \(2, 5\) to float64 \(\); give"),
        (lambda x: x + 0j, "complex128"),
        (math.tanh, "^activation = 'tanh': fails on an array .*; give a vectorised numpy function"),
        (lambda x: x.relu(), "fails on an array"),
        (lambda x: {"a": x}["key"], "^activation = '<lambda>': fails on an array .KeyError: 'key'.; give"),
        (lambda x: x * (1 // 0), "ZeroDivisionError: integer division"),
        (np.sqrt, "^activation = 'sqrt': .* return no NaN"),
        (lambda x: x / np.abs(x).max(), "^activation = '<lambda>': must act on each element alone"),
        (lambda x: x + np.random.default_rng().normal(size=x.shape), "always alike"),
        (lambda x: np.exp(x * x / 2), "not square-integrable under the standard Gaussian"),
        (lambda x: np.where(np.abs(x) > 5, np.nan, x), "not square-integrable under the standard Gaussian"),
    ],
)
def test_functions_without_a_kernel_are_refused(activation: Activation, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        dual_of(activation)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("activation", "variance", "message"),
    [
        (np.abs, 1.0, r"at variance 1 its dual kernel has a relative error of 1\.0e-05, above 1e-06; give a smoother"),
        (np.sign, 0.3, "relative error of .*, or the name of a known one"),
        (lambda x: np.sin(1000 * x), 1.0, "relative error of"),
        (lambda x: np.exp(x * x / 5), 2.0, "at variance 2 its mean square does not settle as the grid is widened"),
        (lambda x: x / (1 + np.exp(-x)) * np.exp(x) / np.exp(x), 2000.0, "at variance 2e[+]03 it returns NaN"),
    ],
)
def test_variances_beyond_a_series_are_refused(activation: Function, variance: float, message: str) -> None:
    dual = dual_of(activation)
    with pytest.raises(InputError, match=message) as caught:
        dual.state(np.array([[0.0, variance]]))
    assert "\n" not in str(caught.value)
    assert dual.error(variance) > 1e-6
