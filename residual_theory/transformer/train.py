"""Training one looped language model: AdamW, warm-up, a constant rate, linear decay to zero."""

import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor, nn

from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.transformer.data import Corpus, batch, evaluation_windows
from residual_theory.transformer.model import Count, LoopedTransformer, ModelConfig, Positive

BYTES = 256
DIVERGED_AT = 1.5  # times ln(vocabulary), the loss of a uniform guess, which every model starts near or below
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Description):
    """How a model is trained.

    Arguments:
      steps, batch_size: optimizer steps, and sequences (of the model's context) a step.
      learning_rate: the rate η between warm-up and decay, of the embedding and the final norm, ...
      block_rate: ... and of the blocks as a multiple of η.
      warmup, decay: shares of the steps over which the rate rises linearly to η, and falls linearly to 0.
      weight_decay: AdamW's, times the rate, on matrices (the embedding included) and not on gains.
      beta1, beta2, adam_epsilon: AdamW's. grad_clip: the largest gradient norm, or None.
      evaluation_sequences: windows of validation text, evenly spread, that the final loss is averaged over.
      seed: of the initial weights and of the order of the data. Neither depends on N, on ε or on the rates, so runs
        of one seed that differ in those are paired.
    Raises: InputError naming the field that cannot be used.
    """

    steps: Count = 300
    batch_size: Count = 8
    learning_rate: Positive = 3e-3
    block_rate: Positive = 1.0
    warmup: Share = 0.1
    decay: Share = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    adam_epsilon: Positive = 1e-8
    grad_clip: Positive | None = 1.0
    evaluation_sequences: Count = 64
    seed: Annotated[int, Field(ge=0)] = 0

    def rates(self) -> np.ndarray:
        """The learning rate of every step, (step,): the least of warm-up line, constant and decay line."""
        step = np.arange(self.steps)
        rise = (step + 1) / max(self.warmup * self.steps, 1)
        fall = (self.steps - step) / max(self.decay * self.steps, 1)
        return self.learning_rate * np.minimum(1.0, np.minimum(rise, fall))


def train(
    model: ModelConfig,
    training: TrainConfig,
    corpus: Corpus,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Train one model in float32 on the CPU and evaluate it once, at the end.

    Arguments:
      model, training: descriptions. corpus: bytes to train and validate on. progress: called with the steps done.
    Returns: train_loss (step), nats a byte on each step's batch before its update; learning_rate (step);
      validation_loss, nats a byte on fixed windows; diverged. A run whose loss is not finite, or above
      DIVERGED_AT · ln(vocabulary), has diverged: it stops there, and the losses that it has not reached are NaN.
    Raises: InputError for a vocabulary below 256 and for a text too short for one sequence; never for divergence.
    """
    if model.vocabulary < BYTES:
        raise InputError("vocabulary", model.vocabulary, f"text is read as bytes, so it needs at least {BYTES}")
    held_out = evaluation_windows(corpus.validation, training.evaluation_sequences, model.context)
    weights, order = (int(word) for word in np.random.SeedSequence(training.seed).generate_state(2, np.uint64))
    network = LoopedTransformer(model, weights)
    optimizer = _optimizer(network, training)
    shuffle = torch.Generator().manual_seed(order)
    limit = DIVERGED_AT * math.log(model.vocabulary)
    rates = training.rates()
    losses = np.full(training.steps, np.nan)
    diverged = False
    for step in range(training.steps):
        loss = network.loss(*batch(corpus.train, training.batch_size, model.context, shuffle))
        losses[step] = loss.item()
        diverged = not losses[step] <= limit  # NaN included
        if diverged:
            break
        _update(network, optimizer, loss, float(rates[step]), training.grad_clip)
        if progress is not None:
            progress(step + 1)
    validation = math.nan if diverged else _evaluate(network, held_out, training.batch_size)
    if not validation <= limit:
        diverged, validation = True, math.nan
    return _results(losses, rates, validation, diverged).assign_attrs(
        model=model.model_dump_json(),
        training=training.model_dump_json(),
        corpus=corpus.name,
        corpus_digest=corpus.digest,
        dtype="float32",
        torch=str(torch.__version__),
    )


def _optimizer(network: LoopedTransformer, training: TrainConfig) -> torch.optim.AdamW:
    blocks = list(network.blocks.parameters())
    outside = [*network.embedding.parameters(), *network.norm.parameters()]
    groups = [
        {
            "params": [parameter for parameter in members if (parameter.ndim == 2) == is_matrix],
            "multiple": multiple,  # of the learning rate, applied in _update
            "weight_decay": training.weight_decay if is_matrix else 0.0,
        }
        for members, multiple in ((blocks, training.block_rate), (outside, 1.0))
        for is_matrix in (True, False)
    ]
    betas = (training.beta1, training.beta2)
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, eps=training.adam_epsilon, fused=True)


def _update(
    network: LoopedTransformer, optimizer: torch.optim.AdamW, loss: Tensor, rate: float, grad_clip: float | None
) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if grad_clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), grad_clip)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiple"]
    optimizer.step()


@torch.no_grad()
def _evaluate(network: LoopedTransformer, windows: tuple[Tensor, Tensor], batch_size: int) -> float:
    inputs, targets = windows  # (window, time)
    parts = zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True)
    return math.fsum(network.loss(x, y).item() * len(x) for x, y in parts) / len(inputs)


def _results(losses: np.ndarray, rates: np.ndarray, validation: float, diverged: bool) -> xr.Dataset:
    nats = "nat per byte"
    return xr.Dataset(
        {
            "train_loss": ("step", losses, {"long_name": "training loss before the step's update", "units": nats}),
            "learning_rate": ("step", rates, {"long_name": "learning rate", "units": "1"}),
            "validation_loss": ((), validation, {"long_name": "validation loss at the end", "units": nats}),
            "diverged": ((), diverged, {"long_name": "the loss left the range of a useful run"}),
        },
        coords={"step": np.arange(len(losses))},
    )
