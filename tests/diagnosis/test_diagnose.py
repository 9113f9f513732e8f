"""A diagnosis names the law of stacks whose law is known, forecasts them, and says so where it cannot."""

import json
import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from residual_theory import InputError, Stack, predict, probe, recommend, simulate
from residual_theory.diagnosis.diagnose import diagnose
from residual_theory.diagnosis.laws import MEANING, Law
from residual_theory.diagnosis.trajectory import GrowthModel, Trajectory
from residual_theory.report.diagnosis_figure import draw
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import LoopedTransformer

WIDTH = 96


def unit(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt()


class Step(nn.Module):
    """h ← carry·h + ε W relu(h): "pre" norm before the branch, "post" norm after the sum."""

    def __init__(self, scale: float, norm: str, carry: float, generator: torch.Generator) -> None:
        super().__init__()
        self.matrix = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5
        self.scale, self.norm, self.carry = scale, norm, carry

    def forward(self, h: Tensor) -> Tensor:
        branch = torch.relu(unit(h) if self.norm == "pre" else h) @ self.matrix.T
        u = self.carry * h + self.scale * branch
        return unit(u) if self.norm == "post" else u


def probed(
    layers: int, scale: float, norm: str = "none", *, visits: int = 24, carry: float = 1.0, seed: int = 0
) -> xr.Dataset:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(6, WIDTH, generator=generator, dtype=torch.float64)
    steps = [Step(scale, norm, carry, generator) for _ in range(layers)]
    return probe(nn.Sequential(*(steps * (visits // layers))), block=steps, inputs=h)


ROOT, WHOLE = 24**-0.5, 1 / 24
KNOWN: dict[str, tuple[Callable[..., xr.Dataset], str]] = {
    "untied, ε = 1": (lambda **o: probed(24, 1.0, **o), "exponential"),
    "untied, ε = 1/√V": (lambda **o: probed(24, ROOT, **o), "independent"),
    "untied, ε = 1/V": (lambda **o: probed(24, WHOLE, **o), "independent"),
    "untied, pre-norm": (lambda **o: probed(24, 1.0, "pre", **o), "independent"),
    "tied, ε = 1": (lambda **o: probed(1, 1.0, **o), "exponential"),
    "tied, ε = 1/√V": (lambda **o: probed(1, ROOT, **o), "exponential"),
    "tied, ε = 1/V": (lambda **o: probed(1, WHOLE, **o), "coherent"),
    "tied, pre-norm, ε = 1": (lambda **o: probed(1, 1.0, "pre", **o), "linear"),
    "tied, pre-norm, ε = 1/V": (lambda **o: probed(1, WHOLE, "pre", **o), "coherent"),
    "three layers, ε = 1/V": (lambda **o: probed(3, WHOLE, **o), "coherent"),
    "twelve layers, two loops": (lambda **o: probed(12, ROOT / 2, "pre", **o), "coherent"),
    "post-norm": (lambda **o: probed(1, 0.3, "post", **o), "normalised"),
    "untied, post-norm": (lambda **o: probed(24, 1.0, "post", **o), "normalised"),
    "decaying": (lambda **o: probed(1, 0.2, "pre", carry=0.6, **o), "bounded"),
    "falling": (lambda **o: probed(24, 0.02, carry=0.8, **o), "bounded"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_law_is_named(name: str) -> None:
    make, law = KNOWN[name]
    found = [diagnose(make(seed=seed)) for seed in range(3)]
    assert [each.law for each in found] == [law] * 3, [each.why for each in found]


@pytest.mark.parametrize("name", [name for name, (_, law) in KNOWN.items() if law != "normalised"])
def test_shuffled_visits_follow_no_law(name: str) -> None:
    for seed in range(3):
        data = KNOWN[name][0](seed=seed)
        order = np.append(0, 1 + np.random.default_rng(seed).permutation(24))
        data["covariance"] = (("visit", "visit_other"), data.covariance.values[np.ix_(order, order)])
        assert diagnose(data).law == "undecided"


@pytest.mark.parametrize(
    ("stack", "law"),
    [
        (Stack(loops=32, residual_scale="1/N"), "coherent"),
        (Stack(loops=32, residual_scale="1"), "exponential"),
        (Stack(loops=32, residual_scale="1", normalization="rms"), "linear"),
        (Stack(loops=1, unique_layers=32, residual_scale="1/sqrt(L)", tied=False), "independent"),
        (Stack(loops=8, unique_layers=4, residual_scale="1/(N*sqrt(L))"), "coherent"),
    ],
)
def test_what_theory_predicts_is_diagnosed_as_it_is(stack: Stack, law: str) -> None:
    """At infinite width, without any noise; and a simulation is as good as a probe."""
    assert diagnose(predict(stack), loops=stack.loops, unique_layers=stack.unique_layers).law == law
    drawn = simulate(stack, width=256, samples=4)
    assert diagnose(drawn, loops=stack.loops, unique_layers=stack.unique_layers).law == law


def test_numbers_of_a_coherent_stack_are_those_of_its_streams() -> None:
    data = probed(1, WHOLE, "pre", seed=5)
    found, streams = diagnose(data), data.covariance.values
    changes = np.diff(np.eye(25), axis=0)
    gram = changes @ streams @ changes.T
    assert found.alignment.value == pytest.approx(gram.sum() / np.trace(gram), rel=1e-9)
    off = data.increment_cosine.values
    assert 0.9 < found.cosine.value < 1
    assert found.cosine.value == pytest.approx((off.sum() - 24) / (24 * 23), abs=0.02)  # of means, not mean of cosines
    assert found.norms == pytest.approx(np.sqrt(data.second_moment.values), rel=1e-9)
    assert found.alignment_exponent.inside(0.5, 1.5)
    assert (found.loops, found.unique_layers, found.unit, found.steps, found.samples) == (24, 1, "loop", 24, 6)


def test_forecasts_hold_and_the_scale_recommended_bounds_the_stream() -> None:
    """Of the very same weights, run on: 2, 4 and 8 times the loops, at the same ε and at the one recommended."""
    for scale, norm in ((1.0, "pre"), (ROOT, "pre"), (ROOT, "none"), (WHOLE, "none")):
        found = diagnose(probed(1, scale, norm))
        kept = 0
        for each in found.forecasts:
            same = float(probed(1, scale, norm, visits=each.visits).second_moment[-1]) ** 0.5
            bounded = float(probed(1, scale * each.scale, norm, visits=each.visits).second_moment[-1]) ** 0.5
            kept += each.same.low < same < each.same.high
            assert bounded < 1.7
            assert each.recommended.low * 0.9 < bounded < each.recommended.high * 1.1
        assert kept >= 2, (scale, norm, found.forecasts)


def test_the_recommended_scale_follows_the_rule_of_the_theory() -> None:
    coherent, independent = diagnose(probed(1, WHOLE)), diagnose(probed(24, ROOT))
    for each in coherent.forecasts:
        rule = recommend(24 * each.factor, 1).residual_scale / recommend(24, 1).residual_scale
        assert each.scale / coherent.residual_scale == pytest.approx(rule)
        assert each.learning_rate == 1
    for each in independent.forecasts:
        assert each.scale / independent.residual_scale == pytest.approx(each.factor**-0.5)
        assert each.learning_rate == pytest.approx(each.factor**-0.5)
    assert coherent.residual_scale == independent.residual_scale == 1
    assert diagnose(probed(1, 1.0)).residual_scale < 0.2


def test_the_growth_model_has_the_theorys_corners() -> None:
    """Homogeneous untied layers grow as e^(wk), coherent ones as cosh: theory.md, §3."""
    steps = np.arange(1.0, 40.0)
    untied = GrowthModel(0.0, 1.0, 1.0, 0.0, math.exp(0.1 * 20) - 1, 20)
    np.testing.assert_allclose(untied.norm(untied.displaced(steps)) ** 2, np.exp(0.1 * steps), rtol=1e-3)
    tied = GrowthModel(1.0, 1.0, 1.0, 0.0, math.sinh(0.1 * 20) ** 2, 20)
    np.testing.assert_allclose(tied.norm(tied.displaced(steps)), np.cosh(0.1 * steps), rtol=1e-3)
    normed = GrowthModel(1.0, 0.0, 2.0, 0.0, 9.0, 20)
    np.testing.assert_allclose(normed.displaced(steps), 9 * (steps / 20) ** 2, rtol=1e-3)


def test_a_looped_transformer() -> None:
    tokens = torch.randint(256, (4, 16), generator=torch.Generator().manual_seed(1))
    for scale, law in (("0.05/N", "coherent"), ("1", "linear")):
        config = ModelConfig(loops=24, residual_scale=scale, init_std=0.1)
        model = LoopedTransformer(config, seed=3).eval()
        assert diagnose(probe(model, block="blocks", inputs=tokens)).law == law


def looped(layer: nn.Module, loops: int, *shape: int) -> xr.Dataset:
    """A probe of one layer applied `loops` times to random inputs."""
    h = torch.randn(8, *shape, generator=torch.Generator().manual_seed(7))
    return probe(nn.Sequential(*[layer] * loops).eval(), block=layer, inputs=h)


def encoder(norm_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first)


class Saturating(nn.Module):
    """h ← h + B tanh(A h)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("norm_first", "laws"), [(True, {"linear"}), (False, {"normalised"})])
def test_an_ordinary_layer_looped_gets_an_answer(norm_first: bool, laws: set[str]) -> None:
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layer = encoder(norm_first)
        found, longer = diagnose(looped(layer, 12, 16, 32)), looped(layer, 96, 16, 32)
        assert found.law in laws, found.why
        for each in found.forecasts:
            seen = float(longer.second_moment[each.visits]) ** 0.5
            assert each.same.low * 0.999 < seen < each.same.high * 1.001


def test_between_the_laws_there_is_an_answer_all_the_same() -> None:
    """Eight loops of a layer that starts to saturate: growth is coherent, how fast it goes on they do not tell."""
    undecided = 0
    for seed in range(4):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layer = Saturating()
        data, longer = looped(layer, 8, 64), looped(layer, 64, 64)
        found = diagnose(data)
        assert found.law in ("undecided", "linear")
        for each in found.forecasts:
            assert each.same.low < float(longer.second_moment[each.visits]) ** 0.5 < each.same.high
            assert each.scale / found.residual_scale == pytest.approx(1 / each.factor)
        assert len(found.forecasts) == 3
        if found.law == "undecided":
            undecided += 1
            assert found.certain.startswith("R grows, coherent (γ ≈ 1); between linear")
            assert "certain: R grows" in found.explain()
            assert draw(data, found).axes[0].get_legend_handles_labels()[1][1] == "a fit between the laws"
    assert undecided, "no seed was undecided, so that nothing was tested"


@pytest.mark.parametrize("gamma", [0.5, 0.7])
def test_changes_that_align_in_part_are_not_called_coherent(gamma: float) -> None:
    """Changes of correlation ∝ |i − j|^(γ − 1) sum to ‖ΣΔ‖² ∝ steps^(1+γ): theory.md, §1."""
    for steps in (12, 16, 32):
        apart = 1.0 + np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
        root = np.linalg.cholesky(apart ** (gamma - 1))
        for seed in range(5):
            random = np.random.default_rng(seed)
            changes = 0.6 * steps**-0.5 * root @ random.standard_normal((steps, 1000))
            streams = np.vstack((random.standard_normal((1, 1000)), changes)).cumsum(0)
            found = diagnose(xr.Dataset({"covariance": (("visit", "visit_other"), streams @ streams.T / 1000)}))
            assert found.law == "partly coherent", found.why
            assert 0.5 < -math.log(found.forecasts[0].scale / found.residual_scale, 2) < 1


def test_a_stream_that_has_come_to_rest_is_bounded() -> None:
    """Exactly at rest, in float32, after some twenty loops: the last changes have no direction."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
    found = diagnose(looped(layer, 60, 64))
    assert (found.law, found.steps) == ("bounded", 60)
    assert found.forecasts[2].same.value == pytest.approx(found.norms[-1], rel=1e-4)


def test_the_order_of_visits_is_told_from_a_shuffled_one() -> None:
    for steps in (5, 24):
        path = Trajectory.of(np.minimum.outer(np.arange(steps + 1.0), np.arange(steps + 1.0)) + 1)
        assert path.chance() < 0.02
    order = np.append(0, 1 + np.random.default_rng(0).permutation(24))
    walk = np.minimum.outer(np.arange(25.0), np.arange(25.0)) + 1
    assert Trajectory.of(walk[np.ix_(order, order)]).chance() > 0.02


def test_initialisations_joined_widen_or_keep_the_intervals() -> None:
    alone = [probed(1, WHOLE, seed=seed) for seed in range(6)]
    joined = diagnose(xr.concat(alone, "draw"))
    assert joined.law == "coherent"
    assert not any("One set of weights" in note for note in joined.untested)
    assert any("One set of weights" in note for note in diagnose(alone[0]).untested)


def test_an_answer_reads_and_serialises() -> None:
    found = diagnose(probed(1, 1.0, "pre"))
    text = found.explain()
    for words in ("law: linear", "extrapolated", "untested:", "One set of weights", "2× (48 visits)", "ε ×"):
        assert words in text
    row = json.loads(json.dumps(found.row(), allow_nan=False))
    assert row["law"] == "linear"
    assert row["forecasts"][2]["visits"] == 192
    assert set(MEANING) == set(get_args(Law))


@pytest.mark.parametrize("name", ["tied, ε = 1/√V", "untied, ε = 1/√V", "post-norm", "decaying"])
def test_a_picture(name: str) -> None:
    data = KNOWN[name][0]()
    figure = draw(data, diagnose(data))
    left, right = figure.axes[:2]
    assert left.get_title().startswith(KNOWN[name][1])
    assert left.get_xlabel() == "visits to the block"
    assert right.images[0].get_size() == (24, 24)
    figure.canvas.draw()
    draw(probed(1, 1.0, visits=3)).canvas.draw()


def test_too_little_is_undecided_and_says_why() -> None:
    few = diagnose(probed(1, 1.0, visits=4))
    assert few.law == "undecided"
    assert few.why == "4 loops are too few to tell laws apart; probe 5 at least"
    assert few.forecasts == ()
    json.dumps(few.row(), allow_nan=False)
    assert "undecided" in few.explain()
    assert "nan" not in str(few) + few.explain()
    assert "assumed" not in few.explain()
    assert str(few).startswith("Cannot tell what the stream does: 4 loops are too few")
    from_zero = probed(1, WHOLE)
    from_zero.covariance[0, :] = from_zero.covariance[:, 0] = 0.0
    assert "the stream starts from zero" in (found := diagnose(from_zero)).why
    assert found.forecasts == ()
    still = diagnose(probed(1, 0.0, visits=8))
    assert (still.law, still.why) == ("undecided", "no loop changes the stream")


@pytest.mark.parametrize(("loops", "layers", "stop"), [(3, 6, 12), (3, 4, 9), (2, 6, 9), (2, 12, 24)])
def test_a_layered_stream_that_comes_to_rest_is_grouped_by_its_own_layers(loops: int, layers: int, stop: int) -> None:
    whole = probed(layers, 1 / (loops * layers), visits=loops * layers)
    halted = whole.isel(visit=np.minimum(np.arange(loops * layers + 1), stop)).assign_attrs(whole.attrs)
    halted = halted.isel(visit_other=np.minimum(np.arange(loops * layers + 1), stop))
    found = diagnose(halted, loops=loops, unique_layers=layers)
    assert found.law not in ("independent", "exponential, independent")  # the layers are looped: they push the same way
    if stop == loops * layers:
        assert found.law == "coherent"


def test_a_stream_that_all_but_vanishes_is_undecided() -> None:
    ended = probed(1, 0.1, visits=8)
    ended.covariance[-1, :] = ended.covariance[:, -1] = 0.0
    assert "all but vanishes in loop 8" in (found := diagnose(ended)).why
    assert found.norms[-1] == 0
    shrunk = diagnose(probed(1, 0.0, carry=0.3, visits=24))
    assert (shrunk.law, shrunk.forecasts) == ("undecided", ())
    assert shrunk.norms[-1] == pytest.approx(shrunk.norms[0] * 0.3**24, rel=1e-3)


def test_bad_data_are_refused() -> None:
    good = probed(1, WHOLE)
    broken = good.copy(deep=True)
    broken.covariance[7:, :] = np.nan
    broken.covariance[:, 7:] = np.nan
    cases: list[tuple[object, dict[str, object], str]] = [
        (probed(1, 1.0, visits=1), {}, "1 visit.*no growth to diagnose"),
        (broken, {}, "the stream after visit 7.*infinity or a NaN"),
        (good.drop_vars("covariance"), {}, "lacks covariance"),
        (3, {}, "give a Dataset"),
        (good, {"loops": 5}, "is not the 24 visits"),
        (good, {"loops": 0}, "loops = 0"),
        (good, {"unique_layers": 25}, "unique_layers = 25"),
        (good, {"level": 1.0}, "level = 1.0"),
        (good, {"level": "0.95"}, "level = '0.95'"),
    ]
    for data, options, words in cases:
        with pytest.raises(InputError, match=words):
            diagnose(data, **options)  # type: ignore[arg-type]


def test_a_trajectory_is_what_its_streams_make() -> None:
    streams = np.random.default_rng(0).standard_normal((7, 50)).cumsum(0)
    path = Trajectory.of(streams @ streams.T / 50)
    np.testing.assert_allclose(path.squares, (streams**2).mean(1))
    np.testing.assert_allclose(path.displacement, ((streams[1:] - streams[0]) ** 2).mean(1))
    np.testing.assert_allclose(path.sizes**2, (np.diff(streams, axis=0) ** 2).mean(1))
    shorter = path.without(np.array([1, 2]))
    moved = streams[4:] - streams[3] + streams[1]
    np.testing.assert_allclose(shorter.squares[2:], (moved**2).mean(1))
