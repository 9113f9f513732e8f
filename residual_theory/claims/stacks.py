"""What claims about random stacks do alike: sizes to draw, rounds, laws to compare with, and curves over sizes."""

from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import xarray as xr
from pydantic import Field, create_model

from residual_theory.claims.claim import Claim, Parameters, Round, Twin
from residual_theory.errors import InputError
from residual_theory.measurements.kinds import OfStacks, Simulation
from residual_theory.measurements.measurement import Observations
from residual_theory.measurements.observations import pooled
from residual_theory.montecarlo import extrapolation
from residual_theory.stack import Count, Stack
from residual_theory.statistics.exponents import FEWEST_SIZES, bounded, unbounded
from residual_theory.statistics.findings import Evidence, Finding, Word, equivalence
from residual_theory.theory.forward import predict

Positive = Annotated[float, Field(gt=0)]
FittedSizes = Annotated[tuple[Count, ...], Field(min_length=FEWEST_SIZES)]  # that an exponent is fitted over
Draws = Annotated[int, Field(ge=2)]  # as many as have a standard error
StackLaw = Callable[[Stack], xr.Dataset]


class StackParameters(Parameters):
    """Widths, the trials at each in the first round, and the relative margin of agreement."""

    widths: tuple[Count, ...]
    samples: tuple[Count, ...]
    margin: Positive = 0.05

    def model_post_init(self, _: object) -> None:
        """Raises: InputError unless widths rise and each has its number of samples."""
        if len(self.widths) < 2 or list(self.widths) != sorted(set(self.widths)):
            raise InputError("widths", self.widths, "must be at least two and rise, to be extrapolated")
        if len(self.widths) != len(self.samples):
            raise InputError("samples", self.samples, f"must have one entry for each of the widths {self.widths}")


def trials(first: int, number: int) -> tuple[int, int]:
    """(start, count) of what round `number` adds: `first` at first, then each time as many as there are."""
    return (0, first) if number == 0 else (first * 2 ** (number - 1), first * 2 ** (number - 1))


def simulations(stacks: Sequence[Stack], parameters: StackParameters, draw: Round) -> list[Simulation]:
    """The simulations of every stack at every width that a round adds."""
    planned = []
    for width, first in zip(parameters.widths, parameters.samples, strict=True):
        start, count = trials(first, draw.number)
        planned += [
            Simulation(stack=stack, width=width, samples=count, seed=draw.seed, first_trial=start) for stack in stacks
        ]
    return planned


class Limit(NamedTuple):
    """A stack's last second moment, extrapolated to infinite width."""

    stack: Stack
    value: float
    stderr: float
    samples: int
    degrees: int

    def near(self, predicted: float, margin: float) -> Finding:
        """The finding that it lies within margin of a prediction."""
        return equivalence(
            f"R² at {label(self.stack)}", self.value, self.stderr,
            predicted=predicted, margin=margin, samples=self.samples, degrees=self.degrees,
        )  # fmt: skip


def limits(observations: Observations) -> list[Limit]:
    """The limit of every stack simulated, over all its widths and rounds."""
    by_stack: dict[Stack, list[xr.Dataset]] = {}
    for simulation, drawn in pooled(Simulation, observations):
        by_stack.setdefault(simulation.stack, []).append(drawn)
    return [_limit(stack, results) for stack, results in by_stack.items()]


def _limit(stack: Stack, results: Sequence[xr.Dataset]) -> Limit:
    limit = extrapolation.at_infinite_width(results)  # NaN where a stream overflowed: that decides nothing
    value, stderr = float(limit.second_moment[-1]), float(limit.second_moment_stderr[-1])
    return Limit(stack, value, stderr, int(limit.samples), min(int(result.samples) for result in results) - 1)


def at_infinite_width(parameters: StackParameters, observations: Observations, law: StackLaw) -> Evidence:
    """Findings on the limit of every stack against `law`'s last second moment, with a relative margin."""
    findings = []
    for limit in limits(observations):
        predicted = float(law(limit.stack).second_moment[-1])
        findings.append(limit.near(predicted, parameters.margin * predicted))
    return Evidence(tuple(findings))


class WideParameters(Parameters):
    """One width, so large that its 1/width term is far below the margin, and the stacks drawn in the first round."""

    width: Count = 8192
    samples: Draws = 24
    margin: Positive = 0.05
    rounds: Count = 3


