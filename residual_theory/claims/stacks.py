"""What claims about random stacks have in common: sizes, the simulations of a round, and checks against a law."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import xarray as xr
from pydantic import Field, create_model

from residual_theory.claims.claim import Claim, Parameters, Round, Twin
from residual_theory.errors import InputError
from residual_theory.measurements.kinds import Simulation
from residual_theory.measurements.measurement import Observations
from residual_theory.measurements.observations import pooled
from residual_theory.montecarlo import extrapolation
from residual_theory.stack import Count, Stack
from residual_theory.statistics.exponents import FEWEST_SIZES
from residual_theory.statistics.findings import Evidence, Finding, Word, equivalence
from residual_theory.theory.forward import predict

Positive = Annotated[float, Field(gt=0)]
FittedSizes = Annotated[tuple[Count, ...], Field(min_length=FEWEST_SIZES)]  # that an exponent is fitted over
Draws = Annotated[int, Field(ge=2)]  # as many as have a standard error
StackLaw = Callable[[Stack], xr.Dataset]


class StackParameters(Parameters):
    """Widths to extrapolate from, the samples at each in the first round, and the margin, a share of the prediction.

    >>> StackParameters(widths=(48, 96), samples=(600, 400)).margin
    0.05
    """

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
    """(start, count) of the trials that a round adds: `first` at first, then each time as many as there are.

    Arguments: first: trials of the first round. number: the round's, from 0.

    >>> [trials(100, number) for number in range(4)]
    [(0, 100), (100, 100), (200, 200), (400, 400)]
    """
    return (0, first) if number == 0 else (first * 2 ** (number - 1), first * 2 ** (number - 1))


def simulations(stacks: Sequence[Stack], parameters: StackParameters, current: Round) -> list[Simulation]:
    """The simulations that a round adds: every stack at every width of the parameters.

    Arguments: stacks: what is drawn. parameters: widths, and samples at each. current: the round, as `plan` gets it.
    Returns: one Simulation for each width and stack, for `at_infinite_width` or `limits` to extrapolate.

    >>> sizes = StackParameters(widths=(48, 96), samples=(600, 400))
    >>> planned = simulations([Stack(loops=2)], sizes, Round(number=1, seed=7, read=None))
    >>> [(one.width, one.first_trial, one.samples) for one in planned]
    [(48, 600, 600), (96, 400, 400)]
    """
    planned = []
    for width, first in zip(parameters.widths, parameters.samples, strict=True):
        start, count = trials(first, current.number)
        planned += [
            Simulation(stack=stack, width=width, samples=count, seed=current.seed, first_trial=start)
            for stack in stacks
        ]
    return planned


class Limit(NamedTuple):
    """A stack's last second moment R², extrapolated to infinite width, with its standard error.

    samples: stacks drawn at all widths together. degrees: of freedom of the standard error, which the width with the
    fewest samples decides.
    """

    stack: Stack
    value: float
    stderr: float
    samples: int
    degrees: int

    def near(self, predicted: float, margin: float) -> Finding:
        """The finding that it lies within `margin`, in units of R², of a prediction.

        >>> Limit(Stack(loops=2), 1.02, 0.01, samples=400, degrees=199).near(1.0, margin=0.1).confirm_p < 1e-6
        True
        """
        return equivalence(
            f"R² at {label(self.stack)}", self.value, self.stderr,
            predicted=predicted, margin=margin, samples=self.samples, degrees=self.degrees,
        )  # fmt: skip


def limits(observations: Observations) -> list[Limit]:
    """The limit of every stack simulated, from all its widths and rounds; NaN where a stream overflowed.

    Raises: InputError when a stack was simulated at fewer than two widths.

    >>> from pathlib import Path
    >>> from residual_theory.measurements.measurement import Context, Observation
    >>> sizes = StackParameters(widths=(8, 16), samples=(60, 40))
    >>> planned = simulations([Stack(loops=2)], sizes, Round(number=0, seed=7, read=None))
    >>> (limit,) = limits([Observation(one, one.measure(Context(Path()))) for one in planned])
    >>> limit.stack.loops, limit.samples, limit.degrees
    (2, 100, 39)
    """
    by_stack: dict[Stack, list[xr.Dataset]] = {}
    for simulation, drawn in pooled(Simulation, observations):
        by_stack.setdefault(simulation.stack, []).append(drawn)
    return [_limit(stack, results) for stack, results in by_stack.items()]


def _limit(stack: Stack, results: Sequence[xr.Dataset]) -> Limit:
    limit = extrapolation.at_infinite_width(results)  # NaN where a stream overflowed: that decides nothing
    value, stderr = float(limit.second_moment[-1]), float(limit.second_moment_stderr[-1])
    return Limit(stack, value, stderr, int(limit.samples), min(int(result.samples) for result in results) - 1)


def at_infinite_width(parameters: StackParameters, observations: Observations, law: StackLaw) -> Evidence:
    """A check: the limit of every stack simulated is the last second moment that `law` predicts.

    Arguments:
      parameters: whose `margin` is the share of the prediction that counts as agreement.
      observations: with simulations of each stack at several widths, as `simulations` plans them.
      law: a function of a stack whose result has a `second_moment`, such as `residual_theory.predict`.
    Returns: Evidence, one Finding for each stack. Raises: as `limits`.

    >>> from pathlib import Path
    >>> from residual_theory.measurements.measurement import Context, Observation
    >>> sizes = StackParameters(widths=(8, 16), samples=(60, 40), margin=0.1)
    >>> planned = simulations([Stack(loops=1)], sizes, Round(number=0, seed=7, read=None))
    >>> observed = [Observation(one, one.measure(Context(Path()))) for one in planned]
    >>> (finding,) = at_infinite_width(sizes, observed, predict).findings
    >>> finding.label, finding.predicted, round(finding.margin / finding.predicted, 3)
    ('R² at N = 1, L = 1, ε = 1/(N*sqrt(L))', 1.5, 0.1)
    """
    findings = []
    for limit in limits(observations):
        predicted = float(law(limit.stack).second_moment[-1])
        findings.append(limit.near(predicted, parameters.margin * predicted))
    return Evidence(tuple(findings))


class WideParameters(Parameters):
    """One width, so large that its 1/width term is far below the margin, and the stacks drawn in the first round.

    >>> WideParameters().width, WideParameters(samples=8).rounds
    (8192, 3)
    """

    width: Count = 8192
    samples: Draws = 24
    margin: Positive = 0.05
    rounds: Count = 3


def wide_simulations(
    stacks: Sequence[Stack], parameters: WideParameters, current: Round, **options: Any
) -> list[Simulation]:
    """The simulations that a round adds: every stack at the one width of the parameters, on the same trials.

    Arguments: stacks, parameters, current: as of `simulations`. options: further fields of Simulation, such as
      `with_gradients=True` or `inputs`.
    Raises: InputError for an option that Simulation does not have.

    >>> planned = wide_simulations([Stack(loops=2), Stack(loops=4)], WideParameters(), Round(0, seed=7, read=None))
    >>> [(one.stack.loops, one.width, one.first_trial, one.samples) for one in planned]
    [(2, 8192, 0, 24), (4, 8192, 0, 24)]
    """
    start, count = trials(parameters.samples, current.number)
    sizes: dict[str, Any] = {"width": parameters.width, "samples": count, "seed": current.seed, "first_trial": start}
    return [Simulation(stack=stack, **sizes, **options) for stack in stacks]


def own_trials(first: int, current: Round, index: int) -> dict[str, Any]:
    """What a round draws of stack number `index` of a plan: no two share a trial, as a fit over several stacks needs.

    Arguments: first: trials of the first round. current: the round. index: of the stack in its plan, from 0.
    Returns: the fields `samples`, `seed` and `first_trial` of a measurement of random stacks.

    >>> own_trials(24, Round(number=1, seed=7, read=None), index=2)
    {'samples': 24, 'seed': 7, 'first_trial': 33554456}
    """
    start, count = trials(first, current.number)
    return {"samples": count, "seed": current.seed, "first_trial": start + index * 2**24}


def separate_simulations(
    stacks: Sequence[Stack], parameters: WideParameters, current: Round, **options: Any
) -> list[Simulation]:
    """As `wide_simulations`, each stack on trials of its own: what a fit over several stacks needs.

    >>> stacks = [Stack(loops=2), Stack(loops=4)]
    >>> [one.first_trial for one in separate_simulations(stacks, WideParameters(), Round(0, seed=7, read=None))]
    [0, 16777216]
    """
    return [
        Simulation(stack=stack, width=parameters.width, **own_trials(parameters.samples, current, index), **options)
        for index, stack in enumerate(stacks)
    ]


def gains(stacks: Sequence[Stack], parameters: WideParameters, current: Round) -> list[Simulation]:
    """As `separate_simulations`, of which R² − q0 has a small relative error however small ε is.

    Terms odd in W cancel between W and −W, and the size of h_0 is taken out by the stack without branches.

    >>> (one,) = gains([Stack(loops=4)], WideParameters(), Round(0, seed=7, read=None))
    >>> one.antithetic, one.control[0].residual_scale
    (True, 0.0)
    """
    planned = []
    for index, stack in enumerate(stacks):
        still = stack.model_copy(update={"residual_scale": 0.0})
        sizes = {"width": parameters.width, **own_trials(parameters.samples, current, index)}
        planned.append(Simulation(stack=stack, **sizes, antithetic=True, control=(still, stack.initial_variance)))
    return planned


# Of each observable, the index of the element that a claim is about, and its name in a finding.
_ELEMENTS: dict[str, tuple[tuple[int, ...], str]] = {
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
    """A check: every stack drawn agrees with `law` at the last visit, and its gradients at the first.

    Arguments:
      parameters: whose `margin` is the share of the prediction that counts as agreement.
      observations: with simulations of each stack, as `wide_simulations` plans them.
      law: a function of a stack, such as `residual_theory.predict`, whose result has the observables.
      observables: those compared, of "second_moment", "gradient_second_moment" and "tangent_kernel".
    Returns: Evidence, one Finding for each stack and observable.

    >>> from pathlib import Path
    >>> from residual_theory.measurements.measurement import Context, Observation
    >>> sizes = WideParameters(width=64, samples=20)
    >>> planned = wide_simulations([Stack(loops=1)], sizes, Round(0, seed=7, read=None))
    >>> observed = [Observation(one, one.measure(Context(Path()))) for one in planned]
    >>> (finding,) = at_large_width(sizes, observed, predict).findings
    >>> finding.label, finding.predicted, finding.samples
    ('R² at N = 1, L = 1, ε = 1/(N*sqrt(L))', 1.5, 20)
    """
    findings = []
    for simulation, drawn in pooled(Simulation, observations):
        stack = simulation.stack
        expected = law(stack)
        for name in observables:
            index, symbol = _ELEMENTS[name]
            predicted = float(expected[name].values[index])
            findings.append(
                equivalence(
                    f"{symbol} at {label(stack)}",
                    float(drawn[name].values[index]), float(drawn[f"{name}_stderr"].values[index]),
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
    Raises: InputError for what cannot be used: stacks, observables, laws that are no functions, a margin, sizes.

    >>> from residual_theory import Stack, predict
    >>> claim = stack_claim(
    ...     id="decaying-loops", statement="loops with decay follow the recursion", source="this project",
    ...     stacks=[Stack(loops=4, carry=0.9)], law=predict, twin=Twin("visits are independent", untied),
    ...     margin=0.05, because="half of what separates the laws",
    ... )
    >>> claim.key, claim.margin
    ('decaying-loops/simulation', '5 % of the prediction: half of what separates the laws')
    """
    if not stacks or not all(isinstance(stack, Stack) for stack in stacks):
        raise InputError("stacks", stacks, "give a list of at least one Stack")
    if isinstance(observables, str) or not observables or not set(observables) <= _ELEMENTS.keys():
        raise InputError("observables", observables, f"list some of {', '.join(_ELEMENTS)}")
    if not callable(law) or not callable(twin.law):
        raise InputError("law", law, "give a function of a Stack, such as residual_theory.predict; of the twin, too")
    if not because.strip():
        raise InputError("because", because, "say why the margin is that wide")
    with_gradients = {"with_gradients": True} if set(observables) - {"second_moment"} else {}
    sizes = create_model(
        "Sizes", __base__=WideParameters, width=(Count, width), samples=(Draws, samples), margin=(Positive, margin)
    )
    sizes(width=width, samples=samples, margin=margin)  # refused here, where they are stated

    def plan(parameters: WideParameters, current: Round) -> list[Simulation]:
        return wide_simulations(stacks, parameters, current, **with_gradients)

    def check(parameters: WideParameters, observations: Observations, law: StackLaw) -> Evidence:
        return at_large_width(parameters, observations, law, observables=observables)

    return Claim(
        id=id, level="simulation", statement=statement, source=source, recorded=recorded, reason=reason, paper=paper,
        margin=f"{100 * margin:g} % of the prediction: {because}", law=law, twin=twin,
        parameters=sizes, plan=plan, check=check,
    )  # fmt: skip


