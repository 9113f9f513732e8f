"""Every input that the probe refuses, and the one line with which it does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from residual_theory.errors import InputError
from residual_theory.measure.probe import probe


class Looped(nn.Module):
    """Two visits to one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer])

    def forward(self, x: Tensor) -> Any:
        return self.layers[0](self.layers[0](x))


class Calls(nn.Module):
    """Calls its layers in the order given."""

    def __init__(self, order: str, **layers: nn.Module) -> None:
        super().__init__()
        self.order = order
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, h: Tensor) -> Tensor:
        for name in self.order:
            h = self.get_submodule(name)(h)
        return h


class Answers(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, h: Tensor) -> Any:
        return self.answer(h)


def two(order: str) -> Calls:
    return Calls(order, a=nn.Identity(), b=nn.Identity())


X = torch.ones(2, 3)
MODEL = Looped(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("model", "block", "inputs", "argument", "mend"),
    [
        ("MODEL", "layers", X, "model", "give a torch.nn.Module"),
        (MODEL, "layer", X, "block", "did you mean layers"),
        (nn.Sequential(MODEL), "layers.0", X, "block", "did you mean 0.layers.0?"),
        (MODEL, "zzz", X, "block", "pick one from model.named_modules()"),
        (MODEL, "", X, "block", "pick one from model.named_modules()"),
        (MODEL, nn.Linear(3, 3), X, "block", "is not a module of this model"),
        (MODEL, ["layers.0", 1], X, "block", "give a module of the model"),
        (MODEL, [None], X, "block", "give a module of the model"),
        (MODEL.layers[0], None, X, "block", "no module is called more than once"),
        (MODEL, [], X, "block", "holds no module"),
        (MODEL, nn.ModuleList(), X, "block", "holds no module"),
        (MODEL, "layers", [1.0], "inputs", "give a tensor, a tuple"),
        (MODEL, "layers", {0: X}, "inputs", "give a tensor, a tuple"),
        (two("aa"), ["a", "b"], X, "block", "was never called"),
        (MODEL, "layers.1*", X, "block", "the model has no module of this name"),
        (MODEL, "*.*.*", X, "block", "the model has no module of this name"),
        (MODEL, [MODEL, "layers.0"], X, "block", "is called inside Looped"),
        (
            Calls("a", a=Answers(lambda h: h.long())),
            "a",
            X,
            "block",
            "visit 1 has no floating-point tensor in its output",
        ),
        (Calls("a", a=Answers(lambda h: None)), "a", X, "block", "visit 1 has no floating-point tensor in its output"),
        (Calls("a", a=nn.Embedding(3, 3)), "a", X.long(), "block", "no floating-point tensor in its arguments"),
        (
            Calls("a", a=nn.Linear(3, 4)),
            "a",
            X,
            "block",
            "visit 1 has a stream of shape (2, 4) in its output where (2, 3)",
        ),
        (Calls("aba", a=nn.ReLU(), b=nn.Linear(3, 5)), "a", X, "block", "visit 2 has a stream of shape (2, 5)"),
        (two("a"), "a", X[0], "block", "has a stream of shape (3,); needs (samples, entries…)"),
        (two("a"), "a", X[:0], "block", "has a stream of shape (0, 3)"),
        (two("a"), "a", X.to_sparse(), "block", "make it dense"),
    ],
)
def test_bad_input_names_the_argument_and_the_mend(
    model: Any, block: Any, inputs: Any, argument: str, mend: str
) -> None:
    with pytest.raises(InputError) as caught:
        probe(model, block=block, inputs=inputs)
    assert caught.value.argument == argument
    assert mend in str(caught.value)
    assert "\n" not in str(caught.value)
    if isinstance(model, nn.Module):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Cut(nn.Module):
    """A loop in whose middle the gradient is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, h: Tensor) -> Tensor:
        h = self.layer(self.layer(h)).detach()
        return torch.relu(self.layer(h))


class WithoutGradient(Cut):
    def forward(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.layer(h)
        return torch.relu(self.layer(h))


@pytest.mark.parametrize(
    ("model", "arguments", "argument", "mend"),
    [
        (MODEL, {"loss": torch.sum}, "loss", "only with_gradients=True"),
        (MODEL, {"loss": 3, "with_gradients": True}, "loss", "give a function"),
        (MODEL, {"loss": lambda out: out, "with_gradients": True}, "loss", "must return a scalar"),
        (MODEL, {"loss": lambda out: out.detach().sum(), "with_gradients": True}, "loss", "must return a scalar"),
        (MODEL, {"loss": lambda out: 1.0, "with_gradients": True}, "loss", "must return a scalar"),
        (Cut(), {"with_gradients": True}, "with_gradients", "none reaches the input of the first visit, to layer"),
        (WithoutGradient(), {"with_gradients": True}, "with_gradients", "none reaches the input of the first visit"),
        (MODEL, {"increments": "layer"}, "increments", "choose 'loop' or 'visit'"),
        (MODEL, {"memory": 0}, "memory", "must be a whole number of bytes"),
        (MODEL, {"seed": 2**64}, "seed", "must be a whole number from 0"),
        (MODEL, {"seed": "one"}, "seed", "must be a whole number from 0"),
        (MODEL, {"memory": 2.5}, "memory", "must be a whole number of bytes"),
        (MODEL, {"memory": 30}, "memory", "cannot hold 1 visits of 2 samples × 3 entries, not even their sketches"),
    ],
)
def test_bad_options_name_the_argument_and_the_mend(
    model: nn.Module, arguments: dict[str, Any], argument: str, mend: str
) -> None:
    block = "layers" if model is MODEL else "layer"
    with pytest.raises(InputError) as caught:
        probe(model, block=block, inputs=X.clone(), **arguments)
    assert caught.value.argument == argument
    assert mend in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refusal_asks_no_gradient_of_the_inputs() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(InputError):
        probe(Cut(), block="layer", inputs=x, with_gradients=True)
    assert not x.requires_grad
