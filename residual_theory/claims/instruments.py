"""The ways a run obtains its data: each turns a plain-JSON specification into a Dataset.

A specification names its instrument and holds everything the result depends on, so its digest can name the result.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from residual_theory.claims.watching import Watch
from residual_theory.errors import DerivationError, FalseStepError, InputError
from residual_theory.loading import load_module
from residual_theory.measure.probe import probe
from residual_theory.montecarlo.dense import Dense
from residual_theory.montecarlo.estimate import Moments
from residual_theory.montecarlo.randomness import Normals, Rows
from residual_theory.montecarlo.simulate import simulate
from residual_theory.montecarlo.streams import Run
from residual_theory.observables import dataset
from residual_theory.proofs.derivation import check
from residual_theory.stack import LlamaStack, Stack, described
from residual_theory.store import Specification
from residual_theory.theory.forward import predict
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus, evaluation_windows, load_corpus
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.train import train

_corpus_at = functools.lru_cache(maxsize=4)(load_corpus)
_PACKAGE = Path(__file__).parent.parent
_MEASURING = (
    "*.py",
    "theory/**/*.py",
    "montecarlo/*.py",
    "transformer/*.py",
    "measure/*.py",
    "claims/instruments.py",
    "claims/watching.py",
)
_NOT_MEASURING = {"cli.py", "console.py", "__init__.py", "parallel.py", "store.py", "testing.py"}
_LIBRARIES = ("numpy", "scipy", "sympy", "torch")


@functools.cache
def code_fingerprint() -> str:
    """A digest of the code that measures and of the libraries it uses, so that no result outlives either."""
    files = sorted(path for pattern in _MEASURING for path in _PACKAGE.glob(pattern) if path.name not in _NOT_MEASURING)
    parts = [path.read_bytes() for path in files] + [metadata.version(name).encode() for name in _LIBRARIES]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@dataclass(frozen=True)
class Instruments:
    """What measurements need beside their specification: where the claims lie, and which text to read."""

    root: Path
    text: Path | None

    def __call__(self, specification: Specification) -> xr.Dataset:
        """Measure: the instrument that the specification names, given the rest of it."""
        arguments = {key: value for key, value in specification.items() if key != "code"}
        return _INSTRUMENTS[arguments.pop("instrument")](self, **arguments)

    def read(self) -> Corpus:
        """The text, read once a process."""
        return _corpus_at(self.text)


def simulation(
    stack: Stack, *, width: int, samples: int, seed: int, first_trial: int = 0, **options: Any
) -> Specification:
    """The specification of a Monte Carlo estimate; `options` are further arguments of simulate."""
    if "control" in options:
        control, mean = options["control"]
        options["control"] = [described(control), mean]
    sizes = {"width": width, "samples": samples, "seed": seed, "first_trial": first_trial}
    return _specification("simulate", stack=described(stack), **sizes, **options)


def step(
    stack: Stack,
    *,
    optimizer: Literal["sign", "gradient-descent"],
    rate: float,
    width: int,
    samples: int,
    seed: int,
    first_trial: int = 0,
) -> Specification:
    """The specification of one exact optimizer step on random stacks."""
    sizes = {"width": width, "samples": samples, "seed": seed, "first_trial": first_trial}
    return _specification("step", stack=described(stack), optimizer=optimizer, rate=rate, **sizes)


def drift(stack: Stack, *, exponent: float, width: int, samples: int, seed: int, first_trial: int = 0) -> Specification:
    """The specification of random stacks whose visits i and j have weights of correlation (1 + |i − j|)^(−exponent)."""
    sizes = {"width": width, "samples": samples, "seed": seed, "first_trial": first_trial}
    return _specification("drift", stack=described(stack), exponent=exponent, **sizes)


def prediction(stack: Stack | LlamaStack) -> Specification:
    """The specification of a prediction."""
    return _specification("predict", stack=described(stack))


def training(
    model: ModelConfig, config: TrainConfig, corpus: Corpus, *, watched: Sequence[int] = (), windows: int = 0
) -> Specification:
    """The specification of a training run, watched at the start, after some steps and at the end if it reads `windows`.

    Raises: InputError when the text is shorter than one sequence.
    """
    corpus.must_hold(model.context)
    described_model, described_training = model.model_dump(mode="json"), config.model_dump(mode="json")
    extra = {"watched": list(watched), "windows": windows} if windows else {}
    return _specification("train", model=described_model, training=described_training, corpus=corpus.digest, **extra)


def initial_probe(
    model: ModelConfig, *, models: int, first_model: int, windows: int, seed: int, corpus: Corpus
) -> Specification:
    """The specification of a probe of freshly initialised Transformers on real text.

    Raises: InputError when the text is shorter than one sequence.
    """
    corpus.must_hold(model.context)
    sizes = {"models": models, "first_model": first_model, "windows": windows}
    return _specification("probe", model=model.model_dump(mode="json"), **sizes, seed=seed, corpus=corpus.digest)


def derivation(file: str, source: bytes, name: str) -> Specification:
    """The specification of a machine check of the derivation `name` in a file of the derivations folder."""
    return _specification("derive", file=file, source=hashlib.sha256(source).hexdigest(), name=name)


def _specification(instrument: str, **arguments: Any) -> Specification:
    return {"instrument": instrument, **arguments, "code": code_fingerprint()}


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
    if "control" in arguments:
        control, mean = arguments["control"]
        arguments["control"] = (Stack(**_fields(control)), mean)
    return simulate(Stack(**_fields(stack)), **arguments)


class _Matrix(Dense):
    """Standard normal matrices that a step may change."""

    def descend(self, rate: float, optimizer: str, variance: float) -> None:
        """Add −(rate/fan-in) S, in units of an entry's standard deviation; S is ∂f/∂W or its sign."""
        gradient = torch.cat(list(self._cotangents.values()), dim=1).mT @ torch.cat(
            [self._inputs[call] for call in self._cotangents], dim=1
        )
        if optimizer == "sign":
            self._matrix -= rate / math.sqrt(variance * gradient.shape[2]) * gradient.sign()
        else:
            self._matrix -= rate / variance * gradient

    def mix(self, earlier: Sequence[torch.Tensor], weights: np.ndarray) -> torch.Tensor:
        """Become the combination of earlier matrices and this one; return what this one was."""
        fresh = self._matrix
        self._matrix = torch.einsum("k,kij->ij", torch.from_numpy(weights), torch.cat([*earlier, fresh]))[None]
        return fresh


