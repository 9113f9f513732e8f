"""W φ(x), one square matrix."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from residual_theory.arrays import Array
from residual_theory.branches.law import BranchLaw, DualKernel, Matrix, States

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Single(BranchLaw):
    """W φ(x): F = σ_w² V(k), with V the dual kernel of φ and S = V' its slope.

    >>> Single("relu", weight_variance=2.0).matrices(8)
    (Matrix(rows=8, columns=8, variance=2.0),)
    """

    formula: ClassVar[str] = "W φ(h)"

    def matrices(self, width: int) -> tuple[Matrix, ...]:
        return (Matrix(width, width, self.weight_variance),)

    def covariance(self, dual: DualKernel, k: Array, left: States, right: States) -> Array:
        return self.weight_variance * dual.value(k, left[0], right[0])

    def slopes(self, dual: DualKernel, k: Array, left: States, right: States) -> tuple[Array, Array]:
        value, slope = dual.value(k, left[0], right[0]), dual.slope(k, left[0], right[0])
        return self.weight_variance * slope, value

    def terms(
        self, x: "Tensor", products: Sequence[Callable[["Tensor"], "Tensor"]], activate: Callable[["Tensor"], "Tensor"]
    ) -> list[tuple[float, "Tensor"]]:
        (outward,) = products
        return [(math.sqrt(self.weight_variance / x.shape[2]), outward(activate(x)))]
