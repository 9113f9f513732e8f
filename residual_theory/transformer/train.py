"""Training one looped language model: AdamW, warm-up, a constant rate, linear decay to zero."""

import contextlib
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.scaling import block_factors, rule_value
from residual_theory.store import require_writable
from residual_theory.transformer import checkpoint as checkpoints
from residual_theory.transformer.data import Corpus, batch, evaluation_windows
from residual_theory.transformer.groups import parameter_groups
from residual_theory.transformer.memory import explained
from residual_theory.transformer.model import Count, LoopedTransformer, ModelConfig, Positive
from residual_theory.transformer.processes import Team, team

MOST_STEPS = 10**8  # whose losses and rates fit in memory
DIVERGED_AT = 1.5  # times ln(vocabulary), the loss of a uniform guess, which every model starts near or below

Momentum = Annotated[float, Field(ge=0, lt=1)]
Watch = Callable[[int, LoopedTransformer], None]


def _steps_or_share(value: int | float) -> int | float:
    if isinstance(value, float) and value > 1:
        raise ValueError("must be a whole number of steps, or a share from 0 to 1")
    return value


StepsOrShare = Annotated[int | float, Field(ge=0), AfterValidator(_steps_or_share)]


class TrainConfig(Description):
    """How a model is trained.

    Arguments:
      steps, batch_size: optimizer steps, and sequences (of the model's context) a step, over all processes.
      accumulation: parts that a step's batch is computed in, one after the other, to save memory.
      learning_rate: the rate η between warm-up and decay, of the embedding, the final norm, prelude and coda, ...
      block_rate, block_rule, tuned_layers: ... and of the looped blocks as a multiple of η: a number or a rule in N and
        L, times the factor that a published rule has at m_L = L/tuned_layers, which also sets their Adam ε: "paper",
        "completep", "rate/sqrt(N)" or "none" (`residual_theory.scaling.block_factors`).
      warmup, decay: over how long the rate rises linearly to η, and falls linearly to 0, in steps (an integer) or as a
        share of all (a fraction).
      weight_decay: AdamW's, times the rate, on matrices (the embedding included) and not on gains and biases.
      beta1, beta2, adam_epsilon: AdamW's. grad_clip: the largest gradient norm, or None.
      evaluation_sequences: windows of validation text, evenly spread, that validation losses are averaged over;
        one at each position where there are fewer positions.
      validate_every: steps between validations on the way, or None for the one at the end alone.
      stop_above: nats of training loss at which a run is given up; None is DIVERGED_AT · ln(vocabulary).
      diverged_above: nats of final validation loss above which it counts as diverged; None is the same level.
      dtype: "float32", or "bfloat16" for matrix products while weights stay float32.
      device: "cpu", "cuda", "cuda:1" or "mps". compile: through torch.compile.
      recompute: activations in the backward pass rather than keep them, to save memory.
      seed: of the initial weights and of the order of the data. Neither depends on N, on ε or on the rates, so runs
        of one seed that differ in those are paired.
    Raises: InputError naming the field that cannot be used.
    """

    steps: Annotated[Count, Field(le=MOST_STEPS)] = 300
    batch_size: Count = 8
    accumulation: Count = 1
    learning_rate: Positive = 3e-3
    block_rate: Positive | str = 1.0
    block_rule: str = "none"
    tuned_layers: Count = 1
    warmup: StepsOrShare = 0.1
    decay: StepsOrShare = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    adam_epsilon: Positive = 1e-8
    grad_clip: Positive | None = 1.0
    evaluation_sequences: Count = 64
    validate_every: Count | None = None
    stop_above: Positive | None = None
    diverged_above: Positive | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    compile: bool = False
    recompute: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fields_agree(self) -> "TrainConfig":
        block_factors(self.block_rule, 1, 1)
        rule_value("block_rate", self.block_rate, 1, 1)
        if self.batch_size % self.accumulation:
            raise InputError("accumulation", self.accumulation, f"must divide batch_size = {self.batch_size}")
        return self

    def rates(self) -> np.ndarray:
        """The learning rate of every step, (step,): the least of warm-up line, constant and decay line."""
        step = np.arange(self.steps)
        warmup, decay = (
            part if isinstance(part, int) else part * self.steps for part in (self.warmup, self.decay)
        )  # in steps
        rise = (step + 1) / max(warmup, 1)
        fall = (self.steps - step) / max(decay, 1)
        return self.learning_rate * np.minimum(1.0, np.minimum(rise, fall))


