"""Tied linear stacks of a few entries: the second moment is an exact polynomial in 1/width, at any width."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from residual_theory import Stack, predict
from residual_theory.claims import (
    Claim,
    Count,
    Evidence,
    Observations,
    Parameters,
    Positive,
    Round,
    Simulation,
    Twin,
    equivalence,
    label,
    pooled,
    trials,
)
from residual_theory.theory.finite_width import second_moment_at_width


class Sizes(Parameters):
    """Loops, widths (matrix-free above the loops, dense up to them) and stacks drawn in the first round.

    `margin` is a share of what the terms in 1/width add.
    """

    loops: tuple[Annotated[int, Field(ge=2, le=6)], ...] = (3,)
    widths: tuple[Count, ...] = (3, 5)
    samples: Count = 26_000
    margin: Positive = 0.4
    rounds: Count = 3


def plan(sizes: Sizes, current: Round) -> list[Simulation]:
    """Every number of loops at every width, and a pair of layers that share out four visits."""
    start, count = trials(sizes.samples, current.number)
    stacks = [Stack(loops=loops, residual_scale=0.8, activation="linear") for loops in sizes.loops]
    stacks += [Stack(loops=4, residual_scale=0.8, activation="linear", sharing=(0, 0, 1, 0))]
    return [
        Simulation(stack=stack, width=width, samples=count, seed=current.seed, first_trial=start)
        for stack in stacks
        for width in sizes.widths
    ]


def check(sizes: Sizes, observations: Observations, law: Callable[[Stack, int], float]) -> Evidence:
    """Every stack at every width."""
    findings = []
    for simulation, drawn in pooled(Simulation, observations):
        stack, width = simulation.stack, simulation.width
        predicted = law(stack, width)
        added = second_moment_at_width(stack, width) - without_width(stack, width)
        findings.append(
            equivalence(
                f"R² at width {width}, {label(stack)}",
                float(drawn.second_moment[-1]), float(drawn.second_moment_stderr[-1]),
                predicted=predicted, margin=sizes.margin * added, samples=int(drawn.samples),
            )
        )  # fmt: skip
    return Evidence(tuple(findings))


def without_width(stack: Stack, _: int) -> float:
    """The value at infinite width."""
    return float(predict(stack, with_gradients=False).second_moment[-1])


CLAIMS = (
    Claim(
        id="finite-width",
        level="simulation",
        statement="the second moment of a tied linear stack at widths 3 and 5 is the polynomial in 1/width that "
        "counting Wick pairings gives",
        source="this project",
        recorded="confirmed",
        reason="the mean over many stacks equals the polynomial at every width, with and without forming the matrix",
        margin="two fifths of what the terms in 1/width add, so that the value at infinite width lies well outside",
        law=second_moment_at_width,
        twin=Twin("the value at infinite width holds at every width", without_width),
        parameters=Sizes,
        plan=plan,
        check=check,
    ),
)
