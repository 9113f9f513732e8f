"""The coordinate check: sizes of the stream and of its updates, across loops and layers."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from residual_theory.coordinate.check import coordinate_check
from residual_theory.errors import InputError
from residual_theory.measure.probe import probe
from residual_theory.report.coordinate_figure import draw
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import LoopedTransformer

LOOPS = (2, 4, 8, 16, 32)


class Looped(nn.Module):
    """A plain user's model: one layer in a for loop, ε = N^-power."""

    def __init__(self, loops: int, layers: int = 1, power: float = 1.0, width: int = 24) -> None:
        super().__init__()
        self.scale, self.loops = loops**-power, loops
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        for _, layer in itertools.product(range(self.loops), self.layers):
            x = x + self.scale * layer(self.drop(x.relu()))
        return x


class Block(nn.Module):
    """A block whose output is the stream."""

    def __init__(self, scale: float, width: int) -> None:
        super().__init__()
        self.scale, self.linear = scale, nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return torch.add(h, self.linear(h.relu()), alpha=self.scale)


class Blocks(nn.Module):
    """L blocks looped N times."""

    def __init__(self, loops: int, layers: int, scale: float, width: int = 16) -> None:
        super().__init__()
        self.loops = loops
        members = [Block(scale, width) for _ in range(layers)]
        self.blocks = nn.ModuleList(members)
        self.constant = 1 + 0.1 * members[0].linear.bias[0].item()  # of the seed

    def forward(self, h: Tensor) -> Tensor:
        for _, block in itertools.product(range(self.loops), self.blocks):
            h = block(h)
        return h


def some(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adam(rate: float = 1e-3) -> Callable[[nn.Module, int, int], Optimizer]:
    return lambda model, loops, layers: Adam(model.parameters(), lr=rate)


def arguments(**changes: Any) -> dict[str, Any]:
    x = some(8, 16)
    usual: dict[str, Any] = {"block": "blocks", "loops": LOOPS, "inputs": x, "targets": torch.zeros_like(x)}
    return usual | {"optimizer": adam(), "steps": 2, "seeds": range(6)} | changes


def blocks(power: float) -> Callable[[int, int], nn.Module]:
    return lambda loops, layers: Blocks(loops, layers, loops**-power / math.sqrt(layers))


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "confirmed"), (0.5, "refuted")])
def test_one_over_n_transfers_and_its_false_twin_does_not(power: float, verdict: str) -> None:
    found = coordinate_check(blocks(power), **arguments())
    assert found.verdict == verdict, str(found)
    assert str(found).startswith(verdict)
    assert len(found.rows) == 3 * 3 + 3 * 2 == len(found.table)


@pytest.mark.parametrize(("rule", "verdict"), [("1/N", "confirmed"), ("1/sqrt(N)", "refuted")])
def test_the_looped_transformer(rule: str, verdict: str) -> None:
    tokens = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(2))

    def make(loops: int, layers: int, seed: int) -> nn.Module:
        config = ModelConfig(loops=loops, unique_layers=layers, residual_scale=rule, width=32, heads=2, mlp_width=48)
        return LoopedTransformer(config, seed)

    given = arguments(inputs=tokens[:, :-1], targets=tokens[:, 1:], steps=2)
    found = coordinate_check(make, **given)
    assert found.verdict == verdict, str(found)


@pytest.mark.parametrize(("power", "verdict"), [(0.5, "confirmed"), (0.0, "refuted")])
def test_layers_with_the_rate_over_their_root_and_without(power: float, verdict: str) -> None:
    def optimizer(model: nn.Module, loops: int, layers: int) -> Optimizer:
        return Adam(model.parameters(), lr=1e-4 * layers**-power)

    given = arguments(loops=(2,), unique_layers=(2, 4, 8, 16, 32), optimizer=optimizer, steps=1, seeds=range(10))
    found = coordinate_check(blocks(1.0), **given)
    assert {row.axis for row in found.rows} == {"unique_layers"}
    assert found.verdict == verdict, str(found)


