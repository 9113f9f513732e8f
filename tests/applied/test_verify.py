"""Scales planted right pass; scales planted wrong in the ways that people get them wrong are named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from residual_theory import InputError
from residual_theory.applied.verify import ScaleNotAppliedError, verify_applied
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import LoopedTransformer

INPUTS = torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(1))
RULE = "1/(N*sqrt(L))"


class Mlp(nn.Module):
    """W₂ tanh(W₁ x + 1), which is not zero at zero."""

    def __init__(self, seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner, self.outer = (nn.Parameter(torch.randn(16, 16, generator=generator) / 4) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(torch.tanh(x @ self.inner + 1) @ self.outer)
        return out


class Block(nn.Module):
    """u = h + ε_a attention(norm(h)), then u + ε_m mlp(norm(u)), with ε as `scale` has them at this call."""

    def __init__(self, scale: Callable[["Block"], tuple[float, float]], seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale, self.visit = scale, 0
        self.attention, self.mlp = Mlp(2 * seed, dropout), Mlp(2 * seed + 1)
        self.norm = nn.LayerNorm(16)
        self.after_attention = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        first, second = self.scale(self)
        self.visit += 1
        u = h + first * self.after_attention(self.attention(self.norm(h)))
        out: Tensor = u + second * self.mlp(self.norm(u))
        return out


class Model(nn.Module):
    """L blocks looped N times; what a loop does to the stream is `outer`'s."""

    def __init__(self, blocks: list[nn.Module], loops: int, outer: Callable[[Tensor, Tensor], Tensor] | None = None):
        super().__init__()
        self.blocks, self.loops, self.outer = nn.ModuleList(blocks), loops, outer

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.loops):
            for block in self.blocks:
                out = block(h)
                h = out if self.outer is None else self.outer(h, out)
        return h


def model(
    scale: float | Callable[[Block], tuple[float, float]], loops: int = 3, layers: int = 2, **options: Any
) -> Model:
    given = scale if callable(scale) else lambda block: (scale, scale)
    return Model([Block(given, seed, options.get("dropout", 0.0)) for seed in range(layers)], loops)


RIGHT = 1 / (3 * 2**0.5)
BRANCHES = ("attention", "mlp")
MODES = ("eval", "train")


