"""Claims about a known law, as near the edge of their margin as is wanted, judged by the code that judges real claims.

The law: after visit k the second moment is √k (1 + 2/width), and that of single samples scatters normally around it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from residual_theory.arrays import Array
from residual_theory.claims.claim import Claim, Parameters, Round, Twin
from residual_theory.claims.growth import Curve, curves, exponent
from residual_theory.claims.presets import Preset, RunParameters
from residual_theory.claims.session import Selection, Session
from residual_theory.claims.stacks import (
    StackLaw,
    StackParameters,
    WideParameters,
    at_infinite_width,
    at_large_width,
    separate_simulations,
    simulations,
    wide_simulations,
)
from residual_theory.measurements.measurement import Context, Measurement, Observations
from residual_theory.montecarlo.estimate import ControlledMoments, Moments
from residual_theory.observables import dataset
from residual_theory.stack import Stack
from residual_theory.statistics.exponents import MISFIT, growth_exponent, paired_exponent
from residual_theory.statistics.findings import Evidence, Word
from residual_theory.statistics.power import EdgeTest
from residual_theory.store import Specification, Store

SPREAD = 0.1  # of one sample, as a share of the mean
CORRELATION = 0.95  # of a sample and its control
BIAS = 2.0  # at finite width, times the width
WIDTHS = (64, 128, 512)  # to be extrapolated
SIZES = (1, 2, 4, 8, 16)  # over which an exponent is fitted
POWER = 0.5  # the exponent
MARGIN, POWER_MARGIN = 0.5, 0.25  # relative, of second moments; of the exponent: the far edge is out of reach
FALSE = 4.0  # second moments are that many times what they are, or exponents so much larger: surely refuted
SAMPLES, MANY, SEEDS = 24, 2000, 5  # of a first round; so many that their standard error is known; of a training


def truth(visits: int, width: int) -> Array:
    """The second moment after each visit, (visit); that of the input is the first's."""
    return np.asarray(np.maximum(np.arange(visits + 1), 1) ** POWER * (1 + BIAS / width))


@dataclass(frozen=True)
class Drawn(Store):
    """A store that seems to hold every simulation: samples of the known law, seen through the real estimators."""

    def load(self, specification: Any) -> xr.Dataset:
        """The mean second moment and its standard error, of as many samples as the specification says."""
        loops, width, samples = specification["stack"]["loops"], specification["width"], specification["samples"]
        random = np.random.default_rng([specification["seed"], specification["first_trial"], width, loops])
        noise = random.standard_normal((samples, loops + 1))
        moments: Moments | ControlledMoments
        if specification["control"] is None:
            moments = Moments()
            moments.add(truth(loops, width) * (1 + SPREAD * noise))
        else:
            control = random.standard_normal(samples)
            noise = CORRELATION * control[:, None] + math.sqrt(1 - CORRELATION**2) * noise
            known = specification["control"][1]
            moments = ControlledMoments(known)
            moments.add(truth(loops, width) * (1 + SPREAD * noise), known + control)
        found = {"second_moment": moments.mean, "second_moment_stderr": moments.stderr, "samples": np.array(samples)}
        made = _blank(loops).copy(data=found)
        made.attrs["width"] = width
        return made

    def seconds(self, specification: Specification) -> float:
        """None to speak of."""
        return 0.0


@functools.cache
def _blank(visits: int) -> xr.Dataset:
    """What a simulation returns; to copy it takes a fraction of the time that it takes to make."""
    nothing = {"second_moment": np.zeros(visits + 1)}
    return dataset(nothing, stderr=nothing, samples=0)


@dataclass(frozen=True)
class Kind:
    """A kind of claim at the edge of its margin.

    law: of how many standard errors the truth lies inside the margin, such that it does; false: the twin's.
    """

    name: str
    plan: Callable[[Any, Round], Sequence[Measurement]]
    check: Callable[[Any, Observations, Any], Evidence]
    parameters: Parameters
    law: Callable[[float], Any]
    false: Any
    test: EdgeTest

    def claim(self, inside: float, number: int = 0) -> Claim:
        """The claim; those with different numbers draw independently."""
        return Claim(
            id=f"{self.name} {number}", statement=f"{inside:g} standard errors inside its margin", level="simulation",
            source="this project", recorded="confirmed" if inside > 0 else "refuted", reason="how it is made",
            margin="far wider than the standard error", law=self.law(inside), twin=Twin("out of reach", self.false),
            plan=self.plan, check=self.check, parameters=type(self.parameters),
        )  # fmt: skip


def _law(first: float, others: float = 1.0) -> StackLaw:
    """A law of stacks, as factors on the truth at large width: of the stack of one loop, and of others."""
    loops = (1, 4, 9)
    width = WideParameters().width
    found = {n: dataset({"second_moment": truth(n, width) * (first if n == 1 else others)}) for n in loops}
    return lambda stack: found[stack.loops]


def _edge(stderr: float) -> Callable[[float], StackLaw]:
    """Laws whose upper edge, (1 + margin) times the prediction, lies `inside` standard errors above the truth."""
    return lambda inside: _law((1 + inside * stderr) / (1 + MARGIN))


def _stderr(rounds: int, samples: int = SAMPLES) -> float:
    """Relative, of a mean at the last look."""
    return SPREAD / math.sqrt(samples * 2 ** (rounds - 1))


def _degrees(rounds: int) -> tuple[float, ...]:
    return tuple(SAMPLES * 2.0**number - 1 for number in range(rounds))


