"""Streams and their backward pass against plain autograd on the same weights, and in law.

Each statistical check allows a false alarm in 10⁵ (Bonferroni within it) or 5 standard errors; seeds are fixed.
"""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from residual_theory.arrays import Array
from residual_theory.montecarlo.dense import Dense
from residual_theory.montecarlo.matrix_free import MatrixFree
from residual_theory.montecarlo.plan import make_plan
from residual_theory.montecarlo.randomness import Normals, Rows
from residual_theory.montecarlo.simulate import simulate
from residual_theory.montecarlo.streams import Backward, ForwardPass, Weights
from residual_theory.montecarlo.trials import draw_trials
from residual_theory.stack import Stack
from residual_theory.theory.finite_width import second_moment_at_width
from residual_theory.theory.forward import predict

CPU, TRIALS, WIDTH, METHODS = torch.device("cpu"), 2, 11, ("matrix-free", "dense")
ACTIVATIONS: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "leaky-relu": lambda x: functional.leaky_relu(x, 0.01),
    "linear": lambda x: x,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "silu": functional.silu,
    np.sin: torch.sin,
}
KINDS: dict[str, dict[str, Any]] = {
    "raw": {},
    "one loop": {"loops": 1, "unique_layers": 1},
    "rms": {"normalization": "rms", "activation": "tanh"},
    "post": {"normalization": "post", "activation": "erf", "skip": 1.3},
    "rms-post": {"normalization": "rms-post", "activation": "leaky-relu", "skip": 0.4},
    "loop normalization": {"loop_normalization": True, "activation": "linear"},
    "mlp": {"branch": "mlp", "expansion": 3, "hidden_variance": 1.4, "activation": "gelu"},
    "gated": {"branch": "gated", "expansion": 2, "hidden_variance": 0.7, "activation": "silu", "normalization": "rms"},
    "prelude and coda": {"prelude": 2, "coda": 1, "outer_scale": 0.3, "activation": "tanh"},
    "carry and injection": {"prelude": 1, "carry": 0.6, "injection": 0.7, "normalization": "post"},
    "nothing carried": {"carry": 0.0, "injection": 0.7, "activation": "tanh"},
    "consecutive": {"sharing": "consecutive", "activation": "gelu"},
    "listed": {"sharing": (4, 0, 0, 4, 2, 0), "branch": "mlp"},
    "untied": {"tied": False, "normalization": "rms"},
    "own activation": {"activation": np.sin, "branch": "gated"},
    "no branch": {"residual_scale": 0.0},
}


def described(fields: dict[str, Any]) -> Stack:
    usual: dict[str, Any] = {"loops": 3, "unique_layers": 2, "residual_scale": 0.6, "weight_variance": 1.7}
    return Stack(**(usual | {"initial_variance": 0.8} | fields))


