"""No field of a Transformer or its training is ignored: each is refused, or changes what is predicted or trained."""

from typing import Any

import pytest
import torch

from residual_theory.errors import InputError
from residual_theory.stack import LlamaStack
from residual_theory.store import digest
from residual_theory.sweeps.grid import Cell
from residual_theory.sweeps.sweep import specification
from residual_theory.theory.forward import predict
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus
from residual_theory.transformer.description import describe_at_init

TOKENS = [3, 9, 3, 60]
SMALL: dict[str, Any] = {
    "width": 16,
    "heads": 2,
    "mlp_width": 24,
    "loops": 3,
    "unique_layers": 2,
    "context": 4,
    "vocabulary": 61,
}
PREDICTED: dict[str, Any] = {
    "width": 32, "heads": 4, "mlp_width": 20, "unique_layers": 3, "loops": 2, "residual_scale": "1", "init_std": 0.05,
    "norm_epsilon": 1e-2, "tied": False,
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "rope_base": 100.0, "normalization": "post", "loop_normalization": True, "skip": 0.5, "carry": "1/N",
    "injection": 0.5, "prelude": 1, "coda": 1, "outer_scale": 0.5, "branch_gain": 2.0, "biases": True,
}  # fmt: skip
UNREADABLE = {"vocabulary": 60, "context": 3}
EITHER = {"initial_distribution": "normal"}  # its standard deviation is the same, and the law depends on no more
TRAINED: dict[str, Any] = {
    "steps": 7, "batch_size": 4, "accumulation": 2, "learning_rate": 1e-2, "block_rate": "1/N", "block_rule": "paper",
    "tuned_layers": 2, "warmup": 3, "decay": 0.5, "weight_decay": 0.0, "beta1": 0.8, "beta2": 0.9, "adam_epsilon": 1e-6,
    "grad_clip": None, "evaluation_sequences": 3, "validate_every": 2, "stop_above": 9.0, "diverged_above": 8.0,
    "dtype": "bfloat16", "device": "mps", "compile": True, "recompute": True, "seed": 4,
}  # fmt: skip


def model(**fields: Any) -> ModelConfig:
    return ModelConfig(**{**SMALL, **fields})


def named(**fields: Any) -> str:
    """What names the result of a training run."""
    nothing = torch.zeros(0, dtype=torch.uint8)
    corpus = Corpus("none", nothing, nothing, digest="0")
    of_model = {name: value for name, value in fields.items() if name in ModelConfig.model_fields}
    of_training = {name: value for name, value in fields.items() if name in TrainConfig.model_fields}
    return digest(specification(Cell(model(**of_model), TrainConfig(**of_training)), corpus))


def test_every_field_is_in_one_of_the_tables() -> None:
    tables = [*PREDICTED, *REFUSED, *UNREADABLE, *EITHER]
    assert sorted(tables) == sorted(ModelConfig.model_fields)
    assert sorted(TRAINED) == sorted(TrainConfig.model_fields)


@pytest.mark.parametrize("name", PREDICTED)
def test_a_field_that_is_covered_changes_the_prediction(name: str) -> None:
    before, after = (
        predict(describe_at_init(config, TOKENS)) for config in (model(), model(**{name: PREDICTED[name]}))
    )
    assert not before.second_moment.identical(after.second_moment)
    assert getattr(describe_at_init(model(**{name: PREDICTED[name]}), TOKENS), name) == PREDICTED[name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_is_not_covered_is_refused_by_name(name: str) -> None:
    config = model(**{name: REFUSED[name]})
    with pytest.raises(InputError, match=rf"^{name} = .*is not covered by LlamaStack; only") as caught:
        describe_at_init(config, TOKENS)
    assert caught.value.value == REFUSED[name]


@pytest.mark.parametrize("name", UNREADABLE)
def test_tokens_that_the_model_cannot_read_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^tokens = .*{name}"):
        describe_at_init(model(**{name: UNREADABLE[name]}), TOKENS)


def test_the_law_of_the_entries_changes_no_prediction() -> None:
    assert describe_at_init(model(**EITHER), TOKENS) == describe_at_init(model(), TOKENS)


def test_a_rule_that_gives_the_default_is_the_default() -> None:
    assert describe_at_init(model(skip="1", carry="N/N", injection="0*N"), TOKENS) == describe_at_init(model(), TOKENS)


def test_a_new_field_is_refused_until_it_is_covered() -> None:
    class Wider(ModelConfig):
        dropout: float = 0.0

    assert describe_at_init(Wider(**SMALL), TOKENS) == describe_at_init(model(), TOKENS)
    with pytest.raises(InputError, match=r"^dropout = 0\.1"):
        describe_at_init(Wider(**SMALL, dropout=0.1), TOKENS)


def test_what_is_described_is_the_model() -> None:
    stack = describe_at_init(model(init_std=0.3), TOKENS)
    assert stack == LlamaStack(
        loops=3, unique_layers=2, width=16, mlp_width=24, heads=2, tokens=(3, 9, 3, 60), init_std=0.3,
        embedding_std=0.3, norm_epsilon=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("name", [*PREDICTED, *REFUSED, *UNREADABLE, *EITHER, *TRAINED])
def test_every_field_changes_the_name_of_a_training_run(name: str) -> None:
    value = {**PREDICTED, **REFUSED, **UNREADABLE, **EITHER, **TRAINED}[name]
    if name in TRAINED:
        assert value != TrainConfig.model_fields[name].default
    assert named(**{name: value}) != named()
