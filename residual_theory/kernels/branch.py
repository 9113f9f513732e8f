"""Kernels of branches: covariances of a branch's outputs at infinite width, given the covariance of its inputs.

Every kernel maps stacked covariances to stacked covariances: `covariance[i]` (T, T') holds ⟨h_t, h'_t'⟩/d between the
T positions of one visit and the T' positions of visit i. What it needs of one visit alone is computed once, by
`state`, from that visit's own covariance (T, T); `left` is the state of the one visit, `right` the stacked states. For
one position against T' of its own law, itself first (theory.recursion), `right` holds the state that all T' have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from residual_theory.arrays import Array
from residual_theory.branches.attention import CausalAttention
from residual_theory.branches.law import BranchLaw
from residual_theory.kernels.attention import Attention
from residual_theory.kernels.attention_backward import Sided, attention_backward, sampled_steepness, steepness
from residual_theory.kernels.dual import Dual, dual_of
from residual_theory.kernels.pairs import TINY
from residual_theory.stack import Visit

State = tuple[Array, ...]


class Slopes(NamedTuple):
    """What gradients need of one visit against earlier ones, each (m, T, T')."""

    stream: Array  # ∂F/∂K for elementwise branches; the correlations of the normalised inputs for attention
    weights: Array  # summed over matrices: the tangent kernel's part for unit gradients, without W_Q and W_K


class Backward(NamedTuple):
    """What gradients at one visit's output give against those at later ones, each (m, T, T')."""

    inputs: Array  # the covariance of gradients at the branch's input
    weights: Array  # summed over all matrices: the tangent kernel's part for unit gradients


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

    def backward(self, slopes: Slopes, outer: Array, left: State, right: State) -> Backward:
        """What comes back from gradients of covariance `outer` (m, T, T') at the branch's output."""

    def error(self, states: State) -> float:
        """A bound on the relative error of F at the visits of these states; 0 for a closed form."""

    def varied(self, states: State, own: Array) -> "tuple[Kernel, State] | None":
        """Another kernel and states (m, …), of visits with slopes.stream `own` (m, T, T) against themselves.

        Where `backward` is approximate, what they change in its results is an estimate of its error; None if exact.
        """


@dataclass(frozen=True)
class Elementwise:
    """A branch of matrices and elementwise activations, at x the stream, or the stream divided by its root mean square.

    The branch's law says what its outputs' covariance is, in terms of the activation's dual kernel.
    """

    branch: BranchLaw
    dual: Dual  # of its activation

    def state(self, own: Array) -> State:
        """Mean squares, the norm's divisors and the states of the activation."""
        square = np.diag(own).copy()
        epsilon = self.branch.epsilon
        divisor = np.ones_like(square) if epsilon is None else np.sqrt(square + epsilon)
        return square, divisor, *self.branch.states(self.dual, _quotient(square, divisor**2))

    @property
    def matrices(self) -> int:
        """As many as the branch has."""
        return len(self.branch.matrices(1))

    def forward(self, covariance: Array, left: State, right: State) -> Array:
        """F of the branch's law, such as σ_w² E[φφ']."""
        k = covariance if self.branch.epsilon is None else _quotient(covariance, _outer(left[1], right[1]))
        return self.branch.covariance(self.dual, k, left[2:], right[2:])

    def slopes(self, covariance: Array, left: State, right: State) -> Slopes:
        """∂F/∂K by the chain rule, and every matrix's part of the tangent kernel."""
        divisors = _outer(left[1], right[1])
        chain, weights = self.branch.slopes(self.dual, _quotient(covariance, divisors), left[2:], right[2:])
        with np.errstate(divide="ignore", invalid="ignore"):  # a norm has no derivative where the stream vanishes
            return Slopes(chain / divisors, weights)

    def backward(self, slopes: Slopes, outer: Array, left: State, right: State) -> Backward:
        """Entry by entry: the product of ∂F/∂K and the gradients' covariance."""
        return Backward(slopes.stream * outer, slopes.weights)

    def error(self, states: State) -> float:
        """Summed over the uses of the activation."""
        return sum((self._error(state) for state in states[2:]), 0.0)

    def varied(self, states: State, own: Array) -> None:
        """Gradients are as good as the activation's kernel."""

    def _error(self, states: Array) -> float:
        """The larger of the activation's errors at the smallest and the largest variance with a finite mean square."""
        found = states.reshape(-1, states.shape[-1])
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
    """Causal attention W_O Σ_s p_ts W_V x_s behind RMSNorm, all entries of variance v/d; see kernels.attention.

    Gradients pass through the values and the logits; kernels.attention_backward says how, and what `power` is.
    """

    attention: Attention
    epsilon: float
    power: int = 4

    @property
    def matrices(self) -> int:
        """W_Q, W_K, W_V and W_O."""
        return 4

    def state(self, own: Array) -> State:
        """Mean squares, the norm's divisors, and what the softmax needs forward and backward."""
        square = np.diag(own).copy()
        divisor = np.sqrt(square + self.epsilon)
        softmax = self.attention.state(_quotient(own, np.outer(divisor, divisor)))
        return square, divisor, softmax, steepness(softmax)

    def forward(self, covariance: Array, left: State, right: State) -> Array:
        """v² Σ_ss' E[p_ts p'_t's'] C_ss'."""
        return self.attention.forward(_quotient(covariance, _outer(left[1], right[1])), left[2], right[2])

    def slopes(self, covariance: Array, left: State, right: State) -> Slopes:
        """The inputs' correlations; W_O and W_V contribute alike."""
        cosine = _quotient(covariance, _outer(left[1], right[1]))
        value = self.attention.forward(cosine, left[2], right[2])
        return Slopes(cosine, 2 * value / max(self.attention.variance, TINY))

    def backward(self, slopes: Slopes, outer: Array, left: State, right: State) -> Backward:
        """v² Σ outer dF/dC; W_Q and W_K, alike, get the derivative in the logits' covariance."""
        attention, rotation = self.attention, self.attention.rotation(outer.shape[-1])
        sides = Sided(*left[2:]), Sided(*right[2:])
        found = attention_backward(slopes.stream, *sides, outer, attention.logit_variance, rotation, self.power)
        with np.errstate(divide="ignore"):  # a norm has no derivative where the stream vanishes
            inputs = attention.square * found.inputs / _outer(left[1], right[1])
        return Backward(inputs, slopes.weights + 2 * attention.variance * found.logits)

    def error(self, states: State) -> float:
        """0: what the forms of the logits' law leave out is not an error of quadrature."""
        return 0.0

    def varied(self, states: State, own: Array) -> tuple[Kernel, State] | None:
        """Another form between equal and uncorrelated logits, and e sampled at some visits."""
        attention, (count, tokens) = self.attention, states[0].shape
        if tokens == 1:
            return None
        rotation, places = attention.rotation(tokens), np.unique(np.linspace(0, count - 1, 3).round().astype(int))
        factors = []
        for i in places:
            side = Sided(states[2][i], states[3][i])
            sampled = sampled_steepness(own[i], side, attention.logit_variance, rotation)
            factors.append(np.divide(sampled, side.steepness, out=np.ones(tokens), where=side.steepness > 0))
        factor = np.stack([np.interp(np.arange(count), places, f) for f in np.transpose(factors)], axis=1)
        return replace(self, power=3), (*states[:3], states[3] * factor)


def _outer(left: Array, right: Array) -> Array:
    return np.asarray(left[None, :, None] * right[:, None, :])


def _quotient(covariance: Array, divisors: Array) -> Array:
    """The covariance after normalisation: 0 where there is no stream to normalise."""
    with np.errstate(invalid="ignore"):  # inf/inf, of a stream beyond float64
        return np.divide(covariance, divisors, out=np.zeros_like(covariance), where=divisors != 0)


def kernel_of(branch: BranchLaw | CausalAttention) -> Kernel:
    """The kernel of one branch, weight variances included."""
    if isinstance(branch, CausalAttention):
        return PreNormAttention(Attention(branch.variance, branch.head_size, branch.rope), branch.epsilon)
    return Elementwise(branch, dual_of(branch.activation))


def kernels_of(visits: Sequence[Visit]) -> Mapping[int, Kernel]:
    """The kernel of every set of weights, the same one wherever visits carry the same law."""
    made: dict[int, Kernel] = {}  # by identity: an activation of one's own need not be hashable
    laws: dict[int, BranchLaw | CausalAttention] = {}
    for visit in visits:
        branch = laws.setdefault(visit.weights, visit.branch)
        assert branch is visit.branch or branch == visit.branch, "visits of equal weights have branches of one law"
        if id(branch) not in made:
            made[id(branch)] = kernel_of(branch)
    return {weights: made[id(branch)] for weights, branch in laws.items()}
