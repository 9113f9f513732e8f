"""Predicted against observed, for one pair of Datasets."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.statistics.findings import Evidence, Finding, Word, decide, equivalence


@dataclass(frozen=True)
class Verdict:
    """What a comparison concluded, with the numbers of the element that decided it.

    `value`, `predicted` and `interval` are in the observable's units; `margin` is the half-width around `predicted`.
    """

    verdict: Word
    observable: str
    where: str
    value: float
    predicted: float
    interval: tuple[float, float]
    margin: float
    samples: int

    def __bool__(self) -> bool:
        """Raises: InputError, as a refuted comparison would count as true."""
        raise InputError("verdict", self.verdict, 'a Verdict has no truth value; write .verdict == "confirmed"')

    def __str__(self) -> str:
        low, high = self.interval
        mend = "; draw more samples or widen the margin" if self.verdict == "inconclusive" else ""
        return (
            f"{self.verdict}: {self.observable} at {self.where} is {self.value:.4g} [{low:.4g}, {high:.4g}], "
            f"predicted {self.predicted:.4g} ± {self.margin:.2g} ({self.samples} samples){mend}"
        )


def compare(
    predicted: xr.Dataset,
    observed: xr.Dataset,
    *,
    observable: str = "second_moment",
    margin: float = 0.05,
    alpha: float = 0.01,
) -> Verdict:
    """Do observed values agree with predicted ones, everywhere, within a margin?

    Every element with a prediction is tested for equivalence; all must agree (intersection–union) and one that
    surely does not refutes (Bonferroni).

    Arguments:
      predicted, observed: Datasets of predict, simulate or probe with the observable at the same visits or loops.
      observable: any that both have; log_second_moment, for heavy-tailed samples, takes the prediction's logarithm.
      margin: relative to the prediction (of a covariance: to the root mean squares of the two), but absolute for
        increment_cosine and log_second_moment; it has to hold what the prediction leaves out, above all its O(1/width)
        bias (default 5 %).
      alpha: chance of a wrong verdict at most.
    Returns: a Verdict; inconclusive when the observed standard error is too large or absent.
    Raises: InputError when the observable is absent, the sizes differ, or margin or alpha is out of range.
    """
    numbers: dict[str, object] = {"margin": margin, "alpha": alpha}
    for name, number in numbers.items():
        if not isinstance(number, int | float | np.floating):
            raise InputError(name, number, "must be a number")
    if not 0 < margin < np.inf:
        raise InputError("margin", margin, "must be a finite number above 0")
    if not 0 < alpha < 1:
        raise InputError("alpha", alpha, "must lie between 0 and 1")
    if observable == "log_second_moment" and isinstance(predicted, xr.Dataset) and "second_moment" in predicted:
        predicted = predicted.assign(log_second_moment=np.log(predicted.second_moment))
    for name, side, key in (("predicted", predicted, observable), ("observed", observed, f"{observable}_stderr")):
        if not isinstance(side, xr.Dataset):
            raise InputError(name, side, "give a Dataset of predict, simulate or probe")
        if key not in side:
            raise InputError(name, sorted(map(str, side.data_vars)), f"lacks {key}; choose another observable")
    if "samples" not in observed:
        raise InputError("observed", sorted(map(str, observed.data_vars)), "lacks samples, the number behind its means")
    law, value = predicted[observable], observed[observable]
    if law.shape != value.shape:
        raise InputError("observed", dict(value.sizes), f"has other sizes than the prediction's {dict(law.sizes)}")
    findings = _findings(law, value, observed[f"{observable}_stderr"], int(observed.samples), margin)
    evidence = Evidence(findings)
    word = decide([evidence], alpha)[0]
    shown = evidence.decisive
    assert shown.predicted is not None
    assert shown.margin is not None
    interval = shown.interval(1 - alpha / len(findings))
    return Verdict(word, observable, shown.label, shown.value, shown.predicted, interval, shown.margin, shown.samples)


def _findings(
    law: xr.DataArray, value: xr.DataArray, stderr: xr.DataArray, samples: int, margin: float
) -> tuple[Finding, ...]:
    reach = margin * _scale(law)
    findings = []
    for index in np.ndindex(law.shape):
        expected = float(law.values[index])
        if (len(index) > 1 and index[-1] > index[-2]) or np.isnan(expected):
            continue  # symmetric, or nothing predicted
        if law.name == "increment_cosine" and index[0] == index[1]:
            continue  # one by definition
        where = ", ".join(f"{dim} {i}" for dim, i in zip(law.dims, index, strict=True))
        findings.append(
            equivalence(
                where,
                float(value.values[index]),
                float(stderr.values[index]),
                predicted=expected,
                margin=float(reach[index]),
                samples=samples,
            )
        )
    if not findings:
        raise InputError("predicted", str(law.name), "has no value to compare with")
    return tuple(findings)


def _scale(law: xr.DataArray) -> np.ndarray:
    """What a margin is relative to, element by element; 1 where it is absolute."""
    if law.name in ("increment_cosine", "log_second_moment"):
        return np.ones(law.shape)
    if law.name in ("covariance", "input_covariance"):  # the sizes of the two, whose product may vanish
        sizes = np.sqrt(np.diagonal(law.values, axis1=-2, axis2=-1))
        return np.asarray(sizes[..., :, None] * sizes[..., None, :])
    return np.asarray(np.abs(law.values))
