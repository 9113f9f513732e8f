"""An ensemble gives each member what it would have had alone, up to rounding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.transformer import ensemble
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus, batch
from residual_theory.transformer.ensemble import train_together
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.processes import Team
from residual_theory.transformer.train import Run, train

BASE: dict[str, Any] = {
    "width": 24, "heads": 2, "mlp_width": 40, "unique_layers": 2, "loops": 3, "context": 16, "init_std": 0.1,
}  # fmt: skip
TRAINING: dict[str, Any] = {"steps": 30, "batch_size": 4, "evaluation_sequences": 6}
SIX = (  # ε, what differs in training
    ("1/N", {"learning_rate": 3e-3, "seed": 0}),
    ("1/sqrt(N)", {"learning_rate": 3e-3, "seed": 0}),
    (1.0, {"learning_rate": 1e-2, "seed": 1, "grad_clip": 0.1, "adam_epsilon": 1e-4}),
    ("1/N", {"learning_rate": 1e-3, "seed": 1, "weight_decay": 1.0, "block_rate": 0.3}),
    (0.0, {"learning_rate": 5e-3, "seed": 7, "warmup": 5, "decay": 0.9, "beta1": 0.5}),
    (0.2, {"learning_rate": 2e-2, "seed": 2, "steps": 21, "validate_every": 7, "grad_clip": None}),
)
ROUNDING = 25 * float(np.finfo(np.float32).eps)  # of a loss, as seen between runs of float32 and float64


def models(**changes: Any) -> list[ModelConfig]:
    return [ModelConfig(**{**BASE, **changes}, residual_scale=rule) for rule, _ in SIX]


def trainings(**changes: Any) -> list[TrainConfig]:
    return [TrainConfig(**{**TRAINING, **own, **changes}) for _, own in SIX]


@pytest.fixture(scope="module")
def alone(corpus: Corpus) -> list[xr.Dataset]:
    return [train(model, training, corpus) for model, training in zip(models(), trainings(), strict=True)]


def in_double(model: ModelConfig, training: TrainConfig, corpus: Corpus) -> Array:
    """The losses of the run whose arithmetic is float64, from the same initial weights and batches."""
    run = Run(model, training, corpus, Team(torch.device("cpu")))
    run.network.double()
    while not run.finished:
        run.step()
    return run.losses


def test_six_together_are_the_six_alone(alone: list[xr.Dataset], corpus: Corpus) -> None:
    """Members stray from float32's run no further than float32's strays from float64's, times what a maximum may be."""
    together = train_together(models(), trainings(), corpus)
    for one, other, model, training in zip(together, alone, models(), trainings(), strict=True):
        rounding = np.abs(other.train_loss.values - in_double(model, training, corpus))
        apart = np.abs(one.train_loss.values - other.train_loss.values)
        assert rounding.max() > 0
        assert apart.max() <= 4 * rounding.max()
        assert np.array_equal(one.learning_rate, other.learning_rate)
        assert abs(float(one.validation_loss - other.validation_loss)) <= 4 * rounding.max()
        assert not one.diverged
        assert one.attrs == other.attrs
    assert len({float(result.validation_loss) for result in together}) == 6


def test_the_bound_would_notice_another_scale_or_seed(alone: list[xr.Dataset], corpus: Corpus) -> None:
    for change in (0, 1):
        wrong_models, wrong_trainings = models(), trainings()
        if change:
            wrong_trainings[1] = TrainConfig(**{**TRAINING, **SIX[1][1], "learning_rate": 3.01e-3})
        else:
            wrong_models[1] = ModelConfig(**BASE, residual_scale=0.58)  # 1/sqrt(3) is 0.577
        wrong = train_together(wrong_models, wrong_trainings, corpus)[1]
        rounding = np.abs(alone[1].train_loss.values - in_double(models()[1], trainings()[1], corpus))
        assert np.abs(wrong.train_loss.values - alone[1].train_loss.values).max() > 4 * rounding.max()


def test_initial_weights_and_data_are_bit_equal(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[dict[str, Tensor], Tensor]] = []
    backward = ensemble._Stack.backward

    def watched(self: Any, members: Any) -> Any:
        if not seen:
            seen.extend(({k: v.clone() for k, v in m.network.state_dict().items()}, m.upcoming()[0]) for m in members)
        return backward(self, members)

    monkeypatch.setattr(ensemble._Stack, "backward", watched)
    train_together(models(), trainings(steps=2), corpus)
    for (weights, inputs), model, training in zip(seen, models(), trainings(), strict=True):
        first, order = (int(word) for word in np.random.SeedSequence(training.seed).generate_state(2, np.uint64))
        expected = LoopedTransformer(model, first).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
        assert torch.equal(inputs, batch(corpus.train, 4, 16, torch.Generator().manual_seed(order))[0])


