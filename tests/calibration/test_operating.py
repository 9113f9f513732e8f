"""Operating curves: sound machinery is found sound, and every way to spoil it that is known is found out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from residual_theory.calibration import synthetic
from residual_theory.calibration.operating import SITUATIONS, Curve, Situation, measure
from residual_theory.calibration.synthetic import CORRELATION, Drawn, at_stacks, judge
from residual_theory.claims import families
from residual_theory.cli import main
from residual_theory.errors import InputError
from residual_theory.montecarlo import extrapolation
from residual_theory.montecarlo.estimate import ControlledMoments, Moments
from residual_theory.statistics import exponents, findings
from residual_theory.statistics.findings import Evidence
from residual_theory.statistics.sequential import Looks

ALPHA = 0.3  # at which some hundred runs say much
Patch = pytest.MonkeyPatch
NAMES = [situation.name for situation in SITUATIONS]


def curve(name: str, inside: float, runs: int, alpha: float = ALPHA) -> Curve:
    """Runs of one situation at one distance."""
    (found,) = [situation for situation in SITUATIONS if situation.name == name]
    return measure(runs if inside == 0 else 5 * runs, alpha, situations=[replace(found, inside=(inside,))])


def off(found: Curve) -> set[str]:
    """What is found off."""
    return {name for _, name, _ in found.off}


def test_the_machinery_is_sound() -> None:
    found = measure(30, ALPHA)
    assert found.off == []
    assert {point.situation for point in found.points} == set(NAMES)
    assert len(found.tests) == 3 * (5 * (len(NAMES) - 1) + 1)
    assert {(rate.runs, point.inside == 0) for point, _, rate in found.tests} == {(30, True), (6, False)}
    assert all(rate.p_value is not None for _, _, rate in found.tests)


def scaled_property(owner: type, factor: float, patch: Patch) -> None:
    original: Any = vars(owner)["stderr"]
    patch.setattr(owner, "stderr", property(lambda self: factor * original.fget(self)))


def scaled_test(factor: float, patch: Patch) -> None:
    original = findings._upper_p
    patch.setattr(findings, "_upper_p", lambda excess, stderr, degrees: original(excess, factor * stderr, degrees))


def scaled_slope(factor: float, patch: Patch) -> None:
    original = exponents._slope

    def slope(*arguments: Any, **options: Any) -> exponents.Slope:
        found = original(*arguments, **options)
        return found._replace(stderr=factor * found.stderr)

    patch.setattr(exponents, "_slope", slope)


def scaled_limit(factor: float, patch: Patch) -> None:
    original = extrapolation._first_coefficient

    def coefficient(*arguments: Any) -> tuple[Any, Any]:
        value, error = original(*arguments)
        return value, factor * error

    patch.setattr(extrapolation, "_first_coefficient", coefficient)


SOURCES: dict[str, Callable[[float, Patch], None]] = {  # where each gets its standard errors from
    "one look": lambda factor, patch: scaled_property(Moments, factor, patch),
    "three findings": scaled_test,
    "five claims": scaled_test,
    "control variate": lambda factor, patch: scaled_property(ControlledMoments, factor, patch),
    "infinite width": scaled_limit,
    "exponent, largest sizes": scaled_slope,
    "exponent, all sizes": scaled_slope,
    "exponent, paired seeds": scaled_test,
}


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5])
@pytest.mark.parametrize("name", SOURCES)
def test_wrong_standard_errors_are_found_out(name: str, factor: float, monkeypatch: Patch) -> None:
    SOURCES[name](factor, monkeypatch)
    assert "refuted" in off(curve(name, -2.0, 250))


@pytest.mark.parametrize(("factor", "inside"), [(1.5, 2.0), (1 / 1.5, 0.0)])
def test_wrong_standard_errors_over_looks_are_found_out(factor: float, inside: float, monkeypatch: Patch) -> None:
    scaled_test(factor, monkeypatch)
    assert "confirmed" in off(curve("three looks", inside, 250))


def test_looks_that_are_not_paid_for_are_found_out(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Looks, "_over_looks", lambda self, p_values: min(p_values, default=1.0))
    assert "confirmed" in off(curve("three looks", 0.0, 300))


def test_a_budget_that_is_not_divided_is_found_out(monkeypatch: Patch) -> None:
    monkeypatch.setattr(families.Budget, "level", lambda self, alpha: alpha / 2)
    assert {"confirmed", "wrong"} <= off(curve("five claims", 0.0, 40))


def test_normal_quantiles_for_students_are_found_out(monkeypatch: Patch) -> None:
    monkeypatch.setattr(findings, "_upper_p", lambda excess, stderr, _: float(stats.norm.sf(excess / stderr)))
    assert "refuted" in off(curve("exponent, paired seeds", 0.0, 500, alpha=0.03))


def test_one_finding_in_place_of_all_is_found_out(monkeypatch: Patch) -> None:
    least = property(lambda self: min(finding.confirm_p for finding in self.findings))
    monkeypatch.setattr(Evidence, "confirm_p", least)
    assert "confirmed" in off(curve("three findings", -2.0, 20))


def test_findings_that_refute_without_bonferroni_are_found_out(monkeypatch: Patch) -> None:
    least = property(lambda self: min(finding.refute_p for finding in self.findings))
    monkeypatch.setattr(Evidence, "refute_p", least)
    assert "refuted" in off(curve("three findings", -2.0, 250))


@pytest.mark.parametrize(("samples", "least", "most"), [(24, 1.05, 1.3), (96, 0.85, 1.15)])
def test_control_variates_of_few_samples_are_a_little_too_sure(samples: int, least: float, most: float) -> None:
    """Their coefficient is estimated, too: at a level of 1/300, 24 samples err 1.16 times as often as they should."""
    random, level, runs = np.random.default_rng(4), 0.01 / 3, 2500
    passed = []
    for _ in range(runs):
        control = random.standard_normal(samples)
        moments = ControlledMoments(0.0)
        moments.add(CORRELATION * control[:, None] + 0.3 * random.standard_normal((samples, 60)), control)
        passed.append(stats.t.sf(np.abs(moments.mean / moments.stderr), samples - 1) < level)
    assert least < np.mean(passed) / 2 / level < most


def test_claims_of_a_run_draw_independently_and_runs_too() -> None:
    kind = at_stacks("mean", 1)
    claims = [(kind.claim(0.0, number), kind.parameters) for number in range(2)]
    seen: list[float] = []

    class Watched(Drawn):
        def load(self, specification: Any) -> Any:
            found = super().load(specification)
            seen.append(float(found.second_moment[-1]))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "Drawn", Watched)
        for seed in (1, 2, 1):
            assert judge(claims, 0.05, seed) in (["inconclusive"] * 2, ["confirmed", "inconclusive"])
    assert len(seen) == 6
    assert len(set(seen)) == 4
    assert seen[:2] == seen[4:]


def test_several_processes_find_the_same() -> None:
    situations: Sequence[Situation] = SITUATIONS[:1]
    assert measure(20, ALPHA, situations=situations) == measure(20, ALPHA, situations=situations, jobs=2)


def test_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"curve.{ending}" for ending in ("csv", "md", "png")]
    given = [word for file in files for word in ("--out", str(file))]
    assert main(["operating-curve", "--runs", "5", "--jobs", "1", *given]) == 0
    assert "no rate is significantly off" in capsys.readouterr().out
    header, *rows = files[0].read_text().splitlines()
    assert header.startswith("situation,inside,event,runs,count")
    assert len(rows) == 3 * (5 * (len(NAMES) - 1) + 1)
    assert files[1].read_text().count("\n| ") == len(NAMES) + 1
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_spoilt_machinery_ends_in_status_1(monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Evidence, "confirm_p", property(lambda self: 0.0))
    assert main(["operating-curve", "--runs", "5", "--jobs", "1"]) == 1
    assert "not what is due: one look, confirmed +0 standard errors inside, 5 of 5 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--runs", "4"], "runs = 4"),
        (["--alpha", "1"], "alpha = 1"),
        (["--jobs", "-1"], "jobs = -1"),
        (["--out", "curve.txt"], "ends in .csv, .md, .png"),
        (["--out", "none/\0.csv"], "out"),
    ],
)
def test_misuse_is_one_line(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["operating-curve", *words]) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1


def test_runs_have_to_be_enough_and_alpha_a_probability() -> None:
    with pytest.raises(InputError, match="runs"):
        measure(1, 0.01)
    with pytest.raises(InputError, match="alpha"):
        measure(10, 0.0)
