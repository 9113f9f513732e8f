"""The paper's diagnostic: the first ten steps of its Transformer on fixed random tokens (Fig. 2, 3, 4, 9)."""

import math
from typing import Annotated

import numpy as np
import xarray as xr
from pydantic import Field

from residual_theory import InputError
from residual_theory.claims import (
    Array,
    Claim,
    Count,
    Diagnostic,
    Evidence,
    Finding,
    FittedSizes,
    Measurement,
    ModelConfig,
    Observations,
    Parameters,
    Positive,
    Prediction,
    Round,
    Seeds,
    Twin,
    has,
    paired_exponent,
    pooled,
    positive,
    transformer,
    within,
)

RULES = ("1", "1/sqrt(N)", "1/N")
Law = dict[str, float]  # the exponent in N under each rule


class Sizes(Parameters):
    """One Transformer, looped under each rule.

    The defaults are a small one as strong as the paper's: one pass adds about 1 to R, and at N = 1 the first step
    changes the final state by about its own size (a factor 1.2; at the paper's sizes 1.4).
    loops: rising from 1, where the rules coincide. trained: the untied models that take steps, those of so many copies
    at most; deeper ones are read at initialisation.
    """

    width: Count = 64
    heads: Count = 4
    mlp_width: Count = 176
    vocabulary: Count = 1024
    context: Count = 32
    init_std: Positive = 0.12
    layers: Count = 2
    loops: FittedSizes = (1, 2, 4, 8, 16)
    seeds: Seeds = 16
    untied_seeds: Count = 2
    steps: Count = 10
    learning_rate: Positive = 6e-3
    trained: Annotated[int, Field(ge=0)] = 2
    device: str = "cpu"
    margin: Positive = 0.25
    margin_factor: Positive = 4.0

    def model_post_init(self, _: object) -> None:
        """Raises: InputError unless loop counts rise from 1."""
        if list(self.loops) != sorted(set(self.loops)) or self.loops[0] != 1:
            raise InputError("loops", self.loops, "must rise from 1, where the rules coincide")

    def model(self, loops: int, rule: str, *, tied: bool = True) -> ModelConfig:
        """The stack looped, or copied, so many times; one loop is the same model under every rule, and tied."""
        fields = {"width", "heads", "mlp_width", "vocabulary", "context", "init_std"}
        sizes, alone = self.model_dump(include=fields), loops == 1
        given = {**sizes, "unique_layers": self.layers, "loops": loops}
        return ModelConfig(**given, residual_scale="1" if alone else rule, tied=tied or alone)

    def models(self, *, tied: bool) -> list[ModelConfig]:
        """One for each loop count and rule, those of few loops first; one loop once, among the tied."""
        several = [self.model(loops, rule, tied=tied) for loops in self.loops[1:] for rule in RULES]
        return [self.model(1, "1"), *several] if tied else several


def plan(sizes: Sizes, current: Round) -> list[Measurement]:
    """Tied models seed by seed, then the untied, then predictions for tokens that are all distinct, as most are.

    Raises: InputError for a run that does not fit into memory.
    """
    if current.number:
        return []
    base = current.seed % 2**40
    runs = [
        Diagnostic(
            model=model, seed=seed, steps=sizes.steps if tied or model.loops <= sizes.trained else 0,
            learning_rate=sizes.learning_rate, device=sizes.device,
        )
        for tied in (True, False)
        for seed in range(base, base + (sizes.seeds if tied else sizes.untied_seeds))
        for model in sizes.models(tied=tied)
    ]  # fmt: skip
    for run in runs:
        run.must_fit()
    models = [*sizes.models(tied=True), *sizes.models(tied=False)]
    stacks = [transformer(model, range(sizes.context), tied=model.tied) for model in models]
    return [*runs, *(Prediction(stack=stack, with_gradients=False) for stack in stacks)]


def runs_by_loops(sizes: Sizes, observations: Observations, rule: str) -> list[tuple[xr.Dataset, ...]]:
    """The tied runs under a rule, by seed and loop count."""
    by_loops = []
    for loops in sizes.loops:
        wanted = {"loops": loops, "residual_scale": rule if loops > 1 else "1", "tied": True}
        found = [one for one in pooled(Diagnostic, observations) if has(one.measurement.model, **wanted)]
        by_loops.append([one.result for one in sorted(found, key=lambda one: one.measurement.seed)])
    return list(zip(*by_loops, strict=True))


def updates(sizes: Sizes, observations: Observations, rule: str) -> Array:
    """The rms of what each step changes in the final state: (step, seed, loops)."""
    runs = runs_by_loops(sizes, observations, rule)
    return np.moveaxis(np.array([[run.state_change.values for run in row] for row in runs]), -1, 0)


def norms(sizes: Sizes, observations: Observations, rule: str) -> Array:
    """R at the end of the last loop before every step and after the last: (step, seed, loops)."""
    runs = runs_by_loops(sizes, observations, rule)
    ends = [[run.covariance.values[:, -1, -1] for run in row] for row in runs]
    return np.sqrt(np.moveaxis(np.array(ends), -1, 0))


