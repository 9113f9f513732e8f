"""What Theorems 1 and 6 of the paper assume of the forward pass, measured: what holds, and with what constants."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import xarray as xr

from residual_theory import Stack, predict
from residual_theory.claims import (
    Assumptions,
    Claim,
    ConeGain,
    Count,
    Draws,
    Evidence,
    Finding,
    FittedSizes,
    Measurement,
    Observations,
    Parameters,
    Positive,
    Round,
    Twin,
    bounded,
    curves,
    equivalence,
    label,
    own_trials,
    pooled,
    trials,
    unbounded,
)
from residual_theory.theory.constants import Constants, constants

ROOT, INVERSE, FACTORED = "1/sqrt(N)", "1/N", "1/(N*sqrt(L))"
NO_GROWTH = 0.1  # an exponent that still counts as none


def drawn(
    stacks: Sequence[Stack], width: int, samples: int, current: Round, *, redraw: bool = False, first: int = 0
) -> list[Assumptions]:
    """The assumptions of each stack, on trials of its own."""
    return [
        Assumptions(stack=stack, redraw=redraw, width=width, **own_trials(samples, current, first + place))
        for place, stack in enumerate(stacks)
    ]


class InputSizes(Parameters):
    """Loop counts, those of the raw stack at ε = 1, the width of all, and the stacks drawn at first."""

    loops: FittedSizes = (2, 4, 8, 16, 32)
    loops_unscaled: FittedSizes = (2, 3, 4, 5, 6)
    width: Count = 16384
    samples: Draws = 12
    margin: Positive = 0.15
    rounds: Count = 3


def plan_inputs(sizes: InputSizes, current: Round) -> list[Assumptions]:
    """Raw stacks under 1/N, 1/√N and ε = 1; pre-norm ones at ε = 1."""
    stacks = [Stack(loops=N, residual_scale=rule) for rule in (INVERSE, ROOT) for N in sizes.loops]
    stacks += [Stack(loops=N, residual_scale=1.0) for N in sizes.loops_unscaled]
    stacks += [Stack(loops=N, residual_scale=1.0, normalization="rms") for N in sizes.loops]
    return drawn(stacks, sizes.width, sizes.samples, current)


class Inputs(NamedTuple):
    """The mean entry and the mean square of what the matrix is given, over loops."""

    mean: float
    square: float


def inputs(stack: Stack) -> Inputs:
    """At infinite width."""
    found = constants(stack)
    return Inputs(float(found.input_mean[0]), float(found.input_square[0]))


def inputs_of_independent_visits(stack: Stack) -> Inputs:
    """If the stream had grown as through layers with weights of their own."""
    squares = predict(stack.model_copy(update={"tied": False}), with_gradients=False).second_moment.values[:-1]
    read = squares if stack.normalization == "none" else np.ones_like(squares)
    return Inputs(float(np.sqrt(read / math.tau).mean()), float(read.mean()) / 2)


def check_inputs(sizes: InputSizes, observations: Observations, law: Callable[[Stack], Inputs]) -> Evidence:
    """m and q at every stack, and whether q ends growing with N: everywhere but in raw stacks above 1/N."""
    findings: list[Finding] = []
    for measurement, found in pooled(Assumptions, observations):
        stack = measurement.stack
        expected = law(stack)
        for name, symbol, value in (("input_mean", "m", expected.mean), ("input_square", "q", expected.square)):
            findings.append(
                equivalence(
                    f"{symbol} at {label(stack)}", float(found[name][0]), float(found[f"{name}_stderr"][0]),
                    predicted=value, margin=sizes.margin * value, samples=int(found.samples),
                )
            )  # fmt: skip
    found_curves = curves(
        observations,
        lambda stack: (stack.residual_scale, stack.normalization),
        lambda stack: stack.loops,
        lambda _, found: (float(found.input_square[0]), float(found.input_square_stderr[0])),
    )
    for (rule, normalization), curve in found_curves.items():
        test = bounded if rule == INVERSE or normalization == "rms" else unbounded
        where = f"q, {'raw' if normalization == 'none' else 'pre-norm'}, ε = {rule},"
        findings.append(test(where, *curve, margin=NO_GROWTH))
    return Evidence(tuple(findings))


class ConeSizes(Parameters):
    """The matrices that are searched, at first, and steps of a search; stacks whose own sums of inputs are tried."""

    width: Count = 256
    steps: Count = 300
    samples: Draws = 16
    loops: tuple[Count, ...] = (4, 32)
    stack_width: Count = 4096
    stacks: Draws = 12
    margin: Positive = 0.05
    rounds: Count = 3


class Gains(NamedTuple):
    """Of W, over σ_w: the least and the most on nonnegative vectors, and at the sum of a looped layer's inputs."""

    least: float
    most: float
    at_sum: float