def test_a_member_that_diverges_stops_alone(alone: list[xr.Dataset], corpus: Corpus) -> None:
    wild = trainings()
    wild[3] = TrainConfig(**{**TRAINING, "learning_rate": 30.0, "seed": 1})
    together = train_together(models(), wild, corpus)
    single = train(models()[3], wild[3], corpus)
    assert together[3].diverged
    assert single.diverged
    reached = int(np.isfinite(single.train_loss).sum())
    assert 1 <= reached < 30
    assert np.isnan(together[3].train_loss.values[reached:]).all()
    assert np.isnan(together[3].validation_loss)
    for index in (0, 1, 2, 4, 5):
        np.testing.assert_allclose(together[index].train_loss, alone[index].train_loss, rtol=ROUNDING)
    everyone = train_together(models(), trainings(learning_rate=30.0, grad_clip=None), corpus)
    assert sum(bool(result.diverged) for result in everyone) >= 5


@pytest.mark.parametrize("changes", [{"accumulation": 2}, {"dtype": "bfloat16"}])
def test_accumulation_and_precision_are_those_of_single_runs(changes: dict[str, Any], corpus: Corpus) -> None:
    chosen = trainings(steps=8, **changes)
    together = train_together(models(), chosen, corpus)
    loose = 2e-3 if "dtype" in changes else 3e-6  # bfloat16 has 8 bits, and rounds another way when batched
    for one, model, training in zip(together, models(), chosen, strict=True):
        np.testing.assert_allclose(one.train_loss, train(model, training, corpus).train_loss, rtol=loose)


def test_options_of_the_model_are_stacked_too(corpus: Corpus) -> None:
    options: dict[str, Any] = {
        "normalization": "sandwich", "loop_normalization": True, "skip": 0.9, "carry": 0.8, "injection": 0.2,
        "prelude": 1, "coda": 1, "outer_scale": 0.5, "biases": True, "tied": False,
    }  # fmt: skip
    together = train_together(models(**options), trainings(steps=6), corpus)
    for one, model, training in zip(together, models(**options), trainings(steps=6), strict=True):
        np.testing.assert_allclose(one.train_loss, train(model, training, corpus).train_loss, rtol=ROUNDING)


class KilledError(Exception):
    pass


def test_a_killed_ensemble_goes_on_and_may_end_one_by_one(
    alone: list[xr.Dataset], corpus: Corpus, tmp_path: Path
) -> None:
    files = [tmp_path / f"{index}.checkpoint" for index in range(6)]

    def kill(rounds: int) -> None:
        if rounds == 17:
            raise KilledError

    with pytest.raises(KilledError):
        train_together(models(), trainings(), corpus, kill, checkpoints=files, every=5)
    reports: list[int] = []
    first = train(models()[0], trainings()[0], corpus, reports.append, checkpoint=files[0])
    assert reports == list(range(16, 31))
    rounds: list[int] = []
    rest = train_together(models()[1:], trainings()[1:], corpus, rounds.append, checkpoints=files[1:], every=5)
    assert len(rounds) == 15
    for one, other in zip([first, *rest], alone, strict=True):
        np.testing.assert_allclose(one.train_loss, other.train_loss, rtol=ROUNDING)
        np.testing.assert_allclose(one.validation_loss, other.validation_loss, rtol=ROUNDING)
    again: list[int] = []
    train_together(models(), trainings(), corpus, again.append, checkpoints=files)
    assert not again


@pytest.mark.parametrize(
    ("together", "named"),
    [
        (([], []), "trainings"),
        ((models(), trainings()[:5]), "trainings"),
        (([*models()[:5], ModelConfig(**{**BASE, "loops": 2})], trainings()), "models"),
        ((models(), [*trainings()[:5], TrainConfig(batch_size=8)]), "models"),
        ((models(), trainings(compile=True)), "compile"),
        ((models(), trainings(recompute=True)), "recompute"),
        ((models(context=10**7), trainings()), "text"),
        ((models(vocabulary=200), trainings()), "vocabulary"),
        ((models(), trainings(device="abacus")), "device"),
    ],
)
def test_members_that_cannot_be_stacked_are_refused(together: tuple[Any, Any], named: str, corpus: Corpus) -> None:
    with pytest.raises(InputError, match=rf"^{named} = "):
        train_together(together[0], together[1], corpus)


def test_checkpoints_are_one_a_member(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^checkpoints = 1: .*6"):
        train_together(models(), trainings(), corpus, checkpoints=[tmp_path / "one"])
    with pytest.raises(InputError, match=r"^every = 0"):
        train_together(models(), trainings(), corpus, every=0)


def test_a_member_keeps_its_own_weights_alone(corpus: Corpus, tmp_path: Path) -> None:
    files = [tmp_path / f"{member}.pt" for member in range(6)]
    train_together(models(), trainings(steps=2), corpus, checkpoints=files)
    train(models()[0], trainings(steps=2)[0], corpus, checkpoint=tmp_path / "alone.pt")
    assert files[0].stat().st_size < 1.1 * (tmp_path / "alone.pt").stat().st_size


def test_too_many_for_the_memory_is_said(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^members = 6: .*take fewer"):
        train_together(models(), trainings(batch_size=2**50), corpus)

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ensemble._Stack, "backward", full)
    with pytest.raises(InputError, match=r"^members = 6: .*take fewer"):
        train_together(models(), trainings(), corpus)
