"""The looped language model and its training."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.measure.probe import probe
from residual_theory.transformer import train as training_module
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus, batch, load_corpus
from residual_theory.transformer.model import LoopedTransformer, rotary_tables, rotate
from residual_theory.transformer.train import train

SMALL: dict[str, Any] = {"width": 24, "heads": 2, "mlp_width": 40, "unique_layers": 2, "loops": 3, "context": 16}


def small(**changes: Any) -> ModelConfig:
    return ModelConfig(**{**SMALL, **changes})


def some_tokens(batch: int = 2, time: int = 11, seed: int = 3) -> Tensor:
    return torch.randint(256, (batch, time), generator=torch.Generator().manual_seed(seed))


def large_weights(config: ModelConfig, seed: int = 1) -> LoopedTransformer:
    """A model in float64 whose branches matter and whose gains are not 1."""
    model = LoopedTransformer(config, seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            else:
                parameter.mul_(15)
    return model


def by_hand(model: LoopedTransformer, tokens: Tensor) -> Tensor:
    """The model again, from its weights alone: complex rotations, an explicit softmax, no shared code."""
    config = model.config
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}

    def norm(x: Array, gain: Array) -> Array:
        out: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * gain
        return out

    def turn(x: Array) -> Array:  # (time, head width)
        half = config.head_width // 2
        frequency = config.rope_base ** (-np.arange(half) / half)
        turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * np.outer(np.arange(len(x)), frequency))
        return np.concatenate([turned.real, turned.imag], axis=1)

    def attention(x: Array, block: str) -> Array:
        columns = np.split(x @ weights[block + "attention.qkv.weight"].T, 3 * config.heads, axis=1)
        future = np.triu(np.full((len(x), len(x)), -np.inf), 1)
        mixed = []
        for head in range(config.heads):
            query, key, value = (columns[part * config.heads + head] for part in range(3))
            score = turn(query) @ turn(key).T / math.sqrt(config.head_width) + future
            share = np.exp(score - score.max(1, keepdims=True))
            mixed.append(share / share.sum(1, keepdims=True) @ value)
        out: Array = np.concatenate(mixed, axis=1) @ weights[block + "attention.output.weight"].T
        return out

    def mlp(x: Array, block: str) -> Array:
        gate, up = np.split(x @ weights[block + "mlp.gate_up.weight"].T, 2, axis=1)
        out: Array = (gate / (1 + np.exp(-gate)) * up) @ weights[block + "mlp.down.weight"].T
        return out

    logits = []
    for row in tokens.numpy():
        h = weights["embedding.weight"][row]
        for visit in range(config.loops * config.unique_layers):
            block = f"blocks.{visit % config.unique_layers}."
            h = h + config.epsilon * attention(norm(h, weights[block + "attention_norm.weight"]), block)
            h = h + config.epsilon * mlp(norm(h, weights[block + "mlp_norm.weight"]), block)
        logits.append(norm(h, weights["norm.weight"]) @ weights["embedding.weight"].T)
    return torch.tensor(np.array(logits))


def test_the_model_is_the_hand_unrolled_recurrence() -> None:
    model = large_weights(small(residual_scale=0.7, rope_base=50.0, norm_epsilon=0.1))
    tokens = some_tokens()
    expected = by_hand(model, tokens)
    assert expected.std() > 0.5
    torch.testing.assert_close(model(tokens).detach(), expected, rtol=0, atol=1e-5)  # RoPE tables are float32


def test_loss_is_the_mean_cross_entropy() -> None:
    model = large_weights(small())
    tokens, targets = some_tokens(seed=4), some_tokens(seed=5)
    chosen = torch.log_softmax(model(tokens), -1).gather(-1, targets[..., None])
    torch.testing.assert_close(model.loss(tokens, targets), -chosen.mean())


def test_no_token_sees_a_later_one() -> None:
    model = large_weights(small(residual_scale=1.0))
    tokens = some_tokens(time=9)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 256
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-12)
    assert ((after[:, 5:] - before[:, 5:]).abs().amax(-1) > 1e-3).all()


def test_rotary_products_depend_on_relative_position_only() -> None:
    cosine, sine = rotary_tables(context=40, head_width=6, base=30.0)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn((2, 1, 6), generator=generator).expand(2, 40, 6)
    product = rotate(query, cosine, sine) @ rotate(key, cosine, sine).T  # (time, time)
    for offset in range(-39, 40):
        diagonal = product.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    torch.testing.assert_close(product[0, 0], query[0] @ key[0])
    assert product[0].std() > 0.1


def test_each_block_is_called_once_a_visit_in_order() -> None:
    model = large_weights(small(unique_layers=3, loops=4))
    seen: list[tuple[int, Tensor, Tensor]] = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _m, args, out, index=index: seen.append((index, args[0], out)))
    tokens = some_tokens()
    model(tokens)
    assert [index for index, _, _ in seen] == [0, 1, 2] * 4
    assert torch.equal(seen[0][1], model.embedding(tokens))
    assert all(torch.equal(left[2], right[1]) for left, right in itertools.pairwise(seen))


def test_weights_are_tied_over_loops_and_between_embedding_and_head() -> None:
    once, often = LoopedTransformer(small(loops=1), 0), LoopedTransformer(small(loops=7), 0)
    assert sorted(often.state_dict()) == sorted(once.state_dict())
    d, m, layers = SMALL["width"], SMALL["mlp_width"], SMALL["unique_layers"]
    expected = 256 * d + layers * (4 * d * d + 3 * d * m + 2 * d) + d
    assert sum(p.numel() for p in often.parameters()) == expected
    assert not [name for name, _ in often.named_parameters() if "bias" in name]


def test_scale_zero_makes_every_visit_the_identity() -> None:
    model = large_weights(small(residual_scale=0.0))
    tokens = some_tokens()
    h = model.embedding(tokens)
    assert all(torch.equal(block(h), h) for block in model.blocks)
    torch.testing.assert_close(model(tokens), functional.linear(model.norm(h), model.embedding.weight))


def test_initial_weights_have_the_stated_law_and_depend_on_the_seed_alone() -> None:
    first = LoopedTransformer(small(init_std=0.3), 5).state_dict()
    again = LoopedTransformer(small(init_std=0.3, loops=1, residual_scale="1"), 5).state_dict()
    other = LoopedTransformer(small(init_std=0.3), 6).state_dict()
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if value.ndim == 1:
            assert torch.equal(value, torch.ones_like(value))
        else:
            assert not torch.equal(value, other[name])
            error = value.square().mean() / 0.3**2 - 1  # of standard deviation sqrt(2/n)
            assert abs(error) < 5 * math.sqrt(2 / value.numel()), name


def test_the_global_random_state_is_left_alone(corpus: Corpus) -> None:
    before = torch.get_rng_state()
    train(small(), TrainConfig(steps=2, batch_size=2, evaluation_sequences=2), corpus)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", 5),
        ("heads", 8),
        ("loops", 0),
        ("residual_scale", "1/K"),
        ("width", 24.0),
        ("init_std", 0.0),
        ("bias", True),
    ],
)
def test_a_model_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{field} = "):
        small(**{field: value})


def test_a_sequence_beyond_the_context_is_refused() -> None:
    with pytest.raises(InputError, match=r"^tokens = .*context = 16"):
        LoopedTransformer(small(), 0)(some_tokens(time=17))


# Training

QUICK: dict[str, Any] = {
    "steps": 8,
    "batch_size": 2,
    "learning_rate": 1e-2,
    "evaluation_sequences": 3,
    "grad_clip": 0.1,
}


def quick(**changes: Any) -> TrainConfig:
    return TrainConfig(**{**QUICK, **changes})


OTHER_MODEL: dict[str, Any] = {
    "vocabulary": 300,
    "width": 32,
    "heads": 3,
    "mlp_width": 48,
    "unique_layers": 1,
    "loops": 2,
    "residual_scale": "1/N",
    "context": 15,
    "init_std": 0.03,
    "norm_epsilon": 1e-2,
    "rope_base": 100.0,
    "normalization": "sandwich",
    "loop_normalization": True,
    "skip": 0.9,
    "carry": 0.5,
    "injection": "1/N",
    "prelude": 1,
    "coda": 1,
    "outer_scale": 0.5,
    "branch_gain": "1/sqrt(2*N*L)",
    "tied": False,
    "biases": True,
}
OTHER_TRAINING: dict[str, Any] = {
    "steps": 9,
    "batch_size": 3,
    "accumulation": 2,
    "learning_rate": 2e-2,
    "block_rate": "1/N",
    "block_rule": "paper",
    "tuned_layers": 3,
    "warmup": 0.5,
    "decay": 0.5,
    "weight_decay": 0.0,
    "beta1": 0.8,
    "beta2": 0.9,
    "adam_epsilon": 1e-3,
    "grad_clip": None,
    "evaluation_sequences": 4,
    "validate_every": 3,
    "stop_above": 1.0,
    "diverged_above": 1.0,
    "dtype": "bfloat16",
    "seed": 1,
}
NEEDS: dict[str, dict[str, Any]] = {
    "outer_scale": {"prelude": 1},
    "tuned_layers": {"block_rule": "completep"},
}  # to have an effect
SAME_NUMBERS = {"device", "compile", "recompute"}  # how, not what, is computed: tested beside


def test_the_lists_of_other_values_are_complete() -> None:
    assert set(OTHER_MODEL) == set(ModelConfig.model_fields) - {"initial_distribution"}  # of the same variance
    assert set(OTHER_TRAINING) == set(TrainConfig.model_fields) - SAME_NUMBERS


@pytest.mark.parametrize("field", OTHER_MODEL)
def test_every_field_of_the_model_changes_the_result(field: str, corpus: Corpus) -> None:
    needs = NEEDS.get(field, {})
    result = train(small(**needs), quick(), corpus)
    assert not train(small(**needs, **{field: OTHER_MODEL[field]}), quick(), corpus).equals(result)


@pytest.mark.parametrize("field", OTHER_TRAINING)
def test_every_field_of_the_training_changes_the_result(field: str, corpus: Corpus) -> None:
    needs = NEEDS.get(field, {})
    result = train(small(), quick(**needs), corpus)
    assert not train(small(), quick(**needs, **{field: OTHER_TRAINING[field]}), corpus).equals(result)


def test_training_repeats_exactly_and_says_what_was_run(corpus: Corpus) -> None:
    calls: list[int] = []
    result = train(small(), quick(), corpus, calls.append)
    assert result.identical(train(small(), quick(), corpus))
    assert calls == list(range(1, 9))
    assert result.train_loss.dims == ("step",)
    assert result.train_loss.notnull().all()
    assert not result.diverged
    assert ModelConfig(**json.loads(result.attrs["model"])) == small()
    assert TrainConfig(**json.loads(result.attrs["training"])) == quick()
    assert result.attrs["corpus_digest"] == corpus.digest


def test_training_learns_more_than_byte_frequencies(corpus: Corpus) -> None:
    frequency = np.bincount(corpus.train.numpy(), minlength=256) / len(corpus.train)
    entropy = -np.sum(frequency[frequency > 0] * np.log(frequency[frequency > 0]))
    training = TrainConfig(steps=120, batch_size=4, learning_rate=1e-2)
    result = train(small(loops=2, context=32), training, corpus)
    assert float(result.validation_loss) < entropy - 0.3
    assert float(result.train_loss[-20:].mean()) < entropy - 0.3
    assert float(result.train_loss[0]) > 5


def test_the_rate_rises_holds_and_falls() -> None:
    rates = TrainConfig(steps=10, learning_rate=2.0, warmup=0.4, decay=0.2).rates()
    np.testing.assert_allclose(rates, [0.5, 1, 1.5, 2, 2, 2, 2, 2, 2, 1])
    np.testing.assert_allclose(TrainConfig(steps=3, learning_rate=2.0, warmup=0.0, decay=0.0).rates(), 2.0)


def test_divergence_is_a_result(corpus: Corpus) -> None:
    calls: list[int] = []
    result = train(small(), quick(learning_rate=100.0, warmup=0.0), corpus, calls.append)
    assert bool(result.diverged)
    assert math.isnan(result.validation_loss)
    assert 0 < len(calls) < 8
    assert result.train_loss.notnull().sum() == len(calls) + 1
    assert result.sizes["step"] == 8


def test_divergence_on_the_last_step_is_a_result(corpus: Corpus) -> None:
    result = train(small(), quick(steps=1, learning_rate=100.0), corpus)
    assert bool(result.diverged)
    assert math.isnan(result.validation_loss)
    assert result.train_loss.notnull().all()


def test_runs_of_one_seed_see_the_same_batches(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def spy(*arguments: Any) -> tuple[Tensor, Tensor]:
        drawn = draw(*arguments)
        seen.append(torch.stack(drawn))
        return drawn

    draw = batch
    monkeypatch.setattr(training_module, "batch", spy)
    for model, training in ((small(), quick()), (small(loops=1, residual_scale="1"), quick(learning_rate=1e-3))):
        train(model, training, corpus)
    train(small(), quick(seed=1), corpus)
    first, second, other = torch.split(torch.stack(seen), 8)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_with_scale_zero_the_loop_count_changes_nothing(corpus: Corpus) -> None:
    runs = [train(small(loops=loops, residual_scale=0.0), quick(), corpus) for loops in (1, 4)]
    assert runs[0].equals(runs[1])


def test_the_block_rate_leaves_the_rest_alone() -> None:
    network = LoopedTransformer(small(), 0)
    optimizer = training_module.optimizer(network, quick(block_rate=0.25))
    multiple = {id(p): group["lr"] / 1e-2 for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(multiple) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        assert multiple[id(parameter)] == (0.25 if name.startswith("blocks.") else 1.0)
        assert decay[id(parameter)] == (0.1 if parameter.ndim == 2 else 0.0)


def test_training_refuses_what_it_cannot_use(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^vocabulary = 255"):
        train(small(vocabulary=255), quick(), corpus)
    with pytest.raises(InputError, match=r"^learning_rate = "):
        quick(learning_rate=-1.0)
    short = tmp_path / "short.txt"
    short.write_text("x" * 80, encoding="utf-8")
    with pytest.raises(InputError, match=r"^text = .*context"):
        train(small(), quick(), load_corpus(short))


@pytest.mark.parametrize(("loops", "unique_layers"), [(4, 1), (3, 2), (1, 3)])
def test_the_probe_sees_a_row_a_visit(loops: int, unique_layers: int) -> None:
    config = ModelConfig(width=12, heads=3, mlp_width=20, loops=loops, unique_layers=unique_layers, init_std=0.3)
    model = LoopedTransformer(config, seed=5)
    tokens = torch.randint(256, (4, 7), generator=torch.Generator().manual_seed(8))
    result = probe(model, block=model.blocks, inputs=tokens)
    with torch.no_grad():
        streams = [model.embedding(tokens)]
        for visit in range(loops * unique_layers):
            streams.append(model.blocks[visit % unique_layers](streams[-1]))
    squares = [float((stream.double() ** 2).mean()) for stream in streams]
    np.testing.assert_allclose(result.second_moment, squares, rtol=1e-9)
    assert (result.attrs["visits"], result.attrs["loops"]) == (loops * unique_layers, loops)
    assert result.sizes["loop"] == loops
    assert result.attrs["changed_between_visits"] == 0
