"""Calibration: claims that are wrong with known probability, runs that resume and extend, and what is refused."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import xarray as xr
from scipy import stats

from residual_theory.calibration.calibrate import Calibration, CalibrationRequest, ClaimVerdicts, Rate, Rates
from residual_theory.claims.claim import seed_for
from residual_theory.claims.families import Budget
from residual_theory.claims.session import Selection, Session
from residual_theory.cli import main
from residual_theory.errors import InputError
from residual_theory.measurements.kinds import Simulation
from residual_theory.measurements.measurement import Context
from residual_theory.store import CorruptResultWarning

REFUTED = 0.3  # how often the synthetic claim below is refuted, though it is on record as confirmed
COIN = """
import numpy as np
from scipy import stats
from residual_theory import Stack
from residual_theory.claims import Claim, Evidence, Parameters, Simulation, Twin, equivalence

# A standard normal number, drawn from the claim's seed, and the law that it lies at 0 ± 1, which is refuted where twice
# its one-sided p-value is below the claim's level: half of its share of alpha = 1 %.
SHIFT = 1 + stats.norm.isf({level} / 2) - stats.norm.isf({refuted})


def plan(sizes, current):
    return [Simulation(stack=Stack(loops=1), width=2, samples=2, seed=current.seed)] if current.number == 0 else []


def check(sizes, observations, law):
    number = np.random.default_rng(observations[0].measurement.seed).standard_normal()
    found = equivalence("number", number + law, 1.0, predicted=0.0, margin=1.0, samples=2, degrees=np.inf)
    return Evidence((found,))


