"""Untied stacks: independent updates add in quadrature, so ε = L^-1/2 is enough."""

import xarray as xr

from residual_theory import Stack, predict
from residual_theory.claims import (
    Claim,
    Count,
    Round,
    Simulation,
    Twin,
    WideParameters,
    at_large_width,
    wide_simulations,
)


class Sizes(WideParameters):
    """Depths and rules to try."""

    unique_layers: tuple[Count, ...] = (4, 16, 32)
    scales: tuple[str, ...] = ("1/sqrt(L)", "1/L")


def plan(sizes: Sizes, current: Round) -> list[Simulation]:
    """Every depth under every rule, and the first depth with other variances."""
    stacks = [
        Stack(loops=1, unique_layers=layers, residual_scale=scale, tied=False)
        for layers in sizes.unique_layers
        for scale in sizes.scales
    ]
    stacks += [stack.model_copy(update={"weight_variance": 2.0, "initial_variance": 0.5}) for stack in stacks[:1]]
    return wide_simulations(stacks, sizes, current)


def exact(stack: Stack) -> xr.Dataset:
    """q0 (1 + ε²σ_w²/2)^k after k layers, written out: what derivations/independent_growth.py proves."""
    factor = 1 + stack.epsilon**2 * stack.weight_variance / 2
    return xr.Dataset(
        {"second_moment": ("visit", [stack.initial_variance * factor**k for k in range(stack.blocks + 1)])}
    )


def coherent(stack: Stack) -> xr.Dataset:
    """The law of one layer used L times at the same ε."""
    looped = {"tied": True, "loops": stack.blocks, "unique_layers": 1, "residual_scale": stack.epsilon}
    return predict(stack.model_copy(update=looped))


CLAIMS = (
    Claim(
        id="independent-growth",
        level="simulation",
        statement="L untied ReLU layers have R² = q0 (1 + ε²σ_w²/2)^L, so that ε = 1/√L keeps them bounded",
        source="arXiv:2606.18524, App. A.1",
        paper="App. A.1",
        recorded="confirmed",
        reason="the second moment at large width equals the closed form at every depth and scale",
        margin="5 % of the prediction: at most a seventh of what separates it from the coherent law; the mean is the "
        "closed form at every width, and a stack's R² varies by about 1 %",
        law=exact,
        twin=Twin("untied layers grow as one layer used L times (updates add coherently)", coherent),
        parameters=Sizes,
        plan=plan,
        check=at_large_width,
    ),
)