def train(
    model: ModelConfig,
    training: TrainConfig,
    corpus: Corpus,
    progress: Callable[[int], None] | None = None,
    *,
    checkpoint: Path | None = None,
    every: int = 500,
    watch: Watch | None = None,
    watch_at: Collection[int] = (),
) -> xr.Dataset:
    """Train one model and evaluate it at the end.

    Under torchrun the processes share each batch, and every one returns the result of all.

    Arguments:
      model, training: descriptions. corpus: what to train and validate on. progress: called with the steps done.
      checkpoint: a file to keep the state in, written every `every` steps and at the end; where it holds this
        very run, the run goes on from it, bit for bit as if it had never stopped (on the same machine and libraries;
        on CUDA up to rounding, as attention's backward pass adds up in no fixed order there).
      watch: called with the steps done and the network: at 0 (initialised), after each step in `watch_at`, and at the
        end. It must leave the network as it is. Steps that a checkpoint holds already are not shown again.
    Returns: train_loss (step), nats a token on each step's batch before its update; learning_rate (step);
      validation_loss, nats a token on fixed windows at the end; validation (validated_step), the same on the way, if
      any; diverged. A run whose training loss is not finite, or above `stop_above`, has diverged: it stops there, and
      the losses that it has not reached are NaN. So has one whose final validation loss is above `diverged_above`; that
      loss is NaN too if it is above `stop_above`.
    Raises: InputError for a vocabulary below the corpus's, a text too short for one sequence, a device that is not
      here, a batch that does not fit into memory, a checkpoint of another run; never for divergence.
    """
    if model.vocabulary < corpus.vocabulary:
        mend = f"the text's tokens need at least {corpus.vocabulary}"
        raise InputError("vocabulary", model.vocabulary, mend)
    corpus.must_hold(model.context)
    if every < 1:
        raise InputError("every", every, "must be at least 1 step")
    if checkpoint is not None:
        require_writable(checkpoint, argument="checkpoint")
    half = training.dtype == "bfloat16"
    sizes = {"batch_size": training.batch_size, "accumulation": training.accumulation}
    with team(training.device) as members, explained(model, members, **sizes, half=half, recompute=training.recompute):
        run = Run(model, training, corpus, members)
        if checkpoint is not None:
            run.resume(checkpoint)
        if watch is not None and run.done == 0:
            watch(0, run.network)
        while not run.finished:
            run.step()
            if run.diverged:
                break
            if progress is not None:
                progress(run.done)
            if watch is not None and run.done in watch_at and not run.finished:
                watch(run.done, run.network)
            if checkpoint is not None and run.done % every == 0 and not run.finished:
                run.save(checkpoint)
        if checkpoint is not None:
            run.save(checkpoint)
        if watch is not None:
            watch(run.done, run.network)
        return run.results()


