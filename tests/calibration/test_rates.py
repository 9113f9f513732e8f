"""Coverage of exponents' intervals: sound as they are, and found unsound where an error is left out."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from residual_theory.calibration import rates
from residual_theory.calibration.rates import GRIDS, SIZES, UNIT, WORLDS, Curve, measure, truth
from residual_theory.cli import main
from residual_theory.statistics import optima
from residual_theory.sweeps import movement

DOCS = Path(__file__).parents[2] / "docs"
WORST = ["ε = 1", "ε = 1/√L, rate η"]  # where fits differ most
GRID = ["half octaves, 8 seeds"]
Patch = pytest.MonkeyPatch


def test_intervals_hold_the_truth_where_fits_differ_most_and_those_of_parabolas_do_not() -> None:
    found = measure(8, worlds=WORST)
    assert found.off() == []
    assert {(point.world, point.grid) for point in found.off("parabola")} == {(w, g) for w in WORST for g in GRIDS}
    assert all(point.reach > 1.5 * point.reach_alone for point in found.points)


def test_without_the_systematic_error_they_fail_the_more_the_better_the_data(monkeypatch: Patch) -> None:
    for name in ("OF_RUN", "SHIFT"):
        monkeypatch.setattr(rates, name, getattr(rates, name) / 8)
    found = measure(20, worlds=WORST, grids=GRID)
    assert found.off() == []
    assert len(found.off("alone")) == len(WORST)


def test_other_fits_left_out_are_found_out(monkeypatch: Patch) -> None:
    """What is left when only the parabola within ±2 octaves counts: an interval without systematic error."""
    only = {rates.PARABOLA: optima.FITS[rates.PARABOLA]}
    monkeypatch.setattr(optima, "FITS", only)
    monkeypatch.setattr(movement, "FITS", only)
    monkeypatch.setattr(rates, "movement", lambda *given, **_: movement.movement(*given, fit=rates.PARABOLA))
    assert len(measure(10, worlds=WORST, grids=GRID).off()) == len(WORST)


@pytest.mark.parametrize("factor", [1 / 8, 0.0])
def test_a_jackknife_that_is_too_small_is_found_out(factor: float, monkeypatch: Patch) -> None:
    """On cubic curves, where no fit but the parabolas is off: 1/n for (n − 1)/n, and none at all."""
    original = optima.jackknife
    monkeypatch.setattr(movement, "jackknife", lambda without: math.sqrt(factor) * original(without))
    found = measure(30, worlds=["ε = 1/N"], grids=GRID)
    assert found.off("alone")


@pytest.mark.parametrize(("table", "size"), [("rate-transfer.csv", "loops"), ("layer-transfer.csv", "unique_layers")])
def test_the_worlds_are_like_the_measured_ones(table: str, size: str) -> None:
    rows = list(csv.DictReader((DOCS / table).read_text().splitlines()))
    off = []
    for row in rows:
        title = row["panel"]
        panels = [world for world in WORLDS if title == world] or (
            ["ε = 1/N"] if size == "loops" else ["ε = 1/L, rate η"]
        )
        curve = WORLDS[panels[0]][SIZES.index(int(row[size]))]
        off.append(float(curve(np.array(math.log(float(row["learning_rate"]) / UNIT)))) - float(row["validation_loss"]))
    assert float(np.sqrt(np.mean(np.square(off)))) < 0.01
    assert max(map(abs, off)) < 0.06


def test_the_truth_is_where_curves_are_least() -> None:
    for curves in WORLDS.values():
        for curve in curves:
            near = curve(np.array([curve.best - 1e-3, curve.best, curve.best + 1e-3]))
            assert near.argmin() == 1
    moved = [Curve(2.0, 0.1, 0.8, 0.4, 1.3, 0.6)] * 4
    assert truth(moved) == pytest.approx(0.0, abs=1e-12)
    shifted = [
        one._replace(middle=1.3 - 0.5 * math.log(n), height=0.1 * n**-0.4) for one, n in zip(moved, SIZES, strict=True)
    ]
    assert truth(shifted) == pytest.approx(-0.5)  # x → x + 0.5 log n


def test_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "coverage.csv"
    assert main(["rate-coverage", "--runs", "2", "--jobs", "1", "--markdown", "--out", str(file)]) == 0
    assert "| ε = 1/N | octaves, 10 seeds | 0.046 |" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 1 + len(WORLDS) * len(GRIDS)
    for words, named in ((["--runs", "1"], "runs"), (["--jobs", "-1"], "jobs"), (["--out", str(tmp_path)], "out")):
        assert main(["rate-coverage", *words]) == 2
        assert f"{named} = " in capsys.readouterr().err
