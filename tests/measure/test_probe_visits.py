"""Any order of calls, any way to name the blocks, and the wrappers that models come in."""

import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from residual_theory.measure.probe import probe

LETTERS = {"a": 2.0, "b": 3.0, "c": 5.0}


class Times(nn.Module):
    """Multiplies the stream, so that a second moment tells which blocks it has passed."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, h: Tensor) -> Tensor:
        return self.factor * h


class Calls(nn.Module):
    """Calls its layers in the order given."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        for name, factor in LETTERS.items():
            self.add_module(name, Times(factor))

    def forward(self, h: Tensor) -> Tensor:
        for name in self.order:
            h = self.get_submodule(name)(h)
        return h


@pytest.mark.parametrize(
    ("order", "loops", "count"),
    [
        ("a", 1, 1),
        ("aaa", 3, 3),
        ("abc", 1, 1),
        ("abab", 2, 2),
        ("abbabb", 2, 2),  # an inner loop within an outer one
        ("aabb", None, 2),
        ("aba", None, 3),
        ("abbbbc", None, 6),  # prelude, core, coda
    ],
)
def test_visits_are_numbered_in_call_order(order: str, loops: int | None, count: int) -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    result = probe(Calls(order), block=sorted(set(order), reverse=True), inputs=x)
    assert result.coords["layer"].values.tolist() == ["", *order]
    passed = np.cumprod([1.0, *(LETTERS[name] ** 2 for name in order)])
    np.testing.assert_allclose(result.second_moment, passed, rtol=1e-6)
    assert result.attrs["visits"] == len(order)
    assert result.sizes["loop"] == (loops or len(order))
    assert result.attrs["loops"] == count
    numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(order))}
    assert result.attrs.get("order") == (None if loops else " ".join(numbers[name] for name in order))
    assert result.attrs.get("loops_are") == (None if loops else "visits")


def test_each_visit_may_be_its_own_loop() -> None:
    class Turn(nn.Module):
        def __init__(self, angle: float) -> None:
            super().__init__()
            turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            self.turn = nn.Buffer(turn)

        def forward(self, h: Tensor) -> Tensor:
            return h @ self.turn

    layers = nn.Sequential(Turn(0.3), Turn(0.5), Turn(0.9))  # untied: one loop, whose visits may still be compared
    x = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    assert probe(layers, block="*", inputs=x).sizes["loop"] == 1
    result = probe(layers, block="*", inputs=x, increments="visit")
    assert result.attrs["loops_are"] == "visits"
    # turning by t changes a vector in the direction turned by t/2 + 90°
    direction = np.cumsum([0.3, 0.5, 0.9]) - np.array([0.3, 0.5, 0.9]) / 2
    np.testing.assert_allclose(result.increment_cosine, np.cos(direction[:, None] - direction), rtol=1e-12)


