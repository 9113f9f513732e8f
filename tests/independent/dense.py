"""Random stacks with full matrices, differentiated by autograd: docs/theory.md and the fields of `Stack` read again.

Of the library it uses the fields of `Stack` alone, and it was written before the visits, the sampler and the recursion
were read, so that an error in the visits that `predict` and `simulate` share does not cancel here. Every trial draws
h_0, its matrices and the readout afresh.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residual_theory import Stack

Drawn = dict[str, NDArray[np.float64]]  # observable: (trial, …)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: torch.where(x > 0, x, 0.0),
    "leaky-relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "linear": lambda x: x,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "gelu": lambda x: x * (1 + torch.erf(x / sqrt(2))) / 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def draw(stack: Stack, width: int, trials: int, seed: int, correlations: NDArray[np.float64] | None = None) -> Drawn:
    """The observables of every trial, for inputs of these correlations (P, P); one input unless given.

    second_moment and log_second_moment (trial, visit), covariance (trial, visit, visit), increment_cosine (trial,
    loop, loop), gradient_second_moment (trial, visit), tangent_kernel (trial) and input_covariance (trial, visit, P,
    P); all but the last are means over inputs.
    """
    numbers = torch.Generator().manual_seed(seed)
    weights = _weights(stack, width, trials, numbers)
    mixing = np.linalg.cholesky(np.eye(1) if correlations is None else correlations)
    h = torch.tensor(mixing) @ _normal(numbers, trials, len(mixing), width) * sqrt(stack.initial_variance)
    streams = _run(stack, h.requires_grad_(), weights)
    readout = _normal(numbers, trials, 1, width)
    outputs = (streams[-1] * readout).sum(2) / readout.norm(dim=2)  # (trial, input)
    return _forward(stack, torch.stack(streams, 1).detach()) | _backward(outputs, streams, weights, width)


def _normal(numbers: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=numbers, dtype=torch.float64)


def _value(stack: Stack, rule: float | str) -> float:
    """A rule in N and L."""
    if not isinstance(rule, str):
        return float(rule)
    return float(eval(rule.replace("^", "**"), {"N": stack.loops, "L": stack.unique_layers, "sqrt": sqrt}))


def _order(stack: Stack) -> list[int]:
    """The number of the weights of each visit of the loops."""
    visits = range(stack.loops * stack.unique_layers)
    if not stack.tied:
        return list(visits)
    if stack.sharing == "cyclic":
        return [k % stack.unique_layers for k in visits]
    if stack.sharing == "consecutive":
        return [k // stack.loops for k in visits]
    return list(stack.sharing)


def _weights(stack: Stack, width: int, trials: int, numbers: torch.Generator) -> dict[object, list[Tensor]]:
    """The matrices (trial, rows, columns) of every layer of the prelude, the loops and the coda."""

    def matrix(rows: int, columns: int, variance: float) -> Tensor:
        return (_normal(numbers, trials, rows, columns) * sqrt(variance / columns)).requires_grad_()

    hidden = stack.expansion * width
    weights: dict[object, list[Tensor]] = {}
    outer = [("prelude", k) for k in range(stack.prelude)] + [("coda", k) for k in range(stack.coda)]
    for layer in [*outer, *sorted(set(_order(stack)))]:
        if stack.branch == "single":
            weights[layer] = [matrix(width, width, stack.weight_variance)]
        else:
            inward = [matrix(hidden, width, stack.hidden_variance) for _ in range(1 + (stack.branch == "gated"))]
            weights[layer] = [matrix(width, hidden, stack.weight_variance), *inward]
    return weights


def _normalised(h: Tensor) -> Tensor:
    return h / (h**2).mean(2, keepdim=True).sqrt()


def _branch(stack: Stack, matrices: list[Tensor], h: Tensor) -> Tensor:
    """f(h), h (trial, input, width)."""
    phi = _ACTIVATIONS[stack.activation] if isinstance(stack.activation, str) else stack.activation
    x = _normalised(h) if stack.normalization in ("rms", "rms-post") else h
    if stack.branch == "single":
        x = phi(x)
    elif stack.branch == "mlp":
        x = phi(x @ matrices[1].mT)
    elif stack.branch == "gated":
        x = phi(x @ matrices[1].mT) * (x @ matrices[2].mT)
    else:
        raise NotImplementedError(f"a branch of kind {stack.branch!r}: write it down here, from docs/theory.md")
    return x @ matrices[0].mT


def _run(stack: Stack, h: Tensor, weights: dict[object, list[Tensor]]) -> list[Tensor]:
    """The stream (trial, input, width) before the first visit and after each."""
    skip, scale, outer = (_value(stack, rule) for rule in (stack.skip, stack.residual_scale, stack.outer_scale))
    carry, injection = _value(stack, stack.carry), _value(stack, stack.injection)
    after = _normalised if stack.normalization in ("post", "rms-post") else (lambda h: h)
    order = _order(stack)
    streams = [h]
    for k in range(stack.prelude):
        streams.append(after(skip * streams[-1] + outer * _branch(stack, weights["prelude", k], streams[-1])))
    entering = streams[-1]
    for loop in range(stack.loops):
        for place in range(stack.unique_layers):
            h = streams[-1]
            kept = skip * carry * h + injection * entering if place == 0 else skip * h
            h = after(kept + scale * _branch(stack, weights[order[loop * stack.unique_layers + place]], h))
            if stack.loop_normalization and place == stack.unique_layers - 1:
                h = _normalised(h)
            streams.append(h)
    for k in range(stack.coda):
        streams.append(after(skip * streams[-1] + outer * _branch(stack, weights["coda", k], streams[-1])))
    return streams


def _forward(stack: Stack, streams: Tensor) -> Drawn:
    """What follows from the streams (trial, visit, input, width)."""
    width = streams.shape[3]
    covariances = torch.einsum("tapi,tbpi->tabp", streams, streams) / width
    moments = (streams**2).mean(3)
    ends = streams[:, stack.prelude :: stack.unique_layers][:, : stack.loops + 1]
    changes = ends[:, 1:] - ends[:, :-1]
    directions = changes / changes.norm(dim=3, keepdim=True)
    found = {
        "second_moment": moments.mean(2),
        "log_second_moment": moments.log().mean(2),
        "covariance": covariances.mean(3),
        "increment_cosine": torch.einsum("tapi,tbpi->tabp", directions, directions).mean(3),
        "input_covariance": torch.einsum("tapi,taqi->tapq", streams, streams) / width,
    }
    return {name: values.numpy() for name, values in found.items()}


def _backward(outputs: Tensor, streams: list[Tensor], weights: dict[object, list[Tensor]], width: int) -> Drawn:
    """E‖∂f/∂h_a‖² and Σ_W ‖∂f/∂W‖²/fan-in, means over the inputs, from f (trial, input)."""
    matrices = [matrix for layer in weights.values() for matrix in layer]
    inputs = outputs.shape[1]
    moments = torch.zeros(len(outputs), len(streams), dtype=torch.float64)
    kernel = torch.zeros(len(outputs), dtype=torch.float64)
    for p in range(inputs):
        gradients = torch.autograd.grad(
            outputs[:, p].sum(), [*streams, *matrices], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for a, gradient in enumerate(gradients[: len(streams)]):
            moments[:, a] += (gradient**2).sum((1, 2)) / inputs
        for gradient in gradients[len(streams) :]:
            kernel += (gradient**2).sum((1, 2)) / gradient.shape[2] / inputs
    return {"gradient_second_moment": moments.numpy(), "tangent_kernel": kernel.numpy()}