def plan_cone(sizes: ConeSizes, current: Round) -> list[Measurement]:
    """Matrices by themselves, and stacks."""
    start, count = trials(sizes.samples, current.number)
    searched = ConeGain(width=sizes.width, steps=sizes.steps, samples=count, seed=current.seed, first_trial=start)
    stacks = [Stack(loops=N, residual_scale=INVERSE, weight_variance=1.5) for N in sizes.loops]
    stacks += [stack.model_copy(update={"residual_scale": 1.0, "normalization": "rms"}) for stack in stacks]
    return [searched, *drawn(stacks, sizes.stack_width, sizes.stacks, current)]


def check_cone(sizes: ConeSizes, observations: Observations, law: Gains) -> Evidence:
    """The gains that the search finds, and those at the sums that Theorem 1 applies Lemma 5 to."""
    findings = []
    for _, found in pooled(ConeGain, observations):
        for name, value in (("least", law.least), ("most", law.most)):
            findings.append(
                equivalence(
                    f"{name} gain on nonnegative vectors, over σ_w,",
                    float(found[name]), float(found[f"{name}_stderr"]),
                    predicted=value, margin=sizes.margin, samples=int(found.samples),
                )
            )  # fmt: skip
    for measurement, found in pooled(Assumptions, observations):
        stack = measurement.stack
        unit = stack.weight_variance**0.5
        findings.append(
            equivalence(
                f"‖WU‖/(σ_w‖U‖) at {label(stack)}", float(found.gain[0]) / unit, float(found.gain_stderr[0]) / unit,
                predicted=law.at_sum, margin=sizes.margin, samples=int(found.samples),
            )
        )  # fmt: skip
    return Evidence(tuple(findings))


class LayerSizes(Parameters):
    """(N, L) under the factored rule with layers redrawn; layer counts, at one N, over which growth is fitted."""

    sizes: tuple[tuple[Count, Count], ...] = ((4, 2), (16, 2), (4, 8))
    width: Count = 1024
    samples: Draws = 24
    layers: FittedSizes = (1, 2, 4, 8, 16)
    loops_of_layers: Count = 4
    wide: Count = 4096
    margin: Positive = 0.15
    margin_own: Positive = 0.15
    rounds: Count = 3


def plan_layers(sizes: LayerSizes, current: Round) -> list[Assumptions]:
    """Raw and pre-norm with one layer redrawn; raw without, under the factored rule and under 1/N."""
    stacks = [
        Stack(loops=N, unique_layers=L, residual_scale=FACTORED, normalization=normalization)
        for normalization in ("none", "rms")
        for N, L in sizes.sizes
    ]
    grown = [
        Stack(loops=sizes.loops_of_layers, unique_layers=L, residual_scale=rule)
        for rule in (FACTORED, INVERSE)
        for L in sizes.layers
    ]
    redrawn = drawn(stacks, sizes.width, sizes.samples, current, redraw=True)
    return [*redrawn, *drawn(grown, sizes.wide, sizes.samples, current, first=len(stacks))]


def check_layers(sizes: LayerSizes, observations: Observations, law: Callable[[Stack], Constants]) -> Evidence:
    """a of the first and the last layer, C_1 and C_0 where layers were redrawn; and whether a ends growing with L."""
    findings: list[Finding] = []
    for measurement, found in pooled(Assumptions, observations):
        if measurement.redraw:
            findings += _of_layers(sizes, measurement.stack, found, law(measurement.stack))
    grown = [item for item in pooled(Assumptions, observations) if not item.measurement.redraw]
    found_curves = curves(
        grown,
        lambda stack: stack.residual_scale,
        lambda stack: stack.unique_layers,
        lambda _, found: (float(found.output_square[-1]), float(found.output_square_stderr[-1])),
    )
    for rule, curve in found_curves.items():
        test = bounded if rule == FACTORED else unbounded
        findings.append(test(f"q(Y) of the last layer in L, ε = {rule},", *curve, margin=NO_GROWTH))
    return Evidence(tuple(findings))


