"""Hermite modes of an activation: the kernel they make of the correlation, its bounds, and that it rises."""

from typing import Any

import sympy
from sympy import Integral, Rational, Sum, exp, factorial, oo, pi, sqrt

from residual_theory.proofs import ways as by
from residual_theory.proofs.pair_recursion import c
from residual_theory.proofs.steps import Step

k, p, r = sympy.symbols("k p r", integer=True, nonnegative=True)
omega = sympy.Symbol("omega", positive=True)
x, alpha, beta = sympy.symbols("x alpha beta", real=True)
low = sympy.Symbol("l", nonnegative=True)  # a correlation below c
spare, one, two, older = sympy.symbols("g u v h", nonnegative=True)  # slacks of earlier steps
KERNEL = omega * c**p + (1 - omega) * c**r
SHARE = {omega: (0, 1), c: (0, 1), p: (0, 3), r: (0, 4)}


def normal(variable: Any) -> Any:
    """The standard normal density."""
    return exp(-(variable**2) / 2) / sqrt(2 * pi)


def modes() -> tuple[Step, ...]:
    """The Hermite modes of an activation, and the dual kernel they make."""
    exponential = Step(
        "A Gaussian exponential",
        Integral(exp(alpha * x) * normal(x), (x, -oo, oo)),
        exp(alpha**2 / 2),
        "So e^(αu − α²/2), which generates the Hermite polynomials, Σ He_k(u) α^k/k!, has mean 1.",
        domain={alpha: (-2, 2)},
    )
    parts = (exponential.rhs.subs(alpha, part) for part in (alpha + beta * c, beta * sqrt(1 - c**2)))
    pair = Step(
        "Two of them",
        sympy.prod(parts) * exp(-(alpha**2) / 2 - beta**2 / 2),
        exp(alpha * beta * c),
        "E e^(αu − α²/2) e^(βv − β²/2) for v = cu + √(1 − c²) y with u, y independent: the last step for both. It "
        "generates E[He_j(u) He_k(v)] α^j β^k/(j! k!).",
        domain={c: (0, 1), alpha: (-2, 2), beta: (-2, 2)},
    )
    series = Step(
        "Each mode becomes a power of the correlation",
        Sum((alpha * beta * c) ** k / factorial(k), (k, 0, oo)),
        pair.rhs,
        "So E[He_j(u) He_k(v)] = k! c^k if j = k, else 0: for φ = Σ a_k He_k/√k! the kernel F(c) = E[φ(u) φ(v)] is "
        "Σ a_k² c^k, without negative coefficients whatever the signs of φ.",
        domain={c: (0, 1), alpha: (-2, 2), beta: (-2, 2)},
    )
    below = Step(
        "A power of a correlation is at most 1",
        c**k,
        1 + 0 * c,
        "By induction.",
        relation="<=",
        proof=by.induction(k, hypothesis=older, certificate=older * c + spare, known={spare: 1 - c}),
        given=(1 - c,),
        domain=SHARE,
    )
    most = Step(
        "The kernel is at most its value at 1",
        KERNEL,
        1 + 0 * c,
        "F(c)/F(1) for two modes with shares ω and 1 − ω of F(1) = Eφ²; further modes add alike.",
        relation="<=",
        proof=by.certificate(omega * one + spare * two, {one: (below, {k: p}), two: (below, {k: r}), spare: 1 - omega}),
        given=(1 - c, 1 - omega),
        domain=SHARE,
    )
    least = Step(
        "and at least any one of its modes",
        KERNEL,
        omega * c**p,
        "For c ≥ 0 the other modes add something nonnegative.",
        relation=">=",
        proof=by.certificate(spare * c**r, {spare: 1 - omega}),
        given=(1 - omega,),
        domain=SHARE,
    )
    return exponential, pair, series, below, most, least


def rising() -> tuple[Step, Step]:
    """Powers and the kernel grow with the correlation."""
    power = Step(
        "Powers rise",
        c**k,
        low**k,
        "By induction.",
        relation=">=",
        proof=by.induction(k, hypothesis=older, certificate=older * c + spare * low**k, known={spare: c - low}),
        given=(c - low,),
        domain={c: (Rational(1, 2), 1), low: (0, Rational(1, 2)), k: (1, 4)},
    )
    kernel = Step(
        "and so does the kernel",
        KERNEL,
        KERNEL.subs(c, low),
        "Mode by mode.",
        relation=">=",
        proof=by.certificate(omega * one + spare * two, {one: (power, {k: p}), two: (power, {k: r}), spare: 1 - omega}),
        given=(c - low, 1 - omega),
        domain=SHARE | {c: (Rational(1, 2), 1), low: (0, Rational(1, 2)), p: (1, 3)},
    )
    return power, kernel