CLAIMS = (
    Claim(
        id="coin", statement="a number is 0", source="this project", level="simulation", recorded="confirmed",
        reason="none", margin="one", law=SHIFT, twin=Twin("it is far from 0", {twin}), plan=plan, check=check,
    ),
)
"""

Make = Callable[..., Path]


def coin_root(make_root: Make, refuted: float = REFUTED, twin: float = 99.0) -> Path:
    root = make_root()
    level = Budget("beyond", 0.2 / 2).level(0.01)  # beside "tiny", which is stated there as well
    (root / "simulations/coin.py").write_text(COIN.format(refuted=refuted, twin=twin, level=level))
    return root


def calibrated(root: Path, results: Path, runs: int, *ids: str) -> Rates:
    calibration = Calibration.prepare(CalibrationRequest("quick", results, ids, root))
    return Rates.of(calibration.measure(runs), calibration.selection.preset.run.alpha)


def command(root: Path, results: Path, *words: str) -> int:
    return main(["calibrate", "--root", str(root), "--results", str(results), "--jobs", "1", *words])


def test_a_known_rate_of_false_verdicts_is_found(make_root: Make, tmp_path: Path) -> None:
    rates = calibrated(coin_root(make_root), tmp_path, 150, "coin")
    (row,) = rates.claims
    found = stats.binomtest(row.contradicted.count, 150).proportion_ci(0.999, method="exact")
    assert found.low < REFUTED < found.high
    assert found.high < 2 * REFUTED
    assert row.wrong.count == row.contradicted.count
    assert row.contradicted.count + row.inconclusive.count == 150
    assert row.twin_refuted.count == 150
    assert [(of.claim, name) for of, name, _ in rates.worse] == [("coin", "wrong")]


def test_a_sound_claim_passes_and_a_powerless_one_does_not(
    make_root: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = coin_root(make_root, refuted=1e-9)
    assert command(root, tmp_path, "tiny", "coin", "--runs", "12") == 0
    printed = capsys.readouterr().out
    assert "no rate is significantly worse" in printed
    assert "at the level that it has in any run" in printed
    root = coin_root(make_root, twin=1.0)
    assert command(root, tmp_path, "coin", "--runs", "12") == 1
    assert "coin, twin refuted in 0 of 12 runs" in capsys.readouterr().out


def test_a_twin_that_is_confirmed_is_a_wrong_verdict(make_root: Make, tmp_path: Path) -> None:
    (row,) = calibrated(make_root(twin="EXACT"), tmp_path, 4, "tiny").claims
    assert (row.twin_confirmed.count, row.wrong.count, row.contradicted.count) == (4, 4, 0)


def test_the_record_and_not_the_word_confirmed_is_what_counts(make_root: Make, tmp_path: Path) -> None:
    root = make_root(law="EXACT + 2", twin="EXACT - 2", recorded="refuted")
    (row,) = calibrated(root, tmp_path, 3, "tiny").claims
    assert (row.contradicted.count, row.twin_refuted.count) == (0, 3)


def test_seeds_are_fresh_and_the_presets_own_is_not_among_them(make_root: Make, tmp_path: Path) -> None:
    calibration = Calibration.prepare(CalibrationRequest("quick", tmp_path, ("tiny",), make_root()))
    seeds = [record.seed for record in calibration.measure(5)]
    assert seeds == [seed_for(3, f"calibration {number}") for number in range(5)]
    assert len({3, *seeds}) == 6


def counted(monkeypatch: pytest.MonkeyPatch, fail_after: int | None = None) -> list[int]:
    """The seeds measured from now on; Ctrl-C after some of them."""
    seeds: list[int] = []
    original = Simulation.measure

    def measure(self: Simulation, context: Context) -> xr.Dataset:
        if len(seeds) == fail_after:
            raise KeyboardInterrupt
        seeds.append(self.seed)
        return original(self, context)

    monkeypatch.setattr(Simulation, "measure", measure)
    return seeds


def test_runs_resume_and_extend(make_root: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root()
    whole = calibrated(root, tmp_path / "whole", 6, "tiny")
    with monkeypatch.context() as patch:
        first = counted(patch, fail_after=2)
        with pytest.raises(KeyboardInterrupt):
            calibrated(root, tmp_path / "parts", 4, "tiny")
    with monkeypatch.context() as patch:
        then = counted(patch)
        calibrated(root, tmp_path / "parts", 4, "tiny")
        extended = calibrated(root, tmp_path / "parts", 6, "tiny")
        calibrated(root, tmp_path / "parts", 3, "tiny")
    assert len(set(first + then)) == len(first + then) == 6
    for name in ("contradicted", "wrong", "twin_refuted", "inconclusive", "samples_mean"):
        assert getattr(extended.overall, name) == getattr(whole.overall, name)
    kept = sorted(path.name for path in (tmp_path / "parts").rglob("*") if path.is_file())
    assert kept == [".gitignore", *(f"00000{number}.json" for number in range(6))]  # no measurements


@pytest.mark.parametrize("damage", ["", "{", "null", "[]", "other run", "other words"])
def test_a_damaged_run_is_made_again(damage: str, make_root: Make, tmp_path: Path) -> None:
    root = make_root()
    calibrated(root, tmp_path, 2, "tiny")
    one, other = sorted(tmp_path.rglob("00000?.json"))
    good = json.loads(other.read_text())
    changed = {"other run": one.read_text(), "other words": other.read_text().replace("confirmed", "certain")}
    other.write_text(changed.get(damage, damage))
    with pytest.warns(CorruptResultWarning, match="not intact"):
        calibrated(root, tmp_path, 2, "tiny")
    made = json.loads(other.read_text())
    for document in (good, made):
        for claim in document["claims"]:
            claim.pop("seconds")
    calibrated(root, tmp_path, 2, "tiny")  # without a warning
    assert made == good


def test_what_changes_the_words_changes_the_runs(make_root: Make, tmp_path: Path) -> None:
    def digest(*ids: str, **changes: Any) -> str:
        return Calibration.prepare(CalibrationRequest("quick", tmp_path, ids, make_root(**changes))).digest

    digests = [
        digest("tiny"),
        digest("tiny", law="EXACT + 0.01"),
        digest("tiny", preset="[run]\nseed = 4\n"),
        digest("tiny", preset="[run]\nseed = 3\nalpha = 0.02\n"),
        digest("tiny", preset="[run]\nseed = 3\n[tiny.simulation]\nsamples = 9\n"),
    ]
    assert len(set(digests)) == len(digests)
    assert digest() == digest("tiny") == digests[0]  # the whole of it is the one simulation claim


def test_a_run_says_what_verify_says_under_its_seed(make_root: Make, tmp_path: Path) -> None:
    root = make_root(law="EXACT + 0.4", rounds=3, preset="[run]\nseed = 3\n[tiny.simulation]\nsamples = 900\n")
    calibration = Calibration.prepare(CalibrationRequest("quick", tmp_path, ("tiny",), root))
    for record in calibration.measure(2):
        preset = f"[run]\nseed = {record.seed}\n[tiny.simulation]\nsamples = 900\n"
        root = make_root(law="EXACT + 0.4", rounds=3, preset=preset)
        outcomes = Session(Selection.prepare("quick", tmp_path / "verify", ids=["tiny"], root=root)).verify()
        said = [ClaimVerdicts.of(outcome).model_copy(update={"seconds": 0.0}) for outcome in outcomes]
        assert [item.model_copy(update={"seconds": 0.0}) for item in record.claims] == said


def test_several_processes_make_the_same_runs(make_root: Make, tmp_path: Path) -> None:
    root, words = make_root(), []
    for jobs in (1, 2):
        calibration = Calibration.prepare(CalibrationRequest("quick", tmp_path / str(jobs), ("tiny",), root))
        records = calibration.measure(3, jobs)
        words.append([[item.model_copy(update={"seconds": 0.0}) for item in record.claims] for record in records])
    assert words[0] == words[1]


def test_a_claims_file_of_ones_own(make_root: Make, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(COIN.format(refuted=1e-9, twin=99.0, level=0.005))
    assert [row.claim for row in calibrated(make_root(), tmp_path, 2, str(file)).claims] == ["coin"]
    file.write_text("CLAIMS = 3")
    with pytest.raises(InputError, match="CLAIMS"):
        calibrated(make_root(), tmp_path, 2, str(file))


def test_what_is_written(make_root: Make, tmp_path: Path) -> None:
    root, files = coin_root(make_root), [tmp_path / f"rates.{ending}" for ending in ("json", "csv", "md")]
    options = ["--json", str(files[0]), "--out", str(files[1]), "--out", str(files[2])]
    assert command(root, tmp_path, "--runs", "20", *options) == 1
    schema = (
        resources.files("residual_theory.calibration").joinpath("calibration.schema.json").read_text(encoding="utf-8")
    )
    document = json.loads(files[0].read_text())
    jsonschema.Draft202012Validator(json.loads(schema)).validate(document)
    assert [row["claim"] for row in document["claims"]] == ["coin", "tiny"]
    assert document["tests"] == 5
    assert document["overall"]["wrong"]["count"] >= document["claims"][0]["wrong"]["count"] > 0
    header, *rows = files[1].read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [["coin", "20"], ["tiny", "20"], ["any claim of a run", "20"]]
    assert len({row.count(",") for row in [header, *rows]}) == 1
    assert files[2].read_text().count("\n|") == 5
    assert "worse than nominal: coin" in files[2].read_text()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--runs", "0"], "runs = 0"),
        (["--runs", "-3"], "runs = -3"),
        (["--jobs", "-1"], "jobs = -1"),
        (["nothing"], "claim = 'nothing'"),
        (["relu-kernel"], "claim = 'relu-kernel': has no evidence by simulation"),
        (["--out", "rates.txt"], "ends in .csv or .md"),
        (["--out", "none/\0.csv"], "out"),
        (["--preset", "huge"], "preset = 'huge'"),
    ],
)
def test_misuse_is_one_line(
    words: list[str], named: str, make_root: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(make_root(), tmp_path / "results", *words) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1


def test_an_unwritable_folder_is_named(make_root: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert command(make_root(), tmp_path / "file", "tiny", "--runs", "1") == 2
    assert "results" in capsys.readouterr().err
    assert command(make_root(), tmp_path, "tiny", "--runs", "1", "--json", str(tmp_path)) == 2
    assert "json" in capsys.readouterr().err


def test_rates_at_nominal_are_not_called_worse() -> None:
    """The exact tail probabilities; and what has no nominal value is not tested."""
    assert Rate(2, 200, most=0.01).p_value == pytest.approx(0.595, abs=1e-3)
    assert Rate(9, 200, most=0.01).p_value == pytest.approx(float(stats.binom.sf(8, 200, 0.01)))
    assert Rate(195, 200, least=0.99).p_value == pytest.approx(float(stats.binom.cdf(195, 200, 0.99)))
    assert Rate(2, 200).p_value is None
