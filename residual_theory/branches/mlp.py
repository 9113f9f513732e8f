"""W₂ φ(W₁ x), one hidden layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from residual_theory.arrays import Array
from residual_theory.branches.law import BranchLaw, DualKernel, Matrix, States

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Mlp(BranchLaw):
    """W₂ φ(W₁ x): F = σ_w² V(σ_1² k), with V the dual kernel of φ.

    Arguments: hidden_variance: σ_1² of W₁.  expansion: its rows as a multiple of the width.

    >>> Mlp("relu", hidden_variance=2.0, expansion=4).matrices(8)
    (Matrix(rows=32, columns=8, variance=2.0), Matrix(rows=8, columns=32, variance=1.0))
    """

    formula: ClassVar[str] = "W₂ φ(W₁ h)"

    hidden_variance: float = 1.0
    expansion: int = 1

    def matrices(self, width: int) -> tuple[Matrix, ...]:
        hidden = self.expansion * width
        return Matrix(hidden, width, self.hidden_variance), Matrix(width, hidden, self.weight_variance)

    @property
    def kept(self) -> int:
        return 4 * self.expansion

    def states(self, dual: DualKernel, variance: Array) -> States:
        return (dual.state(self.hidden_variance * variance),)

    def covariance(self, dual: DualKernel, k: Array, left: States, right: States) -> Array:
        return self.weight_variance * dual.value(self.hidden_variance * k, left[0], right[0])

    def slopes(self, dual: DualKernel, k: Array, left: States, right: States) -> tuple[Array, Array]:
        out, hidden = self.weight_variance, self.hidden_variance
        value, slope = dual.value(hidden * k, left[0], right[0]), dual.slope(hidden * k, left[0], right[0])
        return out * hidden * slope, value + out * slope * k

    def terms(
        self, x: "Tensor", products: Sequence[Callable[["Tensor"], "Tensor"]], activate: Callable[["Tensor"], "Tensor"]
    ) -> list[tuple[float, "Tensor"]]:
        inward, outward = products
        hidden = activate(inward(x) * (self.hidden_variance / x.shape[2]) ** 0.5)
        return [(math.sqrt(self.weight_variance / hidden.shape[2]), outward(hidden))]
