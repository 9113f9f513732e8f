"""The kinds of measurements: random stacks, predictions, Transformers, and machine checks of derivations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from residual_theory.errors import InputError
from residual_theory.fingerprint import fingerprint
from residual_theory.measurements.measurement import Context, Measurement
from residual_theory.stack import Count, LlamaStack, Stack
from residual_theory.store import Specification
from residual_theory.transformer.config import ModelConfig, TrainConfig

if TYPE_CHECKING:
    import xarray as xr

    from residual_theory.transformer.data import Corpus

Number = Annotated[int, Field(ge=0)]


class OfStacks(Measurement):
    """A mean over random stacks of one description: `samples` of them, from trial number `first_trial` on."""

    varies: ClassVar[tuple[str, ...]] = ("first_trial", "samples")

    stack: Stack
    width: Count
    samples: Count
    seed: Number
    first_trial: Number = 0

    @property
    def drawn(self) -> int:
        """The stacks drawn."""
        return self.samples


class Simulation(OfStacks):
    """A Monte Carlo estimate of a stack's observables. Fields: those of `residual_theory.simulate` of the same name."""

    kind: ClassVar[str] = "simulation"

    inputs: tuple[tuple[float, ...], ...] | None = None
    with_gradients: bool = False
    antithetic: bool = False
    control: tuple[Stack, float] | None = None

    def measure(self, context: Context) -> "xr.Dataset":
        """Draw the stacks."""
        from residual_theory.montecarlo.simulate import simulate

        return simulate(
            self.stack, width=self.width, samples=self.samples, seed=self.seed, first_trial=self.first_trial,
            inputs=self.inputs, with_gradients=self.with_gradients, antithetic=self.antithetic, control=self.control,
        )  # fmt: skip


class OptimizerStep(OfStacks):
    """One exact optimizer step on random stacks; see `residual_theory.montecarlo.steps.optimizer_step`."""

    kind: ClassVar[str] = "optimizer-step"

    optimizer: Literal["sign", "gradient-descent"]
    rate: float

    def measure(self, context: Context) -> "xr.Dataset":
        """Draw the stacks and take the step on each."""
        from residual_theory.montecarlo.steps import optimizer_step

        return optimizer_step(
            self.stack, optimizer=self.optimizer, rate=self.rate,
            width=self.width, samples=self.samples, seed=self.seed, first_trial=self.first_trial,
        )  # fmt: skip


class DriftingWeights(OfStacks):
    """Random stacks whose visits i and j have weights of correlation (1 + |i − j|)^(−exponent)."""

    kind: ClassVar[str] = "drifting-weights"

    exponent: Annotated[float, Field(gt=0)]

    def measure(self, context: Context) -> "xr.Dataset":
        """Draw the stacks."""
        from residual_theory.montecarlo.steps import drifting_weights

        return drifting_weights(
            self.stack, exponent=self.exponent,
            width=self.width, samples=self.samples, seed=self.seed, first_trial=self.first_trial,
        )  # fmt: skip


class Assumptions(OfStacks):
    """What Theorems 1 and 6 of the paper assume; see `residual_theory.montecarlo.assumptions.assumptions`."""

    kind: ClassVar[str] = "assumptions"

    redraw: bool = False

    def measure(self, context: Context) -> "xr.Dataset":
        """Draw the stacks, and those with one layer redrawn."""
        from residual_theory.montecarlo.assumptions import assumptions

        return assumptions(
            self.stack, redraw=self.redraw,
            width=self.width, samples=self.samples, seed=self.seed, first_trial=self.first_trial,
        )  # fmt: skip


class StepAssumptions(OfStacks):
    """What Theorem 2 and Proposition 7 assume; see `residual_theory.montecarlo.step_assumptions.step_assumptions`."""

    kind: ClassVar[str] = "step-assumptions"

    update: Literal["sign", "random"]
    rate: float

    def measure(self, context: Context) -> "xr.Dataset":
        """Draw the stacks and take the step on each."""
        from residual_theory.montecarlo.step_assumptions import step_assumptions

        return step_assumptions(
            self.stack, update=self.update, rate=self.rate,
            width=self.width, samples=self.samples, seed=self.seed, first_trial=self.first_trial,
        )  # fmt: skip


class ConeGain(Measurement):
    """Extreme gains of Gaussian matrices on nonnegative vectors; see `residual_theory.montecarlo.cone.cone_gain`."""

    kind: ClassVar[str] = "cone-gain"
    varies: ClassVar[tuple[str, ...]] = ("first_trial", "samples")

    width: Count
    steps: Count
    samples: Count
    seed: Number
    first_trial: Number = 0

    @property
    def drawn(self) -> int:
        """The matrices drawn."""
        return self.samples

    def measure(self, context: Context) -> "xr.Dataset":
        """Draw the matrices and search each."""
        from residual_theory.montecarlo.cone import cone_gain

        return cone_gain(
            width=self.width, steps=self.steps, samples=self.samples, seed=self.seed, first_trial=self.first_trial
        )


class Prediction(Measurement):
    """The prediction for a stack. Fields: those of `residual_theory.predict` of the same name."""

    kind: ClassVar[str] = "prediction"

    stack: Stack | LlamaStack
    with_gradients: bool = True

    def measure(self, context: Context) -> "xr.Dataset":
        """Predict."""
        from residual_theory.theory.forward import predict

        return predict(self.stack, with_gradients=self.with_gradients)