class Run:
    """One training run between two steps: everything that the next step depends on."""

    def __init__(self, model: ModelConfig, training: TrainConfig, corpus: Corpus, team: Team) -> None:
        if training.batch_size % (training.accumulation * team.size):
            mend = f"must be a multiple of accumulation × processes = {training.accumulation * team.size}"
            raise InputError("batch_size", training.batch_size, mend)
        self.model, self.training, self.corpus, self.team = model, training, corpus, team
        weights, order = (int(word) for word in np.random.SeedSequence(training.seed).generate_state(2, np.uint64))
        self.network = LoopedTransformer(model, weights).to(team.device)
        self.network.recompute = training.recompute
        self.objective: nn.Module = _Objective(self.network)
        if training.compile:
            self.objective.compile()
        self.synchronized: nn.Module = self.objective
        if team.size > 1:
            self.synchronized = DistributedDataParallel(self.objective, broadcast_buffers=False)
        self.optimizer = optimizer(self.network, training)
        self.multiples = [group["lr"] / training.learning_rate for group in self.optimizer.param_groups]
        self.shuffle = torch.Generator().manual_seed(order)
        self.rates = training.rates()
        self.losses = np.full(training.steps, np.nan)
        self.validations: dict[int, float] = {}
        self.done, self.diverged = 0, False

    @property
    def finished(self) -> bool:
        """No step is left to do."""
        return self.diverged or self.done == self.training.steps

    @property
    def limit(self) -> float:
        """Nats of training loss beyond which the run has diverged."""
        return self.training.stop_above or DIVERGED_AT * math.log(self.model.vocabulary)

    def step(self) -> None:
        """One step of the optimizer, unless the loss before it says that the run has diverged."""
        windows = batch(self.corpus.train, self.training.batch_size, self.model.context, self.shuffle)
        self.optimizer.zero_grad()
        loss = self._gradients(*windows)
        self.losses[self.done] = loss
        if not loss <= self.limit:  # NaN included
            self.diverged = True
            return
        if self.training.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.training.grad_clip)
        for group, multiple in zip(self.optimizer.param_groups, self.multiples, strict=True):
            group["lr"] = float(self.rates[self.done]) * multiple
        self.optimizer.step()
        self.done += 1
        if self.training.validate_every and self.done % self.training.validate_every == 0:
            self.validations[self.done] = self.validate()

    def _gradients(self, inputs: Tensor, targets: Tensor) -> float:
        """Accumulate the gradients of the mean loss over the batch, whose value is returned."""
        mine, parts = self.team.share(len(inputs)), self.training.accumulation
        total = torch.zeros((), device=self.team.device)
        pairs = zip(inputs[mine].chunk(parts), targets[mine].chunk(parts), strict=True)
        for part, (x, y) in enumerate(pairs, start=1):
            waits = isinstance(self.synchronized, DistributedDataParallel) and part < parts
            with self.synchronized.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
                loss = self._loss(self.synchronized, x, y) / parts
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(self.team.total(total)) / self.team.size

    def _loss(self, objective: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        device = self.team.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.training.dtype == "bfloat16"):
            loss: Tensor = objective(inputs.to(device), targets.to(device))
        return loss

    @torch.no_grad()
    def validate(self) -> float:
        """Nats a token on the validation windows, in float64 sums."""
        wanted, at_once = self.training.evaluation_sequences, self.training.batch_size // self.training.accumulation
        inputs, targets = evaluation_windows(self.corpus.validation, wanted, self.model.context)  # (window, time)
        count = len(inputs)
        mine, size = self.team.share(count), max(1, at_once // self.team.size)
        pairs = zip(torch.split(inputs[mine], size), torch.split(targets[mine], size), strict=True)
        total = math.fsum(self._loss(self.objective, x, y).item() * len(x) for x, y in pairs if len(x))
        if self.team.size > 1:
            total = float(self.team.total(torch.tensor(total, dtype=torch.float64, device=self.team.device)))
        return total / count

    def results(self) -> xr.Dataset:
        """The losses, with a last validation unless the run has diverged."""
        validation = math.nan if self.diverged else self.validate()
        validation = validation if validation <= self.limit else math.nan
        level = self.training.diverged_above or self.limit
        nats = f"nat per {self.corpus.unit}"
        result = xr.Dataset(
            {
                "train_loss": ("step", self.losses, {"long_name": "training loss before the update", "units": nats}),
                "learning_rate": ("step", self.rates, {"long_name": "learning rate", "units": "1"}),
                "validation_loss": ((), validation, {"long_name": "validation loss at the end", "units": nats}),
                "diverged": ((), not validation <= level, {"long_name": "the loss left the range of a useful run"}),
            },
            coords={"step": np.arange(len(self.losses))},
            attrs={
                "model": self.model.model_dump_json(),
                "training": self.training.model_dump_json(),
                "corpus": self.corpus.name,
                "corpus_digest": self.corpus.digest,
                "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
                "dtype": self.training.dtype,
                "device": self.team.device.type,
                "torch": str(torch.__version__),
            },
        )
        if self.training.validate_every:
            described = {"long_name": "validation loss", "units": nats}
            result["validation"] = ("validated_step", list(self.validations.values()), described)
            result = result.assign_coords(validated_step=np.array(list(self.validations), dtype=np.int64))
        return result

    def _identity(self) -> dict[str, Any]:
        model = {**self.model.model_dump(mode="json"), "residual_scale": self.model.epsilon}  # however it is written
        training = self.training.model_dump(mode="json")
        return {"model": model, "training": training, "corpus": self.corpus.digest, "processes": self.team.size}

    def save(self, path: Path) -> None:
        """Write the state to a file, from the first process."""
        if self.team.rank > 0:
            return
        state = {
            "weights": {name: value.clone() for name, value in self.network.state_dict().items()},  # no views of more
            "optimizer": self.optimizer.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "losses": torch.from_numpy(self.losses),
            "validations": self.validations,
            "done": self.done,
            "diverged": self.diverged,
        }
        checkpoints.save(path, self._identity(), state)

    def resume(self, path: Path) -> None:
        """Go back to the state in a file, if there is one."""
        state = checkpoints.load(path, self._identity())
        if state is None:
            return
        with checkpoints.intact(path):
            self.network.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.shuffle.set_state(state["shuffle"])
            self.losses[:] = state["losses"].numpy()
            self.validations = dict(state["validations"])
            self.done, self.diverged = int(state["done"]), bool(state["diverged"])


class _Objective(nn.Module):
    """The loss as a module's call, which torch.compile and DistributedDataParallel can take hold of."""

    def __init__(self, network: LoopedTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.network.loss(tokens, targets)


def optimizer(network: LoopedTransformer, training: TrainConfig) -> torch.optim.AdamW:
    """AdamW with the groups that the config's rule gives; prelude and coda count as outside the blocks."""
    loops, layers = network.config.loops, network.config.unique_layers
    factors = block_factors(training.block_rule, loops, layers, tuned_layers=training.tuned_layers)
    groups = parameter_groups(
        network,
        blocks=network.blocks,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        adam_epsilon=training.adam_epsilon,
        block_rate=rule_value("block_rate", training.block_rate, loops, layers) * factors.rate,
        block_epsilon=factors.adam_epsilon,
    )
    return torch.optim.AdamW(groups, betas=(training.beta1, training.beta2), fused=True)
