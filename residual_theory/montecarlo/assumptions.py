"""What the paper's theorems on the forward pass assume of a random stack, measured without forming its matrices."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo.dense import Dense
from residual_theory.montecarlo.estimate import Moments
from residual_theory.montecarlo.matrix_free import MatrixFree
from residual_theory.montecarlo.randomness import Normals, Rows
from residual_theory.montecarlo.streams import ForwardPass, Weights
from residual_theory.stack import Stack

_DIRECTIONS = 4  # widths below so many times the products with a matrix are cheaper with the matrix in full
_BLOCK = 64  # trials drawn at a time, fewer where their matrices or bases hold more than
_NUMBERS = 2**25
_DIMS: dict[str, tuple[str, ...]] = {
    "input_mean": ("layer",),
    "input_square": ("layer",),
    "sum_square": ("layer",),
    "output_square": ("layer",),
    "gain": ("layer",),
    "end_norm": (),
    "total_square": (),
    "redraw_change": ("layer", "redrawn"),
    "redraw_product": ("layer", "redrawn"),
    "own_product": (),
    "other_change": (),
}


def assumptions(stack: Stack, *, redraw: bool, width: int, samples: int, seed: int, first_trial: int = 0) -> xr.Dataset:
    """The quantities that Theorems 1 and 6 of the paper bound by assumption, as means over random stacks.

    With u_{n,l} = φ(h) the input of layer l's matrix in loop n, Ū_l the mean of u_{n,l} over n, and Y_l = W_l Ū_l, so
    that N Y_l is all that layer l adds to the stream but for ε. q(x) = ‖x‖²/d and m(x) = 1ᵀx/d. To redraw layer s is
    to run the same h_0 and the same matrices once more, with a fresh W_s: Y_l^(s). Trials and versions use one basis
    of each matrix (montecarlo.matrix_free), exact in law at every width.

    Arguments:
      stack: a tied Stack of cyclic layers with one matrix a branch, and nothing outside the loops.
      redraw: also run the L stacks that have one layer redrawn, at L + 1 times the cost.
      width: d ≥ 1.  samples: independent trials ≥ 1; the standard error of a single one is NaN.
      seed: 0 ≤ seed < 2⁶³.  first_trial: trials first_trial … first_trial + samples − 1 are drawn.
    Returns: a Dataset of means over trials, each with *_stderr, and samples; all dimensionless. By layer: input_mean,
      m(Ū_l); input_square, the mean over n of q(u_{n,l}); sum_square, q(Ū_l); output_square, q(Y_l); gain,
      ‖Y_l‖/‖Ū_l‖. Of all: end_norm, R after the last visit, and total_square,
      q(Σ_l Y_l). With `redraw`, (layer, redrawn):
      redraw_change, q(Y_l − Y_l^(s))/2, and redraw_product, ⟨Y_l, Y_l^(s)⟩/d, whose mean at s = l is E q(B_l), with
      B_l the mean of Y_l over W_l alone: given the others, Y_l and Y_l^(l) are independent and of one law. The means
      of the latter over l, own_product, and of the former over l ≠ s, other_change (0 of one layer).
    Raises: InputError naming the argument that cannot be used.
    Source: arXiv:2606.18524, Lemma 4 and assumptions (1)–(3) of Theorem 1, (7)–(9) of Theorem 6.

    >>> stack = Stack(loops=4, unique_layers=2, residual_scale="1/(N*sqrt(L))", weight_variance=1.5)
    >>> found = assumptions(stack, redraw=True, width=400, samples=8, seed=1)
    >>> found.redraw_change.dims, bool((found.output_square > 0.75).all())  # above σ_w² q0/2
    (('layer', 'redrawn'), True)
    """
    refuse_others(stack)
    size = _trials_at_once(stack, width, redraw)
    moments: dict[str, Moments] = {}
    for first in range(first_trial, first_trial + samples, size):
        trials = range(first, min(first + size, first_trial + samples))
        for name, value in _block(stack, width, seed, trials, redraw).items():
            moments.setdefault(name, Moments()).add(value)
    return summary(moments, samples, _DIMS)


def summary(moments: Mapping[str, Moments], samples: int, dims: Mapping[str, tuple[str, ...]]) -> xr.Dataset:
    """The means, with their standard errors beside them, as a measurement of random stacks returns them."""
    means = {name: (dims.get(name, ()), found.mean) for name, found in moments.items()}
    errors = {f"{name}_stderr": (dims.get(name, ()), found.stderr) for name, found in moments.items()}
    return xr.Dataset({**means, **errors, "samples": samples}, attrs={"samples_are": "stacks", "dtype": "float64"})


def refuse_others(stack: Stack) -> None:
    """Raise InputError for a stack that the paper's notation does not cover."""
    for name in ("branch", "sharing", "tied", "prelude", "coda"):
        if getattr(stack, name) != Stack.model_fields[name].default:
            raise InputError(name, getattr(stack, name), "the assumptions are those of looped layers of one matrix")


def _products(stack: Stack, redraw: bool) -> int:
    """With each matrix that versions share."""
    return stack.loops * (stack.unique_layers if redraw and stack.unique_layers > 1 else 1)


