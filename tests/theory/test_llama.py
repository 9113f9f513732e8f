"""The Llama-like block: its gate's dual kernel and the token recursion, against slow independent sums."""

import itertools
import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate

from residual_theory.arrays import Array
from residual_theory.kernels.attention import Attention, averaging
from residual_theory.kernels.branch import kernels_of
from residual_theory.stack import LlamaStack
from residual_theory.theory import backward
from residual_theory.theory.forward import predict
from residual_theory.theory.learning_rate import step_size
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import LoopedTransformer


def last(stack: LlamaStack) -> float:
    return float(predict(stack).second_moment[-1])


def silu_product(variance: float, cosine: float) -> float:
    """E[silu(√v x) silu(√v y)] by SciPy's adaptive quadrature over independent x and z, y = c x + √(1 − c²) z."""

    def silu(x: float) -> float:
        return x / (1 + math.exp(-x))

    def integrand(z: float, x: float) -> float:
        y = cosine * x + math.sqrt(1 - cosine**2) * z
        size = math.exp(-0.5 * (x * x + z * z)) / math.tau
        return silu(math.sqrt(variance) * x) * silu(math.sqrt(variance) * y) * size

    value, _ = integrate.dblquad(integrand, -9, 9, -9, 9, epsabs=1e-9, epsrel=1e-9)
    return float(value)


@pytest.fixture
def uniform_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention with the weights 1/t of vanishing logits: what is checked is the recursion over visits and tokens."""

    def forward(attention: Attention, cosine: Array, left: Array, right: Array) -> Array:
        average = averaging(cosine.shape[1])
        return np.asarray(attention.variance**2 * (average @ cosine @ average.T))

    monkeypatch.setattr(Attention, "forward", forward)


PAPER = {"loops": 32, "width": 768, "mlp_width": 2048, "heads": 12, "tokens": 32, "init_std": 0.02}


@pytest.mark.parametrize(("scale", "digits"), [("1", "8.938"), ("1/N", "0.2494")])
def test_recorded_root_mean_squares_with_uniform_attention(scale: str, digits: str, uniform_attention: None) -> None:
    stack = LlamaStack.model_validate(PAPER | {"residual_scale": scale, "embedding_std": 0.02})
    assert f"{math.sqrt(last(stack)):.4g}" == digits


def small(**changes: object) -> LlamaStack:
    fields = {
        "loops": 2,
        "unique_layers": 2,
        "residual_scale": 0.6,
        "width": 20,
        "mlp_width": 33,
        "heads": 2,
        "tokens": (4, 9, 4),
        "init_std": 0.2,
        "embedding_std": 0.7,
        "norm_epsilon": 0.3,
    }
    return LlamaStack.model_validate(fields | changes)


def slow_llama(stack: LlamaStack) -> NDArray[np.float64]:
    """The mean covariance after every block, by the double sum over visits with loops over tokens."""
    ids, v = list(stack.token_ids), stack.init_std**2 * stack.width
    T, visits = range(len(ids)), 2 * stack.loops * stack.unique_layers
    grid = np.linspace(-9, 9, 361)
    weight = np.exp(-0.5 * np.add.outer(grid**2, grid**2)) / math.tau * (grid[1] - grid[0]) ** 2

    @cache
    def gate(left: float, product: float, right: float) -> float:
        x = np.sqrt(left) * grid[:, None]
        y = product / math.sqrt(left) * grid[:, None] + math.sqrt(max(0.0, right - product**2 / left)) * grid
        root = math.sqrt(v)
        return float(np.sum(weight * root * x / (1 + np.exp(-root * x)) * root * y / (1 + np.exp(-root * y))))

    @cache
    def cosine(a: int, t: int, b: int, s: int) -> float:
        left, right = covariance(a, t, a, t), covariance(b, s, b, s)
        return covariance(a, t, b, s) / math.sqrt((left + stack.norm_epsilon) * (right + stack.norm_epsilon))

    @cache
    def branch(a: int, t: int, b: int, s: int) -> float:
        if a % 2 == 0:  # attention: each position averages itself and those before it
            seen = itertools.product(range(t + 1), range(s + 1))
            return v**2 * sum(cosine(a, i, b, j) for i, j in seen) / ((t + 1) * (s + 1))
        c = cosine(a, t, b, s)
        return stack.mlp_width * stack.init_std**2 * v * c * gate(cosine(a, t, a, t), c, cosine(b, s, b, s))

    @cache
    def covariance(a: int, t: int, b: int, s: int) -> float:
        period = 2 * stack.unique_layers if stack.tied else visits
        pairs = ((i, j) for i in range(a) for j in range(b) if i % period == j % period)
        total = sum(branch(i, t, j, s) for i, j in pairs)
        return stack.embedding_std**2 * (ids[t] == ids[s]) + stack.epsilon**2 * total

    ends = range(0, visits + 1, 2)
    return np.array([[np.mean([covariance(a, t, b, t) for t in T]) for b in ends] for a in ends])


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"loops": 3, "unique_layers": 1, "tokens": 2}])
def test_the_llama_recursion_is_the_double_sum_over_visits_and_tokens(
    changes: dict[str, object], uniform_attention: None
) -> None:
    stack = small(**changes)
    predicted, expected = predict(stack), slow_llama(stack)
    np.testing.assert_allclose(predicted.covariance, expected, rtol=1e-9)
    ends = expected[:: stack.unique_layers, :: stack.unique_layers]
    products = np.diff(np.diff(ends, axis=0), axis=1)
    size = np.sqrt(np.diag(products))
    np.testing.assert_allclose(predicted.increment_cosine, products / np.outer(size, size), atol=1e-8)


def test_one_token_through_one_block() -> None:
    stack = small(loops=1, unique_layers=1, tokens=1, norm_epsilon=0.0)
    v = 0.2**2 * 20
    branches = v**2 + 33 * 0.2**2 * v * silu_product(v, 1.0)  # attention to itself is the identity
    assert last(stack) == pytest.approx(0.7**2 + 0.6**2 * branches, rel=1e-8)


def moments_of_positions(tokens: Sequence[int]) -> Array:
    """Each position's last second moment, from totals over prefixes; right only if no position sees a later one."""
    totals = [end * last(small(tokens=tuple(tokens[:end]))) for end in range(1, len(tokens) + 1)]
    return np.diff([0.0, *totals])


