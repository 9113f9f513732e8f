"""L layers looped N times: ε = λ/(N√L) bounds the stream uniformly in N and L, 1/√(NL) does not."""

import math
from typing import Annotated

from pydantic import Field

from residual_theory import Stack, predict
from residual_theory.claims import (
    Claim,
    Count,
    Evidence,
    Observations,
    Round,
    Simulation,
    StackLaw,
    Twin,
    WideParameters,
    at_large_width,
    label,
    pooled,
    untied,
    wide_simulations,
    within,
)
from residual_theory.theory.growth import growth_exponents

RULES = {"1/(N*sqrt(L))": (1.0, 0.5), "1/sqrt(N*L)": (0.5, 0.5)}  # with their exponents of N and L
BOUNDS = (1.5, 1.65)  # at λ = 1: 1.5 for a single visit, e^(1/2) = 1.649 for infinitely many untied layers


class Sizes(WideParameters):
    """(N, L) pairs under the factored rule, and, looped, under the rule for N·L independent layers."""

    factored: tuple[tuple[Count, Count], ...] = ((2, 8), (4, 2), (8, 4), (16, 2))
    unfactored: tuple[tuple[Annotated[int, Field(ge=2)], Count], ...] = ((2, 8), (4, 2), (4, 4))
    width: Count = 16384


def plan(parameters: Sizes, current: Round) -> list[Simulation]:
    """Both rules at their sizes."""
    rules = zip(RULES, (parameters.factored, parameters.unfactored), strict=True)
    stacks = [
        Stack(loops=loops, unique_layers=layers, residual_scale=rule)
        for rule, sizes in rules
        for loops, layers in sizes
    ]
    return wide_simulations(stacks, parameters, current)


def check(parameters: Sizes, observations: Observations, law: StackLaw) -> Evidence:
    """Every stack against the law, and against the uniform bounds: within or above, by the exponents of its rule."""
    findings = list(at_large_width(parameters, observations, law).findings)
    for simulation, drawn in pooled(Simulation, observations):
        stack = simulation.stack
        low, high = BOUNDS if growth_exponents(*RULES[str(stack.residual_scale)]) == (0, 0) else (BOUNDS[1], math.inf)
        value, stderr = float(drawn.second_moment[-1]), float(drawn.second_moment_stderr[-1])
        findings.append(within(f"R² at {label(stack)}", value, stderr, low, high, samples=int(drawn.samples)))
    return Evidence(tuple(findings))


CLAIMS = (
    Claim(
        id="factored-scaling",
        level="simulation",
        statement="L ReLU layers looped N times follow the exact recursion, and under ε = 1/(N√L) keep R² within "
        "[1.5, 1.65] q0, which it passes under 1/√(NL), at every (N, L) tried",
        source="arXiv:2606.18524, Theorem 3",
        paper=("Theorem 3", "Theorem 6"),
        recorded="confirmed",
        reason="the second moment at width 16 384 equals the exact recursion at every (N, L) and rule, "
        "and lies within the bounds under the factored one only",
        margin="the bounds themselves, and 5 % of the prediction: a quarter of what separates it from the "
        "untied law at N = 2; the bias of order N/width is below 0.2 %, and a stack's R² varies by about 1 %",
        law=predict,
        twin=Twin("L layers looped N times grow as N·L independent layers do", untied),
        parameters=Sizes,
        plan=plan,
        check=check,
    ),
)
