"""What claims about training have in common: one small model and schedule, paired seeds, and the best rate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from residual_theory.arrays import Array
from residual_theory.claims.claim import Parameters, Round
from residual_theory.claims.stacks import Positive
from residual_theory.errors import InputError
from residual_theory.measurements.kinds import Training
from residual_theory.measurements.measurement import Observation, Observations
from residual_theory.measurements.observations import has, pooled
from residual_theory.stack import Count
from residual_theory.statistics.findings import Finding, equivalence, positive
from residual_theory.sweeps.movement import movement
from residual_theory.transformer.config import ModelConfig, TrainConfig

Rates = Annotated[tuple[Positive, ...], Field(min_length=3)]
Seeds = Annotated[int, Field(ge=2)]


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
        """A model looped `loops` times under a residual-scale rule; `fields` are further fields of the model.

        >>> TrainingParameters(width=32, heads=2).model(4, "1/N", unique_layers=2).unique_layers
        2
        """
        sizes = self.model_dump(include={"width", "heads", "mlp_width", "context", "init_std"})
        return ModelConfig(**sizes, loops=loops, residual_scale=rule, **fields)

    def schedule(self, rate: float, seed: int, **fields: Any) -> TrainConfig:
        """Training at one learning rate; `fields` are further fields of the training.

        A seed fixes the weights and the order of the data, whatever N, ε and the rate are.

        >>> TrainingParameters(steps=20).schedule(1e-3, seed=3, warmup=5).steps
        20
        """
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

    def sweep(self, models: Sequence[ModelConfig], current: Round, **fields: Any) -> list[Training]:
        """What a sweep measures: every model at every rate and seed, in the first round; nothing in later ones.

        Seeds come one after the other, so that a run that is cut short has some of them whole.

        Arguments: models: such as `self.model` makes. current: the round, as `plan` gets it. fields: further fields of
          the training.
        Raises: InputError when the text is shorter than one sequence, or for a field that TrainConfig does not have.

        >>> from residual_theory.transformer.data import load_corpus
        >>> sizes = SweepParameters(rates=(1e-3, 2e-3, 4e-3), seeds=2)
        >>> planned = sizes.sweep([sizes.model(4, "1/N")], Round(number=0, seed=7, read=load_corpus))
        >>> [(one.training.learning_rate, one.training.seed) for one in planned][:3]
        [(0.001, 7), (0.002, 7), (0.004, 7)]
        """
        if current.number:
            return []
        base = current.seed % 2**40  # training seeds of this run's own
        return [
            Training.on(current.read(), model, self.schedule(rate, seed, **fields))
            for seed in range(base, base + self.seeds)
            for model in models
            for rate in self.rates
        ]


def from_one(name: str, sizes: Sequence[int]) -> None:
    """Refuse sizes that do not rise from 1, where all rules coincide.

    Arguments: name: of the parameter, for the message. sizes: its value.
    Raises: InputError.

    >>> from_one("loops", (1, 2, 4))
    >>> from_one("loops", (2, 4))
    Traceback (most recent call last):
    residual_theory.errors.InputError: loops = (2, 4): must rise from 1, where the rules coincide
    """
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] != 1:
        raise InputError(name, sizes, "must rise from 1, where the rules coincide")


def runs_of(observations: Observations, **wanted: Any) -> list[Observation[Training]]:
    """The training runs whose model has the wanted fields.

    Arguments: wanted: values of fields of ModelConfig.
    Raises: InputError for a field that models do not have.

    >>> import xarray as xr
    >>> sizes, trained = TrainingParameters(), xr.Dataset({"validation_loss": 2.5}, attrs={"diverged": 0})
    >>> runs = [Training(model=sizes.model(n, "1/N"), training=sizes.schedule(1e-3, 0), corpus="") for n in (1, 4)]
    >>> [run.measurement.model.loops for run in runs_of([Observation(run, trained) for run in runs], loops=4)]
    [4]
    """
    return [run for run in pooled(Training, observations) if has(run.measurement.model, **wanted)]


def losses(observations: Observations, **wanted: Any) -> Array:
    """Final validation losses (rate, seed) of the runs whose model has the wanted fields; NaN where a run diverged.

    Arguments: wanted: as of `runs_of`; the runs should differ in rate and seed only, and each rate have every seed.
    Returns: losses in nats a token, rates and seeds rising. Raises: as `runs_of`.

    >>> import xarray as xr
    >>> sizes, rates = TrainingParameters(), (2e-3, 1e-3)
    >>> runs = [Training(model=sizes.model(4, "1/N"), training=sizes.schedule(rate, 0), corpus="") for rate in rates]
    >>> ends = [xr.Dataset({"validation_loss": loss}, attrs={"diverged": 0}) for loss in (2.5, 2.75)]
    >>> losses(list(map(Observation, runs, ends)), loops=4).tolist()
    [[2.75], [2.5]]
    """
    found: dict[float, dict[int, float]] = {}
    for run, result in runs_of(observations, **wanted):
        row = found.setdefault(run.training.learning_rate, {})
        row[run.training.seed] = math.nan if result.diverged else float(result.validation_loss)
    return np.array([[row[seed] for seed in sorted(row)] for _, row in sorted(found.items())])


def at_best(curve: Array) -> Array:
    """Each seed's loss at the rate that is best for the mean of the other seeds.

    So no seed chooses the rate at which it is judged. Only rates at which no seed diverged count.

    Arguments: curve: losses (rate, seed), not finite where a run diverged.
    Returns: losses (seed,), NaN when there is no such rate.

    >>> at_best(np.array([[3.0, 3.5], [2.5, 3.25], [2.0, math.nan]])).tolist()
    [2.5, 3.25]
    """
    usable = curve[np.isfinite(curve).all(1)]
    if not len(usable):
        return np.full(curve.shape[1], math.nan)
    of_others = usable.sum(1, keepdims=True) - usable
    found: Array = usable[of_others.argmin(0), np.arange(curve.shape[1])]
    return found


def lower(loss: Mapping[str, Array], better: str, where: str) -> Finding:
    """Has `better`, of two sets of losses with the same seeds, the lower mean?

    Arguments: loss: two sets by name, each (seed,), in nats a byte. better: one of the names. where: for the label.
    Returns: a Finding on the mean of the other's losses less its own, seed by seed.

    >>> found = lower({"1/N": np.array([2.0, 2.25, 2.5]), "1": np.array([2.5, 2.75, 3.25])}, "1/N", "N = 8")
    >>> found.label, round(found.value, 3), found.confirm_p < 0.05
    ('loss(1) − loss(1/N), nats a byte, N = 8', 0.583, True)
    """
    worse = next(name for name in loss if name != better)
    return positive(f"loss({worse}) − loss({better}), nats a byte, {where}", (loss[worse] - loss[better]).tolist())


def rate_exponent(
    label: str, rates: Sequence[float], curves: Mapping[int, Array], *, predicted: float, margin: float
) -> Finding:
    """Does the best learning rate move like size^p with p = predicted ± margin?

    p is the least-squares slope of the best log rate against log size (`residual_theory.sweeps.movement`): optima of
    cubics, jackknifed over seeds, which are paired across sizes. How far other fits of the curves differ bounds the
    bias; p-values and interval allow for that much. The label has the local exponents between neighbouring sizes. An
    optimum at the edge of the grid decides nothing, nor does a curve that does not turn around its least point.

    Arguments: label: for the finding. rates: rising, four at least for a verdict. curves: losses (rate, seed) by size,
      not finite where a run diverged.
    Returns: a Finding on p; samples is the number of seeds.
    Raises: InputError for shapes that do not agree, and for fewer than two sizes.

    >>> rates, noise = np.geomspace(1e-3, 16e-3, 5), np.array([0.0, 0.01, -0.01])
    >>> bowls = {n: 3 + (np.log(rates / 4e-3 * n**0.25)[:, None] + noise) ** 2 for n in (1, 2, 4)}
    >>> found = rate_exponent("rate", rates, bowls, predicted=-0.25, margin=0.1)
    >>> found.label, round(found.value, 6), found.samples
    ('rate (local: −0.25, −0.25)', -0.25, 3)
    """
    found = movement(rates, curves)
    value, stderr, systematic = astuple(found.over_all)
    local = ", ".join(f"{one.value:.2f}".replace("-", "−") for one in found.local)
    return equivalence(
        f"{label} (local: {local})", value, stderr,
        predicted=predicted, margin=margin, samples=found.seeds, systematic=systematic,
    )  # fmt: skip
