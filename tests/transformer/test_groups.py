"""Parameter groups: who shares a rate, whoever's model it is."""

from typing import Any

import pytest
import torch
from torch import nn

from residual_theory.errors import InputError
from residual_theory.scaling import block_factors
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.groups import parameter_groups
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.train import optimizer

BASE: dict[str, Any] = {"learning_rate": 2e-3, "weight_decay": 0.1, "adam_epsilon": 1e-8}


class Foreign(nn.Module):
    """Somebody's looped model: a head tied to the embedding, a norm used twice, a frozen table."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norms = nn.ModuleList([nn.LayerNorm(4)] * 3)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight
        self.table = nn.Parameter(torch.zeros(4, 4), requires_grad=False)


def by_name(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    return {name: group_of[id(p)] for name, p in model.named_parameters() if id(p) in group_of}


def test_each_parameter_is_in_one_group_with_the_papers_factors() -> None:
    config = ModelConfig(width=8, heads=2, mlp_width=12, unique_layers=3, loops=2, prelude=1, coda=1, biases=True)
    model = LoopedTransformer(config, seed=0)
    factors = block_factors("paper", 2, 48, tuned_layers=12)
    groups = parameter_groups(
        model, blocks=model.blocks, **BASE, block_rate=factors.rate, block_epsilon=factors.adam_epsilon
    )
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    for name, group in by_name(model, groups).items():
        inside = name.startswith("blocks.")
        matrix = name.endswith("weight") and "norm" not in name
        assert group["lr"] == pytest.approx(2e-3 * (0.5 if inside else 1), rel=1e-15), name
        assert group["eps"] == pytest.approx(1e-8 * (0.5 if inside else 1), rel=1e-15), name
        assert group["weight_decay"] == (0.1 if matrix else 0.0), name


def test_a_foreign_model_with_shared_and_frozen_parameters() -> None:
    model = Foreign()
    factors: dict[str, Any] = {"block_rate": 0.25, "block_epsilon": 0.5, "block_decay": 3.0}
    groups = parameter_groups(model, blocks=["layers.*", model.norms], **BASE, **factors)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed)) == 3 * 2 + 2 + 2
    assert id(model.table) not in listed
    found = by_name(model, groups)
    assert (found["layers.1.weight"]["lr"], found["layers.1.weight"]["eps"]) == (5e-4, 5e-9)
    assert found["layers.1.weight"]["weight_decay"] == pytest.approx(0.3)
    assert found["layers.1.bias"]["weight_decay"] == found["norms.0.weight"]["weight_decay"] == 0.0
    assert (found["embedding.weight"]["lr"], found["head.bias"]["lr"]) == (2e-3, 2e-3)
    assert sum(group["lr"] == 5e-4 for group in groups) == 2
    torch.optim.AdamW(groups)  # takes them, names and all


@pytest.mark.parametrize("blocks", ["layers", "layers.*", ["layers.0", "layers.1", "layers.2"]])
def test_the_ways_to_name_blocks_agree(blocks: Any) -> None:
    model = Foreign()
    ways = [parameter_groups(model, blocks=way, **BASE, block_rate=0.5) for way in (blocks, model.layers)]
    assert [list(map(id, group["params"])) for group in ways[0]] == [list(map(id, g["params"])) for g in ways[1]]


def test_a_parameter_shared_with_a_block_belongs_to_it_once() -> None:
    model = nn.ModuleDict({"embedding": nn.Linear(3, 3), "core": nn.Linear(3, 3)})
    model["core"].weight = model["embedding"].weight
    groups = parameter_groups(model, blocks="core", **BASE, block_rate=0.5)
    assert by_name(model, groups)["embedding.weight"]["lr"] == 1e-3
    assert sum(len(group["params"]) for group in groups) == 3


def test_gains_and_biases_are_decayed_on_request() -> None:
    groups = parameter_groups(Foreign(), blocks="layers", **BASE, decay_gains=True)
    assert {group["weight_decay"] for group in groups} == {0.1}


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("blocks", {"blocks": "layer.*"}),
        ("blocks", {"blocks": nn.Linear(2, 2)}),
        ("blocks", {"blocks": []}),
        ("blocks", {"blocks": None}),
        ("block_rate", {"block_rate": "1/N"}),
        ("blocks", {"blocks": nn.ModuleList()}),
        ("learning_rate", {"learning_rate": 0.0}),
        ("learning_rate", {"learning_rate": float("nan")}),
        ("weight_decay", {"weight_decay": -0.1}),
        ("block_rate", {"block_rate": float("inf")}),
        ("block_epsilon", {"block_epsilon": -1.0}),
        ("block_decay", {"block_decay": -1.0}),
    ],
)
def test_what_cannot_be_grouped_is_refused(argument: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^{argument} = ") as caught:
        parameter_groups(Foreign(), **{"blocks": "layers", **BASE, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "loops", "layers", "tuned", "expected"),
    [
        ("none", 8, 48, 12, (1, 1)),
        ("paper", 1, 12, 12, (1, 1)),
        ("paper", 8, 48, 12, (0.5, 0.5)),
        ("paper", 3, 9, 1, (1 / 3, 1 / 3)),
        ("completep", 8, 48, 12, (1, 0.25)),
        ("rate/sqrt(N)", 16, 48, 12, (0.25, 1)),
    ],
)
def test_published_rules(rule: str, loops: int, layers: int, tuned: int, expected: tuple[float, float]) -> None:
    assert block_factors(rule, loops, layers, tuned_layers=tuned) == pytest.approx(expected)


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"^block_rule = 'mup': choose from none, paper, completep"):
        TrainConfig(block_rule="mup")


@pytest.mark.parametrize(("rule", "rate", "epsilon"), [("paper", 0.5, 0.5), ("completep", 1, 0.25), ("none", 1, 1)])
def test_the_trainer_uses_the_rule(rule: str, rate: float, epsilon: float) -> None:
    config = ModelConfig(width=8, heads=2, mlp_width=12, unique_layers=8, loops=2, prelude=1)
    network = LoopedTransformer(config, seed=0)
    training = TrainConfig(block_rule=rule, tuned_layers=2, block_rate="3/N", learning_rate=2e-3)
    found = by_name(network, optimizer(network, training).param_groups)
    for name, group in found.items():
        inside = name.startswith("blocks.")
        assert group["lr"] == pytest.approx(2e-3 * (1.5 * rate if inside else 1)), name
        assert group["eps"] == pytest.approx(1e-8 * (epsilon if inside else 1)), name