def _step(
    _: Instruments, stack: Mapping[str, Any], optimizer: str, rate: float, width: int, **trials: int
) -> xr.Dataset:
    """How far one step ΔW = −(rate/fan-in) S moves the output, nothing left out, with S = ∂f/∂W ("gradient-descent") or
    its sign ("sign") and f = ⟨v, h_V⟩/‖v‖.

    Returns: means over trials of change, ‖Δh_V‖/√d; relative_change, ‖Δh_V‖/‖h_V‖; readout_change, Δf; and *_stderr.
    """
    description = Stack(**_fields(stack))
    if optimizer not in ("sign", "gradient-descent"):
        raise InputError("optimizer", optimizer, "choose sign or gradient-descent")

    def measure(normals: Normals, start: torch.Tensor) -> tuple[float, ...]:
        layers: list[_Matrix] = []

        def draw(shape: tuple[int, int], _: int) -> _Matrix:
            layers.append(_Matrix(shape, normals, start, transposed=True))
            return layers[-1]

        run = Run(description, start, draw, with_gradients=True)
        readout = torch.empty_like(start, requires_grad=False)
        normals.fill(readout)
        run.backward(readout)
        before = run.streams[-1].detach()
        for layer in layers:
            layer.descend(rate, optimizer, description.weight_variance)
        again = iter(layers)
        change = Run(description, start.detach(), lambda *_: next(again)).streams[-1] - before
        size = torch.linalg.vector_norm(change)
        along = torch.sum(readout * change) / torch.linalg.vector_norm(readout)
        return float(size) / math.sqrt(width), float(size / torch.linalg.vector_norm(before)), float(along)

    return _over_trials(measure, ("change", "relative_change", "readout_change"), description, width, **trials)