def test_every_visit_has_its_own_row() -> None:
    """Against probe before a step, and by hand after one; beyond the visits of a model all is NaN."""
    given = arguments(steps=1, seeds=(3, 5), unique_layers=(1, 2), loops=(1, 2, 3, 4, 5))
    found = coordinate_check(blocks(0.3), **given).dataset
    assert found.stream.dims == ("loops", "unique_layers", "step", "visit", "seed")
    x = given["inputs"]
    torch.manual_seed(5)  # what torch's own generator gives, as the check's models are drawn
    model = Blocks(3, 2, 3**-0.3 / math.sqrt(2))
    cell = found.sel(loops=3, unique_layers=2, seed=5)
    before = streams(model, x)
    square = probe(model, block="blocks", inputs=x).second_moment.values
    np.testing.assert_allclose(cell.stream.sel(step=0)[:7], np.sqrt(square), rtol=1e-6)
    optimizer = Adam(model.parameters(), lr=1e-3)
    functional.mse_loss(model(x), given["targets"]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    after = streams(model, x)
    changes = [(one - other).square().mean().sqrt().item() for one, other in zip(after, before, strict=True)]
    np.testing.assert_allclose(cell.stream_update.sel(step=1)[:7], changes, rtol=1e-4)
    np.testing.assert_allclose(cell.output_update.sel(step=1), changes[-1], rtol=1e-4)
    assert changes[0] == 0 < changes[1] < changes[-1]
    assert np.isnan(cell.stream[:, 7:]).all()
    np.testing.assert_allclose(cell.visit_fraction[:7], np.arange(7) / 6)


def streams(model: Blocks, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        h = [x]
        for _, block in itertools.product(range(3), model.blocks):
            h.append(block(h[-1]))
    return h


def test_slopes_are_those_of_a_planted_power() -> None:
    """A stream that is N^0.4 times a seed's constant, at ε = 0: the slope is 0.4 and its error rounding."""

    class Planted(Blocks):
        def forward(self, h: Tensor) -> Tensor:
            return super().forward(h * self.loops**0.4 * self.constant)

    found = coordinate_check(lambda loops, layers: Planted(loops, layers, 1e-9), **arguments())
    slopes = found.table.query("quantity == 'stream' and step == 0")["slope"]
    np.testing.assert_allclose(slopes, 0.4, atol=1e-6)
    assert found.verdict == "refuted"


def test_errors_are_those_of_the_seeds_slopes() -> None:
    found = coordinate_check(blocks(0.7), **arguments(steps=1, seeds=range(4)))
    values = found.dataset.output_update.sel(unique_layers=1, step=1)  # (loops, seed)
    slopes = np.polyfit(np.log(LOOPS), np.log(values), 1)[0]
    (row,) = (row for row in found.rows if row.quantity == "output_update")
    assert row.finding.value == pytest.approx(slopes.mean())
    assert row.finding.stderr == pytest.approx(slopes.std(ddof=1) / 2)
    assert row.finding.degrees == 3


def test_only_shared_fractions_are_judged() -> None:
    found = coordinate_check(blocks(1.0), **arguments(loops=(1, 2, 3, 4, 5)))
    assert {row.place for row in found.rows} == {"end of the stack", "output"}
    found = coordinate_check(blocks(1.0), **arguments(loops=(2, 4, 6, 8, 10)))
    assert {row.place for row in found.rows} == {"visit 0.5 V", "end of the stack", "output"}


def test_each_size_of_the_other_axis_has_its_slopes() -> None:
    found = coordinate_check(blocks(1.0), **arguments(unique_layers=(1, 3), steps=1))
    assert {(row.axis, row.fixed) for row in found.rows} == {("loops", 1), ("loops", 3)}


def test_growth_that_sets_in_late_is_not_confirmed() -> None:
    """A slope within the margin whose late slope is beyond it."""

    class Late(Blocks):
        def forward(self, h: Tensor) -> Tensor:
            noise = self.loops ** (0.01 * (self.constant - 1))
            return super().forward(h * noise * math.exp(0.04 * math.log(self.loops / 2) ** 2))

    found = coordinate_check(lambda loops, layers: Late(loops, layers, 1e-9), **arguments(margin=0.15))
    row = next(row for row in found.rows if row.quantity == "stream")
    assert row.word == "inconclusive"
    assert row.finding.value < 0.15 < 0.04 * 2 * math.log(8)
    assert row.finding.label == "0.06 to 8, 0.17 from 8"


def test_dropout_and_modes_are_set_aside() -> None:
    """Evaluation mode while measuring: without a step the same inputs give the same stream."""
    x = some(8, 24)
    frozen = lambda model, loops, layers: torch.optim.SGD(model.parameters(), lr=0.0)  # noqa: E731
    given = arguments(block="layers", inputs=x, targets=0 * x, optimizer=frozen)
    found = coordinate_check(Looped, **given)
    assert float(found.dataset.output_update.max()) == 0
    assert found.verdict == "inconclusive"
    assert len(set(found.dataset.loss.sel(loops=8, unique_layers=1, seed=0).values)) > 1  # dropout in training


def test_torch_global_state_is_left_alone_and_runs_repeat() -> None:
    state = torch.random.get_rng_state()
    first = coordinate_check(blocks(1.0), **arguments(steps=1))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(3)
    assert first.dataset.identical(coordinate_check(blocks(1.0), **arguments(steps=1)).dataset)
    two = coordinate_check(blocks(1.0), **arguments(steps=1, seeds=(4, 1))).dataset  # neither order nor company matters
    assert two.sel(seed=1).identical(first.dataset.sel(seed=1))


def test_a_diverged_run_is_named_and_leaves_its_slopes_undecided() -> None:
    def optimizer(model: nn.Module, loops: int, layers: int) -> Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e38 if loops == 32 else 1e-3)

    found = coordinate_check(blocks(1.0), **arguments(optimizer=optimizer))
    assert {(cell["loops"], cell["step"]) for cell in found.diverged} == {(32, 1)}
    assert "not finite: loops 32, unique_layers 1, seed 0 from step 1 on" in str(found)
    words = {row.step: row.word for row in found.rows}
    assert words == {0: "confirmed", 1: "inconclusive", 2: "inconclusive"}
    assert found.verdict == "inconclusive"


def test_outputs_in_structures_and_keyword_inputs_and_a_loss() -> None:
    class Wrapped(nn.Module):
        def __init__(self, loops: int, layers: int) -> None:
            super().__init__()
            self.inner = Blocks(loops, layers, 1 / loops)

        def forward(self, *, x: Tensor) -> dict[str, Any]:
            return {"ids": torch.zeros(1, dtype=torch.int64), "last": (self.inner(x),)}

    x = some(8, 16)
    changes = {"block": "inner.blocks", "inputs": {"x": x}, "steps": 1}
    by_targets = coordinate_check(Wrapped, **arguments(**changes))
    loss = lambda model: model(x=x)["last"][0].square().mean()  # noqa: E731
    by_loss = coordinate_check(Wrapped, **arguments(**changes, targets=None, loss=loss))
    assert by_targets.dataset.identical(by_loss.dataset)


def test_the_figure_shows_every_slope_of_one_axis_and_steps_after_divergence_are_left_out() -> None:
    def optimizer(model: nn.Module, loops: int, layers: int) -> Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e38 if loops == 32 else 1e-3)

    found = coordinate_check(blocks(1.0), **arguments(unique_layers=(1, 3), optimizer=optimizer))
    canvas = draw(found, fixed=3)
    canvas.canvas.draw()
    slopes = canvas.subfigs[1].axes[2]
    assert len(slopes.get_yticks()) == sum(row.fixed == 3 for row in found.rows)
    assert slopes.get_yticklabels()[0].get_text() == "stream, visit 0.5 V, step 0"
    with pytest.raises(InputError, match="has no slopes"):
        draw(found, axis="unique_layers")


