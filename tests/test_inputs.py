"""Several inputs through one set of weights: closed forms, the recursion over all inputs at once, random stacks."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.inputs import MOST_INPUTS, input_correlations
from residual_theory.kernels.branch import kernels_of
from residual_theory.stack import LlamaStack, Stack
from residual_theory.theory import forward
from residual_theory.theory.forward import initial_covariance, predict
from residual_theory.theory.recursion import covariances


def correlations(count: int, seed: int = 5) -> Array:
    """A random correlation matrix with entries of both signs, all different."""
    factors = np.random.default_rng(seed).standard_normal((count, count + 1))
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    return np.asarray(factors @ factors.T)


def stack(loops: int, **fields: Any) -> Stack:
    return Stack(loops=loops, **{"residual_scale": 0.5, **fields})


STACKS = {
    "raw": stack(4, weight_variance=1.3, initial_variance=0.7),
    "untied": stack(4, weight_variance=1.3, tied=False),
    "pre-norm": stack(4, unique_layers=2, normalization="rms", initial_variance=0.4),
    "consecutive": stack(3, unique_layers=2, sharing="consecutive", activation="erf"),
    "prelude and injection": stack(4, carry=0.6, injection=0.5, prelude=2, coda=1, outer_scale=0.7, unique_layers=2),
    "post-norm with injection": stack(4, normalization="post", carry=0.9, injection=0.3, prelude=1, coda=1),
    "norm between loops": stack(4, unique_layers=2, loop_normalization=True, initial_variance=2.0),
    "DeepLoop": stack(4, residual_scale="(8*N)^-0.5", skip="(2*N)^0.5", normalization="rms-post"),
    "two matrices": stack(3, branch="mlp", expansion=2, hidden_variance=1.6, weight_variance=0.8, activation="gelu"),
    "gated": stack(3, branch="gated", hidden_variance=1.2, normalization="rms", activation="silu"),
    "gated, raw": stack(3, branch="gated", hidden_variance=0.6, activation="silu", initial_variance=0.05),
    "tanh": stack(4, activation="tanh", weight_variance=2.0),
    "own": stack(3, activation=lambda x: x / np.sqrt(1 + x * x), initial_variance=1.5),
}


# What is returned


@pytest.mark.parametrize("name", STACKS)
def test_everything_else_is_as_for_one_input(name: str) -> None:
    alone, several = predict(STACKS[name]), predict(STACKS[name], inputs=correlations(3))
    assert several.drop_vars(["input_covariance", "input", "input_other"]).identical(alone)
    assert several.input_covariance.dims == ("visit", "input", "input_other")
    np.testing.assert_array_equal(several.input_covariance, several.input_covariance.values.swapaxes(1, 2))
    own = several.input_covariance.values.diagonal(axis1=1, axis2=2)
    np.testing.assert_allclose(own, np.tile(alone.second_moment.values[:, None], 3), rtol=1e-13)
    assert "input_covariance" not in alone


@pytest.mark.parametrize("name", STACKS)
def test_copies_of_an_input_stay_copies(name: str) -> None:
    predicted = predict(STACKS[name], inputs=np.ones((3, 3)), with_gradients=False)
    expected = np.broadcast_to(predicted.second_moment.values[:, None, None], (STACKS[name].blocks + 1, 3, 3))
    np.testing.assert_array_equal(predicted.input_covariance, expected)
    assert "tangent_kernel" not in predicted


def test_one_input_is_one_of_many() -> None:
    predicted = predict(STACKS["raw"], inputs=1)
    assert predicted.input_covariance.shape == (5, 1, 1)
    np.testing.assert_array_equal(predicted.input_covariance[:, 0, 0], predicted.second_moment)
    three, two = (predict(STACKS["raw"], inputs=count).input_covariance for count in (3, 2))
    np.testing.assert_array_equal(three[:, 1:, 1:], two)
    assert (np.diff(two[:, 0, 1]) > 0).all()  # ReLU brings independent inputs together
    assert float(two[0, 0, 1]) == 0.0


# Closed forms


def arc_cosine(cosine: Array) -> Array:
    """E[relu(u) relu(v)] for unit variances."""
    angle = np.arccos(cosine)
    return np.asarray((np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi))


@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_untied_relu_is_the_composition_of_arc_cosine_kernels(normalization: str) -> None:
    """K ← K + ε² σ_w² √(q q') κ(K/√(q q')) at every visit, the usual kernel of a residual network without ties."""
    untied = Stack.model_validate(
        {
            "loops": 3,
            "unique_layers": 2,
            "residual_scale": 0.8,
            "tied": False,
            "weight_variance": 1.7,
            "initial_variance": 0.6,
            "normalization": normalization,
        }
    )
    found = predict(untied, inputs=correlations(5)).input_covariance
    K = 0.6 * correlations(5)
    np.testing.assert_allclose(found[0], K, rtol=1e-14)
    for visit in range(1, 7):
        size = np.sqrt(np.outer(np.diag(K), np.diag(K)))
        cosine = np.clip(K / size, -1.0, 1.0)
        K = K + 0.8**2 * 1.7 * arc_cosine(cosine) * (1.0 if normalization == "rms" else size)
        np.testing.assert_allclose(found[visit], K, rtol=1e-12)
    tied = predict(untied.model_copy(update={"tied": True}), inputs=correlations(5)).input_covariance
    np.testing.assert_allclose(tied[:3], found[:3], rtol=1e-12)  # nothing is shared before the second loop
    assert (tied[3] > 1.01 * found[3]).any()


@pytest.mark.parametrize("normalization", ["none", "rms", "post"])
def test_linear_stacks_keep_correlations(normalization: str) -> None:
    """h_V is a matrix times h_0, whose squared size alone the norms see: ⟨h^p, h^q⟩ = ρ_pq ‖h‖²."""
    linear = stack(4, unique_layers=2, activation="linear", carry=0.8, injection=0.4, prelude=1, coda=1)
    predicted = predict(linear.model_copy(update={"normalization": normalization}), inputs=correlations(4))
    expected = predicted.second_moment.values[:, None, None] * correlations(4)
    np.testing.assert_allclose(predicted.input_covariance, expected, rtol=1e-12)


def test_odd_activations_know_no_sign() -> None:
    """Opposite inputs stay opposite, and independent ones uncorrelated."""
    predicted = predict(STACKS["tanh"], inputs=[[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(predicted.input_covariance[:, 0, 1], -predicted.second_moment, rtol=1e-14)
    np.testing.assert_array_equal(predicted.input_covariance[:, :2, 2], 0.0)


# The recursion over all inputs at once


@pytest.mark.parametrize("name", STACKS)
def test_one_input_against_the_others_is_the_recursion_over_all(name: str) -> None:
    """The matrix over inputs at every pair of visits, where no use is made of inputs changing places."""
    described, P = STACKS[name], 4
    found = predict(described, inputs=correlations(P), with_gradients=False).input_covariance.values
    for first in range(P):
        order = np.roll(np.arange(P), -first)
        initial = initial_covariance(described) * correlations(P)[np.ix_(order, order)]
        full = covariances(described.visits, initial, kernels_of(described.visits), with_slopes=False)
        np.testing.assert_allclose(found[:, first, order], full.first, rtol=1e-11, atol=1e-13)


# Random stacks

PHI: dict[Any, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * expit(x),
    "erf": np.vectorize(math.erf),
}
COSINE = 0.3
DRAWN = {
    "raw": stack(5, weight_variance=1.3, initial_variance=0.7),
    "pre-norm": stack(5, normalization="rms", weight_variance=1.3, initial_variance=0.7),
    "two matrices": stack(3, branch="mlp", expansion=2, hidden_variance=1.6, weight_variance=0.8, activation="silu"),
    "gated": stack(3, branch="gated", hidden_variance=1.2, unique_layers=2, normalization="rms", activation="silu"),
    "prelude and injection": stack(4, unique_layers=2, carry=0.6, injection=0.5, prelude=1, outer_scale=0.7),
}


def trial(described: Stack, width: int, source: np.random.Generator) -> Array:
    """⟨h^p, h^q⟩/d (visit, input, input_other) of one random stack with its matrices, as Stack's docstring has it."""
    phi, hidden = PHI[described.activation], described.expansion * width

    def layer() -> list[Array]:
        inward = {"single": 0, "mlp": 1, "gated": 2}[described.branch]
        across = [math.sqrt(described.hidden_variance / width)] * inward
        matrices = [size * source.standard_normal((hidden, width)) for size in across]
        columns = hidden if inward else width
        return [*matrices, math.sqrt(described.weight_variance / columns) * source.standard_normal((width, columns))]

    def branch(h: Array, matrices: list[Array]) -> Array:
        x = h / np.sqrt(np.mean(h**2, axis=0)) if described.normalization == "rms" else h
        *inward, outward = matrices
        if described.branch == "gated":
            return np.asarray(outward @ (phi(inward[0] @ x) * (inward[1] @ x)))
        return np.asarray(outward @ phi(inward[0] @ x if inward else x))

    root = np.linalg.cholesky([[1.0, COSINE], [COSINE, 1.0]])
    h = math.sqrt(described.initial_variance) * source.standard_normal((width, 2)) @ root.T
    rows = [h]
    for _ in range(described.prelude):
        rows.append(rows[-1] + float(described.outer_scale) * branch(rows[-1], layer()))
    entering, carry, injection = rows[-1], float(described.carry), float(described.injection)
    layers = [layer() for _ in range(described.unique_layers)]
    for _ in range(described.loops):
        for place, matrices in enumerate(layers):
            kept = rows[-1] if place else carry * rows[-1] + injection * entering
            rows.append(kept + described.epsilon * branch(rows[-1], matrices))
    streams = np.stack(rows)
    return np.asarray(streams.swapaxes(1, 2) @ streams / width)