def test_no_position_sees_a_later_one() -> None:
    kernel = kernels_of(small().visits)[0]
    covariance = np.eye(4)
    repeated = covariance.copy()
    repeated[2, 3] = repeated[3, 2] = 1.0
    outputs = []
    for own in (covariance, repeated):
        state = kernel.state(own)
        outputs.append(kernel.forward(own[None], state, tuple(part[None] for part in state))[0])
    first, second = outputs
    np.testing.assert_allclose(first[:3, :3], second[:3, :3], rtol=1e-5)  # the table of couplings is interpolated
    assert (second[3] > first[3])[2:].all()


def test_tokens_matter_by_which_are_equal_and_where() -> None:
    assert last(small(tokens=(5, 5, 7))) == last(small(tokens=(0, 0, 1)))
    assert last(small(tokens=3)) == last(small(tokens=(0, 1, 2)))
    arrangements = [last(small(tokens=tokens)) for tokens in ((0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, 2), (0, 0, 0))]
    gaps = np.abs(np.subtract.outer(arrangements, arrangements))[np.triu_indices(5, 1)]
    assert gaps.min() > 1e-6


def test_repeated_tokens_are_more_correlated_and_grow_more() -> None:
    alone, different, equal = (last(small(tokens=tokens)) for tokens in ((0,), (0, 1, 2, 3), (0, 0, 0, 0)))
    assert different < equal
    assert equal == pytest.approx(alone, rel=1e-12)  # averages of equal inputs are that input
    assert (np.diff(moments_of_positions((0, 1, 2, 3))) < 0).all()  # averages over more different inputs are smaller


def test_large_weights_do_not_overflow_the_gate() -> None:
    assert math.isfinite(last(small(init_std=10.0, width=4096)))


@pytest.mark.parametrize("changes", [{"init_std": 1e-10}, {"init_std": 1e-8, "tokens": 32}, {"init_std": 1e-160}])
def test_vanishing_weights_leave_the_stream_alone(changes: dict[str, object]) -> None:
    with warnings.catch_warnings(action="error"):
        predicted = predict(small(**{"tokens": 6, "embedding_std": 0.02, "norm_epsilon": 1e-6} | changes))
    np.testing.assert_allclose(predicted.second_moment, 4e-4, rtol=1e-12)
    assert predicted.kernel_error < 1e-6


@pytest.mark.parametrize("init_std", [1e60, 9e99])
def test_weights_beyond_float64_are_infinite_moments(init_std: float) -> None:
    with warnings.catch_warnings(action="error"):
        predicted = predict(small(init_std=init_std))
    assert np.isposinf(predicted.second_moment[1:]).all()
    assert predicted.first_nonfinite_visit == 1


@pytest.mark.parametrize("norm_epsilon", [0.0, 1e-6])
def test_embeddings_below_float64_are_a_stream_of_zeros(norm_epsilon: float) -> None:
    with warnings.catch_warnings(action="error"):
        predicted = predict(small(embedding_std=1e-170, norm_epsilon=norm_epsilon))
    assert (predicted.second_moment == 0).all()
    assert predicted.kernel_error < 1e-12


def found_by_autograd(fields: dict[str, Any], ids: Sequence[int], models: int) -> tuple[Array, Array]:
    """Mean squares of the gradient at every visit (model, visit), and the tangent kernel (model,)."""
    config = ModelConfig(**fields, vocabulary=64, context=len(ids), initial_distribution="normal")
    squares, tangents = [], []
    for seed in range(models):
        model = LoopedTransformer(config, seed=seed).double()
        stream = model.embedding(torch.tensor([ids]))
        streams = [stream]
        for _ in range(config.loops):
            for block in model.blocks:
                streams.append(block(streams[-1]))
        generator = torch.Generator().manual_seed(seed)
        readouts = torch.randn(len(ids), config.width, dtype=torch.float64, generator=generator)
        output = (streams[-1][0] * readouts / readouts.norm(dim=1, keepdim=True)).sum()
        matrices = [parameter for parameter in model.blocks.parameters() if parameter.ndim == 2]
        gradients = torch.autograd.grad(output, [*streams, *matrices])
        squares.append([float(g.square().sum()) / len(ids) for g in gradients[: len(streams)]])
        parts = zip(gradients[len(streams) :], matrices, strict=True)
        tangents.append(sum(float(g.square().sum()) / matrix.shape[1] for g, matrix in parts) / len(ids))
    return np.array(squares), np.array(tangents)


