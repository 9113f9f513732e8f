"""Targets of accuracy as users write them, and how far an estimate is from them."""

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo.target import Target, shortfall, targets
from residual_theory.observables import DIMENSIONS, dataset


@pytest.mark.parametrize(
    ("given", "value", "relative"),
    [
        (0.02, 0.02, False),
        (3, 3.0, False),
        (np.float32(0.5), 0.5, False),
        (np.int64(2), 2.0, False),
        ("1%", 0.01, True),
        (" .5 % ", 0.005, True),
        ("2.5e-1%", 0.0025, True),
        ("150%", 1.5, True),
        ("0.02", 0.02, False),
    ],
)
def test_targets_are_read(given: object, value: float, relative: bool) -> None:
    assert targets(given) == {"second_moment": Target(value, relative)}
    several = {"covariance": Target(value, relative), "tangent_kernel": Target(0.5, relative=True)}
    assert targets({"covariance": given, "tangent_kernel": "50%"}) == several


BAD: list[Any] = [0, -1, 0.0, math.nan, math.inf, -math.inf, 10**400, True, np.True_, None, 1j, [0.1], np.array([0.1])]
BAD += [
    "",
    "%",
    "0%",
    "-1%",
    "nan%",
    "inf",
    "inf%",
    "1%%",
    "1 percent",
    "1,5%",
    "1e999%",
    "1_0%",
    "0x1%",
    "e3",
    "1e-999",
]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_bad_targets_are_named(bad: object) -> None:
    for given in (bad, {"covariance": 0.1, "second_moment": bad}):
        with pytest.raises(InputError, match=r"^target_stderr = .*must be positive and finite"):
            targets(given)


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        ({"second_momentum": 0.1}, f"choose from {', '.join(DIMENSIONS)}"),
        ({"second_moment_stderr": 0.1}, "choose from"),
        ({3: 0.1}, "choose from"),
        ({}, "at least one"),
        ({"log_second_moment": "1%"}, "log_second_moment takes an absolute"),
    ],
)
def test_bad_mappings_are_named(given: object, mend: str) -> None:
    with pytest.raises(InputError, match=mend) as caught:
        targets(given)
    assert caught.value.argument == "target_stderr"


def estimate(name: str, values: Any, errors: Any) -> xr.Dataset:
    return dataset({name: np.array(values)}, stderr={name: np.array(errors)}, samples=10)


@pytest.mark.parametrize(
    ("name", "values", "errors", "given", "factor"),
    [
        ("second_moment", [1.0, 100.0], [0.1, 0.2], 0.1, 4.0),
        ("second_moment", [1.0, 100.0], [0.1, 0.2], "5%", 4.0),  # 10 % of the first element
        ("second_moment", [1.0, 100.0], [0.1, 0.2], 0.4, 0.25),
        ("gradient_second_moment", [1.0, 100.0], [0.1, 0.2], "5%", 4.0),
        ("tangent_kernel", 20.0, 1.0, "10%", 0.25),
        ("log_second_moment", [0.0, 3.0], [0.1, 0.3], 0.1, 9.0),
        ("covariance", [[2.0, 0.001], [0.001, -4.0]], [[0.1, 0.3], [0.3, 0.1]], "5%", 2.25),  # 5 % of 4
        ("increment_cosine", [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.1], [0.1, 0.0]], "10%", 1.0),
        ("input_covariance", [[[2.0, 0.0], [0.0, 2.0]]], [[[0.1, 0.2], [0.2, 0.1]]], "5%", 4.0),
    ],
)
def test_the_worst_element_counts(name: str, values: Any, errors: Any, given: object, factor: float) -> None:
    assert shortfall(targets({name: given}), estimate(name, values, errors)) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("given", [0.1, "10%"])
@pytest.mark.parametrize(
    ("values", "errors", "factor"),
    [
        ([1.0, math.nan], [0.2, math.nan], 4.0),
        ([math.nan, math.nan], [math.nan, math.nan], math.inf),
        ([1.0, 1.0], [math.nan, math.nan], math.inf),  # a single sample
        ([1.0, 1.0], [0.05, math.inf], math.inf),
        ([math.inf, 1.0], [math.inf, 0.05], math.inf),
        ([1.0, 0.0], [0.0, 0.0], 0.0),  # known exactly
    ],
)
def test_elements_without_a_standard_error_do_not_count(given: object, values: Any, errors: Any, factor: float) -> None:
    assert shortfall(targets(given), estimate("second_moment", values, errors)) == pytest.approx(factor, rel=1e-12)


def test_a_share_of_nothing_is_never_reached() -> None:
    drawn = estimate("second_moment", [1.0, 0.0], [0.1, 0.1])
    assert shortfall(targets("10%"), drawn) == math.inf
    assert shortfall(targets(0.1), drawn) == pytest.approx(1.0)


def test_the_worst_observable_counts() -> None:
    values = {"second_moment": np.array([1.0]), "tangent_kernel": np.array(5.0)}
    drawn = dataset(values, stderr={"second_moment": np.array([0.1]), "tangent_kernel": np.array(0.3)})
    assert shortfall(targets({"second_moment": 0.1, "tangent_kernel": 0.1}), drawn) == pytest.approx(9.0)
    assert shortfall(targets({"second_moment": 0.05, "tangent_kernel": 1}), drawn) == pytest.approx(4.0)
    unknown = drawn.assign(tangent_kernel_stderr=math.nan)
    assert shortfall(targets({"second_moment": 0.1, "tangent_kernel": 0.1}), unknown) == math.inf


def test_a_target_that_the_estimate_has_not_is_named() -> None:
    drawn = estimate("second_moment", [1.0], [0.1])
    for lacking, wanted in ((drawn, "covariance"), (drawn.drop_vars("second_moment_stderr"), "second_moment")):
        with pytest.raises(InputError, match=f"{wanted}.*is not estimated here; choose from") as caught:
            shortfall(targets({wanted: 0.1}), lacking)
        assert caught.value.argument == "target_stderr"


def test_as_many_more_samples_reach_the_target() -> None:
    """The error after shortfall times as many Gaussian samples is the target, within the first estimate's own error."""
    samples = np.random.default_rng(0).normal(3.0, 2.0, size=40_000)
    first = estimate("second_moment", [samples[:400].mean()], [samples[:400].std(ddof=1) / 20])
    needed = round(400 * shortfall(targets("1%"), first))
    reached = samples[:needed].std(ddof=1) / math.sqrt(needed) / 3.0
    assert 400 < needed < 40_000
    # of 400 samples the spread is off by 1/√800 of itself and the mean by (2/3)/√400
    assert reached == pytest.approx(0.01, rel=4 * math.hypot(1 / math.sqrt(800), 2 / 3 / math.sqrt(400)))