def _of_layers(sizes: LayerSizes, stack: Stack, found: xr.Dataset, expected: Constants) -> list[Finding]:
    samples, beta_square = int(found.samples), (stack.epsilon * stack.loops) ** 2
    others = ~np.eye(stack.unique_layers, dtype=bool)
    change = float(expected.redraw_change[others].mean())
    rows = [
        (f"q(Y) of layer {place + 1}", found.output_square[place], found.output_square_stderr[place],
         float(expected.output_square[place]), sizes.margin * float(expected.output_square[place]))
        for place in (0, stack.unique_layers - 1)
    ]  # fmt: skip
    rows += [
        ("½q(Y_l − Y_l^(s))/β²", found.other_change / beta_square, found.other_change_stderr / beta_square,
         change / beta_square, sizes.margin * float(constants(stack).other_change) / beta_square),
        ("q(B)/β²", found.own_product / beta_square, found.own_product_stderr / beta_square,
         expected.own_product, sizes.margin_own),
    ]  # fmt: skip
    return [
        equivalence(
            f"{name} at {label(stack)}", float(value), float(stderr),
            predicted=predicted, margin=margin, samples=samples,
        )
        for name, value, stderr, predicted, margin in rows
    ]  # fmt: skip


def layers_apart(stack: Stack) -> Constants:
    """If what a layer adds did not depend on the other layers' weights."""
    found = constants(stack)
    return replace(found, redraw_change=np.diag(np.diag(found.redraw_change)))


CLAIMS = (
    Claim(
        id="assumption-inputs",
        level="simulation",
        statement="the inputs of a looped ReLU layer keep a mean entry of at least m₋ and a mean square of at most q₊ "
        "at every N, raw under 1/N and pre-norm at ε = 1; raw under 1/√N and ε = 1 they keep the first alone",
        source="arXiv:2606.18524, Lemma 4 and Theorem 1, assumptions (1) and (2)",
        paper=("Lemma 4", "Theorem 1"),
        recorded="confirmed",
        reason="both equal the recursion's at every N: m ≥ √(q0/2π) = 0.399 always; q ≤ 0.60 under 1/N, ½ pre-norm",
        margin="15 %: R² of one raw stack under 1/√N varies by √(1.8 N/width), 6 % at 32; the twin is off by factors "
        "there. An exponent of 0.1 still counts as no growth",
        law=inputs,
        twin=Twin("the stream grows as through layers with weights of their own", inputs_of_independent_visits),
        parameters=InputSizes,
        plan=plan_inputs,
        check=check_inputs,
    ),
    Claim(
        id="assumption-cone",
        level="simulation",
        statement="a square Gaussian matrix stretches nonnegative vectors by (1 ± 1/√2)σ_w at the extremes, both "
        "reached by a search, and the sum of a looped layer's inputs by σ_w",
        source="arXiv:2606.18524, Lemma 5, and assumption (3) of Theorem 1",
        paper=("Lemma 5", "Theorem 1"),
        recorded="confirmed",
        reason="searches end at both of Gordon's bounds; the sums' gain is σ_w up to 1/√width, though they depend on W",
        margin="0.05 in units of σ_w: at width 256 the most is 0.02 below its limit, and over all vectors 0 and 2 are "
        "reached",
        law=Gains(1 - 0.5**0.5, 1 + 0.5**0.5, 1.0),
        twin=Twin("the least and most are those over all vectors, 0 and 2σ_w", Gains(0.0, 2.0, 1.0)),
        parameters=ConeSizes,
        plan=plan_cone,
        check=check_cone,
    ),
    Claim(
        id="assumption-layers",
        level="simulation",
        statement="under ε = λ/(N√L) what a layer adds has a size within a₋ … a₊, and redrawing another layer changes "
        "it by C_1β², at every N and L; C_0 is 0 at infinite width; under 1/N a₊ grows with L",
        source="arXiv:2606.18524, Theorem 6, assumptions (7)–(9)",
        paper=("Theorem 3", "Theorem 6"),
        recorded="confirmed",
        reason="all equal a recursion for stacks with one layer redrawn, raw and pre-norm",
        margin="15 % of a and of the largest C_1, terms of order NL/width among it; 0.15 on C_0, which is of the size "
        "of C_1. An exponent of 0.1 still counts as no growth",
        law=constants,
        twin=Twin("what a layer adds does not depend on the other layers' weights (C_1 = 0)", layers_apart),
        parameters=LayerSizes,
        plan=plan_layers,
        check=check_layers,
    ),
)
