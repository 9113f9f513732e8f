"""The case book of what is measured: shared weights, orders of visits, and which tensor is the stream."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from residual_theory import InputError, probe, verify_applied
from residual_theory.applied.verify import ScaleNotAppliedError
from tests.cases import shared_weights, visit_orders, which_stream
from tests.cases.shared_weights import WIDTH
from tests.cases.visit_orders import inputs

RULE = "1/(N*sqrt(L))"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(31)
        yield


def tokens(samples: int = 4, count: int = 10) -> Tensor:
    return torch.randn(samples, count, WIDTH, generator=torch.Generator().manual_seed(2))


def counts(model: nn.Module, block: str = "layers.*") -> tuple[int, int, str]:
    attrs = probe(model, block=block, inputs=inputs()).attrs
    return attrs["loops"], attrs["unique_layers"], str(attrs.get("sharing", ""))


# Sharing


@pytest.mark.parametrize(
    ("make", "loops", "said"),
    [
        (shared_weights.tied_matrices, 12, "12 blocks (layers.0 … layers.11) are one layer: 0.985 of their parameters"),
        (shared_weights.tied_parameters, 4, "4 blocks (layers.0 … layers.3) are one layer"),
        (shared_weights.adapters, 6, "own: down.weight, norm.bias, norm.weight, up.weight"),
        (shared_weights.normalised, 4, "4 blocks (layers.0 … layers.3) are one layer"),
        (shared_weights.hidden, 5, "5 blocks (layers.0 … layers.4) are one layer"),
    ],
)
def test_blocks_that_share_their_matrices_are_one_layer(make: Any, loops: int, said: str) -> None:
    found = counts(make(1 / loops))
    assert found[:2] == (loops, 1)
    assert said in found[2]
    assert verify_applied(make(1 / loops), RULE, block="layers.*", inputs=inputs()).scale == 1 / loops
    with pytest.raises(ScaleNotAppliedError, match=f"at N = {loops}, L = 1"):
        verify_applied(make(loops**-0.5), RULE, block="layers.*", inputs=inputs())


def test_a_lost_alias_is_named() -> None:
    model = shared_weights.lost_alias(1 / 4)
    found = probe(model, block="layers.*", inputs=inputs())
    assert (found.attrs["loops"], found.attrs["unique_layers"]) == (1, 4)
    assert "layers.1 … layers.3 equal those of layers.0 but are not shared" in found.attrs["equal_not_shared"]
    with pytest.raises(ScaleNotAppliedError, match="but are not shared: a lost alias"):
        verify_applied(model, RULE, block="layers.*", inputs=inputs())
    grown = probe(shared_weights.adapters_of_zero(0.1), block="layers.*", inputs=inputs())
    assert "wide.weight" in grown.attrs["equal_not_shared"]
    apart = visit_orders.Ordered((0, 1), (0.1, 0.1))
    assert "equal_not_shared" not in probe(apart, block="blocks", inputs=inputs()).attrs


def test_a_small_share_in_common_is_said() -> None:
    loops, layers, said = counts(shared_weights.mostly_own())
    assert (loops, layers) == (1, 3)
    assert "layers counted apart have up to 0.33" in said


@pytest.mark.parametrize(
    ("model", "block", "loops", "layers"),
    [
        (lambda: shared_weights.Stacked(0.1, layers=3, loops=2), "template", 2, 3),
        (lambda: shared_weights.Generated(0.1, visits=6), "template", 1, 6),
        (lambda: shared_weights.Swapped(0.1, layers=2, loops=3), "block", 3, 2),
        (shared_weights.HandsWeights, "block", 2, 2),
    ],
    ids=["stacked", "generated", "swapped", "handed"],
)
def test_one_module_with_other_weights_from_visit_to_visit(
    model: Callable[[], nn.Module], block: str, loops: int, layers: int
) -> None:
    found = counts(model(), block)
    assert found[:2] == (loops, layers)
    assert f"{block} is {layers} layers: it is given other weights" in found[2]


# Orders


@pytest.mark.parametrize(
    ("order", "visits"),
    [
        (visit_orders.CONSECUTIVE, (2, 2, 2, 2)),
        (visit_orders.VIRTUAL, (2, 2, 2, 1)),
        (visit_orders.MIDDLE_CYCLE, (1, 3, 3, 1)),
        (visit_orders.REUSE_MAP, (2, 1, 1, 1)),
        (visit_orders.PALINDROME, (2, 2, 2)),
    ],
)
def test_each_block_has_the_scale_of_its_own_count(order: tuple[int, ...], visits: tuple[int, ...]) -> None:
    layers = len(visits)
    right = [1 / (count * layers**0.5) for count in visits]
    report = verify_applied(visit_orders.Ordered(order, right), RULE, block="blocks", inputs=inputs())
    assert list(report.scales.values()) == pytest.approx(right)
    attrs = probe(visit_orders.Ordered(order, right), block="blocks", inputs=inputs()).attrs
    assert attrs["order"] == " ".join(map(str, order))
    if len(set(visits)) == 1:
        assert (attrs["loops"], attrs["unique_layers"]) == (visits[0], layers)
    wrong = [*right[:-1], right[-1] * visits[-1] / (visits[-1] + 2)]
    with pytest.raises(ScaleNotAppliedError, match=rf"to blocks.{layers - 1} .* fits N = {visits[-1] + 2}, not"):
        verify_applied(visit_orders.Ordered(order, wrong), RULE, block="blocks", inputs=inputs())
    constant = visit_orders.Ordered(order, [0.1] * layers)
    assert verify_applied(constant, 0.1, block="blocks", inputs=inputs()).scale == 0.1


def test_another_loop_count_is_named_however_far() -> None:
    with pytest.raises(ScaleNotAppliedError, match="fits N = 18, not 8"):
        verify_applied(visit_orders.EarlyExit(18, 8), "1/N", block="block", inputs=inputs())
    assert verify_applied(visit_orders.EarlyExit(18, 8), "1/N", block="block", inputs=inputs(), loops=18).loops == 18


@pytest.mark.parametrize("make", [visit_orders.Skips, visit_orders.Lambdas])
def test_what_is_added_between_visits_is_said_and_the_scale_still_judged(make: Any) -> None:
    model = make(0.1)
    report = verify_applied(model, 0.1, block="block", inputs=inputs())
    assert report.changed_between_visits in (3, 4)
    found = probe(model, block="block", inputs=inputs())
    assert found.attrs["changed_between_visits"] == report.changed_between_visits
    assert "outside_block" not in found.attrs


def test_two_states_of_one_network_are_said_to_be_changed() -> None:
    attrs = probe(visit_orders.TwoStates(), block="net", inputs=inputs()).attrs
    assert (attrs["visits"], attrs["loops"], attrs["unique_layers"]) == (8, 8, 1)
    assert attrs["changed_between_visits"] >= 5
    assert "outside_block" not in attrs


def test_visits_that_depend_on_the_mode_are_refused() -> None:
    with pytest.raises(InputError, match="visits its blocks 4 times in eval mode and 6 times"):
        verify_applied(visit_orders.ModeDependent(), 0.25, block="block", inputs=inputs())
    assert (
        verify_applied(visit_orders.ModeDependent(), "1/N", block="block", inputs=inputs(), modes=("eval",)).loops == 4
    )


# Which tensor is the stream


@pytest.mark.parametrize("wide", [WIDTH, 8])
def test_rotary_cosines_are_not_the_stream(wide: int) -> None:
    model, x = which_stream.Looped(which_stream.Rotary(), wide=wide), tokens()
    found = probe(model, block="layer", inputs=x)
    assert float(found.second_moment[0]) == pytest.approx(float(x.square().mean()), rel=1e-6)
    assert found.attrs["changed_between_visits"] == 0
    for stream in ("hidden_states", 1, ("hidden_states", None)):
        named = probe(model, block="layer", inputs=x, stream=stream)
        assert named.identical(found)
    verify_applied(model, 1, block="layer", inputs=x, branches="f", tolerance=0.2)


@pytest.mark.parametrize("normed", [False, True])
def test_what_is_injected_is_not_the_stream(normed: bool) -> None:
    model = which_stream.Injected(normed=normed)
    found = probe(model, block="core", inputs=inputs(), with_gradients=True)
    assert float(found.second_moment[0]) == 0  # h_0 is zero, e is not
    assert found.attrs["changed_between_visits"] == (4 if normed else 0)
    named = probe(model, block="core", inputs=inputs(), with_gradients=True, stream="h")
    assert named.identical(found)
    assert verify_applied(model, 1, block="core", inputs=inputs(), modes=("eval",)).scale == 1


def test_a_fused_pair_is_refused_until_one_is_named() -> None:
    with pytest.raises(InputError, match=r"several tensors .*x \(16, 32\), residual \(16, 32\); name one") as caught:
        probe(which_stream.Fused(), block="layer", inputs=inputs())
    assert caught.value.argument == "stream"
    found = probe(which_stream.Fused(), block="layer", inputs=inputs(), stream=("residual", 1))
    assert float(found.second_moment[0]) == 0
    with pytest.raises(InputError, match="stream = 'y': visit 1 to layer has no floating-point argument y; it has x"):
        probe(which_stream.Fused(), block="layer", inputs=inputs(), stream="y")
    with pytest.raises(InputError, match="has no floating-point output 7"):
        probe(which_stream.Fused(), block="layer", inputs=inputs(), stream=("residual", 7))


@pytest.mark.parametrize(
    ("wrap", "take", "name"),
    [
        (lambda a, s: (a, s), lambda out: out[1], 1),
        (lambda a, s: {"attention": a, "states": s}, lambda out: out["states"], "states"),
        (which_stream.Named, lambda out: out.states, "states"),
        (which_stream.Answer, lambda out: out.states, "states"),
        (lambda a, s: (a, {"inner": [a, s]}), lambda out: out[1]["inner"][1], "1.inner.1"),
    ],
    ids=["tuple", "mapping", "named tuple", "dataclass", "nested"],
)
def test_the_output_that_is_handed_on_is_the_stream(wrap: Any, take: Any, name: int | str) -> None:
    model = which_stream.ReadsAnswers(wrap, take)
    found = probe(model, block="layer", inputs=inputs(), with_gradients=True)
    assert float(found.second_moment[-1]) == pytest.approx(float(model(inputs()).detach().square().mean()), rel=1e-6)
    assert found.attrs["changed_between_visits"] == 0
    assert probe(model, block="layer", inputs=inputs(), with_gradients=True, stream=(None, name)).identical(found)
    with pytest.raises(InputError, match=r"several tensors that may be the stream that leaves"):
        probe(which_stream.ReadsAnswers(wrap, take, loops=1), block="layer", inputs=inputs())


def test_a_block_that_adds_in_place() -> None:
    found = probe(which_stream.Repeats(which_stream.InPlace()), block="layer", inputs=inputs())
    assert found.attrs["changed_between_visits"] == 0
    assert (np.diff(found.second_moment) != 0).all()
    assert (
        verify_applied(which_stream.Repeats(which_stream.InPlace()), 0.25, block="layer", inputs=inputs()).scale == 0.25
    )


def test_several_streams_in_one_tensor() -> None:
    x = tokens()[..., None, :].expand(-1, -1, 3, -1).clone()
    found = probe(which_stream.Repeats(which_stream.Streams()), block="layer", inputs=x)
    assert (found.attrs["loops"], found.attrs["changed_between_visits"]) == (4, 0)
