"""Predictions against simulations: the right law, wrong laws, too little data, and what cannot be compared."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from residual_theory.errors import InputError
from residual_theory.montecarlo.simulate import simulate
from residual_theory.observables import dataset
from residual_theory.stack import Stack
from residual_theory.statistics.comparison import Verdict, compare
from residual_theory.theory.forward import predict

STACK = Stack(loops=4, residual_scale=0.4, weight_variance=1.3, initial_variance=0.7)
OBSERVABLES = ["second_moment", "covariance", "increment_cosine"]


@pytest.fixture(scope="module")
def drawn() -> xr.Dataset:
    return simulate(STACK, width=256, samples=300, seed=1)


@pytest.mark.parametrize("observable", OBSERVABLES)
def test_the_right_law_is_confirmed(drawn: xr.Dataset, observable: str) -> None:
    verdict = compare(predict(STACK), drawn, observable=observable)
    assert verdict.verdict == "confirmed"
    assert verdict.observable == observable
    assert verdict.samples == 300


@pytest.mark.parametrize(
    ("observable", "wrong"),
    [
        *((observable, {"tied": False}) for observable in OBSERVABLES),
        *itertools.product(  # cosines hardly depend on scale and variance
            ("second_moment", "covariance"),
            ({"residual_scale": 0.5}, {"activation": "linear"}, {"weight_variance": 1.8}),
        ),
    ],
)
def test_a_wrong_law_is_refuted(drawn: xr.Dataset, observable: str, wrong: dict[str, Any]) -> None:
    law = predict(STACK.model_copy(update=wrong))
    assert compare(law, drawn, observable=observable).verdict == "refuted"


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_a_few_samples_are_inconclusive_of_either_law(samples: int, tied: bool) -> None:
    few = simulate(STACK, width=24, samples=samples, seed=2)
    verdict = compare(predict(STACK.model_copy(update={"tied": tied})), few)
    assert verdict.verdict == "inconclusive"
    assert all(math.isnan(end) for end in verdict.interval) == (samples == 1)


def test_a_margin_too_narrow_for_the_width_cannot_be_confirmed(drawn: xr.Dataset) -> None:
    assert compare(predict(STACK), drawn, margin=1e-4).verdict != "confirmed"


def measured(values: Any, stderr: Any, samples: int = 20, observable: str = "second_moment") -> xr.Dataset:
    return dataset({observable: np.array(values)}, stderr={observable: np.array(stderr)}, samples=samples)


def law(values: Any, observable: str = "second_moment") -> xr.Dataset:
    return dataset({observable: np.array(values)})


def test_the_numbers_are_those_of_the_decisive_place() -> None:
    verdict = compare(law([1.0, 2.0, 4.0]), measured([1.0, 2.02, 5.0], [0.01, 0.01, 0.02]), margin=0.1, alpha=0.02)
    assert (verdict.verdict, verdict.where, verdict.value, verdict.predicted) == ("refuted", "visit 2", 5.0, 4.0)
    assert verdict.margin == pytest.approx(0.4)
    assert verdict.interval == pytest.approx(stats.t.interval(1 - 0.02 / 3, 19, 5.0, 0.02), rel=1e-12)


def test_one_wrong_place_among_right_ones_refutes_and_one_vague_place_leaves_it_open() -> None:
    right, vague = measured([1.0, 2.0], [0.001, 0.001]), measured([1.0, 2.0], [0.001, 0.5])
    wrong = measured([1.5, 2.0], [0.001, 0.5])
    found = [compare(law([1.0, 2.0]), observed).verdict for observed in (right, vague, wrong)]
    assert found == ["confirmed", "inconclusive", "refuted"]


def test_margins_are_relative_for_moments_and_absolute_for_cosines() -> None:
    assert compare(law([100.0]), measured([104.0], [0.01])).verdict == "confirmed"
    assert compare(law([0.01]), measured([0.011], [1e-6])).verdict == "refuted"
    small, observed = np.array([[1.0, 0.01], [0.01, 1.0]]), np.array([[1.0, 0.05], [0.05, 1.0]])
    cosines = measured(observed, np.full((2, 2), 1e-3), observable="increment_cosine")
    assert compare(law(small, "increment_cosine"), cosines, observable="increment_cosine").verdict == "confirmed"
    covariances = measured(observed, np.full((2, 2), 1e-3), observable="covariance")  # 0.04 off, of sizes 1 and 1
    assert compare(law(small, "covariance"), covariances, observable="covariance").verdict == "confirmed"
    logarithms = measured([np.log(4.0)], [1e-3], observable="log_second_moment")
    assert compare(law([4.0]), logarithms, observable="log_second_moment").verdict == "confirmed"
    off = measured(observed + 0.05, np.full((2, 2), 1e-3), observable="increment_cosine")
    assert compare(law(small, "increment_cosine"), off, observable="increment_cosine").verdict == "refuted"


def test_symmetric_halves_and_unit_cosines_are_counted_once() -> None:
    values, stderr = np.eye(3) + 0.5, np.full((3, 3), 0.001)
    observed = values.copy()
    observed[0, 2] = 9.0  # above the diagonal: the same number as below it, and not looked at
    covariance = compare(
        law(values, "covariance"), measured(observed, stderr, observable="covariance"), observable="covariance"
    )
    assert covariance.verdict == "confirmed"
    reach = covariance.interval[1] - covariance.value
    assert reach == pytest.approx(0.001 * stats.t.ppf(1 - 0.01 / 6 / 2, 19), rel=1e-9)


def test_places_without_a_prediction_are_left_out_and_infinite_measurements_are_inconclusive() -> None:
    assert compare(law([1.0, np.nan]), measured([1.0, 7.0], [0.001, 0.001])).verdict == "confirmed"
    assert compare(law([1.0, np.inf]), measured([1.0, 7.0], [0.001, 0.001])).verdict == "inconclusive"
    assert compare(law([1.0, 2.0]), measured([1.0, np.inf], [0.001, np.nan])).verdict == "inconclusive"
    with pytest.raises(InputError, match="has no value to compare with"):
        compare(law([np.nan]), measured([1.0], [0.1]))
    with pytest.raises(InputError, match="has no value to compare with"):
        compare(predict(Stack(loops=1)), simulate(Stack(loops=1), width=8, samples=3), observable="increment_cosine")


@pytest.mark.parametrize("value", [0.9, 1.1])
def test_a_value_at_the_edge_is_rarely_decided(value: float) -> None:
    rng, alpha, repeats = np.random.default_rng(3), 0.1, 800
    words = []
    for _ in range(repeats):
        sample = rng.normal([1.0, value, 1.0], 0.02, (6, 3))
        observed = measured(sample.mean(axis=0), sample.std(axis=0, ddof=1) / math.sqrt(6), samples=6)
        words.append(compare(law([1.0, 1.0, 1.0]), observed, margin=0.1, alpha=alpha).verdict)
    decided = 1 - words.count("inconclusive") / repeats
    assert words.count("confirmed") > 0
    assert decided <= alpha + 4 * math.sqrt(alpha * (1 - alpha) / repeats)


def test_a_verdict_prints_as_one_line(drawn: xr.Dataset) -> None:
    for verdict in (compare(predict(STACK), drawn), compare(predict(STACK), simulate(STACK, width=8, samples=1))):
        assert len(str(verdict).splitlines()) == 1
        assert str(verdict).startswith(f"{verdict.verdict}: second_moment at visit ")
    shown = Verdict("refuted", "covariance", "visit 2, visit_other 1", 1.23456, 2.0, (1.2, 1.3), 0.1, 40)
    assert str(shown) == (
        "refuted: covariance at visit 2, visit_other 1 is 1.235 [1.2, 1.3], predicted 2 ± 0.1 (40 samples)"
    )


@pytest.mark.parametrize("value", [1.0, 9.0])
def test_a_verdict_has_no_truth_value(value: float) -> None:
    with pytest.raises(InputError, match=r"a Verdict has no truth value; write \.verdict == .confirmed."):
        bool(compare(law([1.0]), measured([value], [0.001])))


@pytest.mark.parametrize(
    ("changes", "argument", "mend"),
    [
        ({"observable": "tangent"}, "predicted", "lacks tangent; choose another observable"),
        ({"observed": predict(STACK)}, "observed", "lacks second_moment_stderr"),
        ({"observed": measured([1.0], [0.1])}, "observed", "other sizes than the prediction's {'visit': 5}"),
        ({"margin": 0.0}, "margin", "finite number above 0"),
        ({"margin": -0.1}, "margin", "finite number above 0"),
        ({"margin": math.nan}, "margin", "finite number above 0"),
        ({"margin": math.inf}, "margin", "finite number above 0"),
        ({"alpha": 0.0}, "alpha", "between 0 and 1"),
        ({"alpha": 1.0}, "alpha", "between 0 and 1"),
        ({"alpha": math.nan}, "alpha", "between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_named(drawn: xr.Dataset, changes: dict[str, Any], argument: str, mend: str) -> None:
    arguments: dict[str, Any] = {"predicted": predict(STACK), "observed": drawn} | changes
    with pytest.raises(InputError) as caught:
        compare(**arguments)
    assert caught.value.argument == argument
    assert mend in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
