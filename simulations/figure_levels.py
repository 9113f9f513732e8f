"""The levels read off the paper's Fig. 2 d–f: which random stack has them."""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from residual_theory import Stack
from residual_theory.claims import (
    Claim,
    Count,
    Evidence,
    Observations,
    Positive,
    Round,
    Simulation,
    Twin,
    WideParameters,
    label,
    pooled,
    wide_simulations,
    within,
)

LEVELS = {"1": 60.0, "1/sqrt(N)": 8.0, "1/N": 1.0}  # R at 64 loops, off the plot, each to about 15 %


class Model(NamedTuple):
    """One layer looped, by the fields that are open."""

    normalization: Literal["none", "rms"]
    weight_variance: float
    initial_variance: float


THEOREM, WIDER = Model("none", 1.0, 1.0), Model("none", 2.0, 1.0)
PRE_NORM, NARROWER = Model("rms", 2.0, 0.1), Model("rms", 1.0, 0.1)


class Sizes(WideParameters):
    """Loops, as in the figure. `margin` is the reading error, relative."""

    loops: Count = 64
    width: Count = 1024
    margin: Positive = 0.15


def plan(sizes: Sizes, current: Round, *, models: Sequence[Model]) -> list[Simulation]:
    """Every model under the three rules."""
    stacks = [Stack(loops=sizes.loops, residual_scale=rule, **model._asdict()) for model in models for rule in LEVELS]
    return wide_simulations(stacks, sizes, current)


def check(sizes: Sizes, observations: Observations, model: Model) -> Evidence:
    """The three levels of one model; log R, for raw stacks are heavy-tailed."""
    findings = []
    for simulation, drawn in pooled(Simulation, observations):
        stack = simulation.stack
        if model == Model(stack.normalization, stack.weight_variance, stack.initial_variance):  # type: ignore[arg-type]
            value, stderr = float(drawn.log_second_moment[-1]) / 2, float(drawn.log_second_moment_stderr[-1]) / 2
            middle, reach = math.log(LEVELS[str(stack.residual_scale)]), math.log1p(sizes.margin)
            where = f"log R at {label(stack)}"
            findings.append(within(where, value, stderr, middle - reach, middle + reach, samples=int(drawn.samples)))
    return Evidence(tuple(findings))


CLAIMS = (
    Claim(
        id="figure-levels-raw",
        level="simulation",
        statement="the levels of Fig. 2 d–f at 64 loops, R ≈ 60, 8 and 1 under ε = 1, 1/√N and 1/N, are those of "
        "Theorem 1's model: raw ReLU, Var W = 1/d",
        source="arXiv:2606.18524, Fig. 2 and Theorem 1",
        paper="Fig. 2",
        recorded="refuted",
        reason="that model has 3·10¹⁴, 92 and 1.25",
        margin="15 %, the error of reading a plot",
        law=THEOREM,
        twin=Twin("they are those of the raw stack with Var W = 2/d", WIDER),
        parameters=Sizes,
        plan=functools.partial(plan, models=(THEOREM, WIDER)),
        check=check,
    ),
    Claim(
        id="figure-levels-pre-norm",
        level="simulation",
        statement="the levels of Fig. 2 d–f at 64 loops, R ≈ 60, 8 and 1 under ε = 1, 1/√N and 1/N, are those of a "
        "pre-norm ReLU stack with Var W = 2/d whose input is small, q0 = 0.1",
        source="arXiv:2606.18524, Fig. 2 (the model is ours)",
        paper="Fig. 2",
        recorded="confirmed",
        reason="that model has 61.4, 7.6 and 1.0; at q0 = 1 the third is 1.4, and below q0 = 0.2 hardly depends on q0",
        margin="15 %, the error of reading a plot",
        law=PRE_NORM,
        twin=Twin("they are those of a pre-norm stack with Var W = 1/d", NARROWER),
        parameters=Sizes,
        plan=functools.partial(plan, models=(PRE_NORM, NARROWER)),
        check=check,
    ),
)