def _drift(_: Instruments, stack: Mapping[str, Any], exponent: float, width: int, **trials: int) -> xr.Dataset:
    """change_square, ‖h_V − h_0‖²/d, of visits whose matrices W_1 … W_V are a stationary Gaussian process.

    The correlation of W_i and W_j is (1 + |i − j|)^(−exponent): it is convex, so positive definite (Pólya), which
    |i − j|^(−exponent) with 1 on the diagonal is not.
    """
    description = Stack(**_fields(stack))
    if not exponent > 0:
        raise InputError("exponent", exponent, "must be above 0; weights that stay the same are a tied stack's")
    places = np.arange(description.blocks)
    root = np.linalg.cholesky((1.0 + abs(places[:, None] - places)) ** -exponent)

    def measure(normals: Normals, start: torch.Tensor) -> tuple[float, ...]:
        earlier: list[torch.Tensor] = []

        def draw(shape: tuple[int, int], _: int) -> _Matrix:
            matrix = _Matrix(shape, normals, start)
            earlier.append(matrix.mix(earlier, root[len(earlier), : len(earlier) + 1]))
            return matrix

        change = Run(description, start, draw).streams[-1] - start
        return (float(torch.sum(change**2)) / width,)

    return _over_trials(measure, ("change_square",), description, width, **trials)


def _over_trials(
    measure: Callable[[Normals, torch.Tensor], tuple[float, ...]],
    names: Sequence[str],
    stack: Stack,
    width: int,
    samples: int,
    seed: int,
    first_trial: int,
) -> xr.Dataset:
    """Means of what `measure` finds, given each trial's random numbers and its h_0 (1, 1, width)."""
    if stack.branch != "single":
        raise InputError("branch", stack.branch, "dense trials know branches of a single matrix")
    device, moments = torch.device("cpu"), Moments()
    for trial in range(first_trial, first_trial + samples):  # one at a time: each holds all of its matrices
        normals = Normals(seed, (width, 1), [trial], Rows(device), device)
        start = torch.empty(1, 1, width, dtype=torch.float64)
        normals.fill(start)
        start *= stack.initial_variance**0.5
        moments.add(np.array([measure(normals, start)]))
    found = {name: float(value) for name, value in zip(names, moments.mean, strict=True)}
    errors = {f"{name}_stderr": float(value) for name, value in zip(names, moments.stderr, strict=True)}
    return xr.Dataset({**found, **errors, "samples": samples}, attrs={"samples_are": "stacks", "dtype": "float64"})


def _predict(_: Instruments, stack: Mapping[str, Any]) -> xr.Dataset:
    kind = {"Stack": Stack, "LlamaStack": LlamaStack}[stack["kind"]]
    return predict(kind(**_fields(stack)))


def _must_be_unchanged(instruments: Instruments, corpus: str) -> None:
    if corpus != instruments.read().digest:
        raise InputError("text", str(instruments.text), "has changed since the run began; run again")


def _train(
    instruments: Instruments,
    model: Mapping[str, Any],
    training: Mapping[str, Any],
    corpus: str,
    watched: Sequence[int] = (),
    windows: int = 0,
) -> xr.Dataset:
    _must_be_unchanged(instruments, corpus)
    config, text = ModelConfig(**model), instruments.read()
    watch = Watch(evaluation_windows(text.validation, windows, config.context)[0]) if windows else None
    result = train(config, TrainConfig(**training), text, watch=watch, watch_at=watched)
    return result if watch is None else result.merge(watch.dataset(), combine_attrs="override")


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
    _must_be_unchanged(instruments, corpus)
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
    """One row a step; `failure` says which step does not go through, and is empty when all do."""
    path = instruments.root / "derivations" / file
    if source != hashlib.sha256(path.read_bytes()).hexdigest():
        raise InputError("root", str(path), "has changed since the run began; run again")
    try:
        records = check(getattr(load_module(path), name))
    except DerivationError as error:
        return xr.Dataset(attrs={"failure": str(error), "disproved": int(isinstance(error, FalseStepError))})
    return xr.Dataset(
        {
            "title": ("step", np.array([record.title for record in records], dtype=object)),
            "checked": ("step", np.array([str(record) for record in records], dtype=object)),
            "seconds": ("step", np.array([record.seconds for record in records])),
        },
        attrs={"failure": "", "disproved": 0},
    )


_INSTRUMENTS: dict[str, Callable[..., xr.Dataset]] = {
    "simulate": _simulate,
    "step": _step,
    "drift": _drift,
    "predict": _predict,
    "train": _train,
    "probe": _probe,
    "derive": _derive,
}
