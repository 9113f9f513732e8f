"""The paper's constants on random ReLU stacks, and how loose its bounds are with them: the tables of docs/findings.md.

Those of the forward pass are exact at infinite width; those of a step are means over stacks of the width given.

    python benchmarks/constants.py [--width 128] [--samples 12]
"""

import argparse
import math
from collections.abc import Sequence

import xarray as xr

from residual_theory import Stack, predict
from residual_theory.console import say
from residual_theory.montecarlo.step_assumptions import Update, step_assumptions
from residual_theory.theory.constants import constants, theorem_1, theorem_6

FORWARD = [
    *(("raw", "1/N", N, 1) for N in (2, 8, 64, 512)),
    *(("raw", "1/sqrt(N)", N, 1) for N in (2, 8, 64)),
    *(("raw", "1", N, 1) for N in (2, 8)),
    *(("pre-norm", "1", N, 1) for N in (2, 8, 64, 512)),
    *(("raw", "1/(N*sqrt(L))", N, L) for N, L in ((4, 2), (4, 8), (4, 64), (64, 8))),
    *(("pre-norm", "1/(N*sqrt(L))", N, L) for N, L in ((4, 2), (4, 64), (64, 8))),
    *(("raw", "2/(N*sqrt(L))", N, L) for N, L in ((4, 8), (64, 8))),
    *(("raw", "1/N", 4, L) for L in (2, 8, 16)),
]
STEPS: list[tuple[Update, str, str, int, int]] = [
    *(("sign", "raw", "1/N", N, 1) for N in (2, 8, 32)),
    *(("sign", "raw", "1/sqrt(N)", N, 1) for N in (2, 8, 32)),
    *(("sign", "pre-norm", "1", N, 1) for N in (2, 8, 32)),
    *(("sign", "raw", "1/(N*sqrt(L))", 2, L) for L in (2, 16)),
    *(("random", "raw", "1/N", N, 1) for N in (2, 8, 32)),
    *(("random", "raw", "1/(N*sqrt(L))", 2, L) for L in (2, 16)),
]


def stack_of(model: str, rule: str, loops: int, layers: int) -> Stack:
    """A stack of Theorem 1's variances."""
    normalization = "none" if model == "raw" else "rms"
    return Stack(loops=loops, unique_layers=layers, residual_scale=rule, normalization=normalization)


def forward(stack: Stack) -> list[str]:
    """m₋, q₊, a₋, a₊, C_1; bounds of R by Theorem 1 over it, and of E q(ΣG) by Theorem 6 over it."""
    found = constants(stack)
    square = float(predict(stack, with_gradients=False).second_moment[-1])
    output = (float(found.output_square.min()), float(found.output_square.max()))
    bounds = theorem_6(stack, output_square=output, own_product=0.0, other_change=found.other_change)
    added = (square - stack.initial_variance) / stack.epsilon**2
    mean, q = float(found.input_mean.min()), float(found.input_square.max())
    shown = [mean, q, *output, found.other_change / (stack.epsilon * stack.loops) ** 2]
    if stack.unique_layers > 1:
        return [*map(number, shown), "", " to ".join(number(bound / added) for bound in bounds)]
    low, high = theorem_1(stack, input_mean=mean, input_square=q, gains=(found.gain, found.gain))
    ratio = " to ".join(number(bound / math.sqrt(square)) for bound in (low, high))
    return [*map(number, shown[:4]), "", ratio, ""]


def step(found: xr.Dataset) -> list[str]:
    """C_W, C_Δ, Q₊, ζ, θ, C_J, C_Δ of Proposition 7, Ω; bounds over what they bound."""
    names = ("weight_gain", "update_gain", "activation", "zeta", "theta", "jacobian_gain", "visit_gain", "coherence")
    shown = [number(float(found[name])) for name in names]
    loose = [number(float(found[name])) if name in found else "" for name in ("looseness_2", "looseness_7")]
    return shown + loose


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def show(cells: Sequence[object]) -> None:
    """Print a line of a table."""
    say(f"| {' | '.join(map(str, cells))} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--samples", type=int, default=12)
    given = parser.parse_args()
    show(("stack", "ε", "N", "L", "m₋", "q₊", "a₋", "a₊", "C_1", "Theorem 1", "Theorem 6"))
    show(["---"] * 11)
    for sizes in FORWARD:
        show([*sizes, *forward(stack_of(*sizes))])
    say("")
    names = (
        "step",
        "stack",
        "ε",
        "N",
        "L",
        "C_W",
        "C_Δ",
        "Q₊",
        "ζ",
        "θ",
        "C_J",
        "C_Δ (7)",
        "Ω",
        "Theorem 2",
        "Prop. 7",
    )
    show(names)
    show(["---"] * len(names))
    for update, model, rule, loops, layers in STEPS:
        sizes = (model, rule, loops, layers)
        found = step_assumptions(
            stack_of(*sizes), update=update, rate=0.001, width=given.width, samples=given.samples, seed=0
        )
        show([update, *sizes, *step(found)])


if __name__ == "__main__":
    main()