def untied(stack: Stack) -> xr.Dataset:
    """The law of the stack whose every visit has a matrix of its own: `predict` with `tied=False`.

    >>> stack = Stack(loops=2, residual_scale=0.5)
    >>> float(untied(stack).second_moment[-1]) < float(predict(stack).second_moment[-1])
    True
    """
    return predict(stack.model_copy(update={"tied": False}))


_VALUES = {("normalization", "rms"): "pre-norm", ("tied", False): "untied"}
_SYMBOLS = {"weight_variance": "σ_w²", "initial_variance": "q0", "activation": "φ", "carry": "a", "injection": "b"}


def label(stack: Stack) -> str:
    """A stack in a few words, for a finding: its sizes, and each field that differs from its default.

    >>> label(Stack(loops=4, residual_scale="1/N", normalization="rms", weight_variance=2))
    'N = 4, L = 1, ε = 1/N, pre-norm, σ_w² = 2'
    """
    parts = [f"N = {stack.loops}", f"L = {stack.unique_layers}", f"ε = {stack.residual_scale}"]
    for name, field in Stack.model_fields.items():
        value = getattr(stack, name)
        if name not in ("loops", "unique_layers", "residual_scale") and value != field.default:
            shown = f"{value:g}" if isinstance(value, float) else value
            shown = "".join(map(str, value)) if isinstance(value, tuple) else shown
            parts.append(_VALUES.get((name, value), f"{_SYMBOLS.get(name, name)} = {shown}"))
    return ", ".join(parts)


