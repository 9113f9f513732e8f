"""Kernels of branches: covariances of a branch's outputs at infinite width, given the covariance of its inputs.

Every kernel maps stacked covariances to stacked covariances: `covariance[i]` (T, T') holds ⟨h_t, h'_t'⟩/d between the
T positions of one visit and the T' positions of visit i. What it needs of one visit alone is computed once, by
`state`, from that visit's own covariance (T, T); `left` is the state of the one visit, `right` the stacked states. For
one position against T' of its own law, itself first (theory.recursion), `right` holds the state that all T' have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from residual_theory.stack import LlamaStack, Stack
from residual_theory.theory.attention import Attention
from residual_theory.theory.dual import Dual, dual_of
from residual_theory.theory.pairs import TINY

Array = NDArray[np.float64]
State = tuple[Array, ...]


class Slopes(NamedTuple):
    """What gradients need of one visit against earlier ones, each (m, T, T')."""

    stream: Array  # ∂F/∂K for elementwise branches; the product of the norms' factors for attention
    weights: Array  # summed over the branch's matrices: its part of the tangent kernel for unit gradients


class Kernel(Protocol):
    """The infinite-width law of one kind of branch."""

    @property
    def matrices(self) -> int:
        """Matrices that the tangent kernel counts."""

    def state(self, own: Array) -> State:
        """What is needed of one visit, from its own covariance (T, T); the first entry is the diagonal."""

    def forward(self, covariance: Array, left: State, right: State) -> Array:
        """F (m, T, T'), the covariance of the branch's outputs."""

    def slopes(self, covariance: Array, left: State, right: State) -> Slopes:
        """What `backward` and the tangent kernel need of these visits."""

    def backward(self, slopes: Slopes, outer: Array) -> Array:
        """The covariance of gradients at the branch's input, from `outer` (m, T, T') at its output."""

    def error(self, states: State) -> float:
        """A bound on the relative error of F at the visits of these states; 0 for a closed form."""


@dataclass(frozen=True)
class Elementwise:
    """W φ(x), W₂ φ(W₁ x) or W₂ (φ(W₁ x) ⊙ W₃ x), x the stream, divided by its root mean square if `epsilon` is given.

    With k the covariance of x and V(k), S(k) the dual kernel of φ and its slope ∂V/∂k = E[φ'φ'] (Price), F is
    σ_w² V(k), σ_w² V(σ_1² k) or σ_w² σ_1² k V(σ_1² k). Matrices add E‖∂f/∂W‖²/fan-in to the tangent kernel.
    """

    dual: Dual
    shape: str  # Stack.branch
    weight_variance: float
    hidden_variance: float = 1.0
    epsilon: float | None = None  # what the norm adds to the mean square; None where there is no norm

    def state(self, own: Array) -> State:
        """Mean squares, the norm's divisors and the state of the activation."""
        square = np.diag(own).copy()
        divisor = np.ones_like(square) if self.epsilon is None else np.sqrt(square + self.epsilon)
        return square, divisor, self.dual.state(self._inner * _quotient(square, divisor**2))

    @property
    def matrices(self) -> int:
        """One, two or three."""
        return {"single": 1, "mlp": 2, "gated": 3}[self.shape]

    @property
    def _inner(self) -> float:
        return 1.0 if self.shape == "single" else self.hidden_variance

    def forward(self, covariance: Array, left: State, right: State) -> Array:
        """σ_w² E[φφ'] and its like."""
        k = covariance if self.epsilon is None else _quotient(covariance, _outer(left[1], right[1]))
        value = self.dual.value(k if self._inner == 1.0 else self._inner * k, left[2], right[2])
        if self.shape == "gated":
            value = self.hidden_variance * k * value
        return self.weight_variance * value

    def slopes(self, covariance: Array, left: State, right: State) -> Slopes:
        """∂F/∂K by the chain rule, and every matrix's part of the tangent kernel."""
        divisors = _outer(left[1], right[1])
        k = _quotient(covariance, divisors)
        value = self.dual.value(self._inner * k, left[2], right[2])
        slope = self.dual.slope(self._inner * k, left[2], right[2])
        out, hidden = self.weight_variance, self.hidden_variance
        if self.shape == "single":
            chain, weights = out * slope, value
        elif self.shape == "mlp":
            chain, weights = out * hidden * slope, value + out * slope * k
        else:
            of_input = out * (value + hidden * k * slope)  # through W₃ and W₁
            chain, weights = hidden * of_input, hidden * k * value + of_input * k
        with np.errstate(divide="ignore", invalid="ignore"):  # a norm has no derivative where the stream vanishes
            return Slopes(chain / divisors, weights)

    def backward(self, slopes: Slopes, outer: Array) -> Array:
        """Entry by entry: the product of ∂F/∂K and the gradients' covariance."""
        return slopes.stream * outer

    def error(self, states: State) -> float:
        """The larger of the activation's errors at the smallest and the largest variance with a finite mean square."""
        found = states[2].reshape(-1, states[2].shape[-1])
        order = np.argsort(found[:, 0])  # of the variances, which come first
        order = order[np.isfinite(found[order, 0])]
        ends = (next((found[i] for i in way if self._is_finite(found[i])), None) for way in (order, order[::-1]))
        with np.errstate(all="ignore"):
            return max(
                (self.dual.error(v) for v in {float(state[0]) for state in ends if state is not None}), default=0.0
            )

    def _is_finite(self, state: Array) -> bool:
        with np.errstate(all="ignore"):
            return bool(np.isfinite(self.dual.value(state[None, None, :1], state[None], state[None, None])).all())


@dataclass(frozen=True)
class PreNormAttention:
    """Causal attention W_O Σ_s p_ts W_V x_s behind RMSNorm, all entries of variance v/d; see theory.attention.

    Gradients pass through the mean attention weights; what they get through the logits is left out.
    """

    attention: Attention
    epsilon: float

    @property
    def matrices(self) -> int:
        """W_V and W_O; the gradients of W_Q and W_K pass through the logits and are left out."""
        return 2

    def state(self, own: Array) -> State:
        """Mean squares, the norm's divisors and what the softmax needs."""
        square = np.diag(own).copy()
        divisor = np.sqrt(square + self.epsilon)
        return square, divisor, self.attention.state(_quotient(own, np.outer(divisor, divisor)))

    def forward(self, covariance: Array, left: State, right: State) -> Array:
        """v² Σ_ss' E[p_ts p'_t's'] C_ss'."""
        return self.attention.forward(_quotient(covariance, _outer(left[1], right[1])), left[2], right[2])

    def slopes(self, covariance: Array, left: State, right: State) -> Slopes:
        """The norms' factors; W_O and W_V contribute alike."""
        divisors = _outer(left[1], right[1])
        value = self.attention.forward(_quotient(covariance, divisors), left[2], right[2])
        with np.errstate(divide="ignore"):  # as above
            return Slopes(1 / divisors, 2 * value / max(self.attention.variance, TINY))

    def backward(self, slopes: Slopes, outer: Array) -> Array:
        """v² Uᵀ (outer) U with the mean attention weights U."""
        return slopes.stream * self.attention.backward(outer)

    def error(self, states: State) -> float:
        """0: what the expansion in the logits leaves out is not an error of quadrature."""
        return 0.0


def _outer(left: Array, right: Array) -> Array:
    return np.asarray(left[None, :, None] * right[:, None, :])


def _quotient(covariance: Array, divisors: Array) -> Array:
    """The covariance after normalisation: 0 where there is no stream to normalise."""
    with np.errstate(invalid="ignore"):  # inf/inf, of a stream beyond float64
        return np.divide(covariance, divisors, out=np.zeros_like(covariance), where=divisors != 0)


def kernels_of(stack: Stack | LlamaStack) -> Mapping[str, Kernel]:
    """The kernel of every branch that the stack's visits name, weight variances included."""
    if isinstance(stack, LlamaStack):
        variance = stack.init_std**2 * stack.width
        attention = Attention(variance, stack.width // stack.heads, stack.rope)
        return {
            "attention": PreNormAttention(attention, stack.norm_epsilon),
            "swiglu": Elementwise(
                dual_of("silu"), "gated", stack.mlp_width * stack.init_std**2, variance, stack.norm_epsilon
            ),
        }
    branch = Elementwise(
        dual_of(stack.activation),
        stack.branch,
        stack.weight_variance,
        stack.hidden_variance,
        0.0 if stack.normalization.startswith("rms") else None,
    )
    return {visit.branch: branch for visit in stack.visits[:1]}
