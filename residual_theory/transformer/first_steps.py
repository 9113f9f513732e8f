"""The first optimizer steps of a looped Transformer on fixed random tokens, its stream read before every one."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from residual_theory.devices import device_named
from residual_theory.errors import InputError
from residual_theory.transformer import checkpoint as checkpoints
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.memory import memory_of, state_bytes, visit_bytes
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.stream_reader import StreamReader, read_untied, reading
from residual_theory.transformer.train import optimizer

PEAK = 12 * 2**30  # bytes that a run may take; visits are recomputed as far as that needs
BESIDE = 5 * 2**28  # bytes of libraries, and of what the allocator keeps
SAVED_EVERY = 180.0  # seconds between two checkpoints, at least


def first_steps(
    model: ModelConfig,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    device: str = "cpu",
    checkpoint: Path | None = None,
) -> xr.Dataset:
    """Train on one sequence of random tokens, and read the stream before every step and after the last.

    The tokens, as many as the model's context, are independent and uniform over the vocabulary; the loss is the
    cross-entropy of the next one, the optimizer AdamW at a constant rate (`TrainConfig` has its other settings),
    without clipping. The stream is read in the forward pass that each step makes anyway, and in one more at the end.

    Arguments:
      model: the description; with all its blocks in the loops. steps: optimizer steps; 0 is initialisation alone, for
        which an untied model's blocks are drawn, used and dropped, so that its depth costs no memory.
      learning_rate: of all parameters. seed: of weights and tokens, which depend on nothing else but the sizes.
      device: "cpu", "cuda", "cuda:1" or "mps".
      checkpoint: a file for the state, written every few minutes; where it holds this run, the run goes on from it.
    Returns: by watched_step (0 … steps), the steps done: `covariance` (watched_step, loop, loop_other), ⟨h_n, h_m⟩/d of
      the streams at the ends of loops n and m, a mean over tokens, 0 being the input of the first; `loss`
      (watched_step), nats a token. By step (1 … steps): `state_change`, the rms of what that step changes in the
      stream before the last norm. Of the last state alone: `increment_product` (visit, visit_other), ⟨Δ_k, Δ_l⟩/d of
      the changes that visits make to the stream. `tokens` (position), and the `target` of the last.
    Raises: InputError for blocks outside the loops, a device that is not here, a run that does not fit into memory
      (naming what would), a checkpoint of another run.
    Source: arXiv:2606.18524, Fig. 2, 3, 4, 9.

    >>> model = ModelConfig(width=8, heads=2, mlp_width=12, loops=3, vocabulary=50, context=6)
    >>> result = first_steps(model, steps=2, learning_rate=1e-3, seed=5)
    >>> result.covariance.shape, result.state_change.shape, result.increment_product.shape
    ((3, 4, 4), (2,), (3, 3))
    """
    if model.prelude or model.coda:
        name = "prelude" if model.prelude else "coda"
        raise InputError(name, getattr(model, name), "the first steps are read for blocks in the loops alone; set 0")
    place = device_named(device)
    run = _Run(model, steps, learning_rate, seed, place)
    if checkpoint is not None:
        run.resume(checkpoint)
    saved = time.monotonic()
    while run.done < steps:
        run.step()
        if checkpoint is not None and time.monotonic() - saved > SAVED_EVERY:
            run.save(checkpoint)
            saved = time.monotonic()
    run.end()
    result = run.result()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return result


class _Run:
    """The run between two steps."""

    def __init__(self, model: ModelConfig, steps: int, learning_rate: float, seed: int, device: torch.device) -> None:
        self.model, self.steps, self.learning_rate, self.seed, self.device = model, steps, learning_rate, seed, device
        require_fit(model, steps, memory_of(device))
        words = [int(word >> np.uint64(1)) for word in np.random.SeedSequence(seed).generate_state(2, np.uint64)]
        self.weights_seed = words[0]
        generator = torch.Generator().manual_seed(words[1])
        self.tokens = torch.randint(model.vocabulary, (1, model.context + 1), generator=generator)
        self.rows: dict[str, list[Any]] = {"covariance": [], "loss": [], "state_change": []}
        self.last = torch.empty(0)  # the stream before the last norm, one step ago
        self.done = 0
        self.increments = np.empty((0, 0), dtype=np.float32)
        self.network: LoopedTransformer | None = None
        if steps or model.tied:
            self.network = LoopedTransformer(model, self.weights_seed).to(device)
        if steps and self.network is not None:
            self.optimizer = optimizer(self.network, TrainConfig(learning_rate=learning_rate))
            self.recomputed = visits_to_recompute(model, min(PEAK, memory_of(device)))

    def step(self) -> None:
        """One step of the optimizer, and what its forward pass shows."""
        assert self.network is not None
        self.optimizer.zero_grad()
        reader = StreamReader(self.model)
        with reading(self.network, reader, recomputed=self.recomputed):
            loss = self._loss(self.network)
        loss.backward()  # type: ignore[no-untyped-call]
        self.note(reader, loss)
        self.optimizer.step()
        self.done += 1

    @torch.no_grad()
    def end(self) -> None:
        """Read the last state, its increments too."""
        reader = StreamReader(self.model, increments=True)
        if self.network is None:
            read_untied(self.model, self.weights_seed, self.tokens[:, :-1].to(self.device), reader)
            loss = torch.tensor(math.nan)  # the embedding, which the head needs, is gone
        else:
            with reading(self.network, reader):
                loss = self._loss(self.network)
        self.note(reader, loss)
        self.increments = reader.increment_products().numpy()

    def _loss(self, network: LoopedTransformer) -> Tensor:
        tokens = self.tokens.to(self.device)
        return network.loss(tokens[:, :-1], tokens[:, 1:])

    def note(self, reader: StreamReader, loss: Tensor) -> None:
        """Take down what a forward pass showed."""
        self.rows["covariance"].append(reader.covariance())
        self.rows["loss"].append(loss.item())
        if self.done:
            change = (reader.final.double() - self.last.double()).square().mean().sqrt()
            self.rows["state_change"].append(change.item())
        self.last = reader.final.clone()

    def result(self) -> xr.Dataset:
        """The numbers with their names."""
        variables = {
            "covariance": (("watched_step", "loop", "loop_other"), torch.stack(self.rows["covariance"]).numpy()),
            "loss": ("watched_step", np.array(self.rows["loss"])),
            "state_change": ("step", np.array(self.rows["state_change"], dtype=np.float64)),
            "increment_product": (("visit", "visit_other"), self.increments),
            "tokens": ("position", self.tokens[0, :-1].numpy()),
            "target": ((), int(self.tokens[0, -1])),
        }
        described = {name: (*value, {"long_name": ABOUT[name], "units": "1"}) for name, value in variables.items()}
        return xr.Dataset(
            described,
            coords={"watched_step": np.arange(self.steps + 1), "step": np.arange(1, self.steps + 1)},
            attrs={
                "model": self.model.model_dump_json(), "dtype": "float32", "device": self.device.type,
                "optimizer": "AdamW", "threads": torch.get_num_threads(), "torch": str(torch.__version__),
            },
        )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        fields = {"steps": self.steps, "learning_rate": self.learning_rate, "seed": self.seed}
        return {"model": self.model.model_dump(mode="json"), **fields, "device": self.device.type}

    def save(self, path: Path) -> None:
        """Write the state."""
        assert self.network is not None
        state = {
            "weights": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "rows": self.rows, "last": self.last, "done": self.done,
        }  # fmt: skip
        checkpoints.save(path, self._identity(), state)

    def resume(self, path: Path) -> None:
        """Go on from the state in a file, if there is one."""
        state = checkpoints.load(path, self._identity())
        if state is None or self.network is None:
            return
        with checkpoints.intact(path):
            self.network.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.rows, self.last, self.done = state["rows"], state["last"].to(self.device), int(state["done"])


ABOUT = {
    "covariance": "mean product of the streams at the ends of two loops",
    "loss": "cross-entropy of the next token in nats",
    "state_change": "rms of what the step changes in the stream before the last norm",
    "increment_product": "mean product of the changes that two visits make to the stream",
    "tokens": "token ids read",
    "target": "token id to follow the last one read",
}


def bytes_needed(model: ModelConfig, steps: int, recomputed: int = 0) -> int:
    """Bytes at the peak, estimated: state, activations, logits, and what is there beside.

    Arguments: recomputed: visits whose activations are not kept.
    """
    d, tokens, visits = model.width, model.context, model.loops * model.unique_layers
    logits = 12 * tokens * model.vocabulary
    if not steps:
        weights = state_bytes(model if model.tied else model.model_copy(update={"loops": 1})) // 4
        return BESIDE + weights + logits + 4 * d * tokens * visits
    kept = (visits - recomputed) * tokens * visit_bytes(model) + recomputed * 4 * d * tokens
    return BESIDE + state_bytes(model) + 4 * model.vocabulary * d + kept + logits


def visits_to_recompute(model: ModelConfig, limit: int) -> int:
    """How many visits have to be recomputed so that the peak stays below a limit in bytes; all if that is too few."""
    visits, saved = model.loops * model.unique_layers, model.context * (visit_bytes(model) - 4 * model.width)
    over = bytes_needed(model, 1) - limit
    return min(visits, max(0, -(-over // saved)))


def require_fit(model: ModelConfig, steps: int, limit: int) -> None:
    """Raises: InputError naming what would fit, for a run that does not fit into so many bytes."""
    visits = model.loops * model.unique_layers

    def needed(**fields: int) -> int:
        return bytes_needed(
            model.model_copy(update=fields), steps, fields.get("loops", model.loops) * model.unique_layers
        )

    if needed() <= limit:
        return
    size = f"needs about {needed() / 2**30:.3g} GiB of {limit / 2**30:.3g}"
    if needed(loops=1) <= limit:  # it is the loops that are too many
        fits = (limit - needed(loops=1)) // (needed(loops=2) - needed(loops=1)) + 1
        more = "" if model.tied or not steps else ", or steps = 0 (initialisation alone, weights drawn and dropped)"
        what = "" if model.tied else "untied, with the optimizer's state, "
        raise InputError("loops", model.loops, f"{what}{size}; up to {fits} would fit{more}")
    each = needed(vocabulary=model.vocabulary + 1) - needed()
    fits = (limit - needed(vocabulary=2)) // each
    if fits > 2:
        raise InputError("vocabulary", model.vocabulary, f"{size}; up to {fits} would fit")
    raise InputError("width", model.width, f"{size} with {visits} visits; take a smaller model or a shorter context")
