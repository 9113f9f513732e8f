"""Assertions for the tests of other projects: each passes on what is right and fails on its false twin."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from residual_theory import InputError, Stack, predict
from residual_theory.claims import (
    Claim,
    Measurement,
    Round,
    StackParameters,
    Twin,
    at_infinite_width,
    simulations,
    untied,
)
from residual_theory.statistics.findings import Word
from residual_theory.testing import assert_confirmed, assert_growth_exponent, assert_scale_applied
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import LoopedTransformer


class Sizes(StackParameters):
    """Small enough to take a second."""

    loops: int = 8
    widths: tuple[int, ...] = (32, 64, 96)
    samples: tuple[int, ...] = (2000, 1500, 1500)
    margin: float = 0.1


def plan(sizes: Sizes, current: Round) -> list[Measurement]:
    return list(simulations([Stack(loops=sizes.loops, residual_scale="2/N")], sizes, current))


def claim(law: object = predict, twin: object = untied, name: str = "looped", recorded: Word = "confirmed") -> Claim:
    return Claim(
        id=name, statement="a looped layer", source="this project", level="simulation", recorded=recorded,
        reason="it does", margin="10 %", law=law, twin=Twin("as if untied", twin), parameters=Sizes,
        plan=plan, check=at_infinite_width,
    )  # fmt: skip


def test_a_true_claim_is_confirmed_and_keeps_its_measurements(tmp_path: Path) -> None:
    assert_confirmed(claim(), results=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nc")}
    assert len(kept) == 3
    assert_confirmed([claim()], results=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nc")} == kept


def test_a_false_claim_fails_with_its_evidence(tmp_path: Path) -> None:
    wrong = claim(untied, lambda stack: 3 * predict(stack), recorded="refuted")  # a record changes nothing
    with pytest.raises(AssertionError) as caught:
        assert_confirmed([claim(name="right"), wrong], results=tmp_path)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert message.startswith("looped/simulation is refuted (on record: refuted): R² at N = 8")
    predicted = float(untied(Stack(loops=8, residual_scale="2/N")).second_moment[-1])
    for words in (f"predicted {predicted:.4g} ± {0.1 * predicted:.2g} (5000 samples)", "[", "(as if untied) is ref"):
        assert words in message


def test_a_check_without_power_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"is confirmed .* false twin \(as if untied\) is confirmed: R²"):
        assert_confirmed(claim(twin=lambda stack: 1.001 * predict(stack)), results=tmp_path)


def test_sizes_come_from_a_preset_then_from_parameters(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[looped.simulation]\nsamples = [40, 30, 30]\nloops = 5\n")
    with pytest.raises(AssertionError, match=r"inconclusive.*N = 5.*\(100 samples\)"):
        assert_confirmed(claim(), preset=tmp_path / "mine.toml", results=tmp_path)
    with pytest.raises(AssertionError, match=r"inconclusive.*N = 6.*\(100 samples\)"):
        assert_confirmed(claim(), preset=tmp_path / "mine.toml", parameters={"loops": 6}, results=tmp_path)
    with pytest.raises(InputError, match="loop = 6"):
        assert_confirmed(claim(), parameters={"loop": 6})


def test_a_file_of_claims_and_what_it_has_to_refuse(tmp_path: Path) -> None:
    file = tmp_path / "claims.py"
    file.write_text("CLAIMS = (3,)")
    with pytest.raises(AssertionError, match=r"refused: .*is no Claim"):
        assert_confirmed(file)


@pytest.mark.parametrize(
    "claims", [[], 3, [3], "no-such.py", [claim(), claim()], dataclasses.replace(claim(), twin=Twin("", None))]
)
def test_what_is_no_claim_is_refused(claims: Claim) -> None:
    with pytest.raises(InputError, match="claims = "):
        assert_confirmed(claims)


SIZES = (2, 4, 8, 16, 32, 64)


def noisy(exponent: float, noise: float, seed: int = 0) -> tuple[list[float], list[float]]:
    """Values around 3 N^exponent and their standard errors."""
    exact = 3 * np.array(SIZES, dtype=float) ** exponent
    draws = np.random.default_rng(seed).standard_normal(len(SIZES))
    return list(exact * (1 + noise * draws)), list(noise * exact)


def test_the_exponent_predicted_passes_and_another_fails() -> None:
    values, stderrs = noisy(0.5, 0.02)
    assert_growth_exponent(SIZES, values, stderrs, predicted=0.5, margin=0.1)
    with pytest.raises(AssertionError, match=r"over 6 sizes is 0\.\d+ \[.*\], predicted 1 ± 0\.1: refuted"):
        assert_growth_exponent(SIZES, values, stderrs, predicted=1.0, margin=0.1)
    values, stderrs = noisy(0.5, 0.3)
    with pytest.raises(AssertionError, match="inconclusive"):
        assert_growth_exponent(SIZES, values, stderrs, predicted=0.5, margin=0.1)


def test_what_is_no_power_law_is_not_confirmed() -> None:
    """Growth that ends: the best line has the predicted slope, but points lie off it by many standard errors."""
    values = [min(n, 16.0) for n in SIZES]
    with pytest.raises(AssertionError, match=r"inconclusive|refuted"):
        assert_growth_exponent(SIZES, values, [0.001 * value for value in values], 0.65, margin=0.2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sizes": SIZES[:4], "values": [1.0] * 4, "stderrs": [0.1] * 4}, "5 distinct sizes"),
        ({"sizes": [2, 2, 4, 4, 8, 8]}, "5 distinct sizes"),
        ({"values": [1.0] * 5}, "give one for each"),
        ({"values": [1.0] * 5 + [np.nan]}, "values = "),
        ({"values": [1.0] * 5 + [-1.0]}, "values = "),
        ({"stderrs": [0.0] * 6}, "stderrs = "),
        ({"predicted": np.nan}, "predicted = nan"),
        ({"predicted": "x"}, "predicted = 'x'"),
        ({"values": ["a"] * 6}, "values = "),
        ({"margin": None}, "margin = None"),
        ({"margin": 0.0}, "margin = 0.0"),
        ({"alpha": 1.0}, "alpha = 1.0"),
    ],
)
def test_bad_points_are_refused(changed: dict[str, object], words: str) -> None:
    usual = {"sizes": SIZES, "values": [1.0] * 6, "stderrs": [0.1] * 6, "predicted": 0.0, "margin": 0.5}
    with pytest.raises(InputError, match=words):
        assert_growth_exponent(**usual | changed)  # type: ignore[arg-type]


class Branch(nn.Module):
    """h + ε^power W₂ tanh(W₁ h), on the visits numbered in `on`, and h + W₂ tanh(W₁ h) on the others."""

    def __init__(
        self, scale: float, power: float = 1, on: range = range(9), dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.inner, self.outer = (torch.randn(16, 16, generator=generator).to(dtype) / 4 for _ in range(2))
        self.scale, self.power, self.on, self.visit = scale, power, on, 0

    def forward(self, h: Tensor) -> Tensor:
        factor = self.scale**self.power if self.visit in self.on else 1.0
        self.visit += 1
        return h + factor * (torch.tanh(h @ self.inner) @ self.outer)


class Looped(nn.Module):
    """One block, three times."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(3):
            h = self.layer(h)
        return h


