"""The probe against streams recomputed by hand, exact linear loops, library models and every bad input."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import residual_theory.measure.moments as moments_module
from residual_theory.measure.probe import probe


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(2718)
        yield


class Looped(nn.Module):
    """N loops over a list of layers; `between` is applied before every loop but the first."""

    def __init__(self, layers: list[nn.Module], loops: int, between: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.loops, self.between = loops, between

    def forward(self, x: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        x = x + shift
        for loop in range(self.loops):
            if loop and self.between is not None:
                x = self.between(x)
            for layer in self.layers:
                x = layer(x)
        return x


def encoder_layer(dropout: float = 0.0, norm_first: bool = True) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(12, 3, 20, dropout, batch_first=True, norm_first=norm_first)


def linear(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(len(matrix), len(matrix), bias=False, dtype=matrix.dtype)
    layer.weight = nn.Parameter(matrix)
    return layer


def by_hand(streams: list[Tensor], unique_layers: int = 1) -> dict[str, np.ndarray]:
    """The observables one number at a time, from the streams h_0 … h_V, each (sample, …)."""
    h = torch.stack(streams).double().flatten(2)  # (visit, sample, entry)
    delta = h[unique_layers::unique_layers] - h[:-unique_layers:unique_layers]  # (loop, sample, entry)
    products = torch.stack([torch.stack([(a * b).mean(-1) for b in h]) for a in h])
    cosines = torch.stack([torch.stack([nn.functional.cosine_similarity(a, b, dim=-1) for b in delta]) for a in delta])
    samples = h.shape[1]
    results: dict[str, np.ndarray] = {}
    for name, each in (("covariance", products), ("increment_cosine", cosines)):
        results[name] = each.mean(-1).numpy()
        results[f"{name}_stderr"] = (each.std(-1) / math.sqrt(samples)).numpy()
    for suffix in ("", "_stderr"):
        results[f"second_moment{suffix}"] = results[f"covariance{suffix}"].diagonal()
    return results


def assert_measures(result: xr.Dataset, streams: list[Tensor], unique_layers: int = 1, rtol: float = 1e-9) -> None:
    assert result.sizes["visit"] == len(streams)
    assert int(result["samples"]) == len(streams[0])
    for name, expected in by_hand(streams, unique_layers).items():
        assert result[name].dtype == np.float64
        np.testing.assert_allclose(result[name], expected, rtol=rtol, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_one_encoder_layer_looped(norm_first: bool, training: bool) -> None:
    model = Looped([encoder_layer(norm_first=norm_first)], loops=5).train(training)
    x = torch.randn(7, 4, 12)
    result = probe(model, block=model.layers[0], inputs=x)
    streams = [x]
    with torch.no_grad():
        for _ in range(5):
            streams.append(model.layers[0](streams[-1]))
    assert_measures(result, streams, rtol=1e-6)  # torch may take another float32 kernel when a hook watches
    assert result.attrs == {
        "model": "Looped",
        "blocks": "layers.0",
        "mode": "train" if training else "eval",
        "dtype": "float32",
        "device": "cpu",
        "visits": 5,
        "loops": 5,
        "unique_layers": 1,
        "changed_between_visits": 0,
    }


@pytest.mark.parametrize(
    "select",
    [
        lambda model: "layers",
        lambda model: model.layers,
        lambda model: ["layers.0", model.layers[1]],
        lambda model: nn.ModuleList([model.layers[0], model.layers[1]]),
    ],
    ids=["list by name", "list", "names and modules", "another list"],
)
def test_two_layers_looped(select: Callable[[Looped], Any]) -> None:
    model = Looped([encoder_layer(), encoder_layer()], loops=3)
    x = torch.randn(5, 4, 12)
    result = probe(model, block=select(model), inputs=x)
    streams = [x]
    with torch.no_grad():
        for visit in range(6):
            streams.append(model.layers[visit % 2](streams[-1]))
    assert_measures(result, streams, unique_layers=2, rtol=1e-6)
    assert (result.sizes["visit"], result.sizes["loop"]) == (7, 3)
    assert (result.attrs["visits"], result.attrs["loops"], result.attrs["unique_layers"]) == (6, 3, 2)
    assert result.attrs["blocks"] == "layers.0, layers.1"


def test_every_visit_of_a_shared_module_is_a_row_of_its_own() -> None:
    layer = linear(2 * torch.eye(3))
    model = nn.Sequential(*[layer] * 4)  # one module under four names
    x = torch.ones(2, 3)
    for block in (layer, "0", "3", ["0", "1", "2", "3"]):
        result = probe(model, block=block, inputs=x)
        assert result.attrs["loops"] == 4
        np.testing.assert_array_equal(result["second_moment"], 4.0 ** np.arange(5))


def test_a_linear_loop_is_known_exactly() -> None:
    growth, angle, loops = 1.25, 0.3, 6
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
    )  # h ← growth · rotation(angle) h
    q0 = torch.tensor([0.5, 2.0, 3.5], dtype=torch.float64)
    x = torch.stack([q0.sqrt(), -q0.sqrt()], dim=1)
    result = probe(Looped([linear(growth * turn)], loops), block="layers", inputs=x)
    visit, loop = np.arange(loops + 1), np.arange(loops)
    scale = growth ** (visit[:, None] + visit) * np.cos(angle * (visit[:, None] - visit))
    np.testing.assert_allclose(result["second_moment"], 2.0 * growth ** (2 * visit), rtol=1e-12)
    np.testing.assert_allclose(result["second_moment_stderr"], math.sqrt(0.75) * growth ** (2 * visit), rtol=1e-12)
    np.testing.assert_allclose(result["covariance"], 2.0 * scale, rtol=1e-12)
    np.testing.assert_allclose(result["increment_cosine"], np.cos(angle * (loop[:, None] - loop)), rtol=1e-12)
    np.testing.assert_allclose(result["increment_cosine_stderr"], 0.0, atol=1e-12)


def test_a_loop_starts_from_the_input_of_its_first_visit() -> None:
    """A norm or an injection between loops belongs to no increment, and the attributes say that there is one."""
    triple, swap, turn = (
        3 * torch.eye(2),
        torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        torch.tensor([[0.0, -2.0], [2.0, 0.0]]),
    )
    model = Looped([linear(triple), linear(swap)], loops=2, between=linear(turn))
    result = probe(model, block="layers", inputs=torch.tensor([[1.0, 2.0]]))
    # (1, 2) → (3, 6) → (6, 3); turned to (-6, 12) → (-18, 36) → (36, -18): changes (5, 1) and (42, -30)
    np.testing.assert_array_equal(result["second_moment"], [2.5, 22.5, 22.5, 810.0, 810.0])
    np.testing.assert_allclose(result["increment_cosine"][0, 1], 180 / math.sqrt(26 * 2664), rtol=1e-12)
    assert result.attrs["changed_between_visits"] == 1


def test_tuples_keywords_and_tensors_are_all_inputs() -> None:
    model = Looped([encoder_layer()], loops=2)
    x, shift = torch.randn(3, 4, 12), torch.randn(12)
    expected = probe(model, block="layers", inputs=x + shift)
    for inputs in ((x, shift), {"x": x, "shift": shift}):
        xr.testing.assert_identical(probe(model, block="layers", inputs=inputs), expected)


@dataclass
class Output:
    positions: Tensor
    stream: Tensor


class Wrapped(nn.Module):
    """A layer called by keyword with an integer tensor first, answering in a structure."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, *, positions: Tensor, stream: Tensor) -> Any:
        return self.wrap(positions, 3 * stream)


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda ids, h: (ids, h), lambda out: out[1]),
        (lambda ids, h: [None, {"cache": (ids,)}, (h, -h)], lambda out: out[2][0]),
        (lambda ids, h: {"ids": ids, "h": h}, lambda out: out["h"]),
        (Output, lambda out: out.stream),
    ],
    ids=["tuple", "nested", "dict", "dataclass"],
)
def test_the_stream_is_the_first_floating_tensor(wrap: Callable[..., Any], unwrap: Callable[[Any], Tensor]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Wrapped(wrap)

        def forward(self, h: Tensor) -> Tensor:
            for _ in range(3):
                h = unwrap(self.layer(positions=torch.arange(2), stream=h))
            return h

    result = probe(Model(), block="layer", inputs=torch.full((2, 5), 0.5))
    np.testing.assert_array_equal(result["second_moment"], 0.25 * 9.0 ** np.arange(4))


def test_a_residual_added_in_place_is_measured_before_and_after() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Linear(6, 6)

        def forward(self, h: Tensor) -> Tensor:
            return h.add_(self.branch(h), alpha=0.5)

    block = InPlace()
    x = torch.randn(4, 6)
    streams = [x]
    with torch.no_grad():
        for _ in range(4):
            streams.append(streams[-1] + 0.5 * block.branch(streams[-1]))
    assert_measures(probe(Looped([block], 4), block="layers", inputs=x.clone()), streams, rtol=1e-6)


def test_bfloat16_is_averaged_in_float64() -> None:
    model = Looped([encoder_layer()], loops=4).to(torch.bfloat16)
    x = torch.randn(3, 5, 12, dtype=torch.bfloat16)
    result = probe(model, block="layers", inputs=x)
    streams = [x]
    handle = model.layers[0].register_forward_hook(lambda module, args, output: streams.append(output.clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    assert_measures(result, streams)
    assert result.attrs["dtype"] == "bfloat16"


def test_autocast_may_change_the_dtype_on_the_way() -> None:
    model = Looped([nn.Linear(8, 8)], loops=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = probe(model, block="layers", inputs=torch.randn(4, 8))
    assert np.isfinite(result["covariance"]).all()
    assert result.attrs["dtype"] == "float32"


def test_averaging_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Looped([encoder_layer()], loops=3), torch.randn(3, 5, 12)
    whole = probe(model, block="layers", inputs=x)
    monkeypatch.setattr(moments_module, "_ENTRIES_AT_ONCE", 100)  # 8 of the 60 entries at once: the last piece is short
    xr.testing.assert_allclose(probe(model, block="layers", inputs=x), whole, rtol=1e-12)


def test_one_sample_has_no_standard_error() -> None:
    result = probe(Looped([encoder_layer()], 2), block="layers", inputs=torch.randn(1, 4, 12))
    assert int(result["samples"]) == 1
    for name in ("second_moment", "covariance", "increment_cosine"):
        assert np.isfinite(result[name]).all()
        assert np.isnan(result[f"{name}_stderr"]).all()


def test_one_loop_is_one_increment() -> None:
    result = probe(Looped([encoder_layer(), encoder_layer()], 1), block="layers", inputs=torch.randn(3, 4, 12))
    np.testing.assert_allclose(result["increment_cosine"], [[1.0]])


def test_a_change_of_zero_has_no_direction() -> None:
    class Second(nn.Module):  # moves the stream on its second visit only
        calls = 0

        def forward(self, h: Tensor) -> Tensor:
            self.calls += 1
            return h + (self.calls == 2)

    result = probe(Looped([Second()], 3), block="layers", inputs=torch.randn(3, 4))
    finite = np.isfinite(result["increment_cosine"].values)
    np.testing.assert_array_equal(finite, np.diag([False, True, False]))
    assert np.isfinite(result["covariance"]).all()


def test_a_stream_that_overflows_is_shown_where_it_does() -> None:
    model = Looped([linear(1e12 * torch.eye(2))], loops=6)
    result = probe(model, block="layers", inputs=torch.ones(3, 2))
    assert result.attrs["first_nonfinite_visit"] == 4  # 1e48 is beyond float32
    np.testing.assert_array_equal(np.isfinite(result["second_moment"]), [True] * 4 + [False] * 3)
    assert np.isfinite(result["covariance"][:4, :4]).all()
    assert result.attrs["changed_between_visits"] == 0
    assert "first_nonfinite_visit" not in probe(model, block="layers", inputs=torch.zeros(3, 2)).attrs


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_model_is_left_as_it_was() -> None:
    model = Looped([encoder_layer(dropout=0.5)], loops=3).train()
    x = torch.randn(3, 4, 12)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = probe(model, block="layers", inputs=x)
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    xr.testing.assert_identical(probe(model, block="layers", inputs=x), first)  # the same dropout masks
    assert first["increment_cosine"][0, 1] != probe(model.eval(), block="layers", inputs=x)["increment_cosine"][0, 1]
    assert hooks(model) == 0
    assert torch.is_grad_enabled()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad
        assert parameter.grad is None


@pytest.mark.parametrize("inside", [False, True])
def test_no_gradient_is_kept_even_for_a_model_that_asks_for_one(inside: bool) -> None:
    seen: list[bool] = []

    class Model(Looped):
        def forward(self, x: Tensor, shift: Tensor | float = 0.0) -> Tensor:
            seen.append(torch.is_grad_enabled())
            with torch.set_grad_enabled(inside):
                return super().forward(x, shift)

    result = probe(Model([encoder_layer()], 3), block="layers", inputs=torch.randn(3, 4, 12))
    assert seen == [False]
    assert np.isfinite(result["covariance"]).all()


def test_hooks_go_even_when_the_model_raises() -> None:
    class Failing(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            raise RuntimeError("the model's own complaint")

    model = Looped([encoder_layer(), Failing()], loops=2)
    with pytest.raises(RuntimeError, match="the model's own complaint"):
        probe(model, block="layers", inputs=torch.randn(3, 4, 12))
    assert hooks(model) == 0
    assert torch.is_grad_enabled()


def test_the_result_is_saved_and_read_back(tmp_path: Path) -> None:
    result = probe(Looped([encoder_layer()], 2), block="layers", inputs=torch.randn(3, 4, 12))
    result.to_netcdf(tmp_path / "probe.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "probe.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), result)


def albert(**changes: int) -> Any:
    """A tiny Hugging Face ALBERT."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 50,
        "embedding_size": 8,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    return transformers.AlbertModel(transformers.AlbertConfig(**sizes, **changes))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("block", ["encoder.albert_layer_groups", "encoder.albert_layer_groups.0.albert_layers.0"])
def test_albert_shares_one_layer(block: str, training: bool) -> None:
    """ALBERT calls one layer num_hidden_layers times: as many visits, equal to the hidden states it returns itself."""
    model = albert(num_hidden_layers=5).train(training)
    inputs = {"input_ids": torch.randint(50, (4, 6)), "attention_mask": torch.ones(4, 6, dtype=torch.int64)}
    result = probe(model, block=block, inputs=inputs)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    assert_measures(result, list(states), rtol=1e-6)
    assert (result.attrs["visits"], result.attrs["loops"], result.attrs["unique_layers"]) == (5, 5, 1)
    batch = pytest.importorskip("transformers").BatchEncoding(inputs)
    xr.testing.assert_identical(probe(model, block=block, inputs=batch), result)


def test_albert_with_two_layers_in_its_group() -> None:
    model = albert(num_hidden_layers=3, inner_group_num=2).eval()
    tokens = torch.randint(50, (4, 6))
    layers = probe(model, block="encoder.albert_layer_groups.0.albert_layers", inputs=tokens)
    groups = probe(model, block="encoder.albert_layer_groups", inputs=tokens)
    assert (layers.attrs["visits"], layers.attrs["loops"], groups.attrs["visits"]) == (6, 3, 3)
    np.testing.assert_allclose(layers["second_moment"][::2], groups["second_moment"], rtol=1e-12)
    np.testing.assert_allclose(layers["increment_cosine"], groups["increment_cosine"], rtol=1e-12)
