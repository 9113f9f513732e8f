"""Attention backward: against derivatives of slow sums, softmax's own Jacobian on sampled logits, and quadrature."""

import math

import numpy as np
import pytest
from scipy import integrate, special

from residual_theory.arrays import Array
from residual_theory.kernels.attention import Attention, attention_state, rotary_correlation
from residual_theory.kernels.attention_backward import (
    Backward,
    Sided,
    _Release,
    attention_backward,
    release,
    sampled_steepness,
    steepness,
)
from tests.kernels.test_attention import correlations, second_order


def sided(own: Array, v2: float, rotation: Array | None = None) -> Sided:
    state = attention_state(own, v2, rotation)
    return Sided(state, steepness(state))


def stacked(*sides: Sided) -> Sided:
    return Sided(*(np.stack(parts) for parts in zip(*sides, strict=True)))


def backward(
    first: Array, between: Array, second: Array, outer: Array, v2: float, rotation: Array | None = None, power: int = 4
) -> Backward:
    left, right = sided(first, v2, rotation), stacked(sided(second, v2, rotation))
    found = attention_backward(between[None], left, right, outer[None], v2, rotation, power)
    return Backward(found.inputs[0], found.logits[0])


def outer_of(tokens: int) -> Array:
    return np.random.default_rng(1).standard_normal((tokens, tokens))


def test_vanishing_logits_pass_gradients_through_uniform_weights() -> None:
    outer, (first, between, second) = outer_of(5), correlations(5)
    got = backward(first, between, second, outer, 1e-14).inputs
    for s in range(5):
        for r in range(5):
            total = sum(outer[t, u] / ((t + 1) * (u + 1)) for t in range(s, 5) for u in range(r, 5))
            assert got[s, r] == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("head", [None, 8])
@pytest.mark.parametrize("power", [3, 4])
def test_order_v_squared_is_the_derivative_of_the_sum_over_all_pairs_of_keys(head: int | None, power: int) -> None:
    tokens = 6
    first, between, second = correlations(tokens)
    rotation, outer = None if head is None else rotary_correlation(tokens, head), outer_of(tokens)
    plain, near, twice = (backward(first, between, second, outer, v2, rotation, power) for v2 in (1e-12, 1e-4, 2e-4))
    slope = (2 * (near.inputs - plain.inputs) - (twice.inputs - plain.inputs) / 2) / 1e-4
    expected, step = np.empty((tokens, tokens)), 1e-3
    for s in range(tokens):
        for r in range(tokens):  # second_order is quadratic in what lies between: central differences are exact
            change = np.zeros((tokens, tokens))
            change[s, r] = step
            ends = [second_order(first, between + sign * change, second, head, rank_one=True) for sign in (1, -1)]
            expected[s, r] = np.sum(outer * (ends[0] - ends[1])) / (2 * step)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(slope, expected, atol=2e-6)


def sent_back(own: Array, v2: float, rotation: Array, t: int, samples: int = 60_000) -> tuple[float, float, float]:
    """The traces of what query t sends back through values, its query, and the keys: softmax's Jacobian on samples.

    A gradient g at the output meets each value in a number z_s, Cov(z_s, z_r) = C_sr, so the gradient in the logits is
    J z with J = diag(p) − p pᵀ; of the logits' covariance v² C_tt C_sr ρ the query's part is C_tt, the key's C_sr.
    """
    keys, rng = slice(0, t + 1), np.random.default_rng(5)
    seen, turned = own[keys, keys], (own * rotation)[keys, keys]
    logits = rng.multivariate_normal(np.zeros(t + 1), v2 * own[t, t] * turned, samples, check_valid="ignore")
    p = special.softmax(logits, axis=1)
    z = rng.multivariate_normal(np.zeros(t + 1), seen, samples, check_valid="ignore")
    in_logits = p * (z - (p * z).sum(1, keepdims=True))
    by_query = v2 * np.einsum("ns,sr,nr->n", in_logits, turned, in_logits).mean()
    by_keys = v2 * own[t, t] * (in_logits**2).sum(1).mean()
    return float((p**2).sum(1).mean()), float(by_query), float(by_keys)


