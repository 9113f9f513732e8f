"""Looped Transformers measured: at initialisation, and while they train, on the same windows of validation text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from residual_theory.measure.changes import sizes_and_changes
from residual_theory.measure.probe import probe
from residual_theory.montecarlo.estimate import Moments
from residual_theory.observables import dataset
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus, evaluation_windows
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.train import train

_ABOUT = {
    "second_moment": "mean square of the stream",
    "covariance": "mean product of the stream at two visits",
    "stream_update": "rms of what training has changed in the stream since the start",
    "output_update": "rms of what training has changed in the logits since the start",
}


class Watch:
    """Probes a network in training: call it with the steps done and the network, then ask for the dataset.

    tokens: int64 (window, time), what the network reads whenever it is watched.
    """

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.rows: dict[int, dict[str, Any]] = {}
        self.start: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, step: int, network: LoopedTransformer) -> None:
        tokens = self.tokens.to(network.embedding.weight.device)
        probed = probe(network, block=network.blocks, inputs=tokens)
        _, changes = sizes_and_changes(network, network.blocks, tokens, self.start)
        self.rows[step] = {
            "second_moment": probed.second_moment.values,
            "covariance": probed.covariance.values,
            "stream_update": np.array(changes[:-1]),
            "output_update": np.array(changes[-1]),
        }

    def dataset(self) -> xr.Dataset:
        """One row for each time: all quantities by watched step, and by visit (0 is the input of the first)."""
        dims = {"second_moment": ("visit",), "covariance": ("visit", "visit_other"), "stream_update": ("visit",)}
        variables = {
            name: (
                ("watched_step", *dims.get(name, ())),
                np.stack([row[name] for row in self.rows.values()]),
                {"long_name": meaning, "units": "1"},
            )
            for name, meaning in _ABOUT.items()
        }
        return xr.Dataset(variables, coords={"watched_step": list(self.rows)})


def train_watched(
    model: ModelConfig, training: TrainConfig, corpus: Corpus, *, watched: Sequence[int], windows: int
) -> xr.Dataset:
    """A training run, and what `Watch` sees of it on so many windows, if there are any: the fields of `Training`."""
    watch = Watch(evaluation_windows(corpus.validation, windows, model.context)[0]) if windows else None
    result = train(model, training, corpus, watch=watch, watch_at=watched)
    return result if watch is None else result.merge(watch.dataset(), combine_attrs="override")


def initial_probes(
    model: ModelConfig, corpus: Corpus, *, models: int, first_model: int, windows: int, seed: int
) -> xr.Dataset:
    """Means over models, each of its own weights, of a probe's means over the same windows of validation text.

    Arguments: those of `Probe`. Returns: observables with their standard errors, and the `tokens` (window, position).
    """
    tokens, _ = evaluation_windows(corpus.validation, windows, model.context)
    moments = {name: Moments() for name in ("second_moment", "covariance", "increment_cosine")}
    for index in range(first_model, first_model + models):
        weights = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        network = LoopedTransformer(model, weights)
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