def _is_dense(stack: Stack, width: int, redraw: bool) -> bool:
    return width < _DIRECTIONS * _products(stack, redraw)


def _trials_at_once(stack: Stack, width: int, redraw: bool) -> int:
    kept = width if _is_dense(stack, width, redraw) else 2 * _products(stack, redraw)
    return max(1, min(_BLOCK, _NUMBERS // (2 * stack.unique_layers * kept * width)))


def _block(stack: Stack, width: int, seed: int, trials: Sequence[int], redraw: bool) -> dict[str, np.ndarray]:
    """The values (trial, …) of a block of trials."""
    device = torch.device("cpu")
    rows, dense, L = Rows(device), _is_dense(stack, width, redraw), stack.unique_layers
    normals = Normals(seed, (width, int(dense)), trials, rows, device)
    start = torch.empty(len(trials), 1, width, dtype=torch.float64)
    normals.fill(start)
    start = start * stack.initial_variance**0.5
    layers: list[_Layer] = []

    def matrix(shape: tuple[int, int], products: int) -> Weights:
        return Dense(shape, normals, start) if dense else MatrixFree(shape, products, normals, rows, start)

    def draw(shape: tuple[int, int], products: int) -> Weights:
        layers.append(_Layer(lambda uses: matrix(shape, uses), products, 1 + len(layers) if redraw else None))
        return layers[-1]

    streams = ForwardPass(stack, start.expand(-1, 1 + L if redraw else 1, -1).contiguous(), draw).streams
    return _values(stack, layers, streams[-1][:, 0], redraw)


class _Layer:
    """A matrix for all versions of a stack but one, which has a fresh one; and sums over the products with either."""

    def __init__(self, draw: Callable[[int], Weights], products: int, apart: int | None) -> None:
        self._shared, self._apart = draw(products), apart
        self._own = None if apart is None else draw(products)
        self.inputs: torch.Tensor | None = None  # Σ_n u (trial, version, width)
        self.outputs: torch.Tensor | None = None  # Σ_n G u
        self.squares: torch.Tensor | None = None  # Σ_n ‖u‖² (trial, version)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """G x for x (trial, version, columns)."""
        if self._own is None:
            out = self._shared.multiply(x)
        else:
            others = [version for version in range(x.shape[1]) if version != self._apart]
            alone = [version for version in range(x.shape[1]) if version == self._apart]
            out = torch.empty_like(x)
            out[:, others] = self._shared.multiply(x[:, others])
            out[:, alone] = self._own.multiply(x[:, alone].clone())
        square = torch.linalg.vecdot(x, x)
        self.inputs = x.clone() if self.inputs is None else self.inputs + x
        self.outputs = out.clone() if self.outputs is None else self.outputs + out
        self.squares = square if self.squares is None else self.squares + square
        return out

    def multiply_transposed(self, u: torch.Tensor, call: int) -> torch.Tensor:
        """No pass goes backward here."""
        raise NotImplementedError

    def gradient_square(self, inputs: int) -> torch.Tensor:
        """No pass goes backward here."""
        raise NotImplementedError


def _values(stack: Stack, layers: Sequence[_Layer], end: torch.Tensor, redraw: bool) -> dict[str, np.ndarray]:
    N, d = stack.loops, end.shape[1]
    inputs = torch.stack([layer.inputs for layer in layers if layer.inputs is not None], dim=1) / N
    outputs = torch.stack([layer.outputs for layer in layers if layer.outputs is not None], dim=1)
    outputs = outputs * ((stack.weight_variance / d) ** 0.5 / N)  # Y (trial, layer, version, width)
    squares = torch.stack([layer.squares for layer in layers if layer.squares is not None], dim=1)
    U, Y = inputs[:, :, 0], outputs[:, :, 0]
    total = Y.sum(dim=1)
    found = {
        "input_mean": U.mean(dim=2),
        "input_square": squares[:, :, 0] / (N * d),
        "sum_square": torch.linalg.vecdot(U, U) / d,
        "output_square": torch.linalg.vecdot(Y, Y) / d,
        "gain": torch.linalg.vector_norm(Y, dim=2) / torch.linalg.vector_norm(U, dim=2),
        "end_norm": torch.linalg.vector_norm(end, dim=1) / d**0.5,
        "total_square": torch.linalg.vecdot(total, total) / d,
    }
    if redraw:
        changes = Y[:, :, None] - outputs[:, :, 1:]
        found["redraw_change"] = torch.linalg.vecdot(changes, changes) / (2 * d)
        found["redraw_product"] = torch.einsum("tld,tlsd->tls", Y, outputs[:, :, 1:]) / d
        L = len(layers)
        found["own_product"] = found["redraw_product"].diagonal(dim1=1, dim2=2).mean(dim=1)
        others = ~torch.eye(L, dtype=torch.bool)
        found["other_change"] = found["redraw_change"][:, others].sum(dim=1) / max(1, L * (L - 1))
    return {name: value.numpy() for name, value in found.items()}