INPUTS = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def test_a_scale_applied_once_passes() -> None:
    for scale in (1.0, 0.3, 1 / 64, -0.5):
        assert_scale_applied(lambda s: Looped(Branch(s)), "layer", INPUTS, scale)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda s: Looped(Branch(s, power=0)), r"visit 1 .* 1 times as large"),
        (lambda s: Looped(Branch(s, power=2)), r"visit 1 .* 0\.25 times as large"),
        (lambda s: Looped(Branch(s, power=0.5)), r"visit 1 .* 0\.707 times as large"),
        (lambda s: Looped(Branch(s, power=-1)), r"visit 1 .* 2 times as large"),
        (lambda s: Looped(Branch(s, on=range(2))), r"visit 3 .* 1 times as large"),
    ],
    ids=["never", "twice", "its root", "its inverse", "not in the last loop"],
)
def test_a_scale_not_applied_once_fails(build: Callable[[float], nn.Module], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        assert_scale_applied(build, "layer", INPUTS, 0.3)


def test_one_model_with_its_scale_set_anew_will_do() -> None:
    """A silent no-op: the attribute set is not the one that is read."""
    model = Looped(Branch(1.0))

    def build(scale: float, name: str = "scale") -> nn.Module:
        setattr(model.layer, name, scale)
        model.layer.visit = 0  # type: ignore[assignment]
        return model

    assert_scale_applied(build, "layer", INPUTS, 0.25)
    with pytest.raises(AssertionError, match="1 times as large"):
        assert_scale_applied(lambda scale: build(scale, "residual_scale"), "layer", INPUTS, 0.25)


def transformer(scale: float) -> LoopedTransformer:
    return LoopedTransformer(ModelConfig(loops=3, unique_layers=2, residual_scale=scale, init_std=0.1), seed=2).eval()


def half_scaled(scale: float) -> LoopedTransformer:
    """A Transformer whose MLPs the scale never reaches."""
    model = transformer(scale)
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.down.weight"):
            parameter.data /= scale
    return model


def test_blocks_of_two_branches_need_room_for_their_curvature() -> None:
    tokens = torch.arange(20).reshape(2, 10)
    assert_scale_applied(transformer, "blocks", tokens, 0.01, curvature=0.1)
    with pytest.raises(AssertionError, match="departs from proportionality"):
        assert_scale_applied(transformer, "blocks", tokens, 0.1)
    for wrong in (half_scaled, lambda scale: transformer(scale**2), lambda scale: transformer(0.1)):
        with pytest.raises(AssertionError, match="not applied exactly once"):
            assert_scale_applied(wrong, "blocks", tokens, 0.01, curvature=0.1)


def test_low_precision_decides_or_says_that_it_cannot() -> None:
    def build(scale: float, power: float = 1) -> nn.Module:
        return Looped(Branch(scale, power, dtype=torch.bfloat16))

    assert_scale_applied(build, "layer", INPUTS.bfloat16(), 1.0)
    with pytest.raises(AssertionError, match="not applied"):
        assert_scale_applied(lambda scale: build(scale, 2), "layer", INPUTS.bfloat16(), 1.0)
    with pytest.raises(InputError, match="take a larger scale or precision"):
        assert_scale_applied(build, "layer", INPUTS.bfloat16(), 1 / 512)


def test_weights_drawn_from_the_global_state_are_the_same_and_the_state_is_left() -> None:
    def build(scale: float) -> nn.Module:
        class Own(Branch):
            def __init__(self) -> None:
                super().__init__(scale)
                self.inner = torch.randn(16, 16)

        return Looped(Own())

    before = torch.get_rng_state()
    assert_scale_applied(build, "layer", INPUTS, 0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_models_that_cannot_be_compared_are_refused() -> None:
    generator = torch.Generator().manual_seed(3)

    def fresh(scale: float) -> nn.Module:
        layer = Branch(scale)
        layer.inner = torch.randn(16, 16, generator=generator)
        return Looped(layer)

    def silent(scale: float) -> nn.Module:
        layer = Branch(scale)
        layer.outer = torch.zeros(16, 16)
        return Looped(layer)

    builds: dict[str, Callable[[float], object]] = {
        "differs from call to call": fresh,
        "visit 1 adds 0": silent,
        "return a torch.nn.Module": lambda scale: 3,
    }
    for words, build in builds.items():
        with pytest.raises(InputError, match=words):
            assert_scale_applied(build, "layer", INPUTS, 0.5)  # type: ignore[arg-type]
    for scale in (0.0, float("nan")):
        with pytest.raises(InputError, match="scale = "):
            assert_scale_applied(lambda s: Looped(Branch(s)), "layer", INPUTS, scale)
    with pytest.raises(InputError, match=r"curvature = 0\.5"):
        assert_scale_applied(lambda s: Looped(Branch(s)), "layer", INPUTS, 0.5, curvature=0.5)


def test_named_branches_show_a_constant_factor_beside_the_scale() -> None:
    tokens = torch.arange(20).reshape(2, 10)
    branches = ("attention", "mlp")
    assert_scale_applied(transformer, "blocks", tokens, 0.3, branches=branches)
    with pytest.raises(AssertionError, match=r"adds attention times 0\.6 ± .*, expected ε = 0\.3"):
        assert_scale_applied(lambda scale: transformer(2 * scale), "blocks", tokens, 0.3, branches=branches)
