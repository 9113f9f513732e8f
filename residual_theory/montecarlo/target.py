"""How accurate an estimate shall be, and by what factor its samples fall short of that."""

import re
from collections.abc import Mapping
from numbers import Real
from typing import NamedTuple

import numpy as np
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.observables import DIMENSIONS

ABSOLUTE_ONLY = {"log_second_moment"}  # its zero is a convention of units
RELATIVE_TO_LARGEST = {"covariance", "increment_cosine", "input_covariance"}  # their elements may be near zero
_NUMBER = re.compile(r"\s*(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*(%?)\s*", re.ASCII | re.IGNORECASE)


class Target(NamedTuple):
    """A standard error to reach: absolute, or as a share of the estimate's magnitude."""

    value: float
    relative: bool = False


def targets(given: object) -> dict[str, Target]:
    """The standard error that each observable shall reach, by name.

    A number is an absolute standard error. "p%" is relative to the magnitude of the estimate: to the largest of the
    observable for covariance, increment_cosine and input_covariance, otherwise to each element's own;
    log_second_moment takes none.

    Arguments: given: one of these, for second_moment, or a mapping from observables to them; a string without the "%"
      is read as the number it shows.
    Raises: InputError naming "target_stderr": not positive or not finite, an unknown observable, anything else.

    >>> targets("2.5%")
    {'second_moment': Target(value=0.025, relative=True)}
    >>> targets({"log_second_moment": 0.01})
    {'log_second_moment': Target(value=0.01, relative=False)}
    """
    wanted = given if isinstance(given, Mapping) else {"second_moment": given}
    if not wanted:
        raise InputError("target_stderr", given, "name at least one observable")
    for name in wanted:
        if name not in DIMENSIONS:
            raise InputError("target_stderr", given, f"{name!r} is no observable; choose from {', '.join(DIMENSIONS)}")
    parsed = {name: _target(given, value) for name, value in wanted.items()}
    for name in ABSOLUTE_ONLY & parsed.keys():
        if parsed[name].relative:
            raise InputError("target_stderr", given, f"{name} takes an absolute standard error, without %")
    return parsed


def _target(given: object, value: object) -> Target:
    relative = False
    number = float("nan")
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value)):
        relative = match[3] == "%"
        number = float(match[1] + (match[2] or "")) / (100 if relative else 1)
    elif not isinstance(value, bool) and isinstance(value, Real):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
    if not 0 < number < float("inf"):
        raise InputError("target_stderr", given, "must be positive and finite: a number, or a share such as '1%'")
    return Target(number, relative)


def shortfall(targets: Mapping[str, Target], estimate: xr.Dataset) -> float:
    """The factor by which the number of samples must grow, the worst over all elements: max (stderr/target)².

    Elements without a standard error do not count, unless an observable has no others.

    Arguments: targets: from `targets`.  estimate: a Dataset of simulate.
    Returns: at most 1 once every target is reached; inf if nothing can be said yet.
    Raises: InputError: an observable that the estimate has not, or not with a standard error.

    >>> from residual_theory.observables import dataset
    >>> drawn = dataset({"second_moment": np.array([1.0, 2.0])}, stderr={"second_moment": np.array([0.03, 0.04])})
    >>> round(shortfall({"second_moment": Target(0.01, relative=True)}, drawn), 6)  # 3 % and 2 % against 1 %
    9.0
    """
    return max((_shortfall(name, target, estimate) for name, target in targets.items()), default=0.0)


def _shortfall(name: str, target: Target, estimate: xr.Dataset) -> float:
    if name not in estimate or f"{name}_stderr" not in estimate:
        measured = [known for known in DIMENSIONS if f"{known}_stderr" in estimate]
        raise InputError("target_stderr", name, f"is not estimated here; choose from {', '.join(measured)}")
    magnitudes, errors = np.abs(estimate[name].values), estimate[f"{name}_stderr"].values
    counted = ~np.isnan(errors)
    if not counted.any():
        return float("inf")
    magnitudes, errors = magnitudes[counted], errors[counted]
    if name in RELATIVE_TO_LARGEST:
        magnitudes = magnitudes.max()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factors = (errors / (target.value * magnitudes if target.relative else target.value)) ** 2
    factors = np.where(errors == 0, 0.0, factors)
    return float("inf") if np.isnan(factors).any() else float(factors.max())
