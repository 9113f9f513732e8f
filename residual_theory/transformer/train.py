"""Training one looped language model: AdamW, warm-up, a constant rate, linear decay to zero."""

import contextlib
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from residual_theory.errors import InputError
from residual_theory.scaling import block_factors, rule_value
from residual_theory.store import require_writable
from residual_theory.transformer import checkpoint as checkpoints
from residual_theory.transformer.config import DIVERGED_AT, ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus, batch, evaluation_windows
from residual_theory.transformer.groups import parameter_groups
from residual_theory.transformer.memory import explain_out_of_memory
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.processes import Team, team

Watch = Callable[[int, LoopedTransformer], None]


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
    with (
        team(training.device) as members,
        explain_out_of_memory(model, members, **sizes, half=half, recompute=training.recompute),
    ):
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
        model = {**self.model.model_dump(mode="json"), "residual_scale": self.model.epsilon}  # no rule
        training = self.training.model_dump(mode="json")
        return {"model": model, "training": training, "corpus": self.corpus.digest, "processes": self.team.size}

    def save(self, path: Path) -> None:
        """Write the state to a file, from the first process."""
        if self.team.rank > 0:
            return
        state = {
            "weights": {name: value.clone() for name, value in self.network.state_dict().items()},  # no views
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
    """The loss as a module's call, which torch.compile and DistributedDataParallel need."""

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