@cache
def sampled(name: str) -> tuple[Array, Array]:
    """The mean over random stacks and its standard error, with the term of order 1/d taken out by two widths.

    What is left is of order 1/d², about 1e-5 here, where errors are above 1e-3.
    """
    source, trials = np.random.default_rng(17), 192 if DRAWN[name].branch == "single" else 48
    small, large = (np.array([trial(DRAWN[name], width, source) for _ in range(trials)]) for width in (256, 512))
    errors = (drawn.std(axis=0, ddof=1) / math.sqrt(trials) for drawn in (2 * large, small))
    return 2 * large.mean(axis=0) - small.mean(axis=0), np.hypot(*errors)


@pytest.mark.parametrize("name", DRAWN)
def test_random_stacks_have_the_predicted_input_covariance(name: str) -> None:
    """Within 5 standard errors at each of some tens of numbers."""
    law = predict(DRAWN[name], inputs=[[1.0, COSINE], [COSINE, 1.0]]).input_covariance.values
    mean, stderr = sampled(name)
    assert (np.abs(mean - law) <= 5 * stderr).all(), ((mean - law) / stderr).round(1)
    assert (stderr < 0.1 * law[..., :1, :1]).all()  # sharp enough to tell


@pytest.mark.parametrize("name", ["raw", "pre-norm"])
def test_false_laws_are_told_apart(name: str) -> None:
    """Were visits untied, or had each input weights of its own."""
    mean, stderr = sampled(name)
    pair = np.array([[1.0, COSINE], [COSINE, 1.0]])
    untied = predict(DRAWN[name].model_copy(update={"tied": False}), inputs=pair).input_covariance.values
    apart = DRAWN[name].initial_variance * COSINE
    for wrong in (untied[-1, 0, 1], apart):
        assert abs(mean[-1, 0, 1] - wrong) > 10 * stderr[-1, 0, 1]


