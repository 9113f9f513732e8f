"""How well `simulate` and `predict` agree with the independent simulator, entry by entry, in standard errors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from residual_theory import predict, simulate
from tests.independent.dense import Drawn, draw
from tests.independent.descriptions import Described, descriptions

SIMULATED = (
    "second_moment", "log_second_moment", "covariance", "increment_cosine", "input_covariance",
    "gradient_second_moment", "tangent_kernel",
)  # fmt: skip
PREDICTED = tuple(name for name in SIMULATED if name != "log_second_moment")
ALPHA = 0.01  # the chance that any of a family's comparisons is beyond the bound, were all differences Gaussian
WEIGHTS = np.array([1 / 3, -2.0, 8 / 3])  # of widths d, 2d, 4d: Σ w = 1, Σ w/d = Σ w/d² = 0
MOST_ENTRIES = 2**19  # of the d × d matrices of one layer that are drawn at once
ROUNDING = 1e-9  # of values that do not vary, relative to the largest


class Compared(NamedTuple):
    """Differences in standard errors (entry), and the standard errors relative to the observable's largest value."""

    observable: str
    deviations: NDArray[np.float64]
    errors: NDArray[np.float64]


class _Estimate(NamedTuple):
    value: NDArray[np.float64]
    stderr: NDArray[np.float64]


def bound(comparisons: int) -> float:
    """Standard errors that no comparison passes with probability 1 − ALPHA or more (Bonferroni, two-sided)."""
    return float(stats.norm.isf(ALPHA / (2 * comparisons)))


def with_simulate(described: Described, width: int, trials: int, seed: int) -> Iterator[Compared]:
    """Means of the same observables at the same width, and the spread over trials that the standard errors imply."""
    stack, correlations = described
    drawn = draw(stack, width, trials, seed, correlations)
    found = simulate(stack, width=width, samples=trials, seed=seed, with_gradients=True, inputs=correlations)
    for name in SIMULATED:
        if name in found:
            theirs = _Estimate(found[name].values, found[f"{name}_stderr"].values)
            yield _compared(name, _mean(drawn[name]), theirs)
    drawn_spread = _log_variance(drawn["log_second_moment"])
    with np.errstate(divide="ignore"):  # of a norm's output
        theirs = np.log(found.log_second_moment_stderr.values**2 * trials)
    yield _compared("spread of log_second_moment", drawn_spread, _Estimate(theirs, drawn_spread.stderr))


def with_predict(described: Described, widths: Sequence[int], trials: Sequence[int], seed: int) -> Iterator[Compared]:
    """The limit of infinite width against three widths d, 2d and 4d, with terms of order 1/d and 1/d² eliminated."""
    runs = [_draw_in_parts(described, width, count, seed + width) for width, count in zip(widths, trials, strict=True)]
    law = predict(described.stack, inputs=described.correlations)
    for name in PREDICTED:
        if name in law:
            means = [_mean(run[name]) for run in runs]
            yield _compared(name, _extrapolated(means), _Estimate(law[name].values, np.zeros_like(law[name].values)))


def _extrapolated(means: Sequence[_Estimate]) -> _Estimate:
    values, errors = (np.stack(each, -1) for each in zip(*means, strict=True))
    return _Estimate(values @ WEIGHTS, np.sqrt(errors**2 @ np.square(WEIGHTS)))


def _draw_in_parts(described: Described, width: int, trials: int, seed: int) -> Drawn:
    """As `draw`, of as many trials at once as memory holds."""
    at_once = max(1, MOST_ENTRIES // width**2)
    starts = range(0, trials, at_once)
    seeds = np.random.SeedSequence(seed).generate_state(len(starts))
    parts = [
        draw(described.stack, width, min(at_once, trials - start), int(part), described.correlations)
        for start, part in zip(starts, seeds, strict=True)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _mean(values: NDArray[np.float64]) -> _Estimate:
    return _Estimate(values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values)))


def _log_variance(values: NDArray[np.float64]) -> _Estimate:
    """The logarithm of the variance over trials, its standard error from the kurtosis; NaN of what does not vary."""
    squares = (values - values.mean(0)) ** 2
    variance = np.where(squares.mean(0) > 1e-24, squares.mean(0), np.nan)
    kurtosis = (squares**2).mean(0) / variance**2
    return _Estimate(np.log(variance * len(values) / (len(values) - 1)), np.sqrt((kurtosis - 1) / len(values)))


def _compared(name: str, ours: _Estimate, theirs: _Estimate) -> Compared:
    """Each entry once, where the library gives a value."""
    once = np.ones(ours.value.shape, dtype=bool)
    if name.endswith(("covariance", "increment_cosine")):
        once &= np.tril(np.ones(ours.value.shape[-2:], dtype=bool), k=-name.endswith("increment_cosine"))
    once &= np.isfinite(theirs.value) & np.isfinite(ours.value)
    size = np.max(np.abs(theirs.value[once]), initial=0.0)
    stderr = np.sqrt(ours.stderr**2 + theirs.stderr**2)[once]
    difference = (ours.value - theirs.value)[once]
    return Compared(name, difference / np.maximum(stderr, ROUNDING * size), stderr / size if size else stderr)


def summary(compared: Sequence[Compared]) -> Mapping[str, Any]:
    """Of one stack: how many comparisons, the largest deviation and where, and the middle relative standard error."""
    largest = max(compared, key=lambda item: np.max(np.abs(item.deviations), initial=0.0))
    return {
        "comparisons": sum(item.deviations.size for item in compared),
        "largest_deviation": float(np.max(np.abs(largest.deviations), initial=0.0)),
        "observable": largest.observable,
        "median_relative_error": float(np.median(np.concatenate([item.errors for item in compared]))),
    }


def row(index: int, described: Described, against: str) -> dict[str, Any]:
    """What the comparison of one random stack with `simulate` or with `predict` finds."""
    if against == "simulate":
        compared = with_simulate(described, 32, 300, 7 + index)
    else:
        compared = with_predict(described, (48, 96, 192), (1600, 800, 400), 1000 * index)
    return {"stack": index, "against": against, **summary(list(compared)), "fields": str(described)}


def table(count: int, seed: int) -> list[dict[str, Any]]:
    """A row for each of `count` random stacks and each side."""
    stacks = enumerate(descriptions(count, seed))
    return [row(index, described, against) for index, described in stacks for against in ("simulate", "predict")]
