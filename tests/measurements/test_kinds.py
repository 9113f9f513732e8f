"""Measurements as data: stored and read back, told apart by every field, pooled by what rounds vary."""

import json
from pathlib import Path
from typing import Any

import pytest

from residual_theory.errors import InputError
from residual_theory.measurements.kinds import (
    KINDS,
    Assumptions,
    ConeGain,
    Diagnostic,
    DriftingWeights,
    OptimizerStep,
    Prediction,
    Probe,
    Proof,
    RedrawnBlocks,
    Simulation,
    StepAssumptions,
    Training,
    read,
)
from residual_theory.measurements.measurement import Context, Measurement
from residual_theory.measurements.observations import has
from residual_theory.stack import LlamaStack, Stack
from residual_theory.transformer.config import ModelConfig, TrainConfig

STACK = Stack(loops=2, unique_layers=3, sharing=(0, 1, 2, 0, 1, 1), weight_variance=1.5)
SIZES: dict[str, Any] = {"width": 8, "samples": 4, "seed": 3}
EXAMPLES: tuple[Measurement, ...] = (
    Simulation(stack=STACK, inputs=((1.0, 0.3), (0.3, 1.0)), control=(Stack(loops=2, unique_layers=3), 1.0), **SIZES),
    OptimizerStep(stack=STACK, optimizer="sign", rate=0.1, **SIZES),
    DriftingWeights(stack=STACK, exponent=0.5, **SIZES),
    Assumptions(stack=STACK, redraw=False, **SIZES),
    StepAssumptions(stack=STACK, update="sign", rate=0.1, **SIZES),
    ConeGain(steps=10, **SIZES),
    Prediction(stack=STACK),
    Prediction(stack=LlamaStack(loops=2, width=8, mlp_width=8, heads=2, tokens=(1, 2, 2))),
    Probe(model=ModelConfig(), models=2, first_model=0, windows=1, seed=0, corpus="digest"),
    RedrawnBlocks(model=ModelConfig(), models=2, first_model=0, windows=1, seed=0, corpus="digest"),
    Training(model=ModelConfig(), training=TrainConfig(), corpus="digest", watched=(1, 2), windows=3),
    Diagnostic(model=ModelConfig()),
    Proof(file="a.py", source="digest", name="DERIVATION"),
)
OTHER: dict[str, Any] = {  # another value for each field
    "stack": Stack(loops=5),
    "width": 9,
    "samples": 5,
    "seed": 4,
    "first_trial": 7,
    "inputs": ((1.0, 0.4), (0.4, 1.0)),
    "with_gradients": True,
    "antithetic": True,
    "control": None,
    "optimizer": "gradient-descent",
    "rate": 0.2,
    "exponent": 0.7,
    "redraw": True,
    "update": "random",
    "steps": 20,
    "model": ModelConfig(loops=3),
    "models": 3,
    "first_model": 1,
    "windows": 4,
    "corpus": "another",
    "training": TrainConfig(steps=7),
    "watched": (1,),
    "learning_rate": 1e-3,
    "device": "cuda",
    "file": "b.py",
    "source": "another",
    "name": "FALSE_TWIN",
}


def test_every_kind_has_an_example_here() -> None:
    assert {type(example) for example in EXAMPLES} == set(KINDS)
    assert len({kind.kind for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("measurement", EXAMPLES, ids=lambda one: one.kind)
def test_what_is_stored_is_read_back(measurement: Measurement) -> None:
    stored = json.loads(json.dumps(measurement.specification()))
    found = read(stored)
    assert found == measurement
    assert type(found) is type(measurement)
    assert found.key == measurement.key


@pytest.mark.parametrize("measurement", EXAMPLES, ids=lambda one: one.kind)
def test_every_field_tells_measurements_apart(measurement: Measurement) -> None:
    """A field that did not reach the key would make one result stand for two measurements."""
    for name in type(measurement).model_fields:
        value = not getattr(measurement, name) if name == "with_gradients" else OTHER[name]
        other = measurement.model_copy(update={name: value})
        assert other != measurement, name
        assert other.key != measurement.key, name
        assert (other.pool == measurement.pool) == (name in measurement.varies), name


@pytest.mark.parametrize("name", ["inputs", "with_gradients", "antithetic", "control", "first_trial", "seed", "width"])
def test_every_field_of_a_simulation_reaches_the_sampler(name: str) -> None:
    usual = Simulation(stack=Stack(loops=2, unique_layers=3), **SIZES)
    control = (Stack(loops=2, unique_layers=3, residual_scale=0.0), 1.0)
    other = usual.model_copy(update={name: control if name == "control" else OTHER[name]})
    here = Context(Path())
    assert not usual.measure(here).identical(other.measure(here))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"instrument": "oracle"}, "instrument = 'oracle': choose from simulation, "),
        ({"instrument": "prediction"}, "Prediction needs this field"),
        ({"instrument": "prediction", "stack": {"loops": 0}}, "loops = 0"),
        ({"instrument": "simulation", "stack": {"loops": 1}, "width": 0, "samples": 1, "seed": 0}, "width = 0"),
        ({"instrument": "proof", "file": "", "source": "", "name": "MINE"}, "name = 'MINE'"),
    ],
)
def test_what_is_no_measurement_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(wrong)


def test_a_text_that_changed_since_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words " * 500)
    training = Training(model=ModelConfig(), training=TrainConfig(), corpus="the digest of another text")
    with pytest.raises(InputError, match="has changed since the run began"):
        training.measure(Context(Path(), text))


def test_fields_that_descriptions_lack_are_named() -> None:
    assert has(STACK, loops=2, weight_variance=1.5)
    assert not has(STACK, loops=2, tied=False)
    with pytest.raises(InputError, match="lops = 2: Stack has no such field"):
        has(STACK, lops=2)