# What is refused


@pytest.mark.parametrize(
    ("inputs", "mend"),
    [
        (0, "must be from 1 to 4096"),
        (-3, "must be from 1 to 4096"),
        (MOST_INPUTS + 1, "must be from 1 to 4096"),
        (np.int64(0), "must be from 1 to 4096"),
        (True, "give a number of inputs"),
        (2.0, "give a number of inputs"),
        ("2", "give a number of inputs"),
        ([1.0, 0.5], "give a number of inputs"),
        ([[1.0, 0.5]], "give a number of inputs"),
        ([[1.0, 0.5], [0.5]], "give a number of inputs"),
        ([[]], "give a number of inputs"),
        (np.empty((0, 0)), "give a number of inputs"),
        (np.ones((2, 2, 2)), "give a number of inputs"),
        (np.eye(2) * 1j, "give a number of inputs"),
        (np.broadcast_to(1.0, (MOST_INPUTS + 1,) * 2), "has 4097 rows; at most 4096"),
        ([[1.0, math.nan], [math.nan, 1.0]], "must be finite"),
        ([[1.0, math.inf], [math.inf, 1.0]], "must be finite"),
        ([[1.0, 0.5], [0.4, 1.0]], "must be symmetric; entries differ from their mirror by up to 0.1"),
        ([[2.0, 0.5], [0.5, 2.0]], "must have ones on its diagonal; divide covariances"),
        ([[1.0, 1.1], [1.1, 1.0]], "must be positive semidefinite; its smallest eigenvalue is -0.1"),
        ([[1.0, -0.6, -0.6], [-0.6, 1.0, -0.6], [-0.6, -0.6, 1.0]], "must be .*; its smallest eigenvalue is -0.2"),
    ],
)
def test_bad_inputs_are_refused(inputs: Any, mend: str) -> None:
    with pytest.raises(InputError, match=rf"^inputs = .*: {mend}") as caught:
        input_correlations(inputs)
    assert caught.value.argument == "inputs"
    with pytest.raises(InputError, match=mend):
        predict(Stack(loops=2), inputs=inputs)