def fitted(sizes: Sizes, what: str, values: Array, rule: str, law: Law, first: int) -> list[Finding]:
    """At each step, does a quantity grow in N as the law says under a rule? From `first`, the number of its first."""
    return [
        paired_exponent(
            f"exponent in N of {what} at step {step}, ε = {rule}", sizes.loops, of_step,
            predicted=law[rule], margin=sizes.margin,
        )
        for step, of_step in enumerate(values, start=first)
    ]  # fmt: skip


def check_first(sizes: Sizes, observations: Observations, law: Law) -> Evidence:
    """At the first step the update grows as the law says, and under 1/N its whole range over N is within the factor."""
    found = [fitted(sizes, "the update", updates(sizes, observations, rule)[:1], rule, law, 1) for rule in RULES[:2]]
    return Evidence((*found[0], *found[1], within_factor(sizes, updates(sizes, observations, "1/N")[0], 1)))


def check_later(sizes: Sizes, observations: Observations, sign: float) -> Evidence:
    """At every step the exponents lie above those of GROWTH less the margin, or below; the factor as at the first."""
    findings: list[Finding] = []
    for rule in RULES[:2]:
        bound = GROWTH[rule] - sizes.margin
        low, high = sorted((bound, sign * math.inf))
        for found in fitted(sizes, "the update", updates(sizes, observations, rule), rule, GROWTH, 1):
            findings.append(within(found.label, found.value, found.stderr, low, high, samples=found.samples))
    steps = enumerate(updates(sizes, observations, "1/N"), start=1)
    return Evidence((*findings, *(within_factor(sizes, of_step, step) for step, of_step in steps)))


def within_factor(sizes: Sizes, of_step: Array, step: int) -> Finding:
    """Is the largest update over N within the factor of the least, in the mean over seeds?"""
    room = math.log(sizes.margin_factor) - np.log(of_step.max(1) / of_step.min(1))
    return positive(f"log({sizes.margin_factor:g}/range over N) of the update at step {step}, ε = 1/N", room.tolist())


def check_levels(sizes: Sizes, observations: Observations, law: Law) -> Evidence:
    """Before every step and after the last the exponent of R in N, fitted over all N, is as the law says."""
    findings: list[Finding] = []
    for rule in RULES:
        low, high = law[rule] - sizes.margin, law[rule] + sizes.margin
        for found in fitted(sizes, "R", norms(sizes, observations, rule), rule, law, 0):
            findings.append(within(found.label, found.value, found.stderr, low, high, samples=found.samples))
    return Evidence(tuple(findings))


GROWTH = {"1": 1.0, "1/sqrt(N)": 0.5, "1/N": 0.0}
_PAIRED = "seeds fix weights and tokens, so that runs at different N are paired; an exponent is fitted to each seed"
_QUARTER = "0.25, half of what separates the rules; the exponents at the ends of the range are stated beside it"

CLAIMS = (
    Claim(
        id="first-updates",
        level="model",
        statement="the first optimizer step, at one rate for all N, changes the final state of a looped Transformer in "
        "proportion to N at ε = 1, to √N under 1/√N, and within a factor 4 over all N under 1/N",
        source="arXiv:2606.18524, Fig. 4",
        paper="Fig. 4",
        regime="L = 2, N = 1 … 16, width 64",
        recorded="confirmed",
        reason="at a rate so large that the step moves the state by its own size, as the paper's does; at smaller "
        "rates it grows faster (docs/findings.md)",
        margin=f"{_QUARTER}; the factor 4 is the paper's",
        law=GROWTH,
        twin=Twin("in proportion to √N at ε = 1 and not at all under 1/√N", {"1": 0.5, "1/sqrt(N)": 0.0}),
        parameters=Sizes,
        plan=plan,
        check=check_first,
    ),
    Claim(
        id="later-updates",
        drawn_with="first-updates",
        level="model",
        statement="at each of the first ten steps the update grows with N at least like N^¾ at ε = 1 and like N^¼ "
        "under 1/√N, and stays within a factor 4 over all N under 1/N",
        source="arXiv:2606.18524, Fig. 9",
        paper="Fig. 9",
        regime="L = 2, N = 1 … 16, width 64, 10 steps",
        recorded="confirmed",
        reason="seeds fix weights and tokens, so that runs at different N are paired; small models grow faster than "
        "the paper's N and √N at later steps, hence a bound",
        margin="bounds half way between the paper's N, √N and the next slower rule; the factor 4 is the paper's",
        law=1.0,
        twin=Twin("it grows more slowly than that", -1.0),
        parameters=Sizes,
        plan=plan,
        check=check_later,
    ),
    Claim(
        id="first-levels",
        drawn_with="first-updates",
        level="model",
        statement="before and after each of the first ten steps R at the end of a looped Transformer grows over the "
        "loop counts tried like N at ε = 1, like √N under 1/√N, and not under 1/N",
        source="arXiv:2606.18524, Fig. 2 d–f",
        paper="Fig. 2",
        regime="L = 2, N = 1 … 16, width 64, 10 steps",
        recorded="confirmed",
        reason=_PAIRED,
        margin=_QUARTER,
        law=GROWTH,
        twin=Twin("it grows like √N at ε = 1 and not under 1/√N", {"1": 0.5, "1/sqrt(N)": 0.0, "1/N": -0.5}),
        parameters=Sizes,
        plan=plan,
        check=check_levels,
    ),
)
