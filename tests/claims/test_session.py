"""Runs: from claims in a folder to verdicts, resumed, recomputed when corrupt, and ending in the right status."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from residual_theory.claims.outcome import document, exit_status
from residual_theory.claims.registry import claims_in
from residual_theory.claims.session import Selection, Session
from residual_theory.cli import main
from residual_theory.console import show, verdict_table
from residual_theory.errors import InputError, MissingResultError
from residual_theory.loading import find_root
from residual_theory.measurements import measurement
from residual_theory.measurements.kinds import Prediction, Simulation
from residual_theory.measurements.measurement import Context, Measurement
from residual_theory.report.drawing import draw, figures_in
from residual_theory.report.results import Results
from residual_theory.statistics.sequential import doubling, shares
from residual_theory.store import CorruptResultWarning

ROOT = Path(__file__).parents[2]

Make = Callable[..., Path]
LEVEL = 0.01 * 0.2 / 2  # of a law: the one claim stated beyond the paper, at alpha = 1 %


def prepared(root: Path, results: Path, ids: Sequence[str] = ("tiny",), jobs: int = 1) -> Session:
    return Session(Selection.prepare("quick", results, ids=ids, root=root), jobs=jobs)


@pytest.mark.parametrize(
    ("law", "twin", "recorded", "verdict", "twin_verdict", "status"),
    [
        ("EXACT", "EXACT + 2", "confirmed", "confirmed", "refuted", 0),
        ("EXACT + 2", "EXACT - 2", "refuted", "refuted", "refuted", 0),
        ("EXACT + 2", "EXACT - 2", "confirmed", "refuted", "refuted", 1),
        ("EXACT", "EXACT + 0.01", "confirmed", "confirmed", "confirmed", 1),
        ("EXACT + 0.5", "EXACT + 2", "confirmed", "inconclusive", "refuted", 3),
        ("EXACT", "EXACT + 0.5", "confirmed", "confirmed", "inconclusive", 3),
    ],
)
def test_verdicts_and_status(
    make_root: Make,
    tmp_path: Path,
    law: str,
    twin: str,
    recorded: str,
    verdict: str,
    twin_verdict: str,
    status: int,
) -> None:
    run = prepared(make_root(law, twin, recorded), tmp_path / "results")
    outcomes = run.verify()
    (row,) = json.loads(document("quick", outcomes))["claims"]
    assert (row["verdict"], row["twin_verdict"], exit_status(outcomes)) == (verdict, twin_verdict, status)
    assert row["interval"][0] < row["value"] < row["interval"][1]
    fields = {"id", "statement", "source", "level", "verdict", "recorded", "twin_verdict", "value", "predicted"}
    assert fields | {"interval", "margin", "samples", "seconds"} <= row.keys()


def test_more_samples_are_drawn_until_decided(make_root: Make, tmp_path: Path) -> None:
    root = make_root("EXACT", rounds=6, preset="[tiny.simulation]\nsamples = 60\n")
    (outcome,) = prepared(root, tmp_path / "results").verify()
    assert outcome.verdict == "confirmed"
    drawn = [measurement.drawn for measurement in outcome.measurements.values() if measurement.drawn]
    assert drawn == [60 * 2 ** max(0, number - 1) for number in range(len(drawn))]
    assert 1 < len(drawn) <= 6


def test_a_twin_that_stands_makes_the_claim_powerless(make_root: Make, tmp_path: Path) -> None:
    words = []
    for twin in ("EXACT + 2", "EXACT + 0.01", "EXACT + 0.5", "float('nan')"):
        outcomes = prepared(make_root("EXACT", twin), tmp_path / "results").verify()
        (row,) = json.loads(document("quick", outcomes))["claims"]
        assert row["verdict"] == "confirmed"  # the claim's word stays its own
        words.append((row["twin_verdict"], row["power"], exit_status(outcomes)))
    assert words == [
        ("refuted", "powered", 0),
        ("confirmed", "powerless", 1),
        ("inconclusive", "powerless", 3),
        ("inconclusive", "powerless", 3),
    ]


def test_the_table_says_powerless(make_root: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for twin in ("EXACT + 2", "EXACT + 0.01"):
        outcomes = prepared(make_root("EXACT", twin), tmp_path / "results").verify()
        show(verdict_table([outcome.row() for outcome in outcomes]))
        assert ("powerless" in capsys.readouterr().out) == (twin != "EXACT + 2")


def test_a_verdict_stays_with_the_evidence_it_was_reached_on(make_root: Make, tmp_path: Path) -> None:
    """The claim is plain at the second look and its twin, at the very edge of the margin, at none."""
    root = make_root("EXACT", "EXACT + 0.5", rounds=3, preset="[tiny.simulation]\nsamples = 500\n")
    (outcome,) = prepared(root, tmp_path / "results").verify()
    assert (outcome.verdict, outcome.twin_verdict) == ("confirmed", "inconclusive")
    assert [evidence.decisive.samples for evidence in (outcome.evidence, outcome.twin_evidence)] == [1000, 2000]
    assert outcome.confidence == 1 - LEVEL * shares(doubling(3), 0.01)[1]  # that look's share


def test_looks_end_with_the_rounds_and_a_claim_of_one_round_pays_for_one(make_root: Make, tmp_path: Path) -> None:
    outcomes = prepared(make_root("EXACT + 0.5", rounds=2), tmp_path / "results", ["tiny", "relu-kernel"]).verify()
    confidences = {outcome.claim.key: outcome.confidence for outcome in outcomes}
    assert confidences == {
        "relu-kernel/symbolic": 1 - 0.01 / 2,
        "tiny/simulation": 1 - LEVEL * shares(doubling(2), 0.01)[1],
    }


def test_a_plan_without_later_rounds_still_gets_its_last_look(make_root: Make, tmp_path: Path) -> None:
    """What the first look may spend is too little for its samples; what the last may is enough."""
    root = make_root("EXACT + 0.2", "EXACT + 4", rounds=3, preset="[tiny.simulation]\nsamples = 250\nmargin = 1.0\n")
    path = root / "simulations/tiny.py"
    path.write_text(
        path.read_text().replace("    start, count =", "    if current.number: return []\n    start, count =")
    )
    (outcome,) = prepared(root, tmp_path / "results").verify()
    assert (outcome.verdict, outcome.evidence.decisive.samples) == ("confirmed", 250)
    assert outcome.confidence < 1 - LEVEL * shares(doubling(3), 0.01)[0]


def test_derivation_and_its_false_twin_are_both_run(make_root: Make, tmp_path: Path) -> None:
    run = prepared(make_root(), tmp_path / "results", ["relu-kernel"])
    (outcome,) = run.verify()
    assert (outcome.verdict, outcome.twin_verdict) == ("confirmed", "refuted")
    failure = outcome.twin_evidence.decisive.label
    assert "relu-kernel" in failure
    assert "step" in failure


def test_a_falsified_derivation_is_refuted(make_root: Make, tmp_path: Path) -> None:
    root = make_root()
    path = root / "derivations/relu_kernel.py"
    path.write_text(path.read_text() + "\n\nDERIVATION = derive(2 * BRACKET)\n")
    outcomes = prepared(root, tmp_path / "results", ["relu-kernel"]).verify()
    assert outcomes[0].verdict == "refuted"
    assert exit_status(outcomes) == 1


def test_second_run_measures_nothing(make_root: Make, tmp_path: Path) -> None:
    root, results = make_root(), tmp_path / "results"
    first = document("quick", prepared(root, results).verify())
    times = {path: path.stat().st_mtime_ns for path in (results / "quick/data").iterdir()}
    assert document("quick", prepared(root, results).verify()) == first
    assert {path: path.stat().st_mtime_ns for path in (results / "quick/data").iterdir()} == times


def test_interrupted_run_resumes(make_root: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, results = make_root(), tmp_path / "results"
    measured: list[str] = []
    originals = {kind: kind.measure for kind in (Simulation, Prediction)}

    def interrupted(self: Measurement, context: Context) -> xr.Dataset:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(self.kind)
        return originals[type(self)](self, context)  # type: ignore[index, arg-type]

    run = prepared(root, results)
    for kind in originals:
        monkeypatch.setattr(kind, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.verify()
    assert len(list((results / "quick/data").rglob("*.nc"))) == 1
    assert not list((results / "quick").rglob("*.part"))
    again: list[str] = []

    def counted(self: Measurement, context: Context) -> xr.Dataset:
        again.append(self.kind)
        return originals[type(self)](self, context)  # type: ignore[index, arg-type]

    for kind in originals:
        monkeypatch.setattr(kind, "measure", counted)
    assert exit_status(prepared(root, results).verify()) == 0
    assert sorted(measured + again) == ["prediction", "simulation"]


def test_corrupt_result_is_recomputed_with_a_warning(make_root: Make, tmp_path: Path) -> None:
    root, results = make_root(), tmp_path / "results"
    first = document("quick", prepared(root, results).verify())
    damaged = next((results / "quick/data").rglob("simulation-*.nc"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.warns(CorruptResultWarning, match="not intact"):
        again = prepared(root, results).verify()
    rows = [json.loads(text)["claims"][0] for text in (first, document("quick", again))]
    assert {**rows[0], "seconds": 0} == {**rows[1], "seconds": 0}


def test_number_of_jobs_changes_no_result(make_root: Make, tmp_path: Path) -> None:
    values = []
    for jobs in (1, 2):
        (outcome,) = prepared(make_root(), tmp_path / str(jobs), jobs=jobs).verify()
        values.append(outcome.evidence.decisive.value)
    assert values[0] == values[1]


def test_verifying_one_claim_keeps_what_others_measured(make_root: Make, tmp_path: Path) -> None:
    root, results = make_root(), tmp_path / "results"
    prepared(root, results, ["tiny"]).verify()
    prepared(root, results, ["relu-kernel"]).verify()
    assert Results(results / "quick").of("tiny", "simulation", Simulation)


def test_reproduce_draws_and_reports_without_network(
    make_root: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, results = make_root(), tmp_path / "results"
    arguments = ["reproduce", "--root", str(root), "--results", str(results), "--jobs", "1"]
    assert main(arguments) == 0
    folder = results / "quick"
    for ending in ("pdf", "png", "csv", "json"):
        assert (folder / f"figures/tiny.{ending}").stat().st_size > 0
    page = (folder / "report.html").read_text()
    assert page.index("Verdicts") < page.index("Figures") < page.index("Derivations") < page.index("Provenance")
    assert "Nothing &lt;b&gt;much&lt;/b&gt;." in page
    assert page.count("<math") > 10
    assert "a wrong moment" in page
    assert 'src="http' not in page
    assert "<script" not in page
    assert "<link" not in page
    drawn = {path: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()} == drawn
    assert "kept" in capsys.readouterr().out


def test_new_code_makes_old_results_obsolete(make_root: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, results = make_root(), tmp_path / "results"
    prepared(root, results).verify()
    before = set((results / "quick/data").rglob("*.nc"))
    monkeypatch.setattr(measurement, "_code", lambda _: "other code")
    prepared(root, results).verify()
    assert len(set((results / "quick/data").rglob("*.nc")) - before) == len(before)


def test_what_is_planned_twice_counts_once(make_root: Make, tmp_path: Path) -> None:
    root = make_root()
    (once,) = prepared(root, tmp_path / "once").verify()
    path = root / "simulations/tiny.py"
    path.write_text(path.read_text().replace("return [Simulation(", "return 2 * [Simulation("))
    (twice,) = prepared(root, tmp_path / "twice").verify()
    assert twice.evidence == once.evidence


@pytest.mark.parametrize("content", ["{", "[]", "null", "", '{"tiny/simulation": 3}'])
def test_a_corrupt_listing_is_made_anew(content: str, make_root: Make, tmp_path: Path) -> None:
    root, results = make_root(), tmp_path / "results"
    prepared(root, results).verify()
    listing = results / "quick/measurements.json"
    good = listing.read_text()
    listing.write_text(content)
    with pytest.warns(CorruptResultWarning, match="not intact"):
        prepared(root, results).verify()
    assert listing.read_text() == good


def test_a_damaged_figure_is_drawn_again(make_root: Make, tmp_path: Path) -> None:
    root, results = make_root(), tmp_path / "results"
    prepared(root, results).verify()
    (figure,) = figures_in(root)
    drawn, _ = draw(figure, Results(results / "quick"))
    good = drawn.path("png").read_bytes()
    drawn.path("png").write_bytes(b"")
    assert draw(figure, Results(results / "quick"))[1]
    assert drawn.path("png").read_bytes() == good


@pytest.mark.parametrize(
    "source", ["syntax error", "1 / 0", "raise SystemExit(7)", "x = 1", "CLAIMS = 3", "CLAIMS = (3,)"]
)
def test_a_broken_claims_file_is_named(source: str, make_root: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_root()
    (root / "simulations/broken.py").write_text(source)
    assert main(["list", "--root", str(root)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "CLAIMS" in printed or "broken.py" in printed


@pytest.mark.parametrize("preset", ["run = 3", "tiny = 3", "[tiny]\nsimulation = 3", "[looped]\nx = 1"])
def test_presets_hold_tables_only(preset: str, make_root: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preset"):
        prepared(make_root(preset=preset), tmp_path / "results")


def test_figure_without_its_results_says_what_to_run(make_root: Make, tmp_path: Path) -> None:
    (figure,) = figures_in(make_root())
    with pytest.raises(MissingResultError, match="residual-theory verify tiny"):
        figure.draw(Results(tmp_path))


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("[tiny.simulation]\nsample = 3\n", "sample"),
        ("[tiny.simulation]\nsamples = 'many'\n", "samples"),
        ("[tiny.symbolic]\nrounds = 3\n", "tiny.symbolic"),
        ("[other.simulation]\nrounds = 3\n", "other.simulation"),
        ("[run]\nalpha = 2.0\n", "alpha"),
        ("[run\n", "TOML"),
    ],
)
def test_bad_presets_are_refused(make_root: Make, tmp_path: Path, preset: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepared(make_root(preset=preset), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_two_claims_of_one_key_are_refused(make_root: Make) -> None:
    root = make_root()
    (root / "simulations/again.py").write_text((root / "simulations/tiny.py").read_text())
    with pytest.raises(InputError, match="stated twice"):
        claims_in(root)


def test_root_is_found_from_below_and_checked(make_root: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root()
    monkeypatch.chdir(root / "simulations" / "presets")
    assert find_root(None) == root
    with pytest.raises(InputError, match="derivations"):
        find_root(root / "simulations")


@pytest.mark.parametrize(
    "change", [{"instrument": "telescope"}, {"seed": None}], ids=["an unknown kind", "a field that is missing"]
)
def test_a_listing_that_was_edited_changes_no_figure(change: dict[str, Any], make_root: Make, tmp_path: Path) -> None:
    root, results = make_root(), tmp_path / "results"
    prepared(root, results).verify()
    listing = results / "quick/measurements.json"
    listed = json.loads(listing.read_text())
    entry = next(one for one in listed["tiny/simulation"] if one["instrument"] == "simulation")
    entry |= change
    listing.write_text(json.dumps(listed))
    (figure,) = figures_in(root)
    with pytest.raises(MissingResultError, match=r"measurements\.json is not intact at tiny.*verify tiny again"):
        draw(figure, Results(results / "quick"))


def test_figures_name_every_claim_to_verify_in_one_command(
    make_root: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figures", "--root", str(make_root()), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.rstrip().endswith("run residual-theory verify tiny first")