def wide_simulations(
    stacks: Sequence[Stack], parameters: WideParameters, draw: Round, **options: Any
) -> list[Simulation]:
    """The simulations of every stack that a round adds; `options` are further arguments of simulate."""
    start, count = trials(parameters.samples, draw.number)
    sizes: dict[str, Any] = {"width": parameters.width, "samples": count, "seed": draw.seed, "first_trial": start}
    return [Simulation(stack=stack, **sizes, **options) for stack in stacks]


def own_trials(first: int, draw: Round, place: int) -> dict[str, Any]:
    """What a round draws of the stack at `place` of a plan: no two places share a trial, as a fit over them needs."""
    start, count = trials(first, draw.number)
    return {"samples": count, "seed": draw.seed, "first_trial": start + place * 2**24}


def separate_simulations(
    stacks: Sequence[Stack], parameters: WideParameters, draw: Round, **options: Any
) -> list[Simulation]:
    """As `wide_simulations`, each stack on trials of its own: what a fit over several stacks needs."""
    return [
        Simulation(stack=stack, width=parameters.width, **own_trials(parameters.samples, draw, place), **options)
        for place, stack in enumerate(stacks)
    ]


class Curve(NamedTuple):
    """Values at rising sizes, with their standard errors, and the fewest samples that a value is a mean of."""

    sizes: tuple[float, ...]
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    samples: int


def curves(
    observations: Observations,
    kind: Callable[[Stack], Hashable],
    size: Callable[[Stack], float],
    value: Callable[[Stack, xr.Dataset], tuple[float, float]],
) -> dict[Any, Curve]:
    """A curve for every kind of stack: `value` (and its standard error) against `size`."""
    points: dict[Hashable, list[tuple[float, float, float, int]]] = {}
    for measurement, drawn in pooled(OfStacks, observations):
        stack = measurement.stack
        points.setdefault(kind(stack), []).append((size(stack), *value(stack, drawn), int(drawn.samples)))
    found = {key: tuple(zip(*sorted(rows), strict=True)) for key, rows in points.items()}
    return {key: Curve(columns[0], columns[1], columns[2], min(columns[3])) for key, columns in found.items()}


def exponent(where: str, curve: Curve, *, predicted: float, margin: float) -> tuple[Finding, Finding]:
    """Does the curve grow like size^predicted over the larger half of its sizes? From below and from above.

    A mean of local exponents there, so that `margin` has to hold what the power leaves out at these sizes only.
    """
    return (
        unbounded(where, *curve, margin=predicted - margin),
        bounded(where, *curve, margin=predicted + margin),
    )


def typical_norm(_: Stack, drawn: xr.Dataset) -> tuple[float, float]:
    """exp of the mean log R after the last visit, which few large samples do not rule, and its standard error."""
    norm = float(np.exp(drawn.log_second_moment[-1] / 2))
    return norm, norm * float(drawn.log_second_moment_stderr[-1]) / 2


def gain(stack: Stack, drawn: xr.Dataset) -> tuple[float, float]:
    """R² − q0 after the last visit, and its standard error."""
    return float(drawn.second_moment[-1]) - stack.initial_variance, float(drawn.second_moment_stderr[-1])


def gains(stacks: Sequence[Stack], parameters: WideParameters, draw: Round) -> list[Simulation]:
    """Simulations, each on trials of its own, whose R² − q0 is sharp however small ε is.

    Terms odd in W cancel between W and −W, and the size of h_0 is taken out by the stack without branches.
    """
    planned = []
    for place, stack in enumerate(stacks):
        still = stack.model_copy(update={"residual_scale": 0.0})
        sizes = {"width": parameters.width, **own_trials(parameters.samples, draw, place)}
        planned.append(Simulation(stack=stack, **sizes, antithetic=True, control=(still, stack.initial_variance)))
    return planned


# Of each observable, the element that a claim is about, and its name in a finding.
_PLACE: dict[str, tuple[tuple[int, ...], str]] = {
    "second_moment": ((-1,), "R²"),
    "gradient_second_moment": ((0,), "gradient²"),
    "tangent_kernel": ((), "tangent kernel"),
}


def at_large_width(
    parameters: WideParameters,
    observations: Observations,
    law: StackLaw,
    *,
    observables: Sequence[str] = ("second_moment",),
) -> Evidence:
    """Findings on every stack drawn, against `law` at the last visit (gradients: the first), with a relative margin."""
    findings = []
    for simulation, drawn in pooled(Simulation, observations):
        stack = simulation.stack
        expected = law(stack)
        for name in observables:
            place, symbol = _PLACE[name]
            predicted = float(expected[name].values[place])
            findings.append(
                equivalence(
                    f"{symbol} at {label(stack)}",
                    float(drawn[name].values[place]), float(drawn[f"{name}_stderr"].values[place]),
                    predicted=predicted, margin=parameters.margin * predicted, samples=int(drawn.samples),
                )
            )  # fmt: skip
    return Evidence(tuple(findings))


