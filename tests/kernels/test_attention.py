"""The attention kernel: against sums over all pairs of keys, quadrature, Monte Carlo and torch's attention itself."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate

from residual_theory.arrays import Array
from residual_theory.kernels.attention import (
    Attention,
    Couplings,
    attention_covariance,
    attention_state,
    averaging,
    participation,
    rotary_correlation,
)
from residual_theory.transformer import model
from residual_theory.transformer.config import ModelConfig


def correlations(tokens: int, seed: int = 0, dimensions: int = 40) -> tuple[Array, Array, Array]:
    """C of one visit, C between it and another, C of the other: from random vectors that share a mean."""
    vectors = np.random.default_rng(seed).standard_normal((2 * tokens, dimensions)) + 1.0
    vectors[tokens:] = 0.8 * vectors[:tokens] + 0.6 * vectors[tokens:]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = vectors @ vectors.T
    return whole[:tokens, :tokens], whole[:tokens, tokens:], whole[tokens:, tokens:]


def covariance(first: Array, between: Array, second: Array, v2: float, rotation: Array | None = None) -> Array:
    left, right = attention_state(first, v2, rotation), attention_state(second, v2, rotation)
    return np.asarray(attention_covariance(between[None], left, right[None], v2, rotation)[0])


def centred(x: Array) -> Array:
    return np.asarray(x - x.mean(0, keepdims=True) - x.mean(1, keepdims=True) + x.mean())


def second_order(first: Array, between: Array, second: Array, head: int | None, rank_one: bool) -> Array:
    """dF/d(v²) at 0 by sums over every s and s' for each t and t'; ρ exact, or ρ(t − t') ρ(s − s')."""
    tokens = len(first)

    def rho(distance: NDArray[np.int64]) -> Array:
        if head is None:
            return np.ones(np.shape(distance))
        frequency = 10_000.0 ** (-np.arange(0, head, 2) / head)
        return np.asarray(np.cos(np.multiply.outer(distance, frequency)).mean(-1))

    def changes(own: Array, t: int) -> Array:
        keys = np.arange(t + 1)
        logits = own[t, t] * own[: t + 1, : t + 1] * rho(np.subtract.outer(keys, keys))
        variances = np.diag(centred(logits))
        return np.asarray(0.5 * (variances - variances.mean()))

    out = np.empty((tokens, tokens))
    for t in range(tokens):
        for u in range(tokens):
            gaps = np.subtract.outer(np.arange(t + 1), np.arange(u + 1))
            angle = rho(np.array(t - u)) * rho(gaps) if rank_one else rho(t - u - gaps)
            seen = between[: t + 1, : u + 1]
            pairs = centred(between[t, u] * seen * angle)
            weights = pairs + changes(first, t)[:, None] + changes(second, u)
            out[t, u] = np.sum(weights * seen) / ((t + 1) * (u + 1))
    return out


@pytest.mark.parametrize("head", [None, 8])
def test_order_v_squared_is_the_sum_over_all_pairs_of_keys(head: int | None) -> None:
    first, between, second = correlations(9)
    rotation = None if head is None else rotary_correlation(9, head)
    uniform = averaging(9) @ between @ averaging(9).T
    slopes = [(covariance(first, between, second, h, rotation) - uniform) / h for h in (1e-4, 2e-4)]
    slope = 2 * slopes[0] - slopes[1]  # without the term of order v⁴
    expected = second_order(first, between, second, head, rank_one=True)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(slope, expected, atol=1e-7)
    if head is not None:  # exact for equal positions; elsewhere better than leaving the rotation out
        exact = second_order(first, between, second, head, rank_one=False)
        np.testing.assert_allclose(np.diag(slope), np.diag(exact), atol=1e-7)
        plain = second_order(first, between, second, None, rank_one=False)
        assert np.sum((slope - exact) ** 2) < 0.5 * np.sum((plain - exact) ** 2)
        lone, other = 0.7 * np.eye(9) + 0.1, np.eye(9)  # the same with different numbers: no off-diagonal C_ss'
        states = attention_state(lone, 1e-4, rotation), attention_state(other, 1e-4, rotation)
        got = attention_covariance(0.6 * other[None], states[0], states[1][None], 1e-4, rotation)[0]
        got = (got - 0.6 * averaging(9) @ averaging(9).T) / 1e-4
        np.testing.assert_allclose(got, second_order(lone, 0.6 * other, other, head, rank_one=False), atol=1e-4)


@pytest.mark.parametrize(("v2", "c"), [(0.09, 0.0), (0.67, -0.4), (3.0, 0.3)])
def test_two_keys_are_a_logistic_integral(v2: float, c: float) -> None:
    variance = 2 * v2 * (1 - c)  # of the difference of the two logits

    def integrand(x: float) -> float:
        return math.tanh(x / 2) ** 2 * math.exp(-x * x / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    value, _ = integrate.quad(integrand, -40 * math.sqrt(variance), 40 * math.sqrt(variance), points=[0], limit=400)
    own = np.array([[1.0, c], [c, 1.0]])
    got = covariance(own, own, own, v2)
    assert got[0, 0] == pytest.approx(1.0, rel=1e-12)
    assert got[1, 1] == pytest.approx((1 + c) / 2 + (1 - c) / 2 * value, rel=1e-5)


def test_three_equally_correlated_keys_are_an_integral_over_three_logits() -> None:
    c, v2 = 0.35, 2.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    logits = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1) * math.sqrt(v2 * (1 - c))
    chance = np.einsum("i,j,k->ijk", weights, weights, weights) / (2 * math.pi) ** 1.5
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = np.full((3, 3), c) + (1 - c) * np.eye(3)
    expected = np.sum(chance * np.einsum("...s,...u,su", p, p, own))
    assert covariance(own, own, own, v2)[2, 2] == pytest.approx(expected, rel=1e-5)


def test_copies_of_a_key_count_as_one() -> None:
    """Six keys in three pairs of copies are three keys: the effective number of keys is exact for them."""
    own, copies = 0.2 + 0.8 * np.eye(3), 0.2 + 0.8 * np.repeat(np.repeat(np.eye(3), 2, 0), 2, 1)
    got = covariance(copies, copies, copies, 1.5)[5, 5]
    assert got == pytest.approx(covariance(own, own, own, 1.5)[2, 2], rel=1e-5)


def test_many_keys_average_themselves() -> None:
    share = participation(np.array([1e3, 1e4, 1e5, 1e6]), 0.7) * np.array([1e3, 1e4, 1e5, 1e6])
    gaps = share / math.exp(0.7) - 1
    assert (np.diff(np.abs(gaps)) < 0).all()
    assert abs(gaps[-1]) < 1e-5


def test_couplings_are_interpolated_from_their_definitions() -> None:
    keys, variances = np.array([2.0, 3.7, 20.0, 31.9]), np.array([0.03, 0.4, 1.1, 1.6])
    linear, full = Couplings.table(32, 0.8).at(keys, variances)
    share = np.array([participation(np.array([t]), v)[0] for t, v in zip(keys, variances, strict=True)])
    np.testing.assert_allclose(linear, (1 - share) * keys / (keys - 1), rtol=1e-7)
    np.testing.assert_allclose(full, np.log(share * (keys - 1) / (1 - share)) / variances, rtol=1e-6)


@pytest.mark.parametrize("v2", [0.0, 5e-324, 1e-40, 1e-12, 1e-6])
def test_couplings_of_vanishing_logits_are_one(v2: float) -> None:
    keys = np.array([2.0, 3.7, 31.9])
    np.testing.assert_allclose(Couplings.table(32, v2).at(keys, np.full(3, 2 * v2)), 1.0, rtol=0, atol=2 * v2 + 1e-7)


def test_logits_beyond_float64_saturate() -> None:
    own, _, _ = correlations(6)
    large, beyond = Attention(1e99, 8), Attention(1e201, 8)
    states = large.state(own), beyond.state(own)
    np.testing.assert_allclose(states[0][:6], states[1][:6], atol=1e-9)  # the mean weights
    assert np.isposinf(beyond.forward(own[None], states[1], states[1][None])[0].diagonal()).all()


@pytest.mark.parametrize("rope", [False, True])
def test_equal_correlations_leave_the_weights_without_effect(rope: bool) -> None:
    branch = Attention(1.3, 8, rope)
    own, between = np.ones((7, 7)), np.full((7, 7), 0.37)
    state = branch.state(own)
    got = branch.forward(np.stack((own, between)), state, np.stack((state, state))) / 1.3**2
    np.testing.assert_allclose(got, np.stack((own, between)), rtol=1e-12)


def test_exchanging_the_visits_transposes() -> None:
    first, between, second = correlations(8)
    rotation = rotary_correlation(8, 6)
    there = covariance(first, between, second, 1.1, rotation)
    np.testing.assert_allclose(there, covariance(second, between.T, first, 1.1, rotation).T, rtol=1e-12)
    assert np.abs(there - there.T).max() > 1e-3


def test_visits_are_independent_of_those_beside_them_and_no_query_sees_a_later_key() -> None:
    branch = Attention(0.9, 10)
    first, between, second = correlations(60)  # more than one chunk of visits
    left, right = branch.state(first), np.stack((branch.state(first), *[branch.state(second)] * 5))
    together = branch.forward(np.stack((first, *[between] * 5)), left, right)
    alone = branch.forward(between[None], left, right[5:])
    np.testing.assert_array_equal(together[5], alone[0])
    short = [x[:7, :7] for x in (first, between, second)]
    got = branch.forward(short[1][None], branch.state(short[0]), branch.state(short[2])[None])
    np.testing.assert_allclose(got[0], alone[0, :7, :7], rtol=1e-5)  # up to Taylor's and Chebyshev's truncation


def sampled(first: Array, between: Array, second: Array, v2: float, head: int, samples: int) -> tuple[Array, Array]:
    """F and its standard error with Gaussian logits of the covariance the theory starts from, ρ exact."""
    rng, tokens = np.random.default_rng(7), len(first)
    values, vectors = np.linalg.eigh(np.block([[first, between], [between.T, second]]))
    root = vectors * np.sqrt(np.clip(values, 0, None))
    position = np.tile(np.arange(tokens), 2)
    frequency = 10_000.0 ** (-np.arange(0, head, 2) / head)
    logits = np.zeros((samples, 2 * tokens, 2 * tokens))
    for theta in frequency:
        for turn in (np.cos, np.sin):
            noise = rng.standard_normal((samples, 2 * tokens, 2 * tokens))
            logits += turn(theta * np.subtract.outer(position, position)) * (root @ noise @ root.T)
    logits *= math.sqrt(v2 / len(frequency))
    weights = []
    for part in (slice(0, tokens), slice(tokens, None)):
        e = np.exp(np.where(np.tril(np.ones((tokens, tokens))) > 0, logits[:, part, part], -np.inf))
        weights.append(e / e.sum(-1, keepdims=True))
    products = weights[0] @ between @ weights[1].swapaxes(1, 2)
    traces, sums = products.trace(axis1=1, axis2=2), products.sum((1, 2))
    both = np.stack((traces, sums))
    return both.mean(1), both.std(1) / math.sqrt(samples)


# The bound in % is what is claimed of the approximation beside 4 standard errors; order v⁴ is not exact.
@pytest.mark.parametrize(("v2", "percent"), [(0.05, 0.02), (0.67, 0.2), (3.0, 0.6)])
@pytest.mark.parametrize("same", [True, False])
def test_gaussian_logits_sampled(v2: float, percent: float, same: bool) -> None:
    first, between, second = correlations(16, dimensions=60)
    if same:
        between, second = first, first
    predicted = covariance(first, between, second, v2, rotary_correlation(16, 8))
    uniform = averaging(16) @ between @ averaging(16).T
    measured, error = sampled(first, between, second, v2, head=8, samples=4000)
    got = np.array([np.trace(predicted), predicted.sum()])
    assert (np.abs(got - measured) < 4 * error + 0.01 * percent * measured).all(), (
        got / measured - 1,
        error / measured,
    )
    assert np.trace(uniform) < measured[0] - 8 * error[0] - 0.01 * percent * measured[0]  # the effect is there to see


def test_torch_attention_of_random_weights() -> None:
    """Outputs of the Transformer's own attention, for two inputs of known correlations and logits of variance 1.2."""
    width, tokens, v2 = 512, 16, 1.2
    config = ModelConfig(width=width, heads=8, context=tokens, init_std=(v2 / width**2) ** 0.25)
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(2, tokens, width, generator=generator)
    inputs = torch.nn.functional.rms_norm(inputs + 0.7 * inputs[:1] + 0.5 * inputs[:, :1], (width,))
    cosine = (torch.einsum("itd,jsd->ijts", inputs, inputs) / width).double().numpy()
    products = []
    with torch.no_grad():
        for _ in range(40):
            branch = model.Attention(config)
            for parameter in branch.parameters():
                torch.nn.init.normal_(parameter, std=config.init_std, generator=generator)
            out = branch(inputs)
            products.append(torch.einsum("itd,jtd->ij", out, out) / width)
    measured, error = torch.stack(products).mean(0).numpy(), torch.stack(products).std(0).numpy() / math.sqrt(40)
    kernel = Attention(math.sqrt(v2), width // 8)
    states = np.stack([kernel.state(cosine[i, i]) for i in range(2)])
    predicted = np.stack([np.trace(kernel.forward(cosine[i], states[i], states), axis1=1, axis2=2) for i in range(2)])
    uniform = v2 * np.einsum("ts,ijsu,tu->ij", averaging(tokens), cosine, averaging(tokens))
    assert (np.abs(predicted - measured) < 4 * error).all(), (predicted / measured - 1, error / measured)
    assert (uniform[[0, 1], [0, 1]] < (measured - 4 * error)[[0, 1], [0, 1]]).all()


def test_logits_turn_as_the_rotary_tables_do() -> None:
    """tr(R_t' R_tᵀ R_s R_s'ᵀ)/d_h = ρ((t − t') − (s − s')), the factor in the logits' covariance."""
    head, tokens = 12, 9
    cosine, sine = model.rotary_tables(tokens, head, 10_000.0)
    basis = torch.eye(head)[:, None].expand(head, tokens, head)
    turns = model.rotate(basis, cosine, sine).permute(1, 2, 0).double().numpy()  # (position, head, head)
    t, u, s, r = 8, 3, 6, 5
    trace = np.trace(turns[u].T @ turns[r] @ (turns[t].T @ turns[s]).T) / head
    assert trace == pytest.approx(rotary_correlation(tokens, head)[0, abs((t - u) - (s - r))], abs=1e-6)


@pytest.mark.parametrize("v2", [50.0, 1e11])
def test_saturated_weights_stay_weights(v2: float) -> None:
    own = 0.3 + 0.7 * np.eye(12)
    got = np.diag(covariance(own, own, own, v2, rotary_correlation(12, 4)))
    assert (got <= 1.0 + 1e-9).all()
    assert (got[1:] > np.diag(averaging(12) @ own @ averaging(12).T)[1:]).all()


def test_one_token_is_itself() -> None:
    own = np.array([[0.9]])
    assert covariance(own, own, own, 0.7, rotary_correlation(1, 4)) == pytest.approx(own)
