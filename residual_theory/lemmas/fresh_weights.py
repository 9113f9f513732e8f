"""One entry of a fresh Gaussian matrix: mean and variance."""

import sympy
from sympy import Integral, exp, oo, pi, sqrt

from residual_theory.proofs.steps import Step

s = sympy.Symbol("sigma_w", positive=True)
d = sympy.Symbol("d", integer=True, positive=True)
_w = sympy.Symbol("w", real=True)


def entry() -> tuple[Step, Step]:
    """E W_ij = 0 and E W_ij² = σ_w²/d.

    >>> [str(step.rhs) for step in entry()]
    ['0', 'sigma_w**2/d']
    """
    density = exp(-(_w**2) * d / (2 * s**2)) * sqrt(d) / (s * sqrt(2 * pi))
    return (
        Step(
            "An entry of W has mean zero",
            Integral(_w * density, (_w, -oo, oo)),
            0 * d,
            "The fresh W is independent of the stream h and of its input x = φ(h), so E⟨h, W x⟩ = 0: the cross term "
            "of ‖h + ε W x‖² vanishes, as do products of two different entries of W.",
        ),
        Step(
            "An entry of W has variance σ_w²/d",
            Integral(_w**2 * density, (_w, -oo, oo)),
            s**2 / d,
            "The law of the weights.",
        ),
    )