def elements(observed: xr.Dataset, law: xr.Dataset, observable: str, margin: float, where: str) -> list[Finding]:
    """Findings on every element of a two-dimensional observable below its diagonal.

    Arguments: observed, law: results with the observable, such as "increment_cosine" (loop, loop_other); observed with
      its standard errors and `samples`. margin: in units of the observable. where: the stack, for the labels.

    >>> names = ("loop", "loop_other")
    >>> observed = xr.Dataset({name: (names, np.full((3, 3), 0.1)) for name in ("cosine", "cosine_stderr")})
    >>> law = xr.Dataset({"cosine": (names, np.zeros((3, 3)))})
    >>> [found.label for found in elements(observed.assign_attrs(samples=9), law, "cosine", 0.2, "a stack")]
    ['cosine (1, 0) of a stack', 'cosine (2, 0) of a stack', 'cosine (2, 1) of a stack']
    """
    values, predicted = observed[observable].values, law[observable].values
    stderr, samples = observed[f"{observable}_stderr"].values, int(observed.samples)
    return [
        equivalence(
            f"{observable} ({row}, {column}) of {where}", float(values[row, column]), float(stderr[row, column]),
            predicted=float(predicted[row, column]), margin=margin, samples=samples,
        )
        for row, column in zip(*np.tril_indices(len(predicted), -1), strict=True)
    ]  # fmt: skip
