"""W₂ (φ(W₁ x) ⊙ W₃ x), SwiGLU's shape."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from residual_theory.arrays import Array
from residual_theory.branches.law import BranchLaw, DualKernel, Matrix, States

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gated(BranchLaw):
    """W₂ (φ(W₁ x) ⊙ W₃ x): F = σ_w² σ_1² k V(σ_1² k), with V the dual kernel of φ.

    Arguments: hidden_variance: σ_1² of W₁ and W₃.  expansion: their rows as a multiple of the width, which a
      Transformer's hidden width need not be a whole one of.

    >>> [matrix.rows for matrix in Gated("silu", expansion=2.5).matrices(8)]
    [20, 20, 8]
    """

    formula: ClassVar[str] = "W₂ (φ(W₁ h) ⊙ W₃ h)"

    hidden_variance: float = 1.0
    expansion: float = 1

    def matrices(self, width: int) -> tuple[Matrix, ...]:
        hidden = round(self.expansion * width)
        inward = Matrix(hidden, width, self.hidden_variance)
        return inward, inward, Matrix(width, hidden, self.weight_variance)

    @property
    def kept(self) -> int:
        return math.ceil(8 * self.expansion)

    def states(self, dual: DualKernel, variance: Array) -> States:
        return (dual.state(self.hidden_variance * variance),)

    def covariance(self, dual: DualKernel, k: Array, left: States, right: States) -> Array:
        value = dual.value(self.hidden_variance * k, left[0], right[0])
        return self.weight_variance * (self.hidden_variance * k * value)

    def slopes(self, dual: DualKernel, k: Array, left: States, right: States) -> tuple[Array, Array]:
        out, hidden = self.weight_variance, self.hidden_variance
        value, slope = dual.value(hidden * k, left[0], right[0]), dual.slope(hidden * k, left[0], right[0])
        of_input = out * (value + hidden * k * slope)  # through W₃ and W₁
        return hidden * of_input, hidden * k * value + of_input * k

    def terms(
        self, x: "Tensor", products: Sequence[Callable[["Tensor"], "Tensor"]], activate: Callable[["Tensor"], "Tensor"]
    ) -> list[tuple[float, "Tensor"]]:
        *inward, outward = products
        size = (self.hidden_variance / x.shape[2]) ** 0.5
        gate, factor = [product(x) * size for product in inward]
        hidden = activate(gate) * factor
        return [(math.sqrt(self.weight_variance / hidden.shape[2]), outward(hidden))]
