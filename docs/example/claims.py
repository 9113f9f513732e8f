"""Four layers, the first loop's input injected again after each loop: a claim of one's own, and its honest twin."""

from residual_theory import Stack, predict
from residual_theory.claims import (
    Claim,
    Count,
    Round,
    Simulation,
    StackParameters,
    Twin,
    at_infinite_width,
    simulations,
    untied,
)


class Sizes(StackParameters):
    """What a TOML file may set, under [injected-growth.simulation]."""

    loops: tuple[Count, ...] = (2, 6)
    widths: tuple[Count, ...] = (48, 96, 192)
    samples: tuple[Count, ...] = (600, 400, 300)
    rounds: Count = 3  # more samples, up to three times, while the verdict is open


def plan(sizes: Sizes, current: Round) -> list[Simulation]:
    """What a round measures: random stacks at every width, for every number of loops."""
    stacks = [
        Stack(loops=loops, unique_layers=4, residual_scale="1/(N*sqrt(L))", carry=0.9, injection=0.3, weight_variance=2)
        for loops in sizes.loops
    ]
    return simulations(stacks, sizes, current)


CLAIMS = (
    Claim(
        id="injected-growth",
        level="simulation",
        statement="four looped layers with decay 0.9 and injection 0.3 follow the coherent recursion",
        source="this project",
        recorded="confirmed",
        reason="the second moment extrapolated to infinite width equals the exact recursion",
        margin="5 % of the prediction: about a fifth of what separates it from the twin's",
        law=predict,
        twin=Twin("loops add up as if each had weights of its own", untied),
        parameters=Sizes,
        plan=plan,
        check=at_infinite_width,
    ),
)
