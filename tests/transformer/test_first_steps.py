"""The first steps of a looped Transformer, read in the forward passes that training makes anyway."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from residual_theory.errors import InputError
from residual_theory.measure.probe import probe
from residual_theory.measurements.alignment import change_products
from residual_theory.transformer import first_steps as module
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.first_steps import bytes_needed, first_steps, require_fit, visits_to_recompute
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.stream_reader import StreamReader, read_untied, reading

SIZES: dict[str, Any] = {
    "width": 16, "heads": 2, "mlp_width": 24, "vocabulary": 40, "context": 9, "unique_layers": 2, "loops": 3,
}  # fmt: skip
MODEL = ModelConfig(**SIZES, residual_scale="1/sqrt(N)", init_std=0.1)
PAPER: dict[str, Any] = {
    "vocabulary": 128_256, "width": 768, "heads": 12, "mlp_width": 2048, "context": 128, "unique_layers": 12,
}  # fmt: skip
RATE: dict[str, Any] = {"learning_rate": 2e-3, "seed": 7}


def by_hand(model: ModelConfig, steps: int) -> tuple[list[float], list[float], list[torch.Tensor]]:
    """Losses, R at the end, and final states, of a loop that shares nothing but the model with the library's."""
    words = [int(word >> np.uint64(1)) for word in np.random.SeedSequence(7).generate_state(2, np.uint64)]
    network = LoopedTransformer(model, words[0])
    ids = torch.randint(model.vocabulary, (1, model.context + 1), generator=torch.Generator().manual_seed(words[1]))
    matrices = [p for p in network.parameters() if p.ndim == 2]
    gains = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.95), eps=1e-8)
    losses, norms, states = [], [], []
    for _ in range(steps + 1):
        h = network.embedding(ids[:, :-1])
        for _ in range(model.loops):
            for block in network.blocks:
                h = block(h)
        logits = functional.linear(network.norm(h), network.embedding.weight)
        loss = functional.cross_entropy(logits[0], ids[0, 1:])
        losses.append(loss.item())
        norms.append(h.square().mean().sqrt().item())
        states.append(h.detach())
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    return losses, norms, states


def test_what_is_read_is_what_a_loop_by_hand_finds() -> None:
    result = first_steps(MODEL, steps=3, **RATE)
    losses, norms, states = by_hand(MODEL, 3)
    np.testing.assert_allclose(result.loss, losses, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(result.covariance[:, -1, -1]), norms, rtol=1e-5)
    changes = [(new - old).square().mean().sqrt().item() for old, new in itertools.pairwise(states)]
    np.testing.assert_allclose(result.state_change, changes, rtol=1e-4)
    assert len(set(np.round(result.state_change.values, 9))) == 3


def test_increments_are_those_of_a_probe() -> None:
    result = first_steps(MODEL, steps=0, **RATE)
    words = [int(word >> np.uint64(1)) for word in np.random.SeedSequence(7).generate_state(2, np.uint64)]
    network = LoopedTransformer(MODEL, words[0])
    probed = probe(network, block=network.blocks, inputs=torch.from_numpy(result["tokens"].values)[None])
    ends = probed.covariance.values[:: MODEL.unique_layers, :: MODEL.unique_layers]
    np.testing.assert_allclose(result.covariance[0], ends, rtol=1e-5)
    of_loops = result.increment_product.values.reshape(3, 2, 3, 2).sum((1, 3))
    np.testing.assert_allclose(of_loops, change_products(probed.covariance.values, MODEL.loops), rtol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"branch_gain": 0.5, "initial_distribution": "normal", "injection": 0.1}])
def test_weights_drawn_and_dropped_are_those_of_the_model(fields: dict[str, Any]) -> None:
    model = MODEL.model_copy(update={"tied": False, **fields})
    tokens = torch.arange(9)[None]
    dropped, whole = StreamReader(model, increments=True), StreamReader(model, increments=True)
    read_untied(model, 3, tokens, dropped)
    network = LoopedTransformer(model, 3)
    with torch.no_grad(), reading(network, whole):
        network(tokens)
    assert torch.equal(dropped.final, whole.final)
    assert torch.equal(dropped.increment_products(), whole.increment_products())
    assert dropped.increment_products().shape == (6, 6)


@pytest.mark.parametrize("recomputed", [2, 6])
def test_recomputing_changes_no_number(recomputed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = first_steps(MODEL, steps=2, **RATE)
    monkeypatch.setattr(module, "visits_to_recompute", lambda *_: recomputed)
    calls = []
    before = LoopedTransformer._visit

    def counted(self: LoopedTransformer, *given: Any) -> Any:
        calls.append(self.recompute and torch.is_grad_enabled())
        return before(self, *given)

    monkeypatch.setattr(LoopedTransformer, "_visit", counted)
    assert first_steps(MODEL, steps=2, **RATE).identical(kept)
    assert sum(calls) == 2 * recomputed  # of every step's visits the first ones


def test_visits_are_recomputed_as_far_as_needed() -> None:
    large = ModelConfig(**PAPER, loops=64)
    limit = 8 * 2**30
    count = visits_to_recompute(large, limit)
    assert 0 < count < 768
    assert bytes_needed(large, 10, count) <= limit < bytes_needed(large, 10, count - 1)
    assert visits_to_recompute(large, 2**40) == 0


class InterruptedRunError(Exception):
    pass


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, path = first_steps(MODEL, steps=4, **RATE), tmp_path / "run.pt"
    monkeypatch.setattr(module, "SAVED_EVERY", 0.0)
    step = module._Run.step

    def interrupted(self: module._Run) -> None:
        if self.done == 2:
            raise InterruptedRunError
        step(self)

    monkeypatch.setattr(module._Run, "step", interrupted)
    with pytest.raises(InterruptedRunError):
        first_steps(MODEL, steps=4, **RATE, checkpoint=path)
    steps: list[int] = []

    def counted(self: module._Run) -> None:
        steps.append(self.done)
        step(self)

    monkeypatch.setattr(module._Run, "step", counted)
    assert first_steps(MODEL, steps=4, **RATE, checkpoint=path).identical(whole)
    assert steps == [2, 3]
    assert not path.exists()


@pytest.mark.parametrize(
    ("fields", "limit", "words"),
    [
        (
            {"tied": False, "loops": 64},
            24,
            "loops = 64: untied, with the optimizer's state, needs about .* up to 16 would",
        ),
        ({"vocabulary": 4_000_000}, 24, "vocabulary = 4000000: needs about .* GiB of 24; up to [0-9]+ would fit"),
        ({"loops": 10**6}, 24, "loops = 1000000: needs about .* up to [0-9]+ would fit"),
        ({"width": 76_800}, 24, "width = 76800: .* take a smaller model"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(fields: dict[str, Any], limit: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_fit(ModelConfig(**{**PAPER, **fields}), 10, limit * 2**30)


def test_what_would_fit_does() -> None:
    for loops, fits in ((16, True), (17, False)):
        model = ModelConfig(**PAPER, tied=False, loops=loops)
        assert (bytes_needed(model, 10, loops * 12) <= 24 * 2**30) is fits
    require_fit(ModelConfig(**PAPER, tied=False, loops=64), 0, 24 * 2**30)  # drawn and dropped


def test_blocks_outside_the_loops_are_refused() -> None:
    with pytest.raises(InputError, match="prelude = 1: the first steps are read for blocks in the loops alone"):
        first_steps(MODEL.model_copy(update={"prelude": 1}), steps=1, **RATE)
