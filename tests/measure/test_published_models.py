"""Published architectures that call one module again and again, built small from their configurations, offline."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from residual_theory.measure.probe import probe

TOKENS = torch.randint(50, (3, 8), generator=torch.Generator().manual_seed(4))
TRAIN_AND_EVAL = pytest.mark.parametrize("training", [True, False])


def built(name: str, **sizes: Any) -> nn.Module:
    """A model of the transformers package with random weights, or a skip where the package has none of the name."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, f"{name}Model"):
        pytest.skip(f"this version of transformers has no {name}")
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes))
    assert isinstance(model, nn.Module)
    return model


def states(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The streams that the model itself returns."""
    with torch.no_grad():
        return list(model(**inputs, output_hidden_states=True).hidden_states)


def squares(streams: list[Tensor]) -> list[float]:
    return [float(stream.double().square().mean()) for stream in streams]


@TRAIN_AND_EVAL
def test_perceiver_repeats_its_self_attention_block(training: bool) -> None:
    """Jaegle et al., Perceiver IO: num_blocks times the same num_self_attends_per_block layers."""
    sizes = {"num_latents": 5, "d_latents": 12, "d_model": 10, "num_blocks": 4, "num_self_attends_per_block": 2}
    heads = {"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "qk_channels": 12, "v_channels": 12}
    model = built("Perceiver", **sizes, **heads, attention_probs_dropout_prob=0.0).train(training)
    inputs = {"inputs": torch.randn(3, 7, 10, generator=torch.Generator().manual_seed(9))}
    result = probe(model, block="encoder.self_attends", inputs=inputs, with_gradients=True)
    assert (result.attrs["visits"], result.attrs["loops"], result.attrs["unique_layers"]) == (8, 4, 2)
    assert result.layer.values.tolist()[1:] == ["encoder.self_attends.0", "encoder.self_attends.1"] * 4
    assert result.attrs["changed_between_visits"] == 0
    visited = result.second_moment.values
    returned = [visited[2 * block + i] for block in range(4) for i in range(3)]  # each block's end comes twice
    given = [stream for stream in states(model, inputs) if stream.shape == (3, 5, 12)]
    assert squares(given)[-12:] == pytest.approx(returned, rel=1e-6)
    assert float(result.gradient_second_moment[-1]) == pytest.approx(1, rel=1e-6)


@TRAIN_AND_EVAL
def test_funnel_repeats_layers_one_after_the_other(training: bool) -> None:
    """Dai et al., Funnel-Transformer: block_repeats calls every layer of a block several times in a row."""
    sizes = {"d_model": 12, "n_head": 3, "d_head": 4, "d_inner": 16, "vocab_size": 50, "block_sizes": [2, 1]}
    dropout = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout"), 0.0)
    model = built("Funnel", **sizes, **dropout, block_repeats=[3, 2]).train(training)
    inputs = {"input_ids": TOKENS}
    result = probe(model, block="encoder.blocks.0", inputs=inputs)
    names = ["encoder.blocks.0.0"] * 3 + ["encoder.blocks.0.1"] * 3
    assert result.layer.values.tolist()[1:] == names
    assert (result.attrs["loops"], result.attrs["unique_layers"], result.attrs["order"]) == (3, 2, "0 0 0 1 1 1")
    assert (result.sizes["loop"], result.attrs["loops_are"]) == (6, "visits")  # no pattern of layers comes again
    given: list[Tensor] = []
    module = model.get_submodule("encoder")
    handle = module.register_forward_hook(lambda _, args, kwargs, out: given.append(args[0]), with_kwargs=True)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    with torch.no_grad():
        encoder_states = module(given[0], attention_mask=torch.ones(3, 8), output_hidden_states=True).hidden_states
    assert result.second_moment.values.tolist() == pytest.approx(squares(list(encoder_states[:7])), rel=1e-5)
    one = probe(model, block="encoder.blocks.0.0", inputs=inputs)
    assert one.attrs["loops"] == 3
    with pytest.raises(ValueError, match=r"block = 'encoder.blocks.1.0': visit 7 has a stream of shape"):
        probe(model, block="encoder.blocks.*", inputs=inputs)  # the second block has pooled tokens


@TRAIN_AND_EVAL
def test_a_hierarchical_reasoning_model_nests_loops(training: bool) -> None:
    """Wang et al., Hierarchical Reasoning Model: L_cycles of a low module within each of H_cycles of a high one."""
    sizes = {"vocab_size": 50, "hidden_size": 12, "intermediate_size": 16, "num_layers_per_stack": 1}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4}
    model = built("HrmText", **sizes, **heads, H_cycles=4, L_cycles=2).train(training)
    inputs = {"input_ids": TOKENS}
    both = probe(model, block=["L_module", "H_module"], inputs=inputs)
    assert both.layer.values.tolist()[1:] == ["L_module", "L_module", "H_module"] * 4
    assert (both.attrs["visits"], both.attrs["loops"], both.attrs["unique_layers"]) == (12, 4, 2)
    assert both.attrs["changed_between_visits"] == 11  # every module gets the sum of both states
    high = probe(model, block="H_module", inputs=inputs, with_gradients=True)
    np.testing.assert_allclose(high.second_moment[1:], both.second_moment[3::3], rtol=1e-6)
    with torch.no_grad():
        last = model(**inputs).last_hidden_state
    assert float(high.second_moment[-1]) == pytest.approx(squares([last])[0], rel=1e-6)
    with pytest.raises(ValueError, match="none reaches the input of the first visit, to L_module"):
        probe(model, block="L_module", inputs=inputs, with_gradients=True)  # its early cycles run without


@pytest.mark.parametrize(("field", "order"), [("layers_execute_order", (0, 1, 2, 3) * 3)])
def test_x_transformers_runs_layers_in_any_order(field: str, order: tuple[int, ...]) -> None:
    """The x-transformers package calls its layers in a given order, here the four of one block three times."""
    package = pytest.importorskip("x_transformers")
    layers = package.Decoder(dim=12, depth=2, heads=2, attn_dim_head=4, **{field: order})
    model = package.TransformerWrapper(num_tokens=50, max_seq_len=8, attn_layers=layers).eval()
    result = probe(model, block="attn_layers.layers.*.1", inputs=TOKENS)
    assert (result.attrs["visits"], result.attrs["loops"], result.attrs["unique_layers"]) == (12, 3, 4)


class UniversalTransformer(nn.Module):
    """Dehghani et al., Universal Transformers: one encoder layer, a step's embedding before every visit."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.step = nn.Embedding(steps, 12)
        self.layer = nn.TransformerEncoderLayer(12, 3, 20, 0.0, batch_first=True)
        self.steps = steps

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        for step in range(self.steps):
            h = self.layer(src=h + self.step.weight[step])
        assert isinstance(h, Tensor)
        return h


class PreludeCoreCoda(nn.Module):
    """A recurrent-depth model: prelude, a core looped with the input injected again, coda."""

    def __init__(self, loops: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.prelude, self.coda = (nn.ModuleList(self._layer() for _ in range(2)) for _ in "pc")
        self.core = nn.ModuleList(self._layer() for _ in range(2))
        self.adapter = nn.Linear(24, 12)
        self.loops = loops

    def _layer(self) -> nn.Module:
        return nn.TransformerEncoderLayer(12, 3, 20, 0.0, batch_first=True, norm_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        for layer in self.prelude:
            h = layer(h)
        injected, state = h, torch.zeros_like(h)
        for _ in range(self.loops):
            state = self.adapter(torch.cat([state, injected], -1))
            for layer in self.core:
                state = layer(state)
        for layer in self.coda:
            state = layer(state)
        return state


class Twice(nn.Module):
    """A layer used through a closure and by functional_call, as users do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12)
        self.embedding = nn.Embedding(50, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        def step(h: Tensor) -> Tensor:
            return h + torch.relu(self.layer(h))

        h = step(step(self.embedding(tokens)))
        weights = {name: 2 * value for name, value in self.layer.named_parameters()}
        call: Callable[..., Tensor] = torch.func.functional_call
        return call(self.layer, weights, (h,))


@pytest.mark.parametrize(
    ("model", "block", "loops", "visits", "changed"),
    [
        (UniversalTransformer(5), "layer", 5, 5, 4),
        (PreludeCoreCoda(4), "core", 4, 8, 3),
        (PreludeCoreCoda(4), "core.*", 4, 8, 3),
        (PreludeCoreCoda(4), ["prelude", "core", "coda"], 12, 12, 4),
        (nn.Sequential(nn.Embedding(50, 12), *[nn.Linear(12, 12)] * 3), "1", 3, 3, 0),
        (Twice(), "layer", 3, 3, 2),
    ],
)
@pytest.mark.parametrize("with_gradients", [False, True])
def test_loops_that_users_write(
    model: nn.Module, block: Any, loops: int, visits: int, changed: int, with_gradients: bool
) -> None:
    result = probe(model, block=block, inputs=TOKENS, with_gradients=with_gradients)
    attrs = result.attrs
    assert (attrs["loops"], attrs["visits"], attrs["changed_between_visits"]) == (loops, visits, changed)
    assert np.isfinite(result.second_moment).all()