@pytest.mark.parametrize("v2", [0.5, 6.8, 59.0, 530.0])
@pytest.mark.parametrize("c", [0.0, 0.4])
def test_equally_correlated_keys_are_exact_at_any_width_of_the_logits(v2: float, c: float) -> None:
    own, t = c + (1 - c) * np.eye(7), 6
    outer = np.zeros((7, 7))
    outer[t, t] = 1.0
    got = backward(own, own, own, outer, v2)
    values, by_query, by_keys = sent_back(own, v2, np.ones((7, 7)), t)
    assert got.logits[t, t] == pytest.approx(by_query, rel=0.04)
    assert np.trace(got.inputs) == pytest.approx(values + by_query + by_keys, rel=0.04)


@pytest.mark.parametrize("v2", [6.8, 59.0])
def test_sampled_steepness_mends_unequal_keys(v2: float) -> None:
    ids = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    own, rotation, t = (ids[:, None] == ids) * 1.0, rotary_correlation(8, 32), 7
    outer = np.zeros((8, 8))
    outer[t, t] = 1.0
    side = sided(own, v2, rotation)
    traces = []
    for e in (side.steepness, sampled_steepness(own, side, v2, rotation)):
        mine = Sided(side.state, e)
        found = attention_backward(own[None], mine, stacked(mine), outer[None], v2, rotation, 4)
        traces.append(np.trace(found.inputs[0]))
    exact = sum(sent_back(own, v2, rotation, t))
    assert abs(traces[0] / exact - 1) > 0.05
    assert traces[1] == pytest.approx(exact, rel=0.02)


def test_sampled_steepness_is_the_closed_one_where_that_is_exact() -> None:
    own = 0.2 + 0.8 * np.eye(20)
    side = sided(own, 7.0)
    np.testing.assert_allclose(sampled_steepness(own, side, 7.0, None)[1:], side.steepness[1:], rtol=0.02)


def test_exchanging_the_visits_transposes_and_visits_do_not_touch_each_other() -> None:
    first, between, second = correlations(30)
    rotation, outer = rotary_correlation(30, 6), outer_of(30)
    there = backward(first, between, second, outer, 1.1, rotation)
    back = backward(second, between.T, first, outer.T, 1.1, rotation)
    np.testing.assert_allclose(there.inputs, back.inputs.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(there.logits, back.logits.T, rtol=1e-9, atol=1e-12)
    left, other = sided(first, 1.1, rotation), sided(second, 1.1, rotation)
    many = 20  # more than one chunk
    together = attention_backward(
        np.stack([first, *[between] * many]),
        left,
        stacked(left, *[other] * many),
        np.stack([outer] * (many + 1)),
        1.1,
        rotation,
        4,
    )
    np.testing.assert_allclose(together.inputs[-1], there.inputs, rtol=1e-6, atol=1e-9)  # up to Taylor's truncation


def test_one_key_has_no_logits_to_speak_of() -> None:
    own = np.ones((1, 1))
    got = backward(own, 0.4 * own, own, 0.3 * own, 9.0)
    assert got.inputs.item() == pytest.approx(0.3, rel=1e-12)
    assert got.logits.item() == 0.0


@pytest.mark.parametrize("variance", [0.3, 4.0, 200.0])
def test_release_of_two_keys_is_a_logistic_integral(variance: float) -> None:
    width = math.sqrt(2 * variance)  # of the difference of two logits

    def integrand(x: float) -> float:
        return (0.25 / math.cosh(x / 2) ** 2) ** 2 * math.exp(-x * x / (2 * width**2)) / (width * math.sqrt(math.tau))

    value, _ = integrate.quad(integrand, -60, 60, points=[0], limit=400)  # (p (1 − p))²
    assert release(np.array([2.0]), variance)[0] == pytest.approx(4 * value, rel=1e-6)


def test_release_is_interpolated_and_goes_on_like_the_inverse_root() -> None:
    keys = np.array([2.0, 3.7, 20.0, 90.0])
    table = _Release.table(100.0, 5000.0)
    for variance in (1e-3, 0.8, 31.0, 900.0):
        expected = [release(np.array([t]), variance)[0] for t in keys]
        np.testing.assert_allclose(table.at(keys, np.full(4, variance)), expected, rtol=3e-4)
    beyond = table.at(keys, np.full(4, 8192.0))
    np.testing.assert_allclose(beyond, table.at(keys, np.full(4, 2048.0)) / 2, rtol=1e-12)


def test_matrices_far_beyond_any_model_give_finite_or_infinite_values() -> None:
    own = 0.3 + 0.7 * np.eye(5)
    assert Attention(1e6, 8).logit_variance == 1e12
    assert np.isfinite(backward(own, own, own, np.eye(5), 1e12).inputs).all()