def test_a_transformer_reads_tokens() -> None:
    with pytest.raises(InputError, match=r"^inputs = 2: give them with a Stack; a LlamaStack reads its tokens"):
        predict(LlamaStack(loops=1, width=8, mlp_width=8, heads=1, tokens=4), inputs=2)


def test_rounding_is_allowed() -> None:
    P = 50
    exact = correlations(3)[np.ix_(np.arange(P) % 3, np.arange(P) % 3)]  # of rank 3: eigenvalues are 0 up to rounding
    rounded = exact.astype(np.float32) + np.random.default_rng(1).uniform(-6e-8, 6e-8, (P, P)).astype(np.float32)
    taken = input_correlations(rounded)
    np.testing.assert_allclose(taken, exact, atol=3e-7)
    np.testing.assert_array_equal(taken, taken.T)
    np.testing.assert_array_equal(np.diag(taken), 1.0)
    assert np.abs(taken).max() == 1.0
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(input_correlations(np.int64(3)), np.eye(3))
    np.testing.assert_array_equal(input_correlations([[1, -1], [-1, 1]]), [[1.0, -1.0], [-1.0, 1.0]])


def test_memory_counts_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    described, P = Stack(loops=20, unique_layers=5), 30
    alone = 8 * (2 * 101**2 + 8 * 101) + 8 * 2 * 5 * 20 * 21 // 2
    several = 8 * 101 * (9 * 2 + P**2)  # two correlations: with itself and with the others
    monkeypatch.setattr(forward, "_LARGEST_STATE", alone + several)
    assert predict(described, inputs=P).sizes["input"] == P
    for larger in (P + 1, correlations(P)):
        with pytest.raises(InputError, match=r"^inputs = 3[01]: the covariances between inputs at 100 visits need .*"):
            predict(described, inputs=larger)
    monkeypatch.setattr(forward, "_LARGEST_STATE", alone - 1)
    with pytest.raises(InputError, match=r"^loops = "):
        predict(described, inputs=P)


def test_a_value_beyond_float64() -> None:
    predicted = predict(
        Stack(loops=700, residual_scale=1.0), inputs=[[1.0, 0.2, 1.0], [0.2, 1.0, 0.2], [1.0, 0.2, 1.0]]
    )
    first = predicted.attrs["first_nonfinite_visit"]
    moments = predicted.input_covariance.values
    assert np.isfinite(moments[:first]).all()
    assert np.isposinf(moments[first:, [0, 1, 2, 0], [0, 1, 2, 2]]).all()
    assert np.isnan(moments[first:, 0, 1]).all()
