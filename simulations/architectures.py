"""Architectures with decay, injection and norms of their own: DeepLoop and Parcae as random stacks."""

from typing import Annotated

import xarray as xr
from pydantic import Field

from residual_theory import Stack, predict
from residual_theory.claims import (
    Claim,
    Count,
    Evidence,
    Observations,
    Round,
    Simulation,
    Twin,
    WideParameters,
    at_large_width,
    elements,
    label,
    pooled,
    wide_simulations,
)


class Sizes(WideParameters):
    """Loops, and layers in each."""

    loops: tuple[Count, ...] = (4, 8)
    layers: Count = 2
    width: Count = 32768


class PostNormSizes(Sizes):
    """As wide as it takes: the first norm takes out the fluctuation 1/√(2d) of the input's size, as a change."""

    width: Count = 65536
    samples: Annotated[int, Field(ge=2)] = 24


def plan_deeploop(sizes: Sizes, current: Round) -> list[Simulation]:
    """Both exponents p: 1/2 for coherent visits, 1/4 for independent ones."""
    stacks = [
        Stack(
            loops=loops,
            unique_layers=sizes.layers,
            normalization="rms-post",
            skip=f"(2*N*L)^{power}",
            residual_scale=f"(8*N*L)^(-{power})",
        )
        for loops in sizes.loops
        for power in (0.5, 0.25)
    ]
    return wide_simulations(stacks, sizes, current)


def check_deeploop(sizes: Sizes, observations: Observations, tied: bool) -> Evidence:
    """The cosine between the changes of every pair of loops; a norm fixes the stream's size."""
    findings = []
    for simulation, drawn in pooled(Simulation, observations):
        stack = simulation.stack
        law = predict(stack.model_copy(update={"tied": tied}), with_gradients=False)
        findings += elements(drawn, law, "increment_cosine", sizes.margin, label(stack))
    return Evidence(tuple(findings))


def plan_parcae(sizes: Sizes, current: Round) -> list[Simulation]:
    """Decay and injection once a loop."""
    stacks = [
        Stack(loops=loops, unique_layers=sizes.layers, carry=decay, injection=1 - decay, residual_scale=0.4)
        for loops in sizes.loops
        for decay in (0.4472, 0.7)
    ]
    return wide_simulations(stacks, sizes, current)


def without_injection(stack: Stack) -> xr.Dataset:
    """The law of decay alone."""
    return predict(stack.model_copy(update={"injection": 0.0}), with_gradients=False)


CLAIMS = (
    Claim(
        id="deeploop",
        level="simulation",
        statement="in looped stacks with DeepLoop's norms and constants, at p = 1/2 and 1/4, the changes of different "
        "loops have the predicted cosines",
        source="arXiv:2607.13491 (the architecture); this project (the prediction)",
        recorded="confirmed",
        reason="the cosine of every pair of loops equals the exact recursion, post-norm and all",
        margin="0.05 absolute: at width 65 536 the fluctuation of the input's size, which the first norm takes out, "
        "moves cosines with the first loop by 0.02 (by 0.3 at width 2048 and 12 loops)",
        law=True,
        twin=Twin("the cosines are those of layers with weights of their own", False),
        parameters=PostNormSizes,
        plan=plan_deeploop,
        check=check_deeploop,
    ),
    Claim(
        id="parcae",
        level="simulation",
        statement="looped stacks with Parcae's decay and injection have the predicted second moment at every number of "
        "loops",
        source="arXiv:2604.12946 (the architecture); this project (the prediction)",
        recorded="confirmed",
        reason="the second moment equals the exact recursion with decay 0.45 and 0.7",
        margin="5 % of the prediction: injection is more than half of it",
        law=predict,
        twin=Twin("nothing is injected: decay alone", without_injection),
        parameters=Sizes,
        plan=plan_parcae,
        check=at_large_width,
    ),
)