class Probe(Measurement):
    """Transformers at initialisation, reading the same windows of a text; a mean over `models` of them.

    Model number k, from `first_model` on, has weights of its own; `corpus` is the digest of the text.
    """

    kind: ClassVar[str] = "probe"
    varies: ClassVar[tuple[str, ...]] = ("first_model", "models")

    model: ModelConfig
    models: Count
    first_model: Number
    windows: Count
    seed: Number
    corpus: str

    @classmethod
    def on(
        cls, corpus: "Corpus", model: ModelConfig, *, models: int, windows: int, seed: int, first_model: int = 0
    ) -> Self:
        """The probe of Transformers that read this text. Raises: InputError when it is shorter than one sequence."""
        corpus.must_hold(model.context)
        sizes = {"models": models, "windows": windows, "seed": seed, "first_model": first_model}
        return cls(model=model, corpus=corpus.digest, **sizes)

    def measure(self, context: Context) -> "xr.Dataset":
        """Initialise the models and probe each."""
        from residual_theory.measurements.texts import corpus_as_planned
        from residual_theory.measurements.watching import initial_probes

        corpus = corpus_as_planned(context.text, self.corpus)
        return initial_probes(
            self.model, corpus, models=self.models,
            first_model=self.first_model, windows=self.windows, seed=self.seed,
        )  # fmt: skip


class RedrawnBlocks(Probe):
    """As Probe: what a block adds in all its loops, and what redrawing one block changes of it."""

    kind: ClassVar[str] = "redrawn-blocks"

    def measure(self, context: Context) -> "xr.Dataset":
        """Initialise the models, and those with one block redrawn, and run each."""
        from residual_theory.measurements.redrawing import redrawn_blocks
        from residual_theory.measurements.texts import corpus_as_planned

        corpus = corpus_as_planned(context.text, self.corpus)
        return redrawn_blocks(
            self.model, corpus, models=self.models,
            first_model=self.first_model, windows=self.windows, seed=self.seed,
        )  # fmt: skip


class Training(Measurement):
    """One training run of a Transformer on a text, whose digest `corpus` is.

    Where `windows` is not 0 the stream on so many windows of validation text is kept: before the first step, after the
    steps `watched`, and at the end.
    """

    kind: ClassVar[str] = "training"

    model: ModelConfig
    training: TrainConfig
    corpus: str
    watched: tuple[Number, ...] = ()
    windows: Number = 0

    @classmethod
    def on(
        cls,
        corpus: "Corpus",
        model: ModelConfig,
        training: TrainConfig,
        *,
        watched: Sequence[int] = (),
        windows: int = 0,
    ) -> Self:
        """The training run on this text. Raises: InputError when it is shorter than one sequence."""
        corpus.must_hold(model.context)
        return cls(model=model, training=training, corpus=corpus.digest, watched=tuple(watched), windows=windows)

    def measure(self, context: Context) -> "xr.Dataset":
        """Train, and watch."""
        from residual_theory.measurements.texts import corpus_as_planned
        from residual_theory.measurements.watching import train_watched

        corpus = corpus_as_planned(context.text, self.corpus)
        return train_watched(self.model, self.training, corpus, watched=self.watched, windows=self.windows)


class Diagnostic(Measurement):
    """The first optimizer steps of one Transformer on fixed random tokens, its stream read before every step.

    Fields: the arguments of `residual_theory.transformer.first_steps.first_steps`.
    """

    kind: ClassVar[str] = "diagnostic"

    model: ModelConfig
    steps: Number = 10
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    seed: Number = 0
    device: str = "cpu"

    @property
    def alone(self) -> bool:
        """Where weights and optimizer take a good part of the memory."""
        return 16 * self.model.vocabulary * self.model.width > 2**28

    def must_fit(self) -> None:
        """Refuse a run on the CPU that its memory cannot hold, before hours are spent on others.

        Raises: InputError naming what would fit.
        """
        if self.device == "cpu":
            from residual_theory.devices import device_named
            from residual_theory.transformer.first_steps import require_fit
            from residual_theory.transformer.memory import memory_of

            require_fit(self.model, self.steps, memory_of(device_named(self.device)))

    def measure(self, context: Context) -> "xr.Dataset":
        """Take the steps; an interrupted run goes on where it was."""
        from residual_theory.transformer.first_steps import first_steps

        unfinished = None if context.unfinished is None else context.unfinished / f"{self.kind}-{self.key}.pt"
        return first_steps(
            self.model, steps=self.steps, learning_rate=self.learning_rate, seed=self.seed, device=self.device,
            checkpoint=unfinished,
        )  # fmt: skip


class Proof(Measurement):
    """A machine check of the derivation `name` in a file of the derivations folder.

    `source` is the digest of the file and of the code that it uses.
    """

    kind: ClassVar[str] = "proof"

    file: str
    source: str
    name: Literal["DERIVATION", "FALSE_TWIN"]

    @classmethod
    def of(cls, root: Path, file: str, name: Literal["DERIVATION", "FALSE_TWIN"]) -> Self:
        """The check of a derivation as its file now stands."""
        return cls(file=file, source=fingerprint(str(root / "derivations" / file)), name=name)

    def measure(self, context: Context) -> "xr.Dataset":
        """One row a step; the attribute `failure` says which step does not go through, and is empty when all do.

        Raises: InputError when the file has changed since the check was planned.
        """
        from residual_theory.measurements.proving import check_file

        return check_file(context.root / "derivations" / self.file, self.name, self.source)


KINDS: tuple[type[Measurement], ...] = (
    Simulation, OptimizerStep, DriftingWeights, Assumptions, StepAssumptions, ConeGain,
    Prediction, Probe, RedrawnBlocks, Training, Diagnostic, Proof,
)  # fmt: skip


def read(specification: Specification) -> Measurement:
    """The measurement that was stored so.

    Raises: InputError when its kind is unknown or its fields are not those of its kind.
    """
    kind = specification.get("instrument")
    for known in KINDS:
        if known.kind == kind:
            return known.read(specification)
    raise InputError("instrument", kind, f"choose from {', '.join(known.kind for known in KINDS)}")
