"""What defines a kind of branch: its matrices, its law at infinite width, and how it is sampled."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from residual_theory.arrays import Array

if TYPE_CHECKING:
    from torch import Tensor

Activation = str | Callable[[Any], Any]
States = tuple[Array, ...]


class Matrix(NamedTuple):
    """A random matrix of independent entries of law N(0, variance/columns)."""

    rows: int
    columns: int
    variance: float


class DualKernel(Protocol):
    """E[φ(u)φ(v)] and its slope ∂/∂E[uv] = E[φ'(u)φ'(v)] for centred Gaussians u, v; see kernels.dual.Dual."""

    def state(self, variance: Array) -> Array: ...
    def value(self, covariance: Array, left: Array, right: Array) -> Array: ...
    def slope(self, covariance: Array, left: Array, right: Array) -> Array: ...


@dataclass(frozen=True)
class BranchLaw(ABC):
    """A branch f(x) of random matrices around elementwise activations; x is the stream, or the normalised stream.

    A kind of branch is one file of this package with one subclass, known by the file's name. What it takes from a
    description are its fields: those below and, of kinds with a hidden layer, `hidden_variance` and `expansion`.

    Arguments:
      activation: φ, a name or a function.
      weight_variance: σ_w² of the matrices that write to the stream.
      epsilon: what the norm before the branch adds to the mean square; None without a norm.
    """

    formula: ClassVar[str]  # of f, for the help of the command

    activation: Activation
    weight_variance: float = 1.0
    epsilon: float | None = None

    @property
    def name(self) -> str:
        """The activation's name."""
        return self.activation if isinstance(self.activation, str) else "own"

    @abstractmethod
    def matrices(self, width: int) -> tuple[Matrix, ...]:
        """The matrices in the order in which they are drawn."""

    @property
    def kept(self) -> int:
        """Numbers between x and f that a backward pass needs, as a multiple of the width."""
        return 0

    def states(self, dual: DualKernel, variance: Array) -> States:
        """What the law needs of one visit, given the variances (T) of x: a state of `dual` for each use of φ."""
        return (dual.state(variance),)

    @abstractmethod
    def covariance(self, dual: DualKernel, k: Array, left: States, right: States) -> Array:
        """F (m, T, T'), the covariance of outputs, given that of inputs k (m, T, T') and the states of both sides."""

    @abstractmethod
    def slopes(self, dual: DualKernel, k: Array, left: States, right: States) -> tuple[Array, Array]:
        """∂F/∂k, and Σ over the matrices of E‖∂f/∂W‖²/fan-in for unit gradients: their part of the tangent kernel."""

    @abstractmethod
    def terms(
        self, x: "Tensor", products: Sequence[Callable[["Tensor"], "Tensor"]], activate: Callable[["Tensor"], "Tensor"]
    ) -> list[tuple[float, "Tensor"]]:
        """f(x) = Σ factor · term on sampled weights, x (trial, input, width).

        `products` multiply by the matrices, with standard normal entries; they are called in a fixed order, since that
        is the order in which their random numbers are drawn.
        """