def explicit(
    stack: Stack, matrices: Iterator[torch.Tensor], h0: torch.Tensor, v: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Streams, ‖∂f/∂h_k‖² and Σ‖∂f/∂W‖²/fan-in of one input, as the documentation of Stack states them.

    Arguments: matrices: standard normal ones, in the order of first use.
    """
    phi, numbers = ACTIVATIONS[stack.activation], stack.model_dump()
    inward = {"single": 0, "mlp": 1, "gated": 2}[stack.branch]
    layers: dict[str, list[torch.Tensor]] = {}

    def norm(h: torch.Tensor) -> torch.Tensor:
        return h / h.square().mean().sqrt()

    def branch(h: torch.Tensor, name: str) -> torch.Tensor:
        if name not in layers:
            variances = [stack.hidden_variance] * inward + [stack.weight_variance]
            made = [(next(matrices), variance) for variance in variances]
            layers[name] = [(W * (variance / W.shape[1]) ** 0.5).requires_grad_() for W, variance in made]
        weights, x = layers[name], norm(h) if stack.normalization in ("rms", "rms-post") else h
        if stack.branch == "single":
            return weights[0] @ phi(x)
        if stack.branch == "mlp":
            return weights[1] @ phi(weights[0] @ x)
        return weights[2] @ (phi(weights[0] @ x) * (weights[1] @ x))

    def visit(kept: torch.Tensor, scale: float, name: str, normalized: bool) -> None:
        following = kept + scale * branch(streams[-1], name)
        streams.append(norm(following) if normalized else following)

    def outside(count: int, name: str) -> None:
        for i in range(count):
            visit(numbers["skip"] * streams[-1], numbers["outer_scale"], f"{name} {i}", post)

    streams, post, L = [h0.clone().requires_grad_()], stack.normalization.endswith("post"), stack.unique_layers
    outside(stack.prelude, "prelude")
    e = streams[-1]
    for place in range(stack.loops * L):
        first, final = place % L == 0, place % L == L - 1
        kept = numbers["skip"] * streams[-1]
        if first:
            kept = numbers["skip"] * numbers["carry"] * streams[-1] + numbers["injection"] * e
        weights = {"cyclic": place % L, "consecutive": place // stack.loops}.get(str(stack.sharing), place)
        if isinstance(stack.sharing, tuple):
            weights = stack.sharing[place]
        visit(kept, stack.epsilon, str(weights if stack.tied else place), post or (final and stack.loop_normalization))
    outside(stack.coda, "coda")
    leaves = [W for layer in layers.values() for W in layer]
    gradients = torch.autograd.grad(v @ streams[-1] / v.norm(), [*streams, *leaves])
    squares = torch.stack([gradient.square().sum() for gradient in gradients])
    fan_in = torch.tensor([W.shape[1] for W in leaves])
    return streams, squares[: len(streams)], (squares[len(streams) :] / fan_in).sum()


def sampled(stack: Stack, method: str, inputs: int) -> tuple[ForwardPass, Backward, torch.Tensor, list[torch.Tensor]]:
    """A run, what it sent back from the readout, and the matrices it drew, recovered from their products."""
    rows = Rows(CPU)
    made: list[tuple[Weights, int]] = []
    normals = Normals(3, (1,), range(TRIALS), rows, CPU)

    def draw(shape: tuple[int, int], products: int) -> Weights:
        more = products + inputs * shape[1]
        weights: Weights = Dense(shape, normals, start, transposed=True)
        if method == "matrix-free":
            weights = MatrixFree(shape, more, normals, rows, start, transposed=True)
        made.append((weights, shape[1]))
        return weights

    start, readout = (torch.empty(TRIALS, count, WIDTH, dtype=torch.float64) for count in (inputs, 1))
    normals.fill(start)
    normals.fill(readout)
    forward = ForwardPass(stack, start, draw, with_gradients=True)
    backward = forward.backward(readout)
    matrices = []
    for weights, columns in made:
        units = torch.eye(columns, dtype=start.dtype)
        with torch.no_grad():
            images = [weights.multiply(unit.expand(TRIALS, inputs, -1))[:, 0] for unit in units]
        matrices.append(torch.stack(images, dim=2))
    return forward, backward, readout, matrices


@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_gradients_are_those_of_autograd(kind: str, method: str, inputs: int) -> None:
    """To rounding; central differences of an own activation keep two thirds of the digits."""
    stack = described(KINDS[kind])
    forward, backward, readout, matrices = sampled(stack, method, inputs)
    rtol = 1e-8 if kind == "own activation" else 1e-11
    for trial in range(TRIALS):
        for i in range(inputs):
            own = iter([W[trial] for W in matrices])
            h0 = forward.streams[0][trial, i].detach()
            streams, gradients, kernel = explicit(stack, own, h0, readout[trial, 0])
            for ours, theirs in zip(forward.streams, streams, strict=True):
                largest = float(theirs.detach().abs().max())
                torch.testing.assert_close(ours[trial, i], theirs, rtol=0, atol=1e-11 * largest)
            torch.testing.assert_close(backward.gradients[trial, :, i], gradients, rtol=rtol, atol=0)
            torch.testing.assert_close(backward.tangent_kernel[trial, i], kernel, rtol=rtol, atol=0)


# In law


def values(stack: Stack, width: int, method: str, samples: int, **options: Any) -> dict[str, Array]:
    """Every observable of every trial."""
    usual = dict.fromkeys(("memory_budget", "inputs", "control", "tolerance"))
    usual |= {"device": "cpu", "dtype": "float64", "with_gradients": True, "antithetic": False}
    plan = make_plan(stack, width, method=method, **(usual | {"seed": 6} | options))
    assert plan.dense == (method == "dense")
    parts = list(draw_trials(plan, range(samples)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({"activation": "tanh", "loops": 4, "unique_layers": 1}, 8),
        ({"activation": "relu", "normalization": "rms"}, 16),
        ({"branch": "gated", "activation": "silu", "expansion": 2, "prelude": 1}, 16),
        ({"activation": "relu", "residual_scale": 0.9, "loops": 5}, 32),
    ],
    ids=str,
)
def test_gradients_without_matrices_have_the_law_of_those_with(fields: dict[str, Any], width: int) -> None:
    ours, theirs = (values(described(fields), width, method, samples=4000) for method in METHODS)
    tests = []
    for name in ("gradient_second_moment", "tangent_kernel", "second_moment"):
        left, right = (found[name].reshape(4000, -1).T for found in (ours, theirs))
        varies = np.ptp(right, axis=1) > 1e-9  # the last gradient is the readout itself
        assert np.array_equal(varies, np.ptp(left, axis=1) > 1e-9)
        tests += [stats.ks_2samp(a, b).pvalue for a, b in zip(left[varies], right[varies], strict=True)]
    assert min(tests) * len(tests) > 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_gradients_obey_their_polynomials_in_the_width(method: str) -> None:
    """Wᵀ has the law of W: a gradient sent back through N − k tied linear loops grows as a stream forward does.

    The tangent kernel of two loops, by Wick's theorem: ε²q0 (4 + 2s + 2s/d²) with s = ε²σ_w².
    """
    fields: dict[str, Any] = {"activation": "linear", "residual_scale": 0.7, "weight_variance": 1.3}
    for loops, width in ((2, 3), (3, 4), (3, 9)):
        stack = Stack(loops=loops, initial_variance=0.6, **fields)
        estimate = simulate(stack, width=width, samples=8000, seed=9, method=method, with_gradients=True)
        assert estimate.attrs["method"].endswith(method)
        growth = [second_moment_at_width(Stack(loops=n, **fields), width) for n in range(loops, 0, -1)]
        gap = np.abs(estimate.gradient_second_moment - [*growth, 1.0])
        assert (gap <= 5 * estimate.gradient_second_moment_stderr + 1e-12).all()
        if loops == 2:
            s = 0.7**2 * 1.3
            exactly = 0.7**2 * 0.6 * (4 + 2 * s + 2 * s / width**2)
            assert abs(estimate.tangent_kernel - exactly) < 5 * estimate.tangent_kernel_stderr


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "fields",
    [
        {"activation": "relu", "unique_layers": 1},
        {"activation": "tanh", "normalization": "rms", "carry": 0.7, "injection": 0.5},
    ],
    ids=str,
)
def test_wide_gradients_approach_the_recursion(fields: dict[str, Any], method: str) -> None:
    """What is left of the 1/d expansion after extrapolation is of order 1/(256·512): 3·10⁻⁴ of the value."""
    stack = described({"residual_scale": 0.5, "weight_variance": 1.2} | fields)
    predicted, samples = predict(stack), 1000 if method == "matrix-free" else 120
    small, large = (
        simulate(stack, width=width, samples=samples, seed=5, method=method, with_gradients=True)
        for width in (256, 512)
    )
    for name in ("gradient_second_moment", "tangent_kernel", "second_moment"):
        gap = np.abs(2 * large[name] - small[name] - predicted[name])
        stderr = np.hypot(2 * large[f"{name}_stderr"], small[f"{name}_stderr"])
        assert (gap <= 5 * stderr + 3e-4 * np.abs(predicted[name])).all(), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [9, 300])
@pytest.mark.parametrize("inputs", [None, 2])
def test_gradients_leave_the_streams_as_they_are(method: str, width: int, inputs: int | None) -> None:
    """Bit by bit, although blocks of trials are smaller then."""
    stack = described({"activation": "tanh", "normalization": "rms"})
    with_them, without = (values(stack, width, method, 9, inputs=inputs, with_gradients=flag) for flag in (True, False))
    assert set(with_them) - set(without) == {"gradient_second_moment", "tangent_kernel"}
    for name, value in without.items():
        np.testing.assert_array_equal(with_them[name], value, err_msg=name)


@pytest.mark.parametrize("method", ["dense", "matrix-free"])
def test_gradients_leave_no_tensor_behind(method: Any) -> None:
    """Inputs kept with their history would hold the graph that holds them, which no collector sees."""

    def alive() -> int:
        gc.collect()
        return sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor)

    stack = Stack(loops=4, residual_scale="1/N")
    simulate(stack, width=64, samples=4, seed=1, method=method, with_gradients=True)
    before = alive()
    simulate(stack, width=64, samples=4, seed=2, method=method, with_gradients=True)
    assert alive() <= before
