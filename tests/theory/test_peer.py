"""Untied predictions against the kernels of neural-tangents (golden numbers made by benchmarks/theory/peer.py)."""

import json
from pathlib import Path
from typing import Any

import pytest

from residual_theory.stack import Stack
from residual_theory.theory.forward import predict

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/neural_tangents.json").read_text())


def described(fields: dict[str, Any]) -> Stack:
    unused = {"hidden_variance"} if fields["branch"] == "single" else set()
    return Stack(loops=1, **{name: value for name, value in fields.items() if name not in unused})


@pytest.mark.parametrize("record", GOLDEN["records"], ids=lambda record: "-".join(map(str, record["stack"].values())))
def test_untied_kernels_are_those_of_neural_tangents(record: dict[str, Any]) -> None:
    stack = described(record["stack"])
    predicted = predict(stack)
    assert float(predicted.second_moment[-1]) == pytest.approx(record["nngp"], rel=1e-6)
    # its tangent kernel is for weights of unit variance, and counts the layer that makes the input
    of_input = stack.initial_variance * float(predicted.gradient_second_moment[0])
    tangent = of_input + stack.weight_variance * float(predicted.tangent_kernel)
    assert tangent == pytest.approx(record["ntk"], rel=1e-6)


def test_the_untied_kernel_is_no_approximation_of_a_tied_stack() -> None:
    """The same 64 visits with one set of weights: where the error is orders of magnitude."""
    record = GOLDEN["records"][-1]
    tied = described(record["stack"]).model_copy(update={"loops": 64, "unique_layers": 1})
    assert float(predict(tied).second_moment[-1]) > 1000 * record["nngp"]
