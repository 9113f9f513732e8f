"""Random streams: a stack's visits on sampled weights, and backward passes through them."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

from residual_theory.activation import values_at
from residual_theory.branches.law import Activation, BranchLaw
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


def law_of(visit: Visit) -> BranchLaw:
    """The law of a visit's branch.

    Raises: InputError for a branch that is known at infinite width only.
    """
    if not isinstance(visit.branch, BranchLaw):
        raise InputError("branch", visit.branch.name, "is known at infinite width only; predict it")
    return visit.branch


def most_products(stack: Stack, inputs: int) -> int:
    """How often the most used matrix is multiplied."""
    return inputs * max(Counter(visit.weights for visit in stack.visits).values())


class ForwardPass:
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
        visits = stack.visits
        uses = Counter(visit.weights for visit in visits)
        left = dict(uses)
        inputs, width = start.shape[1:]
        layers: dict[int, list[_Product]] = {}
        with torch.set_grad_enabled(with_gradients):
            if with_gradients:
                start.requires_grad_()
            self.streams = [start]
            for visit in visits:
                if visit.weights not in layers:
                    products = uses[visit.weights] * inputs
                    layers[visit.weights] = [
                        _Product(draw((matrix.rows, matrix.columns), products), matrix.variance)
                        for matrix in law_of(visit).matrices(width)
                    ]
                entered = self.streams[stack.loop_ends[0]] if visit.injection else None
                self.streams.append(_follow(visit, layers[visit.weights], self.streams[-1], entered))
                left[visit.weights] -= 1
                if not left[visit.weights] and not with_gradients:
                    del layers[visit.weights]  # a matrix is kept from its first visit to its last
        self._layers = layers

    def backward(self, readout: torch.Tensor) -> Backward:
        """Send f = ⟨v, h_V⟩/‖v‖ back, for one readout v (trial, 1, width) that all inputs share."""
        direction = readout / torch.linalg.vector_norm(readout, dim=2, keepdim=True)
        gradients = torch.autograd.grad(
            self.streams[-1], self.streams, grad_outputs=direction.expand_as(self.streams[-1])
        )
        squares = torch.stack([torch.linalg.vecdot(gradient, gradient) for gradient in gradients], dim=1)
        inputs = self.streams[0].shape[1]
        kernel = squares.new_zeros(len(squares), inputs)
        for matrices in self._layers.values():
            for matrix in matrices:
                kernel += matrix.weights.gradient_square(inputs) / matrix.variance
        return Backward(squares, kernel)


def _follow(
    visit: Visit, products: Sequence["_Product"], stream: torch.Tensor, entered: torch.Tensor | None
) -> torch.Tensor:
    """The stream after a visit; `entered` is what it injects."""
    branch = law_of(visit)
    read = stream if branch.epsilon is None else _normalise(stream, branch.epsilon)
    terms = branch.terms(read, products, partial(_activate, branch.activation))
    following = stream * visit.carry if visit.carry != 1 else stream
    if entered is not None:
        following = following + visit.injection * entered
    for factor, term in terms:
        following = torch.add(following, term, alpha=visit.scale * factor)
    return _normalise(following) if visit.normalized else following


class _Product:
    """Weights whose products autograd sends back, numbered in the order in which they were made."""

    def __init__(self, weights: Weights, variance: float) -> None:
        self.weights, self.variance, self._calls = weights, variance, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self._calls += 1
        if not x.requires_grad:
            return self.weights.multiply(x)
        product: torch.Tensor = _Multiply.apply(x, self.weights, self._calls - 1)  # type: ignore[no-untyped-call]
        return product


class _Multiply(torch.autograd.Function):
    """W x forward, Wᵀ u backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: Weights, call: int) -> torch.Tensor:
        ctx.weights, ctx.call = weights, call
        return weights.multiply(x.detach())  # kept there, x with its history would hold this node, which holds weights

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        return ctx.weights.multiply_transposed(cotangents[0], ctx.call), None, None


class _ActivateOwn(torch.autograd.Function):
    """A function of arrays; backward by central differences, good to two thirds of the digits."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, function: Callable[[Any], Any]) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return _evaluate(function, x)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
        step = torch.finfo(x.dtype).eps ** (1 / 3) * torch.maximum(x.abs(), size).clamp(min=torch.finfo(x.dtype).tiny)
        slope = (_evaluate(ctx.function, x + step) - _evaluate(ctx.function, x - step)) / (2 * step)
        return cotangents[0] * slope, None


def _evaluate(function: Callable[[Any], Any], x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values_at(function, x.detach().numpy()))


def _activate(activation: Activation, x: torch.Tensor) -> torch.Tensor:
    if isinstance(activation, str):
        return _ACTIVATIONS[activation](x)
    if x.device.type != "cpu":
        raise InputError("activation", activation, "is a function of arrays; simulate it on device='cpu'")
    activated: torch.Tensor = _ActivateOwn.apply(x, activation)  # type: ignore[no-untyped-call]
    return activated


def _normalise(stream: torch.Tensor, epsilon: float = 0.0) -> torch.Tensor:
    """The stream divided by its root mean square, to whose square `epsilon` is added."""
    size: torch.Tensor = torch.linalg.vector_norm(stream, dim=2, keepdim=True)
    if epsilon:
        size = (size**2 + epsilon * stream.shape[2]).sqrt()
    return stream * (math.sqrt(stream.shape[2]) / size.where(size < math.inf, math.nan))  # an overflow becomes NaN
