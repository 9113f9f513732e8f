"""Steps about (1 + x)^N ≤ exp(Nx), for growth by a small factor at every visit."""

from typing import Any

import sympy
from sympy import exp, log

from residual_theory.proofs import ways as by
from residual_theory.proofs.steps import Step


def logarithm_below_tangent(x: Any) -> Step:
    """log(1 + x) ≤ x for a symbol x ≥ 0.

    >>> logarithm_below_tangent(sympy.Symbol("x", positive=True)).rhs
    x
    """
    return Step(
        "The logarithm lies below its tangent",
        log(1 + x),
        x,
        "Both vanish at 0, and x grows faster.".replace("x", str(x)),
        "<=",
        by.taylor(x, 1),
    )


def power_below_exponential(tangent: Step, title: str, because: str, times: Any, rate: Any = None) -> Step:
    """(1 + rate)^times ≤ exp(times·rate), with times ≥ 0, from `logarithm_below_tangent`.

    Arguments:
      rate: what stands for the symbol of `tangent`, by default that symbol.

    >>> x, N = sympy.symbols("x N", positive=True)
    >>> power_below_exponential(logarithm_below_tangent(x), "Title", "Reason.", N, 2 * x).lhs
    (2*x + 1)**N
    """
    rate, slack = tangent.rhs if rate is None else rate, sympy.Symbol("a", nonnegative=True)
    proof = by.certificate(times * slack, {slack: (tangent, {tangent.rhs: rate})}, logarithm=True)
    return Step(title, (1 + rate) ** times, exp(times * rate), because, "<=", proof)


def bernoulli(x: Any, times: Any) -> Step:
    """(1 + x)^times ≥ 1 + times·x for a symbol x ≥ 0 and a number of times ≥ 1, itself a symbol.

    >>> x, N = sympy.Symbol("x", positive=True), sympy.Symbol("N", integer=True, positive=True)
    >>> bernoulli(x, N).rhs
    N*x + 1
    """
    slack = sympy.Symbol("a", nonnegative=True)
    return Step(
        "Lower bound (Bernoulli)",
        (1 + x) ** times,
        1 + times * x,
        "Multiplying by 1 + x ≥ 1 adds at least x each time.",
        ">=",
        by.induction(times, start=1, hypothesis=slack, certificate=sympy.expand(slack * (1 + x) + times * x**2)),
    )