@pytest.mark.parametrize("loops", [1, 3])
def test_autograd_on_the_model_finds_the_predicted_gradients(loops: int) -> None:
    """Width 192, σ0²d = 0.077: 1/d adds 0.5 %."""
    fields: dict[str, Any] = {"loops": loops, "unique_layers": 2, "residual_scale": 1.0, "width": 192, "heads": 4}
    fields |= {"mlp_width": 512}
    samples = found_by_autograd(fields, range(12), models=60)
    predicted = predict(LlamaStack(**fields, tokens=12))
    for sample, name in zip(samples, ("gradient_second_moment", "tangent_kernel"), strict=True):
        law = predicted[name].values
        stderr = sample.std(axis=0, ddof=1) / math.sqrt(60)
        assert (np.abs(sample.mean(axis=0) - law) <= 5 * stderr + 0.011 * law).all(), sample.mean(axis=0) / law
        assert (stderr < 0.06 * law).all()  # sharp enough to tell


SOME, PAIRS = (0, 1, 0, 2, 3, 1, 0, 4), (0, 0, 1, 1, 0, 0, 1, 1)
WIDE = [  # v = σ0²d, loops, layers, ε, tokens
    (0.3, 2, 1, 1.0, range(12)),
    (0.92, 2, 1, 1.0, range(12)),
    (0.92, 4, 2, 0.25, range(8)),
    (1.6, 1, 2, 1.0, range(12)),
    (1.6, 2, 1, 1.0, SOME),
    (2.6, 2, 1, 1.0, range(12)),
    (2.6, 4, 1, 0.25, range(16)),
    (7.7, 1, 1, 1.0, range(12)),
    (7.7, 2, 1, 0.5, range(8)),
    (23.0, 1, 1, 1.0, range(6)),
    (23.0, 3, 1, 1 / 3, range(6)),
    (2.6, 1, 1, 1.0, PAIRS),
    (7.7, 1, 1, 1.0, PAIRS),
]


@pytest.mark.parametrize(("v", "loops", "layers", "scale", "ids"), WIDE)
def test_gradients_through_the_logits_are_as_good_as_their_estimate(
    v: float, loops: int, layers: int, scale: float, ids: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Width 128, where autograd itself is up to 4 % from its limit."""
    fields: dict[str, Any] = {"loops": loops, "unique_layers": layers, "residual_scale": scale}
    fields |= {"width": 128, "heads": 4, "mlp_width": 256, "init_std": math.sqrt(v / 128)}
    stack, models = LlamaStack(**fields, tokens=tuple(ids), embedding_std=fields["init_std"]), 150
    samples = found_by_autograd(fields, ids, models)
    given = predict(stack)
    monkeypatch.setattr(backward, "_LARGEST_ERROR", math.inf)
    law = predict(stack)
    names = ("gradient_second_moment", "gradient_error"), ("tangent_kernel", "tangent_kernel_error")
    for (name, error_name), sample in zip(names, samples, strict=True):
        known, value = given[name].values, law[name].values
        error = given.attrs[error_name]
        assert np.isnan(known).any() == (error > 0.05)
        np.testing.assert_array_equal(known[~np.isnan(known)], value[~np.isnan(known)])
        stderr = sample.std(axis=0, ddof=1) / math.sqrt(models)
        ratio = sample.mean(axis=0) / value
        assert (np.abs(ratio - 1) <= 4 * stderr / value + error + 0.04).all(), ratio
        assert (stderr < 0.16 * value).all()
    assert ("not_known" in given.attrs) == (ids is PAIRS)
    assert not np.isnan(given.second_moment).any()


def test_the_step_is_unknown_where_the_tangent_kernel_is() -> None:
    fields: dict[str, Any] = {"loops": 1, "residual_scale": 1.0, "width": 128, "heads": 4, "mlp_width": 256}
    known, unknown = (
        step_size(LlamaStack(**fields, init_std=math.sqrt(v / 128), embedding_std=0.1, tokens=PAIRS))
        for v in (0.3, 7.7)
    )
    assert known.error < 0.05 < unknown.error
    assert np.isnan([unknown.gradient_descent, unknown.sign]).all()
    assert math.isfinite(unknown.stream)
    assert known.sign >= math.sqrt(known.gradient_descent) > 0


def test_one_token_has_no_logits_and_no_error() -> None:
    predicted = predict(small(tokens=1, init_std=3.0))
    assert predicted.gradient_error == predicted.tangent_kernel_error == 0.0
    assert np.isfinite(predicted.gradient_second_moment).all()
