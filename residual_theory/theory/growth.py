"""How fast R² of raw tied stacks grows with loops and layers when ε falls like their powers."""

import math

from residual_theory.errors import InputError
from residual_theory.stack import Stack
from residual_theory.theory.arguments import number, plain
from residual_theory.theory.bounds import KAPPA


def growth_exponents(loop_exponent: float, layer_exponent: float = 0.5) -> tuple[float, float]:
    """The powers of N and of L at which log R² grows under ε = N^-a L^-b, for raw tied stacks.

    log(R²/q0) = Θ(N^max(0, 1 − a)) at fixed L and Θ(L^max(0, 1 − 2b)) at fixed N: the two sides of `bounds`.

    Arguments:
      loop_exponent: a ≥ 0.  layer_exponent: b ≥ 0.
    Returns: the two powers; 0 means that R² stays bounded.
    Raises: InputError naming the exponent that is negative or no finite number.
    Source: docs/theory.md; arXiv:2606.18524, Theorem 1 (that a = 1 is critical).

    >>> growth_exponents(0.75, 0.25)
    (0.25, 0.5)
    """
    powers = 1.0 - number("loop_exponent", loop_exponent), 1.0 - 2.0 * number("layer_exponent", layer_exponent)
    return max(0.0, powers[0]), max(0.0, powers[1])


def growth_constant(
    activation: str = "relu", weight_variance: float = 1.0, *, unique_layers: int = 1, scale: float = 1.0
) -> float:
    """The constant C of log R² ~ C N^(1 − a) under ε = scale · N^-a, 0 < a < 1, for raw tied stacks.

    C = 2 scale σ_w √(κ(1) L): √2 σ_w for ReLU and 2σ_w for linear activation at scale = L = 1. Both sides of `bounds`
    have it. With δ = scale · N^-a σ_w √κ(1) and L = 1 they leave
      −½ log(4πNδ) + log(1 + δ) + O(1/(Nδ))  ≤  log(R²/q0) − 2N log(1 + δ)  ≤  2 log((1 + δ)/(2 + δ)) + O((1 + δ)^-2N),
    of which linear stacks attain the left side (Laplace's asymptotics of Legendre polynomials).

    Arguments:
      activation: "relu" or "linear".  weight_variance: σ_w² > 0.  unique_layers: L ≥ 1.
      scale: > 0; ε = N^-a L^-b has scale = L^-b.
    Returns: C, dimensionless.
    Raises: InputError naming the argument that cannot be used.
    Source: docs/theory.md.

    >>> growth_constant("linear", 2.25, unique_layers=4, scale=0.5)
    3.0
    """
    if not isinstance(activation, str) or activation not in KAPPA:
        raise InputError("activation", activation, "the constant is known for 'relu' and 'linear'")
    scale = number("scale", scale, least=math.ulp(0.0))
    checked = Stack(loops=1, unique_layers=unique_layers, weight_variance=plain(weight_variance))
    gain = checked.weight_variance * KAPPA[activation](1.0) * checked.unique_layers
    return 2 * scale * math.sqrt(gain)