@pytest.mark.parametrize("branches", [BRANCHES, None], ids=["named", "found"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_scale_applied_once_passes(branches: tuple[str, ...] | None, dropout: float) -> None:
    report = verify_applied(model(RIGHT, dropout=dropout), RULE, block="blocks", inputs=INPUTS, branches=branches)
    assert report.scale == pytest.approx(RIGHT)
    assert (report.loops, report.unique_layers) == (3, 2)
    assert len(report.contributions) == 6 * 2 * 2  # visits, branches, modes
    assert [each.seen for each in report.contributions] == pytest.approx([RIGHT] * 24, rel=1e-5)
    assert "in each of 6 visits, in eval and train mode" in str(report)
    assert report.row()["contributions"][0]["mode"] == "eval"


PLANTED: dict[str, tuple[Callable[[Block], tuple[float, float]], str]] = {
    "read but not used": (lambda b: (1.0, 1.0), r"visit 1 to blocks.0 in eval mode adds attention times 1 .*never"),
    "not on the mlp": (lambda b: (RIGHT, 1.0), r"visit 1 .* adds mlp times 1 .* the scale never arrives"),
    "not on attention": (lambda b: (1.0, RIGHT), r"adds attention times 1 .* the scale never arrives"),
    "twice": (lambda b: (RIGHT**2, RIGHT**2), r"times 0\.0555556 .* applied twice"),
    "twice on the mlp": (lambda b: (RIGHT, RIGHT**2), r"mlp times 0\.0555556 .* applied twice"),
    "N and L exchanged": (lambda b: (1 / (2 * 3**0.5),) * 2, r"N and L exchanged"),
    "one loop too few": (lambda b: (1 / (2 * 2**0.5),) * 2, r"fits N = 2, not 3"),
    "one loop too many": (lambda b: (1 / (4 * 2**0.5),) * 2, r"fits N = 4, not 3"),
    "no layers": (lambda b: (1 / 3, 1 / 3), r"L = 1"),
    "for every visit": (lambda b: (1 / 6, 1 / 6), r"N = 6, the visits"),
    "not in the last loop": (lambda b: (RIGHT, RIGHT) if b.visit < 2 else (1.0, 1.0), r"visit 5 to blocks\.0"),
    "only in training": (lambda b: (RIGHT, RIGHT) if b.training else (1.0, 1.0), r"in eval mode .* never arrives"),
    "only in evaluation": (lambda b: (1.0, 1.0) if b.training else (RIGHT, RIGHT), r"in train mode .* never arrives"),
    "a part in a thousand": (lambda b: (RIGHT * 1.002, RIGHT), r"adds attention times 0\.23617"),
    "the mlp forgotten": (lambda b: (RIGHT, 0.0), r"adds mlp times \S+ ± .* the branch is not added"),
    "negative": (lambda b: (-RIGHT, RIGHT), r"adds attention times -0\.2357"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_scale_applied_wrongly_is_named(name: str) -> None:
    scale, words = PLANTED[name]
    wrong = model(scale)
    modes = ("train",) if name == "only in evaluation" else ("eval",) if name == "not in the last loop" else MODES
    with pytest.raises(ScaleNotAppliedError, match=words) as caught:
        verify_applied(wrong, RULE, block="blocks", inputs=INPUTS, branches=BRANCHES, modes=modes)
    assert "expected ε = 0.235702, 1/(N*sqrt(L)) at N = 3, L = 2" in str(caught.value)
    assert isinstance(caught.value, AssertionError)


def test_one_block_of_several_is_named() -> None:
    wrong = model(RIGHT)
    wrong.blocks[1].scale = lambda block: (1 / 3, 1 / 3)  # type: ignore[assignment]
    with pytest.raises(ScaleNotAppliedError, match=r"visit 2 to blocks\.1 .* L = 1"):
        verify_applied(wrong, RULE, block="blocks", inputs=INPUTS)


def test_a_scale_applied_by_the_block_and_by_the_model() -> None:
    scale = 0.25
    twice = Model([Block(lambda block: (scale, scale), 0)], 4, lambda h, out: h + scale * (out - h))
    with pytest.raises(ScaleNotAppliedError, match=r"visit 1 to blocks\.0 .* times 0\.0625 .* applied twice"):
        verify_applied(twice, "1/N", block="blocks", inputs=INPUTS, branches=BRANCHES)


def test_a_norm_between_visits_is_left_unchecked_and_said() -> None:
    norm = nn.LayerNorm(16)
    normed = Model([Block(lambda block: (0.25, 0.25), 0)], 4, lambda h, out: norm(out))
    report = verify_applied(normed, "1/N", block="blocks", inputs=INPUTS)
    assert report.changed_between_visits == 3
    assert "changed between visits 3 times, which was not checked" in str(report)


@pytest.mark.parametrize("factor", [1.0, 0.25, 4 / 3])
def test_a_block_that_is_the_branch_itself(factor: float) -> None:
    own = Model([Mlp(3)], 4, lambda h, out: h + factor * 0.25 * out)
    if factor == 1:
        report = verify_applied(own, "1/N", block="blocks", inputs=INPUTS, branches="")
        assert {each.visit for each in report.contributions} == {1, 2, 3, 4}  # the last sum is the model's output
        return
    with pytest.raises(ScaleNotAppliedError, match=r"adds its output times .* (applied twice|fits N = 3, not 4)"):
        verify_applied(own, "1/N", block="blocks", inputs=INPUTS, branches="")


class Group(nn.Module):
    """As ALBERT's groups: inner layers in a list, called by keyword, answering in a tuple."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList([Block(lambda block: (scale, scale), 7)])

    def forward(self, hidden_states: Tensor) -> tuple[Tensor]:
        for layer in self.albert_layers:
            hidden_states = layer(hidden_states)
        return (hidden_states,)


class Albert(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.groups = nn.ModuleList([Group(scale)])

    def forward(self, hidden_states: Tensor) -> Tensor:
        for _ in range(6):
            hidden_states = self.groups[0](hidden_states=hidden_states)[0]
        return hidden_states


@pytest.mark.parametrize("block", ["groups", "groups.0.albert_layers.0"])
def test_shared_weights_as_in_albert(block: str) -> None:
    inputs = {"hidden_states": INPUTS}
    assert verify_applied(Albert(1 / 6), "1/N", block=block, inputs=inputs).loops == 6
    with pytest.raises(ScaleNotAppliedError, match="fits N = 5, not 6"):
        verify_applied(Albert(1 / 5), "1/N", block=block, inputs=inputs)
    own = Block(lambda block: (0.2, 0.2), 4)
    assert verify_applied(nn.Sequential(*[own] * 5), "1/N", block=own, inputs=INPUTS).loops == 5


def test_bfloat16_decides_or_says_that_it_cannot() -> None:
    inputs = torch.randn(64, 16, 16, generator=torch.Generator().manual_seed(2)).bfloat16()

    def at(loops: int, scale: float) -> Model:
        return model(scale, loops, 1).bfloat16()

    assert verify_applied(at(4, 1 / 4), "1/N", block="blocks", inputs=inputs).scale == 0.25
    for wrong, words in ((1 / 3, "N = 3"), (1 / 5, "N = 5"), (1 / 16, "twice"), (1.0, "never")):
        with pytest.raises(ScaleNotAppliedError, match=words):
            verify_applied(at(4, wrong), "1/N", block="blocks", inputs=inputs)
    with pytest.raises(InputError, match="cannot tell it from"):
        verify_applied(at(64, 1 / 64), "1/N", block="blocks", inputs=inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("loops", "layers"), [(1, 1), (5, 1), (1, 3), (3, 4)])
def test_the_looped_transformer_passes(dtype: torch.dtype, loops: int, layers: int) -> None:
    config = ModelConfig(loops=loops, unique_layers=layers, residual_scale=RULE)
    tokens = torch.arange(24).reshape(3, 8)
    own = LoopedTransformer(config, seed=1).to(dtype)
    verify_applied(own, RULE, block="blocks", inputs=tokens, branches=BRANCHES)
    with pytest.raises(ScaleNotAppliedError):
        verify_applied(own, "0.9/(N*sqrt(L))", block="blocks", inputs=tokens)


def test_the_model_is_left_as_it_was() -> None:
    class Normed(Block):
        def __init__(self) -> None:
            super().__init__(lambda block: (0.5, 0.5), 0, dropout=0.1)
            self.norm = nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(16), nn.Unflatten(0, (6, 5)))  # type: ignore

    own = Model([Normed()], 2)
    own.blocks[0].attention.eval()  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in own.state_dict().items()}
    modes, state = [module.training for module in own.modules()], torch.get_rng_state()
    verify_applied(own, "1/N", block="blocks", inputs=INPUTS, branches=BRANCHES)
    assert modes == [module.training for module in own.modules()]
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in own.modules())


def test_what_decides_nothing_is_refused() -> None:
    right = model(RIGHT)
    post = Model([nn.Sequential(Block(lambda block: (0.5, 0.5), 0), nn.LayerNorm(16))], 2)
    silent = model(RIGHT)
    silent.get_parameter("blocks.0.mlp.outer").data.zero_()
    cases: list[tuple[str, Model, dict[str, Any]]] = [
        ("more than its branches", post, {"branches": ("0.attention", "0.mlp")}),
        ("more than its branches, mlp", right, {"branches": "mlp"}),
        ("has no module of this name", right, {"branches": "attn"}),
        ("proportional", right, {"branches": ("attention", "after_attention")}),
        ("puts out zeros", silent, {"branches": BRANCHES}),
        ("modes = ", right, {"modes": ("test",)}),
        ("tolerance = ", right, {"tolerance": -1.0}),
        ("cannot tell it from", right, {"tolerance": 0.5}),
        ("loops = 0", right, {"loops": 0}),
        ("branches = 5: give names", right, {"branches": 5}),
    ]
    for words, given, options in cases:
        with pytest.raises(InputError, match=words):
            verify_applied(given, RULE, block="blocks", inputs=INPUTS, **options)
    with pytest.raises(InputError, match="residual_scale = None: give a number"):
        verify_applied(right, None, block="blocks", inputs=INPUTS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no visit shows the sum"):
        verify_applied(Model([Mlp(3)], 1), "1/N", block="blocks", inputs=INPUTS, branches="")
