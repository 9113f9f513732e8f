"""What claims about training do alike: one small model and schedule, paired seeds, and where the best rate goes."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from residual_theory.claims.claim import Parameters, Round
from residual_theory.claims.stacks import Positive
from residual_theory.errors import InputError
from residual_theory.measurements.kinds import Training
from residual_theory.measurements.measurement import Observation, Observations
from residual_theory.measurements.observations import has, pooled
from residual_theory.stack import Count
from residual_theory.statistics.findings import Finding, equivalence, positive
from residual_theory.sweeps.transfer import best_rate
from residual_theory.transformer.config import ModelConfig, TrainConfig

Rates = Annotated[tuple[Positive, ...], Field(min_length=3)]
Seeds = Annotated[int, Field(ge=2)]
Array = NDArray[np.float64]


class TrainingParameters(Parameters):
    """One small model and schedule.

    `init_std` keeps the paper's σ0²d = 0.02² · 768 at this width, so that branches are as strong as in its models.
    """

    width: Count = 64
    heads: Count = 4
    mlp_width: Count = 160
    context: Count = 64
    init_std: Positive = 0.07
    steps: Count = 150
    batch_size: Count = 8
    evaluation_sequences: Count = 256
    seeds: Seeds = 5

    def model(self, loops: int, rule: str, **fields: Any) -> ModelConfig:
        """A model looped `loops` times under a residual-scale rule; `fields` are further fields of the model."""
        sizes = self.model_dump(include={"width", "heads", "mlp_width", "context", "init_std"})
        return ModelConfig(**sizes, loops=loops, residual_scale=rule, **fields)

    def schedule(self, rate: float, seed: int, **fields: Any) -> TrainConfig:
        """Training at one rate; a seed fixes the weights and the order of the data, whatever N, ε and the rate are."""
        sizes = self.model_dump(include={"steps", "batch_size", "evaluation_sequences"})
        return TrainConfig(**{**sizes, "learning_rate": rate, "seed": seed, **fields})


class SweepParameters(TrainingParameters):
    """The rates that are tried on every model, rising."""

    rates: Rates = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)
    margin: Positive = 0.25

    def model_post_init(self, _: object) -> None:
        """Raises: InputError unless rates rise."""
        if list(self.rates) != sorted(set(self.rates)):
            raise InputError("rates", self.rates, "must rise")

    def sweep(self, models: Sequence[ModelConfig], draw: Round, **fields: Any) -> list[Training]:
        """Every model at every rate and seed; `fields` are further fields of the training. Nothing in later rounds."""
        if draw.number:
            return []
        base = draw.seed % 2**40  # training seeds of this run's own
        return [
            Training.on(draw.read(), model, self.schedule(rate, seed, **fields))
            for model in models
            for rate in self.rates
            for seed in range(base, base + self.seeds)
        ]


def from_one(name: str, sizes: Sequence[int]) -> None:
    """Raises: InputError unless sizes rise from 1, where rules coincide."""
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] != 1:
        raise InputError(name, sizes, "must rise from 1, where the rules coincide")


def runs_of(observations: Observations, **wanted: Any) -> list[Observation[Training]]:
    """The training runs whose model has the wanted fields.

    Raises: InputError for a field that models do not have.
    """
    return [run for run in pooled(Training, observations) if has(run.measurement.model, **wanted)]


def losses(observations: Observations, **wanted: Any) -> Array:
    """Final validation losses (rate, seed) of the runs whose model has the wanted fields; NaN where a run diverged."""
    found: dict[float, dict[int, float]] = {}
    for run, result in runs_of(observations, **wanted):
        row = found.setdefault(run.training.learning_rate, {})
        row[run.training.seed] = math.nan if result.diverged else float(result.validation_loss)
    return np.array([[row[seed] for seed in sorted(row)] for _, row in sorted(found.items())])


def at_best(curve: Array) -> Array:
    """Each seed's loss (seed,) at the rate that is best for the mean of the others, of (rate, seed).

    So no seed's luck chooses the rate it is judged at. Only rates that every seed survived count; NaN where none is.
    """
    usable = curve[np.isfinite(curve).all(1)]
    if not len(usable):
        return np.full(curve.shape[1], math.nan)
    of_others = usable.sum(1, keepdims=True) - usable
    found: Array = usable[of_others.argmin(0), np.arange(curve.shape[1])]
    return found


def lower(loss: Mapping[str, Array], better: str, where: str) -> Finding:
    """Of two named sets of losses (seed,), paired over seeds, does `better` have the lower mean?"""
    worse = next(name for name in loss if name != better)
    return positive(f"loss({worse}) − loss({better}), nats a byte, {where}", (loss[worse] - loss[better]).tolist())


def rate_exponent(
    label: str, rates: Sequence[float], curves: Mapping[int, Array], *, predicted: float, margin: float
) -> Finding:
    """Does the best learning rate move like size^p with p = predicted ± margin?

    x*(size) is the optimum of a parabola through the mean losses around the least one, in log rate; p the least-squares
    slope of x* against log size. Its standard error is the jackknife's over seeds, which are paired across sizes. An
    optimum at the edge of the grid decides nothing, nor does a curve that does not turn around its least point.

    Arguments: rates: rising. curves: losses (rate, seed) by size.
    Returns: a Finding on p; samples is the number of seeds.
    Source: B. Efron & R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 11.
    """
    sizes = np.log(list(curves))
    weights = (sizes - sizes.mean()) / ((sizes - sizes.mean()) ** 2).sum()
    seeds = next(iter(curves.values())).shape[1]

    def exponent(kept: NDArray[np.bool_]) -> float:
        best = [best_rate(np.log(rates), curve[:, kept]) for curve in curves.values()]
        return math.nan if any(found.edge for found in best) else float(weights @ [found.log_rate for found in best])

    value = exponent(np.ones(seeds, dtype=bool))
    without = np.array([exponent(np.arange(seeds) != seed) for seed in range(seeds)])
    stderr = math.sqrt((seeds - 1) / seeds * ((without - without.mean()) ** 2).sum())
    return equivalence(label, value, stderr, predicted=predicted, margin=margin, samples=seeds)
