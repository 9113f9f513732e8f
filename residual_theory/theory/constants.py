"""The paper's assumptions at infinite width, and what its theorems bound with given constants."""

import math
from dataclasses import dataclass

import numpy as np

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.kernels.branch import kernels_of
from residual_theory.stack import Stack
from residual_theory.theory.arguments import refuse_post_norm, refuse_variants
from residual_theory.theory.recursion import groups_of


@dataclass(frozen=True)
class Constants:
    """What the paper's theorems on the forward pass assume of a stack, at infinite width; q(x) = ‖x‖²/d.

    input_mean: the mean over loops of E[φ], by layer: m₋ is the least that they may have.
    input_square: the mean over loops of E[φ²], by layer: q₊ is the most.
    output_square: E q(Y_l), by layer: a₋ and a₊ are the least and the most.
    redraw_change: E q(Y_l − Y_l^(s))/2 (layer, redrawn): off the diagonal at most C_1 β².
    gain: ‖Wx‖/‖x‖, c_W and C_W at once: at infinite width it is σ_w of every input met.
    own_product: E q(B_l), at most C_0 β²: 0, since products with two independent matrices are uncorrelated.
    """

    input_mean: Array
    input_square: Array
    output_square: Array
    redraw_change: Array
    gain: float
    own_product: float = 0.0

    @property
    def other_change(self) -> float:
        """The most that redrawing one layer changes another's Y, q/2; 0 of one layer."""
        others = ~np.eye(len(self.output_square), dtype=bool)
        return float(self.redraw_change[others].max(initial=0.0))


def constants(stack: Stack) -> Constants:
    """The constants that the paper assumes, at infinite width.

    Let version s = 1 … L of a stack have W_s drawn afresh and all else in common with version 0. As d → ∞ the
    covariance of the streams of versions 0 and s at visits a and b obeys
      X_s(a, b) = q0 + ε² Σ F(X_s(a', b')) over a' < a, b' < b of one layer, which is not s,
    with F the branch's kernel at the common law of the inputs; s = 0, nothing redrawn, is the recursion of `predict`.
    Then ⟨Y_l, Y_l^(s)⟩/d → N⁻² Σ F(X_s(a, b)) over the visits of l, and 0 for l = s.
    N loops of L layers cost N²L(L + 1)/2 evaluations of F.

    Arguments: stack: a Stack of tied, cyclic ReLU layers, raw or pre-norm, else at its defaults.
    Returns: Constants. Raises: InputError naming the field of a stack that is not covered.
    Source: arXiv:2606.18524, assumptions (1)–(3) of Theorem 1, (7)–(9) of Theorem 6; docs/theory.md.

    >>> found = constants(Stack(loops=1, unique_layers=2, residual_scale=0.5, weight_variance=2.0))
    >>> found.output_square.round(6).tolist(), found.redraw_change.round(6).tolist()
    ([1.0, 1.25], [[1.0, 0.0], [0.2161, 1.25]])
    """
    refuse_variants(stack, "the constants are those of layers of one matrix, added to a stream that is left alone")
    refuse_post_norm(stack.normalization)
    for name, value in (("activation", "relu"), ("sharing", "cyclic"), ("tied", True)):
        if getattr(stack, name) != value:
            raise InputError(name, getattr(stack, name), f"the constants are known for {value!r}")
    products, squares = _products(stack)
    read = squares if stack.normalization == "none" else np.ones_like(squares)  # variances that φ is given
    return Constants(
        input_mean=np.sqrt(read / math.tau).mean(axis=0),
        input_square=read.mean(axis=0) / 2,
        output_square=products[:, 0],
        redraw_change=products[:, :1] - products[:, 1:],
        gain=stack.weight_variance**0.5,
    )


