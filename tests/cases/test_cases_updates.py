"""The case book of what is measured: outer updates, gains, compiled and failing models, masks."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from residual_theory import InputError, probe, verify_applied
from residual_theory.applied.verify import ScaleNotAppliedError
from tests.cases import compiled, gains, outer_updates, shared_weights, visit_orders
from tests.cases.shared_weights import WIDTH, Block
from tests.cases.visit_orders import inputs


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(31)
        yield


def tokens(samples: int = 4, count: int = 10) -> Tensor:
    return torch.randn(samples, count, WIDTH, generator=torch.Generator().manual_seed(2))


# What the model does with the block's output


@pytest.mark.parametrize("loops", [2, 4, 8])
def test_a_scale_outside_of_the_block(loops: int) -> None:
    model, x = outer_updates.Interpolates(Block(1.0), 1 / loops, loops), inputs()
    report = verify_applied(model, "1/N", block="block", inputs=x)
    assert report.scale == 1 / loops
    assert f"outside of the block: stream + {1 / loops:.6g} (block's output - stream)" in str(report)
    found = probe(model, block="block", inputs=x, with_gradients=True)
    assert float(found.second_moment[-1]) == pytest.approx(float(model(x).detach().square().mean()), rel=1e-6)
    assert found.attrs["changed_between_visits"] == 0
    assert "stream + " in found.attrs["outside_block"]
    assert float(found.gradient_second_moment[-1]) == pytest.approx(1, rel=1e-6)
    for wrong, words in ((0.9, "times 0.9"), (1 / (loops + 3), f"fits N = {loops + 3}, not {loops}")):
        with pytest.raises(ScaleNotAppliedError, match=words):
            verify_applied(outer_updates.Interpolates(Block(1.0), wrong, loops), "1/N", block="block", inputs=x)
    with pytest.raises(ScaleNotAppliedError, match="applied twice"):
        verify_applied(outer_updates.Interpolates(Block(1 / loops), 1 / loops, loops), "1/N", block="block", inputs=x)


def test_two_visits_may_add_an_injection_or_keep_the_stream() -> None:
    """After one visit both look alike; what the model puts out tells, if it shows the last stream."""
    hidden = nn.Sequential(outer_updates.Interpolates(Block(1.0), 0.5, 2), nn.LayerNorm(WIDTH))
    assert probe(hidden, block="0.block", inputs=inputs()).attrs["changed_between_visits"] == 1
    with pytest.raises(ScaleNotAppliedError, match="is not recognised and may hold a scale, too"):
        verify_applied(hidden, "1/N", block="0.block", inputs=inputs())
    injected = outer_updates.Decays(Block(0.5), 2)
    assert probe(injected, block="block", inputs=inputs()).attrs["changed_between_visits"] == 1
    assert verify_applied(injected, "1/N", block="block", inputs=inputs()).changed_between_visits == 1


def test_coarse_numbers_are_one_factor() -> None:
    model = outer_updates.Interpolates(Block(1.0), 1 / 4, 4).bfloat16()
    x = torch.randn(64, 16, WIDTH, generator=torch.Generator().manual_seed(5)).bfloat16()
    report = verify_applied(model, "1/N", block="block", inputs=x)
    assert str(report).count("outside of the block") == 1


def test_a_norm_behind_the_sum_shows_no_factor() -> None:
    with pytest.raises(InputError, match=r"visit 1: the whole stream is put out by after, behind which \(a norm\?\)"):
        verify_applied(gains.Looped(gains.PostNorm(0.2)), "1/N", block="block", inputs=inputs())


def test_a_block_that_is_the_branch_is_found_to_be_one() -> None:
    model, x = outer_updates.Adds(outer_updates.Branch(), 1 / 8), inputs()
    report = verify_applied(model, "1/N", block="block", inputs=x)
    assert report.scale == 1 / 8
    found = probe(model, block="block", inputs=x)
    assert float(found.second_moment[-1]) == pytest.approx(float(model(x).detach().square().mean()), rel=1e-6)
    normed = nn.Sequential(model, nn.LayerNorm(WIDTH))
    again = probe(normed, block="0.block", inputs=x)  # the model's output shows no stream: it goes on as before
    np.testing.assert_allclose(again.second_moment, found.second_moment, rtol=1e-6)


def test_halted_positions_keep_their_state() -> None:
    model, x = outer_updates.Halts(Block(0.3)), tokens()
    found = probe(model, block="block", inputs=x)
    states = [x]
    with torch.no_grad():
        for loop in range(8):
            states.append(model.update(states[-1], model.block(states[-1]), loop))
    np.testing.assert_allclose(found.second_moment, [float(h.square().mean()) for h in states], rtol=1e-6)
    assert found.updated.values[1:].tolist() == [1.0] * 3 + [0.5] * 5
    left = [float(h[:, 1::2].square().mean()) for h in states[4:]]
    np.testing.assert_allclose(found.second_moment_updated[4:], left, rtol=1e-6)
    assert found.attrs["changed_between_visits"] == 0
    small = probe(model, block="block", inputs=tokens(2, 600), memory=500_000)
    assert "sketch_dimension" in small.attrs
    np.testing.assert_allclose(small.updated[1:], found.updated[1:])


def test_a_last_stream_that_nothing_shows_is_the_blocks_output() -> None:
    found = probe(outer_updates.HaltsNormed(Block(0.3)), block="block", inputs=tokens())
    assert found.updated.values[1:].tolist() == [1.0] * 3 + [0.5] * 4 + [1.0]
    assert found.attrs["outside_block"].startswith("after 4 of 8 visits")


@pytest.mark.parametrize("make", [outer_updates.Gates, outer_updates.GatesPositions])
def test_a_gate_outside_of_the_block_is_said(make: Any) -> None:
    model, x = make(Block(1.0)), tokens()
    found = probe(model, block="block", inputs=x)
    assert float(found.second_moment[-1]) == pytest.approx(float(model(x).detach().square().mean()), rel=1e-6)
    assert "a gate from " in found.attrs["outside_block"]
    with pytest.raises(InputError, match="is not added times one number: a gate from"):
        verify_applied(model, "1/N", block="block", inputs=x)


def test_a_schedule_of_steps_is_followed_and_no_rule() -> None:
    model, x = outer_updates.Scheduled(Block(1.0)), inputs()
    found = probe(model, block="block", inputs=x)
    assert float(found.second_moment[-1]) == pytest.approx(float(model(x).detach().square().mean()), rel=1e-6)
    with pytest.raises(ScaleNotAppliedError, match=r"visit 1 to block .* times 0\.5"):
        verify_applied(model, "1/N", block="block", inputs=x)


def test_an_injection_is_no_update_of_the_stream() -> None:
    found = probe(outer_updates.Decays(Block(0.1)), block="block", inputs=inputs())
    assert found.attrs["changed_between_visits"] == 7
    assert "outside_block" not in found.attrs


def test_a_block_given_some_of_the_positions() -> None:
    assert probe(outer_updates.Routes(Block(0.1)), block="block", inputs=tokens()).attrs["changed_between_visits"] > 0
    with pytest.raises(InputError, match=r"stream of shape \(4, 8, 32\) .* it is given some positions only"):
        probe(outer_updates.Shrinks(Block(0.1), 3), block="block", inputs=tokens())


# Gains, and branches in unusual places


def test_a_layer_scale_is_found_without_branches() -> None:
    x = inputs()
    assert verify_applied(gains.Looped(gains.Scaled(0.2)), "1/N", block="block", inputs=x).scale == 0.2
    assert verify_applied(gains.Looped(gains.Scaled(1e-4)), 1e-4, block="block", inputs=x).scale == 1e-4
    with pytest.raises(ScaleNotAppliedError, match=r"times 1 .*the scale never arrives"):
        verify_applied(gains.Looped(gains.Scaled(1.0)), 1e-4, block="block", inputs=x)


@pytest.mark.parametrize("make", [gains.Scaled, gains.ReZero])
def test_a_gain_inside_a_branch_is_part_of_it(make: Any) -> None:
    report = verify_applied(gains.Looped(make(0.7, 0.2)), "1/N", block="block", inputs=inputs())
    assert "a gain of 0.7 in gain is part of it" in str(report) or "a gain of 0.7 in gamma is part of it" in str(report)
    with pytest.raises(ScaleNotAppliedError, match="applied twice"):
        verify_applied(gains.Looped(make(0.2, 0.2)), "1/N", block="block", inputs=inputs())


def test_a_learned_gain_of_each_channel_is_part_of_the_branch() -> None:
    learned = torch.linspace(0.1, 0.3, WIDTH)
    for make in (gains.Scaled, gains.Vector):
        report = verify_applied(gains.Looped(make(learned, 0.2)), "1/N", block="block", inputs=inputs())
        assert report.scale == 0.2
        with pytest.raises(ScaleNotAppliedError, match="never arrives"):
            verify_applied(gains.Looped(make(learned)), "1/N", block="block", inputs=inputs())
    with pytest.raises(ScaleNotAppliedError, match=r"gain.gamma from 0.1 to 0.3, a part of the branch"):
        verify_applied(gains.Looped(gains.Scaled(learned)), "1/N", block="block", inputs=inputs())


def test_a_number_that_starts_at_zero() -> None:
    zero = gains.Looped(gains.ReZero(0.0))
    report = verify_applied(zero, 0, block="block", inputs=inputs(), branches="narrow")
    assert report.scale == 0
    assert "ε = 0" in str(report)
    with pytest.raises(ScaleNotAppliedError, match="the branch is not added"):
        verify_applied(zero, "1/N", block="block", inputs=inputs(), branches="narrow")


@pytest.mark.parametrize("branches", [None, "narrow"])
def test_stochastic_depth_is_off(branches: str | None) -> None:
    block = gains.Dropped(0.2)
    model = gains.Looped(block)
    report = verify_applied(model, "1/N", block="block", inputs=inputs(), branches=branches)
    assert {each.branch for each in report.contributions} == {"narrow"}
    assert block.drop_path.training


def test_sublayers_that_add_the_stream_themselves() -> None:
    report = verify_applied(gains.Looped(gains.Bloom(0.2)), "1/N", block="block", inputs=inputs())
    assert {each.branch for each in report.contributions} == {"attention.dense", "mlp.dense"}
    with pytest.raises(ScaleNotAppliedError, match="fits N = 4, not 5"):
        verify_applied(gains.Looped(gains.Bloom(0.25)), "1/N", block="block", inputs=inputs())


def test_norms_on_either_side_and_branches_visited_twice() -> None:
    sandwich = verify_applied(gains.Looped(gains.Sandwich(0.2)), "1/N", block="block", inputs=inputs())
    assert {each.branch for each in sandwich.contributions} == {"after"}
    macaron = verify_applied(gains.Looped(gains.Macaron(0.2)), "1/N", block="block", inputs=inputs())
    assert [each.branch for each in macaron.contributions][:3] == ["ffn", "mixer", "ffn"]


# Compiled models, and models that fail


COMPILED: dict[str, Callable[[bool], nn.Module]] = {
    "model": compiled.whole,
    "fullgraph": lambda run: compiled.whole(run, fullgraph=True),
    "block": compiled.inner,
    "in place": compiled.in_place,
    "function": compiled.step,
    "hooked": compiled.hooked,
}


@pytest.mark.parametrize("run", [False, True], ids=["not run yet", "run"])
@pytest.mark.parametrize("way", COMPILED)
def test_compiled_models_give_the_uncompiled_answers(way: str, run: bool) -> None:
    x = inputs()
    expected = probe(compiled.plain(), block="block", inputs=x)
    model = COMPILED[way](run)
    found = probe(model, block="block", inputs=x)
    assert found.second_moment.equals(expected.second_moment)
    report = verify_applied(model, "1/N", block="block", inputs=x)
    assert {each.branch for each in report.contributions} == {"narrow"}
    with pytest.raises(ScaleNotAppliedError, match=r"expected ε = 0\.5"):
        verify_applied(model, 0.5, block="block", inputs=x)


def test_a_captured_graph_is_refused_by_name() -> None:
    for look in (probe, lambda model, **options: verify_applied(model, "1/N", **options)):
        with pytest.raises(InputError, match="model = 'block': replays a CUDA graph, which calls no hooks"):
            look(compiled.replayed(), block="block", inputs=inputs())


class Raises(gains.Looped):
    """Fails in the middle, within or between visits."""

    def __init__(self, inside: bool) -> None:
        super().__init__(Block(0.2))
        self.inside = inside

    def forward(self, h: Tensor) -> Tensor:
        h = self.block(self.block(h))
        if not self.inside:
            raise RuntimeError("between visits")
        return self.block(h[:, :3])  # type: ignore[no-any-return]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("block", ["block", None])
def test_a_model_that_raises_is_left_as_it_was(inside: bool, block: str | None) -> None:
    model = Raises(inside)
    model.block.norm.eval()  # type: ignore[union-attr]
    modes = [module.training for module in model.modules()]
    x = inputs()
    looks: list[Callable[[], Any]] = [lambda: probe(model, block=block, inputs=x, with_gradients=block is not None)]
    if block is not None:
        looks.append(lambda: verify_applied(model, "1/N", block=block, inputs=x))
    for look in looks:
        with pytest.raises((RuntimeError, InputError)):
            look()
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert [module.training for module in model.modules()] == modes
        assert not x.requires_grad


def test_the_first_visit_that_is_not_finite_is_named() -> None:
    model = gains.Looped(Block(1e20), 6)
    assert probe(model, block="block", inputs=inputs()).attrs["first_nonfinite_visit"] == 2
    with pytest.raises(InputError, match=r"the stream after visit 2 to block.*holds an infinity or a NaN"):
        verify_applied(model, 1e20, block="block", inputs=inputs())


# Masks, and the block nobody names


def test_a_mask_leaves_padding_out_of_every_mean() -> None:
    model, x = gains.Looped(Block(0.3)), tokens()
    lengths = torch.tensor([10, 7, 3, 1])
    mask = torch.arange(10) < lengths[:, None]
    found = probe(model, block="block", inputs=x, mask=mask)
    rows = [probe(model, block="block", inputs=x[i : i + 1, : int(n)]) for i, n in enumerate(lengths)]
    for name in ("second_moment", "covariance", "increment_cosine"):
        np.testing.assert_allclose(found[name], np.mean([row[name] for row in rows], axis=0), rtol=1e-5)
    spoiled = torch.where(mask[..., None], x, 1e3)  # what is masked changes nothing
    np.testing.assert_allclose(
        probe(model, block="block", inputs=spoiled, mask=mask.long()).covariance, found.covariance, rtol=1e-6
    )
    everything = probe(model, block="block", inputs=x, mask=torch.ones(4, 10))
    assert everything.equals(probe(model, block="block", inputs=x))


def test_a_mask_beside_sketches_and_gradients() -> None:
    model, x = gains.Looped(Block(0.3)), tokens(2, 600)
    mask = torch.arange(600) < torch.tensor([[600], [50]])
    whole = probe(model, block="block", inputs=x, mask=mask)
    small = probe(model, block="block", inputs=x, mask=mask, memory=500_000)
    assert "sketch_dimension" in small.attrs
    np.testing.assert_allclose(small.second_moment, whole.second_moment, rtol=1e-6)
    found = probe(model, block="block", inputs=x, mask=mask, with_gradients=True)
    assert float(found.gradient_second_moment[-1]) == pytest.approx(1, rel=1e-6)
    spoiled = torch.where(mask[..., None], x, 1e3)  # positions do not mix here: no readout, no gradient
    again = probe(model, block="block", inputs=spoiled, mask=mask, with_gradients=True)
    np.testing.assert_allclose(again.gradient_second_moment, found.gradient_second_moment, rtol=1e-6)
    halting = outer_updates.Halts(Block(0.3))
    twice = probe(halting, block="block", inputs=tokens(), mask=torch.arange(10)[None] < torch.full((4, 1), 6))
    assert twice.updated.values[-1] == 0.5


@pytest.mark.parametrize(
    ("mask", "mend"),
    [
        (torch.ones(4, 9), "must have the leading axes of the stream, which is (4, 10, 32)"),
        (torch.ones(3, 10), "must have the leading axes"),
        (torch.full((4, 10), 0.5), "must hold True and False"),
        ("attention_mask", "give a tensor"),
        (torch.arange(4)[:, None] * torch.ones(10) > 0, "leaves nothing of sample 0"),
    ],
)
def test_a_mask_that_does_not_fit(mask: Any, mend: str) -> None:
    model = gains.Looped(Block(0.3))
    with pytest.raises(InputError) as caught:
        probe(model, block="block", inputs=tokens(), mask=mask)
    assert caught.value.argument == "mask"
    assert mend in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_block_that_nobody_names() -> None:
    x = inputs()
    assert probe(gains.Looped(Block(0.2)), inputs=x).attrs["blocks"] == "block"
    ordered = visit_orders.Ordered(visit_orders.CONSECUTIVE, [0.1] * 4)
    assert probe(ordered, inputs=x).attrs["blocks"] == "blocks.0, blocks.1, blocks.2, blocks.3"
    assert probe(gains.Looped(gains.Macaron(0.1)), inputs=x).attrs["blocks"] == "block"  # not what is called inside
    two = nn.Sequential(gains.Looped(Block(0.2)), gains.Looped(Block(0.1, 1), 3))
    with pytest.raises(InputError, match=r"0\.block \(5 times\), 1\.block \(3 times\); name one, or a list"):
        probe(two, inputs=x)
    with pytest.raises(InputError, match="no module is called more than once"):
        probe(shared_weights.tied_matrices(0.1), inputs=x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_another_precision_are_read_too(dtype: torch.dtype) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(8, 8)

        def forward(self, h: Tensor) -> Tensor:
            for _ in range(4):
                h = 0.9 * h + 0.1 * self.block(h)
            return h

    model = Shifted().to(dtype)
    probed = probe(model, block="block", inputs=torch.randn(4, 8, dtype=dtype))
    assert bool(np.isfinite(probed.second_moment).all())
    assert probed.sizes["visit"] == 5
