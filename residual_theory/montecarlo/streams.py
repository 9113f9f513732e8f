"""Random streams: a stack's visits run on sampled weights, and gradients sent back through them."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from residual_theory.activation import values_at
from residual_theory.errors import InputError
from residual_theory.stack import Stack, Visit

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "leaky-relu": torch.nn.functional.leaky_relu,
    "linear": lambda x: x,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}


class Weights(Protocol):
    """Standard normal matrices, one a trial, known by their products."""

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """W x for x (trial, input, columns): (trial, input, rows)."""

    def multiply_transposed(self, u: torch.Tensor, call: int) -> torch.Tensor:
        """Wᵀ u for u (trial, input, rows), the cotangent of product number `call`: (trial, input, columns)."""

    def gradient_square(self, inputs: int) -> torch.Tensor:
        """‖Σ u xᵀ‖² (trial, input) over the products and the cotangents given for them."""


class Backward(NamedTuple):
    """What a backward pass gives, for each trial and input."""

    gradients: torch.Tensor  # ‖∂f/∂h_k‖² (trial, visit, input)
    tangent_kernel: torch.Tensor  # (trial, input)


def shapes(stack: Stack, width: int) -> list[tuple[int, int]]:
    """Rows and columns of the matrices of one layer, the one that writes to the stream last."""
    hidden = stack.expansion * width
    inward = {"single": 0, "mlp": 1, "gated": 2}[stack.branch]
    return [(hidden, width)] * inward + [(width, hidden if inward else width)]


def most_products(stack: Stack, inputs: int) -> int:
    """How often the most used matrix is multiplied."""
    return inputs * max(Counter(visit.weights for visit in stack.visits).values())


class Run:
    """The streams h_0 … h_V (trial, input, width) of a block of trials.

    Arguments:
      start: h_0 (trial, input, width).
      draw: (shape, number of products) → Weights; called once for every matrix, in the order of first use.
      with_gradients: keep what a backward pass needs.
    """

    def __init__(
        self,
        stack: Stack,
        start: torch.Tensor,
        draw: Callable[[tuple[int, int], int], Weights],
        *,
        with_gradients: bool = False,
    ) -> None:
        self._stack, visits = stack, stack.visits
        uses = Counter(visit.weights for visit in visits)
        left = dict(uses)
        inputs, width = start.shape[1:]
        layers: dict[int, list[_Counted]] = {}
        with torch.set_grad_enabled(with_gradients):
            if with_gradients:
                start.requires_grad_()
            self.streams = [start]
            for visit in visits:
                if visit.weights not in layers:
                    drawn = [draw(shape, uses[visit.weights] * inputs) for shape in shapes(stack, width)]
                    layers[visit.weights] = [_Counted(weights) for weights in drawn]
                entered = self.streams[stack.loop_ends[0]] if visit.injection else None
                self.streams.append(self._visit(visit, layers[visit.weights], self.streams[-1], entered))
                left[visit.weights] -= 1
                if not left[visit.weights] and not with_gradients:
                    del layers[visit.weights]  # a matrix lives from its first visit to its last
        self._layers = layers

    def _visit(
        self, visit: Visit, matrices: Sequence["_Counted"], stream: torch.Tensor, entered: torch.Tensor | None
    ) -> torch.Tensor:
        stack, width = self._stack, stream.shape[2]
        *inward, outward = matrices
        read = _normalised(stream) if stack.normalization.startswith("rms") else stream
        if inward:
            size = (stack.hidden_variance / width) ** 0.5
            first, *gated = [matrix(read) * size for matrix in inward]
            read = _activated(stack, first)
            for factor in gated:
                read = read * factor
        else:
            read = _activated(stack, read)
        kept = stream * visit.carry if visit.carry != 1 else stream
        if entered is not None:
            kept = kept + visit.injection * entered
        scale = visit.scale * math.sqrt(stack.weight_variance / read.shape[2])
        following = torch.add(kept, outward(read), alpha=scale)
        return _normalised(following) if visit.normalized else following

    def backward(self, readout: torch.Tensor) -> Backward:
        """Send f = ⟨v, h_V⟩/‖v‖ back, for one readout v (trial, 1, width) that all inputs share."""
        direction = readout / torch.linalg.vector_norm(readout, dim=2, keepdim=True)
        gradients = torch.autograd.grad(
            self.streams[-1], self.streams, grad_outputs=direction.expand_as(self.streams[-1])
        )
        squares = torch.stack([torch.linalg.vecdot(gradient, gradient) for gradient in gradients], dim=1)
        inputs, stack = self.streams[0].shape[1], self._stack
        kernel = squares.new_zeros(len(squares), inputs)
        for matrices in self._layers.values():
            for index, matrix in enumerate(matrices):
                variance = stack.weight_variance if index == len(matrices) - 1 else stack.hidden_variance
                kernel += matrix.weights.gradient_square(inputs) / variance
        return Backward(squares, kernel)


class _Counted:
    """Weights whose products autograd sends back, numbered in the order in which they were made."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self._calls = weights, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self._calls += 1
        if not x.requires_grad:
            return self.weights.multiply(x)
        product: torch.Tensor = _Product.apply(x, self.weights, self._calls - 1)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """W x forward, Wᵀ u backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: Weights, call: int) -> torch.Tensor:
        ctx.weights, ctx.call = weights, call
        return weights.multiply(x.detach())  # kept there, x with its history would hold this node, which holds weights

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        return ctx.weights.multiply_transposed(cotangents[0], ctx.call), None, None


class _Own(torch.autograd.Function):
    """A function of arrays; backward by central differences, good to two thirds of the digits."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, function: Callable[[Any], Any]) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return _evaluated(function, x)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
        step = torch.finfo(x.dtype).eps ** (1 / 3) * torch.maximum(x.abs(), size).clamp(min=torch.finfo(x.dtype).tiny)
        slope = (_evaluated(ctx.function, x + step) - _evaluated(ctx.function, x - step)) / (2 * step)
        return cotangents[0] * slope, None


def _evaluated(function: Callable[[Any], Any], x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values_at(function, x.detach().numpy()))


def _activated(stack: Stack, x: torch.Tensor) -> torch.Tensor:
    if isinstance(stack.activation, str):
        return _ACTIVATIONS[stack.activation](x)
    if x.device.type != "cpu":
        raise InputError("activation", stack.activation, "is a function of arrays; simulate it on device='cpu'")
    activated: torch.Tensor = _Own.apply(x, stack.activation)  # type: ignore[no-untyped-call]
    return activated


def _normalised(stream: torch.Tensor) -> torch.Tensor:
    size: torch.Tensor = torch.linalg.vector_norm(stream, dim=2, keepdim=True)
    return stream * (math.sqrt(stream.shape[2]) / size.where(size < math.inf, math.nan))  # stays visible