def test_progress() -> None:
    done: list[tuple[int, int]] = []
    coordinate_check(blocks(1.0), **arguments(steps=1, seeds=(1, 2), progress=lambda *count: done.append(count)))
    assert done == [(i, 10) for i in range(1, 11)]


def fresh(counter: Iterator[int]) -> Callable[[int, int], nn.Module]:
    def make(loops: int, layers: int) -> nn.Module:
        torch.manual_seed(next(counter))
        return Blocks(loops, layers, 1 / loops)

    return make


def untrainable(model: nn.Module, loops: int, layers: int) -> Optimizer:
    return Adam([parameter for parameter in model.parameters() if parameter.ndim == 7])


ONE = Blocks(4, 1, 0.25)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (blocks(1.0), {"loops": (4,)}, "loops = (4,): a slope needs 5 sizes"),
        (blocks(1.0), {"loops": (1, 2, 4, 8), "unique_layers": (1, 2)}, "a slope needs 5 sizes"),
        (blocks(1.0), {"loops": (1, 2, 4, 8, 8)}, "different whole numbers from 1 on"),
        (blocks(1.0), {"loops": (0, 2, 4, 8, 16)}, "loops = (0, 2, 4, 8, 16): give different whole"),
        (blocks(1.0), {"loops": "12345"}, "loops = '12345'"),
        (blocks(1.0), {"unique_layers": 1}, "unique_layers = 1: give different whole"),
        (blocks(1.0), {"seeds": (1,)}, "seeds = (1,): give at least 2"),
        (blocks(1.0), {"steps": 0}, "steps = (0,)"),
        (blocks(1.0), {"margin": 0}, "margin = 0: must be a number above 0, and finite"),
        (blocks(1.0), {"margin": math.nan}, "margin = nan"),
        (blocks(1.0), {"alpha": 1.0}, "alpha = 1.0: must be a number above 0 and below 1"),
        (blocks(1.0), {"targets": None}, "loss = None: give either targets or a loss(model)"),
        (blocks(1.0), {"loss": lambda model: model(some(1, 16)).sum()}, "give either targets or a loss"),
        (blocks(1.0), {"targets": some(8, 5)}, "targets = (8, 5): must have the output's shape (8, 16)"),
        (blocks(1.0), {"targets": torch.zeros(3, dtype=torch.int64)}, "must be class ids of shape (8,)"),
        (blocks(1.0), {"targets": 3}, "targets = 3: give a tensor"),
        (blocks(1.0), {"targets": None, "loss": lambda model: some(1)}, "that depends on the model's parameters"),
        (blocks(1.0), {"targets": None, "loss": lambda model: model(some(2, 16))}, "loss = "),
        (blocks(1.0), {"block": "nothing"}, "the model has no module of this name"),
        (blocks(1.0), {"inputs": 3}, "inputs = 3"),
        (blocks(1.0), {"optimizer": untrainable}, "cannot be made: optimizer got an empty parameter list"),
        (blocks(1.0), {"optimizer": lambda *_: Adam(ONE.parameters())}, "holds none of the model's parameters"),
        (blocks(1.0), {"optimizer": lambda *_: None}, "must return a torch.optim.Optimizer"),
        (blocks(1.0), {"optimizer": 1e-3}, "optimizer = 0.001: give a function that builds an optimizer"),
        (lambda loops, layers: Blocks(4, layers, 0.25), {}, "make(2, 1) visits it 4 times, not 2"),
        (lambda loops, layers: ONE, {}, "hands out the same parameters twice"),
        (fresh(itertools.count()), {}, "gives other weights when called again with the same seed"),
        (fresh(itertools.repeat(3)), {}, "gives the same weights for seeds 0 and 1"),
        (lambda loops, layers: None, {}, "make = None: must return a torch.nn.Module"),
        (lambda loops, layers: nn.Identity(), {}, "the model has no parameters to train"),
        (ONE, {}, "give a function that builds a model"),
        (7, {}, "make = 7: give a function that builds a model"),
    ],
)
def test_bad_input_is_refused(make: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        coordinate_check(make, **arguments(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
