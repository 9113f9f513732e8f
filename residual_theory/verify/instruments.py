"""The ways a run obtains its data: each turns a plain-JSON specification into a Dataset.

A specification names its instrument and holds everything the result depends on, so its digest can name the result.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from residual_theory.errors import DerivationError
from residual_theory.measure.probe import probe
from residual_theory.montecarlo.dense import simulate
from residual_theory.montecarlo.estimate import Moments
from residual_theory.observables import dataset
from residual_theory.stack import LlamaStack, Stack, described
from residual_theory.store import Specification
from residual_theory.theory.derivation import check
from residual_theory.theory.forward import predict
from residual_theory.transformer.data import Corpus, evaluation_windows, load_corpus
from residual_theory.transformer.model import LoopedTransformer, ModelConfig
from residual_theory.transformer.train import TrainConfig, train
from residual_theory.verify.folders import load_module

_corpus_at = functools.lru_cache(maxsize=4)(load_corpus)


@dataclass(frozen=True)
class Instruments:
    """What measurements need beside their specification: where the claims lie, and which text to read."""

    root: Path
    text: Path | None

    def __call__(self, specification: Specification) -> xr.Dataset:
        """Measure: the instrument that the specification names, given the rest of it."""
        arguments = dict(specification)
        return _INSTRUMENTS[arguments.pop("instrument")](self, **arguments)

    def read(self) -> Corpus:
        """The text, read once a process."""
        return _corpus_at(self.text)


def simulation(stack: Stack, *, width: int, samples: int, seed: int, first_trial: int = 0) -> Specification:
    """The specification of a Monte Carlo estimate."""
    return {
        "instrument": "simulate", "stack": described(stack), "width": width, "samples": samples, "seed": seed,
        "first_trial": first_trial,
    }  # fmt: skip


def prediction(stack: Stack | LlamaStack) -> Specification:
    """The specification of a prediction."""
    return {"instrument": "predict", "stack": described(stack)}


def training(model: ModelConfig, config: TrainConfig, corpus: Corpus) -> Specification:
    """The specification of a training run.

    Raises: InputError when the text is shorter than one sequence.
    """
    corpus.must_hold(model.context)
    return {
        "instrument": "train", "model": model.model_dump(mode="json"), "training": config.model_dump(mode="json"),
        "corpus": corpus.digest,
    }  # fmt: skip


def initial_probe(
    model: ModelConfig, *, models: int, first_model: int, windows: int, seed: int, corpus: Corpus
) -> Specification:
    """The specification of a probe of freshly initialised Transformers on real text.

    Raises: InputError when the text is shorter than one sequence.
    """
    corpus.must_hold(model.context)
    return {
        "instrument": "probe", "model": model.model_dump(mode="json"), "models": models, "first_model": first_model,
        "windows": windows, "seed": seed, "corpus": corpus.digest,
    }  # fmt: skip


def derivation(file: str, source: bytes, name: str) -> Specification:
    """The specification of a machine check of the derivation `name` in a file of the derivations folder."""
    return {"instrument": "derive", "file": file, "source": hashlib.sha256(source).hexdigest(), "name": name}


def simulated(specification: Specification) -> Stack:
    """The stack that a simulation is of."""
    return Stack(**_fields(specification["stack"]))


def model_of(specification: Specification) -> ModelConfig:
    """The Transformer that a training run or probe is of."""
    return ModelConfig(**specification["model"])


def _fields(stack: Mapping[str, Any]) -> dict[str, Any]:
    """A described stack as the arguments of its constructor."""
    return {key: tuple(item) if isinstance(item, list) else item for key, item in stack.items() if key != "kind"}


def _simulate(_: Instruments, stack: Mapping[str, Any], **arguments: Any) -> xr.Dataset:
    return simulate(Stack(**_fields(stack)), **arguments)


def _predict(_: Instruments, stack: Mapping[str, Any]) -> xr.Dataset:
    kind = {"Stack": Stack, "LlamaStack": LlamaStack}[stack["kind"]]
    return predict(kind(**_fields(stack)))


def _train(instruments: Instruments, model: Mapping[str, Any], training: Mapping[str, Any], corpus: str) -> xr.Dataset:
    assert corpus == instruments.read().digest
    return train(ModelConfig(**model), TrainConfig(**training), instruments.read())


def _probe(
    instruments: Instruments,
    model: Mapping[str, Any],
    models: int,
    first_model: int,
    windows: int,
    seed: int,
    corpus: str,
) -> xr.Dataset:
    """Means over models, each of its own weights, of the probe's means over the same windows of validation text."""
    assert corpus == instruments.read().digest
    config = ModelConfig(**model)
    tokens, _ = evaluation_windows(instruments.read().validation, windows, config.context)
    moments = {name: Moments() for name in ("second_moment", "covariance", "increment_cosine")}
    for index in range(first_model, first_model + models):
        weights = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        network = LoopedTransformer(config, weights)
        measured = probe(network, block=network.blocks, inputs=tokens)
        for name, moment in moments.items():
            moment.add(measured[name].values[None])
    result = dataset(
        {name: moment.mean for name, moment in moments.items()},
        stderr={name: moment.stderr for name, moment in moments.items()},
        samples=models,
        attrs={"samples_are": "models", "dtype": "float32"},
    )
    return result.assign(tokens=(("window", "position"), tokens.numpy(), {"long_name": "token ids read"}))


def _derive(instruments: Instruments, file: str, source: str, name: str) -> xr.Dataset:
    """One row a step; the attribute `failure` says which step does not hold, and is empty when all do."""
    path = instruments.root / "derivations" / file
    assert source == hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        records = check(getattr(load_module(path), name))
    except DerivationError as error:
        return xr.Dataset(attrs={"failure": str(error)})
    return xr.Dataset(
        {
            "title": ("step", np.array([record.title for record in records], dtype=object)),
            "checked": ("step", np.array([str(record) for record in records], dtype=object)),
            "seconds": ("step", np.array([record.seconds for record in records])),
        },
        attrs={"failure": ""},
    )


_INSTRUMENTS: dict[str, Callable[..., xr.Dataset]] = {
    "simulate": _simulate,
    "predict": _predict,
    "train": _train,
    "probe": _probe,
    "derive": _derive,
}