def at_stacks(name: str, rounds: int, loops: Sequence[int] = (1,), *, controlled: bool = False) -> Kind:
    """Second moments at one large width: that of one loop at the edge, those of further loops as predicted."""
    still = Stack(loops=1, residual_scale=0.0)
    options: dict[str, Any] = {"antithetic": True, "control": (still, still.initial_variance)} if controlled else {}
    stderr = _stderr(rounds)
    if controlled:  # the coefficient comes from the other half of the samples, and has an error of its own
        stderr *= math.sqrt((1 - CORRELATION**2) * (1 + 1 / (SAMPLES / 2 - 3)))
    stacks = [Stack(loops=count) for count in loops]
    return Kind(
        name, functools.partial(wide_simulations, stacks, **options), at_large_width,
        WideParameters(samples=SAMPLES, margin=MARGIN, rounds=rounds), _edge(stderr), _law(FALSE, FALSE),
        EdgeTest(_degrees(rounds), bounds=2 * len(loops), approximate=controlled),
    )  # fmt: skip


def extrapolated(name: str, rounds: int) -> Kind:
    """A second moment at several widths, extrapolated to infinite width."""
    inverse = 1 / np.array(WIDTHS)
    errors = _stderr(rounds) * (1 + BIAS * inverse)
    design = np.vander(inverse, 2, increasing=True) / errors[:, None]
    stderr = math.sqrt(np.linalg.inv(design.T @ design)[0, 0])
    at_width = 1 + BIAS / WideParameters().width  # which `_law` has and the limit has not
    return Kind(
        name, functools.partial(simulations, [Stack(loops=1)]), at_infinite_width,
        StackParameters(widths=WIDTHS, samples=(SAMPLES,) * len(WIDTHS), margin=MARGIN, rounds=rounds),
        lambda inside: _law((1 + inside * stderr) / (1 + MARGIN) / at_width), _law(FALSE, FALSE),
        EdgeTest(_degrees(rounds), approximate=True),
    )  # fmt: skip


def _exponents(stderr: float) -> Callable[[float], float]:
    """Exponents whose upper edge lies `inside` standard errors above the true one."""
    return lambda inside: POWER + inside * stderr - POWER_MARGIN


def _slope_stderr(stderr: float, sizes: Sequence[int]) -> float:
    return stderr / math.sqrt(len(sizes) * float(np.var(np.log(sizes))))


def at_largest_sizes(name: str, rounds: int) -> Kind:
    """An exponent over the larger half of some loop counts, from below and from above."""

    def check(parameters: WideParameters, observations: Observations, law: float) -> Evidence:
        (curve,) = curves(observations, lambda _: "", lambda stack: stack.loops, _last).values()
        return Evidence(exponent("R²", curve, predicted=law, margin=parameters.margin))

    return Kind(
        name, functools.partial(separate_simulations, [Stack(loops=size) for size in SIZES]), check,
        WideParameters(samples=SAMPLES, margin=POWER_MARGIN, rounds=rounds),
        _exponents(_slope_stderr(_stderr(rounds), SIZES[-3:])), FALSE, EdgeTest(_degrees(rounds), approximate=True),
    )  # fmt: skip


def _last(_: Stack, drawn: xr.Dataset) -> tuple[float, float]:
    return float(drawn.second_moment.values[-1]), float(drawn.second_moment_stderr.values[-1])


def _at_sizes(drawn: xr.Dataset) -> Curve:
    """The values after as many visits as SIZES says, which are independent."""
    values, stderrs = (drawn[name].values[list(SIZES)] for name in ("second_moment", "second_moment_stderr"))
    return Curve(SIZES, tuple(values), tuple(stderrs), int(drawn.samples))


def at_all_sizes(name: str) -> Kind:
    """An exponent over all sizes, whose standard errors are known; a parabola has to agree."""

    def check(parameters: WideParameters, observations: Observations, law: float) -> Evidence:
        curve = _at_sizes(observations[0].result)
        return Evidence((growth_exponent("R²", *curve[:3], predicted=law, margin=parameters.margin),))

    return Kind(
        name, functools.partial(wide_simulations, [Stack(loops=SIZES[-1])]), check,
        WideParameters(samples=MANY, margin=POWER_MARGIN, rounds=1),
        _exponents(_slope_stderr(_stderr(1, MANY), SIZES)), FALSE,
        EdgeTest((math.inf,), stricter=True, misfit=MISFIT),
    )  # fmt: skip


def over_seeds(name: str) -> Kind:
    """An exponent over all sizes from seeds that are paired across them; the larger half of the sizes has to agree."""

    def check(parameters: WideParameters, observations: Observations, law: float) -> Evidence:
        values = [_at_sizes(result).values for _, result in observations]
        return Evidence((paired_exponent("R²", SIZES, values, predicted=law, margin=parameters.margin),))

    stderr = _slope_stderr(_stderr(1), SIZES) / math.sqrt(SEEDS)
    return Kind(
        name, functools.partial(separate_simulations, [Stack(loops=SIZES[-1])] * SEEDS), check,
        WideParameters(samples=SAMPLES, margin=POWER_MARGIN, rounds=1),
        _exponents(stderr), FALSE, EdgeTest((SEEDS - 1.0,), stricter=True),
    )  # fmt: skip


def judge(claims: Sequence[tuple[Claim, Parameters]], alpha: float, seed: int) -> list[Word]:
    """The words of one run, as `Session` says them of real claims."""
    preset = Preset("at the margin", RunParameters(seed=seed, alpha=alpha), {one.key: sizes for one, sizes in claims})
    nowhere = Path()  # nothing is read or written
    selection = Selection(preset, tuple(claim for claim, _ in claims), nowhere, Context(nowhere))
    return [outcome.verdict for outcome in Session(selection, store=Drawn(nowhere)).judge()]