class Deep(nn.Module):
    """Twelve layers, each with a layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(Times(1.0 + i)) for i in range(12))
        self.named = nn.ModuleDict({"x": self.layers[0], "y": self.layers[1]})

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h)
        return h


@pytest.mark.parametrize(
    ("block", "called"),
    [
        ("layers.*", [f"layers.{i}" for i in range(12)]),
        ("layers.1*", ["layers.1", "layers.10", "layers.11"]),
        ("layers.[2-4].0", ["layers.2.0", "layers.3.0", "layers.4.0"]),
        (["layers.11", "layers.?"], [f"layers.{i}" for i in (*range(10), 11)]),
        ("named", ["layers.0", "layers.1"]),
    ],
)
def test_blocks_by_pattern(block: Any, called: list[str]) -> None:
    result = probe(Deep(), block=block, inputs=torch.ones(1, 2)) if block != "layers.1*" else None
    if result is None:  # not one after the other: a change between visits that attrs count
        result = probe(Deep(), block=block, inputs=torch.ones(1, 2))
        assert result.attrs["changed_between_visits"] == 1
    assert result.coords["layer"].values.tolist()[1:] == called


class Loop(nn.Module):
    """A residual layer in a for loop, checkpointed or not."""

    def __init__(self, run: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.Tanh())
        self.run = run or (lambda block, h: block(h))

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(4):
            h = h + self.run(self.block, h)
        return h


@pytest.fixture
def plain() -> Loop:
    with torch.random.fork_rng():
        torch.manual_seed(31)
        return Loop()


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("with_gradients", [False, True])
def test_checkpointed_calls_are_counted_once(plain: Loop, with_gradients: bool) -> None:
    """In the backward pass a checkpoint calls the block again; those calls are no visits."""
    expected = probe(plain, block="block", inputs=X, with_gradients=with_gradients)
    again = []
    plain.run = lambda block, h: checkpoint(block, h, use_reentrant=False)
    plain.block.register_forward_pre_hook(lambda *_: again.append(1))
    xr.testing.assert_identical(probe(plain, block="block", inputs=X, with_gradients=with_gradients), expected)
    assert expected.attrs["visits"] == 4
    assert len(again) == (8 if with_gradients else 4)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_is_refused_only_with_gradients(plain: Loop) -> None:
    expected = probe(plain, block="block", inputs=X)
    plain.run = lambda block, h: checkpoint(block, h, use_reentrant=True)
    xr.testing.assert_identical(probe(plain, block="block", inputs=X), expected)
    with pytest.raises(ValueError, match=r"none reaches the .* reentrant checkpoint"):
        probe(plain, block="block", inputs=X.clone(), with_gradients=True)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("called_before", [False, True])
def test_a_compiled_model_is_run_uncompiled(plain: Loop, backend: str, called_before: bool) -> None:
    expected = probe(plain, block="block", inputs=X)
    compiled = torch.compile(plain, backend=backend)
    if called_before:
        with torch.no_grad():
            compiled(X)  # hooks that come later are ignored by what is compiled now
    for block in ("block", "_orig_mod.block", plain.block):
        result = probe(compiled, block=block, inputs=X)  # type: ignore[arg-type]
        xr.testing.assert_identical(result, expected)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), plain(X))


def test_compiled_blocks(plain: Loop) -> None:
    expected = probe(plain, block="block", inputs=X)
    plain.block.compile(backend="eager")
    with torch.no_grad():
        plain(X)
    xr.testing.assert_identical(probe(plain, block="block", inputs=X), expected)
    model = Loop()
    model.block = torch.compile(Loop().block, backend="eager")  # type: ignore[assignment]
    model.load_state_dict({name.replace("block.", "block._orig_mod."): v for name, v in plain.state_dict().items()})
    with torch.no_grad():
        model(X)
    for name in ("block", "block._orig_mod"):
        found = probe(model, block=name, inputs=X)
        xr.testing.assert_equal(found.drop_vars("layer"), expected.drop_vars("layer"))


def test_a_distributed_model(plain: Loop) -> None:
    expected = probe(plain, block="block", inputs=X, with_gradients=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(plain)
        for block in ("block", "module.block", plain.block):
            xr.testing.assert_identical(probe(model, block=block, inputs=X, with_gradients=True), expected)
        model(X).sum().backward()  # the model goes on to train
    finally:
        torch.distributed.destroy_process_group()
    parallel = nn.DataParallel(plain)
    xr.testing.assert_identical(probe(parallel, block="block", inputs=X, with_gradients=True), expected)


def test_one_module_under_many_names_in_a_sequence() -> None:
    layer = Times(2.0)
    result = probe(nn.Sequential(*[layer, Times(3.0)] * 3), block=["0", "1"], inputs=torch.ones(1, 2))
    assert result.coords["layer"].values.tolist() == ["", "0", "1", "0", "1", "0", "1"]
    assert result.attrs["loops"] == 3
