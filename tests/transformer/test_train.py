"""Long runs: checkpoints, parts of a batch, several processes, precision, memory, watchers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from residual_theory.devices import device_named
from residual_theory.errors import InputError
from residual_theory.transformer import train as training_module
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus
from residual_theory.transformer.memory import sequence_bytes
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.train import Run, train

MODEL = ModelConfig(width=24, heads=2, mlp_width=40, unique_layers=2, loops=3, context=16)
QUICK: dict[str, Any] = {"steps": 8, "batch_size": 4, "learning_rate": 1e-2, "evaluation_sequences": 6}


def quick(**changes: Any) -> TrainConfig:
    return TrainConfig(**{**QUICK, **changes})


class KilledError(Exception):
    """What ends a run from outside."""


def kill_at(step: int) -> Any:
    def progress(done: int) -> None:
        if done == step:
            raise KilledError

    return progress


def test_training_is_the_loop_written_out(corpus: Corpus) -> None:
    """Batches, groups, clipping, schedule and validation from what their documentation says."""
    model, steps = MODEL, 4
    training = quick(
        steps=steps,
        learning_rate=1e-2,
        grad_clip=0.1,
        evaluation_sequences=3,
        batch_size=2,
        block_rate=0.25,
        warmup=0.5,
        decay=0.5,
    )
    weights, order = (int(word) for word in np.random.SeedSequence(0).generate_state(2, np.uint64))
    network, shuffle = LoopedTransformer(model, weights), torch.Generator().manual_seed(order)
    multiples = {(inside, decayed): [] for inside in (True, False) for decayed in (True, False)}  # type: ignore[var-annotated]
    for name, parameter in network.named_parameters():
        multiples[name.startswith("blocks."), parameter.ndim == 2].append(parameter)
    groups = [
        {"params": found, "weight_decay": 0.1 * decayed, "multiple": 0.25 if inside else 1.0}
        for (inside, decayed), found in multiples.items()
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, fused=True)
    windows = corpus.train.long().unfold(0, 17, 1)
    losses = []
    for step in range(steps):
        chosen = windows[torch.randint(len(windows), (2,), generator=shuffle)]
        loss = functional.cross_entropy(network(chosen[:, :-1]).transpose(1, 2), chosen[:, 1:])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None))
        for p in network.parameters():
            assert p.grad is not None
            p.grad *= min(1.0, 0.1 / norm)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 2, (steps - step) / 2) * group["multiple"]
        optimizer.step()
        losses.append(loss.item())
    held = corpus.validation.long().unfold(0, 17, 1)
    held = held[torch.tensor([0, (len(held) - 1) // 2, len(held) - 1])]
    with torch.no_grad():
        validation = functional.cross_entropy(network(held[:, :-1]).transpose(1, 2), held[:, 1:])
    result = train(model, training, corpus)
    np.testing.assert_allclose(result.train_loss, losses, rtol=2e-6)
    assert float(result.validation_loss) == pytest.approx(float(validation), rel=2e-6)


# Checkpoints


@pytest.mark.parametrize("killed_at", [1, 2, 5, 7])
def test_a_killed_run_goes_on_to_the_same_bits(killed_at: int, corpus: Corpus, tmp_path: Path) -> None:
    training = quick(validate_every=3, dtype="bfloat16" if killed_at == 5 else "float32")
    weights: list[dict[str, Tensor]] = []

    def keep(_: int, network: LoopedTransformer) -> None:
        weights.append({name: value.clone() for name, value in network.state_dict().items()})

    whole = train(MODEL, training, corpus, watch=keep)
    path = tmp_path / "run.pt"
    with pytest.raises(KilledError):
        train(MODEL, training, corpus, kill_at(killed_at), checkpoint=path, every=2)
    assert path.exists() == (killed_at > 2)
    done: list[int] = []
    resumed = train(MODEL, training, corpus, done.append, checkpoint=path, every=2, watch=keep)
    assert done[0] == (killed_at - 1) // 2 * 2 + 1  # the last multiple of `every` before the kill, and one
    assert resumed.identical(whole)
    assert all(torch.equal(value, weights[-1][name]) for name, value in weights[1].items())
    assert not list(tmp_path.glob(".*"))


def test_a_finished_run_is_not_run_again_and_its_weights_are_kept(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    done: list[int] = []
    first = train(MODEL, quick(), corpus, checkpoint=path)
    assert train(MODEL, quick(), corpus, done.append, checkpoint=path).identical(first)
    assert done == []
    network = LoopedTransformer(MODEL, seed=99)
    network.load_state_dict(torch.load(path, weights_only=True)["weights"])


def test_a_diverged_run_resumes_as_diverged(corpus: Corpus, tmp_path: Path) -> None:
    path, training = tmp_path / "run.pt", quick(learning_rate=100.0, warmup=0)
    first = train(MODEL, training, corpus, checkpoint=path)
    assert bool(first.diverged)
    assert train(MODEL, training, corpus, checkpoint=path).identical(first)


def test_a_checkpoint_of_another_run_is_refused_by_name(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(MODEL, quick(), corpus, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"^checkpoint = .*learning_rate was 0.01 and is 0.02"):
        train(MODEL, quick(learning_rate=2e-2), corpus, checkpoint=path)
    with pytest.raises(InputError, match=r"^checkpoint = .*model.loops was 3 and is 2"):
        train(MODEL.model_copy(update={"loops": 2}), quick(), corpus, checkpoint=path)
    other = Corpus("other", corpus.validation, corpus.train, "0123")
    with pytest.raises(InputError, match=r"^checkpoint = .*corpus was '.*' and is '0123'"):
        train(MODEL, quick(), other, checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("harm", ["cut", "flip", "text", "empty", "zip"])
def test_a_damaged_checkpoint_is_refused_with_a_mend(harm: str, corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(MODEL, quick(steps=1), corpus, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # amid the weights
    harmed: dict[str, bytes | bytearray] = {
        "cut": content[:-500],
        "flip": content,
        "text": b"hello",
        "empty": b"",
        "zip": b"PK\x05\x06" + bytes(18),
    }
    path.write_bytes(harmed[harm])
    with pytest.raises(InputError, match=r"^checkpoint = .*not intact.*delete it") as caught:
        train(MODEL, quick(steps=1), corpus, checkpoint=path)
    assert "\n" not in str(caught.value)


def test_where_no_checkpoint_can_be_written_is_said_before_training(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done: list[int] = []
    with pytest.raises(InputError, match=r"^checkpoint = "):
        train(MODEL, quick(), corpus, done.append, checkpoint=tmp_path / "file" / "run.pt")
    with pytest.raises(InputError, match=r"^checkpoint = "):
        train(MODEL, quick(), corpus, done.append, checkpoint=tmp_path)
    with pytest.raises(InputError, match=r"^every = 0"):
        train(MODEL, quick(), corpus, done.append, checkpoint=tmp_path / "run.pt", every=0)
    assert done == []


# The same numbers, computed in another way


def rounding(corpus: Corpus) -> float:
    """How far two float32 runs drift apart that differ by rounding alone: one rounding in the embedding."""

    def nudge(step: int, network: LoopedTransformer) -> None:
        with torch.no_grad():
            network.embedding.weight.mul_(1 + 2.0**-23 * (step == 0))

    nudged = train(MODEL, quick(), corpus, watch=nudge)
    return float(abs(nudged.train_loss - train(MODEL, quick(), corpus).train_loss).max())


@pytest.mark.parametrize("changes", [{"accumulation": 2}, {"accumulation": 4}, {"recompute": True}])
def test_saving_memory_changes_nothing_but_rounding(changes: dict[str, Any], corpus: Corpus) -> None:
    whole, parts = train(MODEL, quick(), corpus), train(MODEL, quick(**changes), corpus)
    drift = rounding(corpus)
    assert 0 < drift < 1e-4
    np.testing.assert_allclose(parts.train_loss, whole.train_loss, rtol=0, atol=10 * drift)
    np.testing.assert_allclose(parts.validation_loss, whole.validation_loss, rtol=0, atol=10 * drift)
    shifted = train(MODEL, quick(batch_size=2), corpus)
    assert abs(shifted.train_loss - whole.train_loss).max() > 100 * drift


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch.compile's own
def test_compiling_changes_nothing_but_rounding(corpus: Corpus) -> None:
    whole, compiled = train(MODEL, quick(), corpus), train(MODEL, quick(compile=True), corpus)
    np.testing.assert_allclose(compiled.train_loss, whole.train_loss, rtol=0, atol=10 * rounding(corpus))


def test_bfloat16_is_close_and_its_weights_stay_float32(corpus: Corpus) -> None:
    kinds: set[torch.dtype] = set()
    half = train(
        MODEL, quick(dtype="bfloat16"), corpus, watch=lambda _, n: kinds.update(p.dtype for p in n.parameters())
    )
    whole = train(MODEL, quick(), corpus)
    assert kinds == {torch.float32}
    difference = abs(half.train_loss - whole.train_loss).max()
    assert 0 < difference < 6 * 2.0**-8  # a loss of 5.5 in numbers of 8 bits
    assert half.attrs["dtype"] == "bfloat16"


# What is recorded on the way


def test_watchers_see_the_network_at_the_steps_asked_for(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []

    def watch(step: int, network: LoopedTransformer) -> None:
        seen.append((step, float(network.embedding.weight.detach().double().sum())))

    watched = train(MODEL, quick(), corpus, watch=watch, watch_at={1, 3, 8, 99})
    assert [step for step, _ in seen] == [0, 1, 3, 8]
    assert len({value for _, value in seen}) == 4
    weights, _ = np.random.SeedSequence(0).generate_state(2, np.uint64)
    assert seen[0][1] == float(LoopedTransformer(MODEL, int(weights)).embedding.weight.detach().double().sum())
    assert watched.identical(train(MODEL, quick(), corpus))
    path = tmp_path / "run.pt"
    with pytest.raises(KilledError):
        train(MODEL, quick(), corpus, kill_at(5), checkpoint=path, every=2)
    again: list[int] = []
    train(MODEL, quick(), corpus, checkpoint=path, watch=lambda step, _: again.append(step), watch_at=range(9))
    assert again == [5, 6, 7, 8]


def test_validation_on_the_way_leaves_the_run_alone(corpus: Corpus) -> None:
    plain, validated = train(MODEL, quick(), corpus), train(MODEL, quick(validate_every=3), corpus)
    assert validated.validated_step.values.tolist() == [3, 6]
    assert validated.train_loss.equals(plain.train_loss)
    assert validated.validation_loss.equals(plain.validation_loss)
    shorter = train(MODEL, quick(steps=3, decay=0, warmup=0), corpus)
    longer = train(MODEL, quick(validate_every=3, decay=0, warmup=0), corpus)
    assert float(longer.validation[0]) == float(shorter.validation_loss)


def test_levels_of_divergence_are_those_stated(corpus: Corpus) -> None:
    result = train(MODEL, quick(), corpus)
    final = float(result.validation_loss)
    assert not result.diverged
    high = train(MODEL, quick(diverged_above=final - 1e-6), corpus)
    assert bool(high.diverged)
    assert float(high.validation_loss) == final
    assert not train(MODEL, quick(diverged_above=final + 1e-6), corpus).diverged
    stopped = train(MODEL, quick(stop_above=float(result.train_loss[0]) - 1e-6), corpus)
    assert bool(stopped.diverged)
    assert stopped.train_loss.notnull().sum() == 1


def test_the_papers_schedule_can_be_written() -> None:
    rates = TrainConfig(steps=20_000, warmup=500, decay=1_000, learning_rate=1.25e-3).rates()
    assert rates[499] == rates[500] == rates[18_999] == pytest.approx(1.25e-3)
    np.testing.assert_allclose(rates[:500], 1.25e-3 * np.arange(1, 501) / 500)
    np.testing.assert_allclose(rates[19_000:], 1.25e-3 * np.arange(1000, 0, -1) / 1000)
    same = TrainConfig(steps=20_000, warmup=0.025, decay=0.05, learning_rate=1.25e-3).rates()
    np.testing.assert_allclose(rates, same)
    assert json.loads(TrainConfig(warmup=1, decay=1.0).model_dump_json())["warmup"] == 1
    assert TrainConfig(steps=4, warmup=1, decay=0, learning_rate=1.0).rates()[0] == 1.0
    assert TrainConfig(steps=4, warmup=1.0, decay=0, learning_rate=1.0).rates()[0] == 0.25


# What cannot be used


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("warmup", 1.5),
        ("warmup", -1),
        ("warmup", True),
        ("accumulation", 3),
        ("block_rate", "1/K"),
        ("block_rate", 0.0),
        ("dtype", "float16"),
        ("validate_every", 0),
        ("diverged_above", 0.0),
        ("compile", "yes"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{field} = ") as caught:
        quick(**{field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "xpu"])
def test_a_device_that_is_not_here_is_refused(name: str, corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"^device = "):
        train(MODEL, quick(device=name), corpus)
    assert device_named("cpu").type == "cpu"


def test_a_batch_beyond_memory_is_refused_with_one_that_fits(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^accumulation = 1: cpu is out of memory.*about \d+ would fit"):
        train(MODEL, quick(batch_size=2**50), corpus)
    each = sequence_bytes(MODEL)
    monkeypatch.setattr("residual_theory.transformer.memory.memory_of", lambda _: 40 * each)

    def greedy(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(training_module.Run, "step", greedy)
    with pytest.raises(
        InputError, match=r"128 sequences of 16 tokens.*about \d+ would fit: set accumulation = (4|8) at"
    ):
        train(MODEL, quick(batch_size=128), corpus)
    monkeypatch.setattr("residual_theory.transformer.memory.memory_of", lambda _: 0)
    with pytest.raises(InputError, match="not even one would fit: set recompute"):
        train(MODEL, quick(batch_size=128), corpus)


@pytest.mark.parametrize("half", [False, True])
def test_the_memory_estimate_is_what_autograd_keeps(half: bool) -> None:
    network = LoopedTransformer(ModelConfig(width=64, mlp_width=176, loops=8, context=64), 0)
    kept = {parameter.untyped_storage().data_ptr(): 0 for parameter in network.parameters()}

    def pack(saved: Tensor) -> Tensor:
        kept.setdefault(saved.untyped_storage().data_ptr(), saved.untyped_storage().nbytes())
        return saved

    tokens = torch.zeros((4, 64), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved), torch.autocast("cpu", enabled=half):
        _loss = network.loss(tokens, tokens)
    assert 0.7 < sum(kept.values()) / 4 / sequence_bytes(network.config, half=half) < 1


def test_other_errors_pass_through(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Run) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(training_module.Run, "step", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        train(MODEL, quick(), corpus)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_as_the_cpu_does(corpus: Corpus) -> None:
    whole, device = train(MODEL, quick(), corpus), train(MODEL, quick(device="cuda"), corpus)
    np.testing.assert_allclose(device.train_loss, whole.train_loss, rtol=0, atol=10 * rounding(corpus))
    half = train(MODEL, quick(device="cuda", dtype="bfloat16", recompute=True), corpus)
    np.testing.assert_allclose(half.train_loss, whole.train_loss, rtol=0, atol=6 * 2.0**-8)
