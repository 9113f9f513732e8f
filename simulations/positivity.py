"""Activations without a positive mean: linear and odd ones add coherently too, and need ε = 1/N."""

from residual_theory import Stack, predict
from residual_theory.claims import (
    Activation,
    Claim,
    Count,
    Round,
    Simulation,
    Twin,
    WideParameters,
    at_large_width,
    untied,
    wide_simulations,
)

ACTIVATIONS: tuple[Activation, ...] = ("linear", "erf", "tanh")


class Sizes(WideParameters):
    """Loops under 1/N for every activation, and under 1/√N."""

    loops: tuple[Count, ...] = (4, 16, 32)
    loops_root: tuple[Count, ...] = (4, 8)
    width_root: Count = 65536  # whose R² varies by √(1.8 N/width) or, of linear stacks, more


def plan(sizes: Sizes, current: Round) -> list[Simulation]:
    """Every activation under both rules."""
    wider = sizes.model_copy(update={"width": sizes.width_root})
    planned = []
    for rule, counts, at in (("1/N", sizes.loops, sizes), ("1/sqrt(N)", sizes.loops_root, wider)):
        stacks = [
            Stack(loops=loops, residual_scale=rule, activation=activation)
            for activation in ACTIVATIONS
            for loops in counts
        ]
        planned += wide_simulations(stacks, at, current)
    return planned


CLAIMS = (
    Claim(
        id="positivity",
        level="simulation",
        statement="looped linear, erf and tanh layers, whose updates have no positive mean, follow the coherent "
        "recursion: bounded for ε = 1/N, growing for 1/√N",
        source="this project; arXiv:2606.18524 remarks in §3.2 that positivity is sufficient, not necessary",
        paper="§3.2",
        recorded="confirmed",
        reason="the second moment equals the exact recursion for every activation: 1/N does not rest on positivity",
        margin="5 % of the prediction: a quarter of what separates it from the untied law at N = 4; terms of order "
        "N/width are below 1 %",
        law=predict,
        twin=Twin("without positivity updates add in quadrature, as in untied layers", untied),
        parameters=Sizes,
        plan=plan,
        check=at_large_width,
    ),
)
