"""Branches of two and three matrices, as in a Transformer's MLP: forward and backward."""

import functools

import xarray as xr

from residual_theory.stack import Activation, Count, Stack
from residual_theory.store import Specification
from residual_theory.theory.forward import predict
from residual_theory.verify.claim import Claim, Round, Twin
from residual_theory.verify.experiments import WideParameters, at_large_width, wide_simulations

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "silu")


class Sizes(WideParameters):
    """Loops, each of one layer."""

    loops: Count = 4
    width: Count = 4096


def plan(sizes: Sizes, draw: Round) -> list[Specification]:
    """MLPs with each activation, and gated ones behind a norm; with every variance, and the wider hidden layer."""
    shared = {"loops": sizes.loops, "weight_variance": 1.5, "initial_variance": 0.7, "hidden_variance": 1.4}
    stacks = []
    for activation in ACTIVATIONS:
        stacks += [
            Stack(branch="mlp", activation=activation, expansion=2, **shared),
            Stack(branch="gated", activation=activation, normalization="rms", residual_scale="1/sqrt(N)", **shared),
        ]
    return wide_simulations(stacks, sizes, draw, with_gradients=True)


def single(stack: Stack) -> xr.Dataset:
    """The law of W φ(h) with the same W and φ."""
    return predict(stack.model_copy(update={"branch": "single", "hidden_variance": 1.0, "expansion": 1}))


CLAIMS = (
    Claim(
        id="matrix-branches",
        level="simulation",
        statement="looped branches of two and three matrices, W₂ φ(W₁ h) and W₂ (φ(W₁ h) ⊙ W₃ h) with GELU and SiLU, "
        "follow the recursions of single matrices, with kernels of their own, forward and backward",
        source="this project; arXiv:2606.18524 proves its theorems for a single matrix and trains the gated kind",
        recorded="confirmed",
        reason="the second moment, the squared gradient at the input and the tangent kernel equal the exact recursion",
        margin="5 % of the prediction: terms of order 1/width are below 1 %, and the law of a single matrix is off by "
        "a factor 2 and more in the tangent kernel",
        law=predict,
        twin=Twin("they follow the recursion of a single matrix, the last", single),
        parameters=Sizes,
        plan=plan,
        check=functools.partial(
            at_large_width, observables=("second_moment", "gradient_second_moment", "tangent_kernel")
        ),
    ),
)