def _products(stack: Stack) -> tuple[Array, Array]:
    """lim ⟨Y_l, Y_l^(s)⟩/d (layer, version), version 0 the stack itself; and R² (loop, layer) before each visit."""
    visits, L, N = stack.visits, stack.unique_layers, stack.loops
    groups = groups_of(visits, kernels_of(visits))
    products, squares = np.zeros((L, L + 1)), np.empty(len(visits))
    row = np.empty((len(visits) + 1, L + 1))  # X_s(a, b) for b ≤ a, (b, version)
    row[0] = stack.initial_variance
    for a, visit in enumerate(visits):
        layer, group = a % L, groups[visit.weights]
        squares[a] = row[a, 0]
        left, right = group.add(row[a, :1, None])
        shared = group.visits[: group.done]
        F = group.kernel.forward(row[shared][:, None, :], left, right)[:, 0]  # (m, version)
        F[:, layer + 1] = 0.0
        products[layer] += 2 * F[:-1].sum(axis=0) + F[-1]  # (a, b) and (b, a)
        reached = np.cumsum(F, axis=0)
        steps = np.searchsorted(shared, np.arange(a + 1)) - 1  # the last visit of the layer before b
        row[: a + 1] += np.where((steps < 0)[:, None], 0.0, visit.scale**2 * reached[steps])
        row[a + 1] = row[a] + visit.scale**2 * reached[-1]  # X(a, a + 1) = X(a + 1, a)
    return products / N**2, squares.reshape(N, L)


def theorem_1(
    stack: Stack, *, input_mean: float, input_square: float, gains: tuple[float, float]
) -> tuple[float, float]:
    """The paper's bounds of R after N loops of one layer, (c_W m₋ εN − R_0)₊ and R_0 + C_W √q₊ εN.

    Arguments: stack: of one layer. input_mean: m₋. input_square: q₊. gains: c_W and C_W. R_0² is the stack's q0.

    >>> theorem_1(Stack(loops=4, residual_scale=1.0), input_mean=0.5, input_square=0.25, gains=(0.75, 2.0))
    (0.5, 5.0)
    """
    start, steps = stack.initial_variance**0.5, stack.epsilon * stack.loops
    low, high = gains
    return max(0.0, low * input_mean * steps - start), start + high * input_square**0.5 * steps


def theorem_6(
    stack: Stack, *, output_square: tuple[float, float], own_product: float, other_change: float
) -> tuple[float, float]:
    """Bounds of E q(Σ_l G_l), G_l = N Y_l, from the paper's assumptions (7)–(9), with their constants followed through.

    Let D_l = Y_l − B_l, which has mean 0 over W_l alone. Then E q(D_l) = E q(Y_l) − E q(B_l); of ⟨D_l, D_k⟩ only what
    varies with both W_l and W_k counts, at most E q(Y_l − Y_l^(k))/2; and q^(1/2) of a sum is at most the sum of
    q^(1/2). So with E q(B_l) ≤ b and E q(Y_l − Y_l^(s))/2 ≤ c
      E q(Σ G_l) ≤ N² (L√b + √(a₊L + c L(L − 1)))²,
      E q(Σ G_l) ≥ N² (√((a₋ − b)L − c L(L − 1)) − L√b)²  where the bracket is positive, else 0.

    Arguments: output_square: a₋ and a₊. own_product: b = C_0 β². other_change: c = C_1 β², β = εN.
    Source: arXiv:2606.18524, Theorem 6, whose C N² (L + β²L²) this is with constants.

    >>> stack = Stack(loops=3, unique_layers=2)
    >>> low, high = theorem_6(stack, output_square=(1.0, 1.5), own_product=0.0, other_change=0.25)
    >>> round(low, 6), round(high, 6)
    (13.5, 31.5)
    """
    N, L = stack.loops, stack.unique_layers
    least, most = output_square
    mixed, own = other_change * L * (L - 1), L * max(0.0, own_product) ** 0.5
    below = max(0.0, (least - own_product) * L - mixed) ** 0.5 - own
    return N**2 * max(0.0, below) ** 2, N**2 * (own + (most * L + mixed) ** 0.5) ** 2
