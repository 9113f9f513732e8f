"""Gaussian matrices held in full, one a trial, with the interface of montecarlo.matrix_free."""

import torch

from residual_theory.montecarlo.randomness import Normals, allocate


class Dense:
    """Standard normal matrices W (trial, rows, columns), and the products made with them where gradients are wanted.

    `matrix` may be changed between a pass and the next.
    """

    def __init__(
        self, shape: tuple[int, int], normals: Normals, like: torch.Tensor, *, transposed: bool = False, sign: int = 1
    ) -> None:
        self.matrix = allocate((len(like), *shape), like)
        normals.fill(self.matrix)
        if sign < 0:
            self.matrix.neg_()
        self._transposed = transposed
        self._inputs: list[torch.Tensor] = []
        self._cotangents: dict[int, torch.Tensor] = {}

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """W x for x (trial, input, columns): (trial, input, rows)."""
        if self._transposed:
            self._inputs.append(x)
        return torch.bmm(x, self.matrix.mT)  # as rows times a matrix, the form that is fast in torch

    def multiply_transposed(self, u: torch.Tensor, call: int) -> torch.Tensor:
        """Wᵀ u for u (trial, input, rows), the cotangent of product number `call`: (trial, input, columns)."""
        self._cotangents[call] = u
        return torch.bmm(u, self.matrix)

    def gradient_square(self, inputs: int) -> torch.Tensor:
        """‖Σ u xᵀ‖² (trial, input) over the products and the cotangents given for them."""
        x = torch.stack([self._inputs[call] for call in self._cotangents], dim=2)  # (trial, input, call, columns)
        u = torch.stack(list(self._cotangents.values()), dim=2)
        return ((x @ x.mT) * (u @ u.mT)).sum(dim=(2, 3))

    def gradient(self) -> torch.Tensor:
        """Σ u xᵀ (trial, rows, columns) over the inputs, the products and the cotangents given for them."""
        cotangents = torch.cat(list(self._cotangents.values()), dim=1)
        return cotangents.mT @ torch.cat([self._inputs[call] for call in self._cotangents], dim=1)
