"""Densities of a centred Gaussian pair (u, v), and the steps about them that dual kernels start from."""

from typing import Any

from sympy import Derivative, exp, pi, sqrt, symbols

from residual_theory.proofs.steps import Step

q, p, s = symbols("q q' s", positive=True)  # the two variances, and the variance of v given u
k, u, v = symbols("k u v", real=True)  # the covariance, and the pair
BOX = {q: (1, 2), p: (1, 2), k: (-1, 1)}  # |k| < √(q q')
PLANE = {u: (-2, 2), v: (-2, 2)}


def normal(x: Any, variance: Any = 1) -> Any:
    """The density of a centred Gaussian, by default a standard one.

    >>> normal(0, 2)
    1/(2*sqrt(pi))
    """
    return exp(-(x**2) / (2 * variance)) / sqrt(2 * pi * variance)


def joint() -> Any:
    """The density of the pair, of variances q, q' and covariance k.

    >>> joint().subs({u: 0, v: 0, q: 1, p: 5, k: 1})
    1/(4*pi)
    """
    room = q * p - k**2
    return exp(-(p * u**2 - 2 * k * u * v + q * v**2) / (2 * room)) / (2 * pi * sqrt(room))


def price(because: str) -> Step:
    """The density's derivative in the covariance is its mixed derivative.

    >>> price("Integrate by parts.").title
    "Price's theorem"
    """
    return Step("Price's theorem", Derivative(joint(), k), Derivative(joint(), u, v), because, domain=BOX | PLANE)


def one_after_the_other() -> Step:
    """The density of the pair as that of u times that of v given u.

    >>> one_after_the_other().title
    'One after the other'
    """
    return Step(
        "One after the other",
        joint().subs(p, s + k**2 / q),
        normal(u, q) * normal(v - k * u / q, s),
        "The density of the pair: given u, v is Gaussian with mean ku/q and variance s = q' − k²/q, positive for a "
        "correlation below 1.",
        domain=PLANE,
    )
