"""How far one optimizer step moves the output, and what that says of learning rates across loops and layers."""

import math
from dataclasses import dataclass
from typing import Literal

from residual_theory.errors import InputError
from residual_theory.kernels.branch import kernels_of
from residual_theory.stack import LlamaStack, Stack
from residual_theory.theory.backward import gradients
from residual_theory.theory.forward import check_memory, initial_covariance
from residual_theory.theory.recursion import covariances

Optimizer = Literal["adam", "sign", "gradient-descent"]
OPTIMIZERS: tuple[Optimizer, ...] = ("adam", "sign", "gradient-descent")


@dataclass(frozen=True)
class StepSize:
    """First-order change of the output f = ⟨v, h_V⟩/‖v‖ for one step of unit rate on the branches' weights.

    gradient_descent: Θ, for ΔW = −(η/fan-in) ∂f/∂W, where Δf = −ηΘ exactly to first order; the edge of stability
      of the squared loss is η = 2/Θ.
    sign: an upper bound on |Δf|/√d for ΔW = −(η/fan-in) sign(∂f/∂W), which is also Adam's first step: √Θ summed over
      the matrices, as E|x| ≤ √E x².
    stream: R_V, the root mean square of the stream that the readout reads.
    error: an estimate of Θ's relative error where gradients pass through attention, else 0; beyond 5 % the two steps
      are NaN.
    """

    gradient_descent: float
    sign: float
    stream: float
    error: float = 0.0


def step_size(stack: Stack | LlamaStack) -> StepSize:
    """The first-order effect of one step, from the gradients' recursion at infinite width.

    Arguments: stack: a Stack or a LlamaStack.
    Returns: a StepSize.
    Raises: InputError for what is not a stack, or would not fit into 8 GiB.

    >>> step = step_size(Stack(loops=8, residual_scale="1/N", weight_variance=2.0))
    >>> round(step.gradient_descent, 6), round(step.sign**2, 6)  # one layer, one matrix: equal
    (0.708059, 0.708059)
    """
    if not isinstance(stack, Stack | LlamaStack):
        raise InputError("stack", stack, "give a Stack or a LlamaStack")
    check_memory(stack, with_gradients=True)
    initial = initial_covariance(stack)
    found = covariances(stack.visits, initial, kernels_of(stack.visits), with_slopes=True)
    back = gradients(stack.visits, found, len(initial))
    return StepSize(
        gradient_descent=sum(back.tangent.values()),
        sign=sum(math.sqrt(found.groups[layer].kernel.matrices * part) for layer, part in back.tangent.items()),
        stream=math.sqrt(float(found.mean[-1, -1])),
        error=back.tangent_error,
    )


@dataclass(frozen=True)
class Exponents:
    """Powers of L and of N."""

    layers: float
    loops: float

    def factor(self, loops: float, layers: float) -> float:
        """L^layers · N^loops for ratios of sizes."""
        return float(layers**self.layers * loops**self.loops)


@dataclass(frozen=True)
class ScalingRule:
    """ε ∝ L^(−layers) N^(−loops): a row of the table of rules.

    name: who proposed it.  source: where.
    """

    name: str
    layers: float
    loops: float
    source: str

    @property
    def growth(self) -> Exponents:
        """Of ε²N²L, the stream's gain at weights shared over the loops: bounded when neither is positive."""
        return Exponents(1 - 2 * self.layers, 2 - 2 * self.loops)

    @property
    def bounded(self) -> bool:
        """Whether streams stay bounded as N and L grow."""
        return max(self.growth.layers, self.growth.loops) <= 0

    def learning_rate(self, optimizer: Optimizer = "adam") -> Exponents:
        """Of the rate at which one step changes the output by a fixed amount, gradients being bounded.

        Sign-like steps move it by ηεNL (N coherent visits to each of L layers that all push one way), gradient descent
        by ηΘ ∝ ηε²N²L. Bounded gradients need a bounded stream (`bounded`); elsewhere this is an upper bound that
        raw stacks fall short of and pre-norm stacks need not obey: see `prenorm_learning_rate`.
        Raises: InputError for an optimizer that is not in OPTIMIZERS.
        Source: derivations/learning_rate.py; arXiv:2606.18524, Theorem 2 and Proposition 7.

        >>> ScalingRule("half", 0.5, 1.0, "").learning_rate("adam")
        Exponents(layers=-0.5, loops=0.0)
        """
        if optimizer not in OPTIMIZERS:
            raise InputError("optimizer", optimizer, f"choose from {', '.join(OPTIMIZERS)}")
        if optimizer == "gradient-descent":
            return Exponents(2 * self.layers - 1, 2 * self.loops - 2)
        return Exponents(self.layers - 1, self.loops - 1)

    @property
    def prenorm_learning_rate(self) -> Exponents:
        """Of the rate of sign-like steps that changes the output by a fixed fraction of itself, pre-norm.

        The stream grows like ε N √L once that passes 1, and the step is read relative to it: the rate is
        √(1 + κε²N²L)/(εNL), so beyond the boundary it no longer depends on ε nor, up to a logarithm, on N.
        """
        plain, growth = self.learning_rate("adam"), self.growth
        return Exponents(plain.layers + max(growth.layers, 0) / 2, plain.loops + max(growth.loops, 0) / 2)


RULES = (
    ScalingRule("factored", 0.5, 1.0, "arXiv:2606.18524: ε = λ/(N√L)"),
    ScalingRule("1/(N·L)", 1.0, 1.0, "arXiv:2505.01618 (CompleteP, a = 1) carried to loops: ε = λ/(NL)"),
    ScalingRule("depth-μP", 0.5, 0.5, "arXiv:2310.02244: ε = λ/√(NL), which takes visits for distinct layers"),
    ScalingRule("loops ignored", 0.5, 0.0, "ε = λ/√L, as for L layers visited once"),
    ScalingRule("unscaled", 0.0, 0.0, "ε = 1"),
)