def stack_claim(
    *,
    id: str,
    statement: str,
    source: str,
    stacks: Sequence[Stack],
    law: StackLaw,
    twin: Twin,
    margin: float,
    because: str,
    recorded: Word = "confirmed",
    reason: str = "the second moment at large width, against the law at every stack",
    observables: Sequence[str] = ("second_moment",),
    width: int = 8192,
    samples: int = 24,
    paper: tuple[str, ...] | str = (),
) -> Claim:
    """The claim that random stacks follow a law: each is drawn at a large width and compared at its end.

    Arguments:
      id, statement, source, recorded, reason, paper: as of `Claim`.
      stacks: what is drawn. law: what it is compared with, a function of a stack such as `residual_theory.predict`.
      twin: a law known to be false, which has to be refuted.
      margin: what counts as agreement, as a share of the prediction, `because` of what it has to hold and to exclude.
      observables: those compared, of "second_moment", "gradient_second_moment" and "tangent_kernel".
      width, samples: of the first round; later rounds draw as many again while the verdict is open. A preset may set
        them, `margin` and `rounds`.
    Raises: InputError for no stacks, or sizes that cannot be used.

    >>> from residual_theory import Stack, predict
    >>> claim = stack_claim(
    ...     id="decaying-loops", statement="loops with decay follow the recursion", source="this project",
    ...     stacks=[Stack(loops=4, carry=0.9)], law=predict, twin=Twin("visits are independent", untied),
    ...     margin=0.05, because="half of what separates the laws",
    ... )
    >>> claim.key, claim.margin
    ('decaying-loops/simulation', '5 % of the prediction: half of what separates the laws')
    """
    if not stacks:
        raise InputError("stacks", stacks, "give at least one")
    with_gradients = {"with_gradients": True} if set(observables) - {"second_moment"} else {}
    sizes = create_model(
        "Sizes", __base__=WideParameters, width=(Count, width), samples=(Draws, samples), margin=(Positive, margin)
    )
    sizes()  # refused here, where it is stated

    def plan(parameters: WideParameters, draw: Round) -> list[Simulation]:
        return wide_simulations(stacks, parameters, draw, **with_gradients)

    def check(parameters: WideParameters, observations: Observations, law: StackLaw) -> Evidence:
        return at_large_width(parameters, observations, law, observables=observables)

    return Claim(
        id=id, level="simulation", statement=statement, source=source, recorded=recorded, reason=reason, paper=paper,
        margin=f"{100 * margin:g} % of the prediction: {because}", law=law, twin=twin,
        parameters=sizes, plan=plan, check=check,
    )  # fmt: skip


def untied(stack: Stack) -> xr.Dataset:
    """The law of the stack whose every visit has a matrix of its own."""
    return predict(stack.model_copy(update={"tied": False}))


_WORDS = {("normalization", "rms"): "pre-norm", ("tied", False): "untied"}
_SYMBOLS = {"weight_variance": "σ_w²", "initial_variance": "q0", "activation": "φ", "carry": "a", "injection": "b"}


def label(stack: Stack) -> str:
    """A stack in a few words: its sizes, and what differs from the plain one."""
    words = [f"N = {stack.loops}", f"L = {stack.unique_layers}", f"ε = {stack.residual_scale}"]
    for name, field in Stack.model_fields.items():
        value = getattr(stack, name)
        if name not in ("loops", "unique_layers", "residual_scale") and value != field.default:
            shown = f"{value:g}" if isinstance(value, float) else value
            shown = "".join(map(str, value)) if isinstance(value, tuple) else shown
            words.append(_WORDS.get((name, value), f"{_SYMBOLS.get(name, name)} = {shown}"))
    return ", ".join(words)


def elements(observed: xr.Dataset, law: xr.Dataset, observable: str, margin: float, where: str) -> list[Finding]:
    """Findings on every element of a two-dimensional observable below its diagonal, with an absolute margin."""
    values, predicted = observed[observable].values, law[observable].values
    stderr, samples = observed[f"{observable}_stderr"].values, int(observed.samples)
    return [
        equivalence(
            f"{observable} ({row}, {column}) of {where}", float(values[row, column]), float(stderr[row, column]),
            predicted=float(predicted[row, column]), margin=margin, samples=samples,
        )
        for row, column in zip(*np.tril_indices(len(predicted), -1), strict=True)
    ]  # fmt: skip
