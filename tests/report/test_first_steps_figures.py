"""The figures of the paper's diagnostic, drawn from a run at tiny sizes and from a part of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas

from residual_theory.claims.presets import load_preset
from residual_theory.claims.registry import claims_of
from residual_theory.claims.session import Selection, Session
from residual_theory.errors import InputError, MissingResultError
from residual_theory.loading import load_module
from residual_theory.measurements.alignment import change_cosines
from residual_theory.measurements.kinds import Diagnostic
from residual_theory.measurements.measurement import Observation
from residual_theory.report.drawing import Figure, draw, figures_in
from residual_theory.report.first_steps import Runs
from residual_theory.report.results import Results

pytestmark = pytest.mark.slow  # some forty tiny runs, and their figures
ROOT = Path(__file__).parents[2]
Drawn = dict[str, tuple[Canvas, pd.DataFrame]]
SIZES = """
[first-updates.model]
width = 8
heads = 2
mlp_width = 12
vocabulary = 30
context = 5
layers = 1
loops = [1, 2, 3, 4, 5]
seeds = 2
untied_seeds = 1
steps = 2
trained = 2
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run at tiny sizes, finished."""
    folder = tmp_path_factory.mktemp("first-steps")
    (folder / "tiny.toml").write_text(SIZES)
    Session(Selection.prepare(str(folder / "tiny.toml"), folder, ids=["first-updates"], root=ROOT)).verify()
    return Results(folder / "tiny")


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return {figure.id: figure for figure in figures_in(ROOT)}


@pytest.fixture(scope="module")
def drawn(results: Results, figures: dict[str, Figure]) -> Drawn:
    return {name: figures[name].draw(results) for name in ("fig1", "fig2", "fig3", "fig4", "fig9")}


def test_every_figure_fits_a_page_and_tells_its_sizes(
    results: Results, figures: dict[str, Figure], drawn: Drawn
) -> None:
    for name, (canvas, table) in drawn.items():
        assert canvas.get_figwidth() in (3.25, 6.75)
        assert len(table) > 0
        assert canvas.get_supxlabel() == ""
        assert figures[name].paper == f"Fig. {name.removeprefix('fig')}"
        details = figures[name].details(results)
        assert "L = 1, d = 8" in details
        assert "seeds a point: 2" in details
        assert "Partial" not in details


def test_the_norms_are_those_of_the_runs_beside_their_prediction(results: Results, drawn: Drawn) -> None:
    _, table = drawn["fig2"]
    runs = Runs.read(results)
    cell = table[(table.residual_scale == "1/N") & table.tied & (table.loops == 3) & (table.step == 1)]
    norms = [run.result.covariance.values[1, 3, 3] ** 0.5 for run in runs.of(3, "1/N", tied=True)]
    assert cell["mean"].item() == pytest.approx(np.mean(norms))
    assert cell.stderr.item() == pytest.approx(abs(norms[0] - norms[1]) / 2)
    start = table[table.step == 0]
    np.testing.assert_allclose(start["mean"], start.predicted, rtol=0.6)  # at width 8
    assert table[table.step > 0].predicted.isna().all()
    untied = table[~table.tied & (table.loops > 2)]
    assert set(untied.step) == {0}  # too deep to be trained


def test_the_panels_of_one_loop_are_the_same_model(drawn: Drawn) -> None:
    for name in ("fig4", "fig9"):
        table = drawn[name][1]
        alone = table[(table.loops == 1) & (table.step == 1)]["mean"]
        assert len(alone) == 3
        assert alone.nunique() == 1


def test_the_cosines_are_those_of_passes_after_training(results: Results, drawn: Drawn) -> None:
    _, table = drawn["fig3"]
    (run, *_) = Runs.read(results).of(5, "1", tied=True)
    expected = change_cosines(run.result.covariance.values[2], 5).ravel()
    np.testing.assert_allclose(table[table.tied].cosine, expected)
    assert set(table[~table.tied].steps) == {0}


def test_walks_in_a_plane_keep_their_inner_products_in_the_mean(figures: dict[str, Figure]) -> None:
    seen = load_module(figures["fig1"].script).seen_in_a_plane
    straight = np.outer(np.arange(4.0), np.arange(4.0))
    walk = seen(straight)
    assert walk.shape == (2, 4)
    np.testing.assert_allclose(walk, np.outer(walk[:, 1], np.arange(4.0)), atol=1e-7)  # a straight line stays one


def test_a_part_of_a_run_is_drawn_with_a_note(results: Results, figures: dict[str, Figure], tmp_path: Path) -> None:
    part = Results(tmp_path / "tiny")
    shutil.copytree(results.folder, part.folder)
    runs = Runs.read(results)
    kept = {run.measurement.key for run in runs.done if run.measurement.model.loops <= 2 and run.measurement.model.tied}
    for path in (part.folder / "data").rglob("diagnostic-*"):
        if path.stem.partition("-")[2] not in kept:
            path.unlink()
    left = Runs.read(part)
    assert 0 < len(left.done) < len(left.planned)
    canvas, table = figures["fig4"].draw(part)
    assert set(table.loops) == {1, 2}
    assert canvas.get_supxlabel() == f"partial: {len(left.done)} of {len(left.planned)} runs"
    files, _ = draw(figures["fig4"], part)
    assert f"Partial: {len(left.done)} of" in files.caption
    assert b"/FontType 3" not in files.path("pdf").read_bytes()
    for name in ("fig1", "fig3"):
        with pytest.raises(MissingResultError, match="verify first-updates"):
            figures[name].draw(part)


def test_runs_of_two_protocols_are_not_drawn_together(results: Results, tmp_path: Path) -> None:
    mixed = Results(tmp_path / "tiny")
    shutil.copytree(results.folder, mixed.folder)
    listing = mixed.folder / "measurements.json"
    listed = json.loads(listing.read_text())
    listed["first-updates/model"][0]["learning_rate"] = 0.5
    listing.write_text(json.dumps(listed))
    with pytest.raises(InputError, match="lists runs of several protocols"):
        Runs.read(mixed)


def test_the_papers_values_stand_beside_its_own_sizes_only(results: Results, drawn: Drawn) -> None:
    runs = Runs.read(results)
    assert not runs.is_of_the_paper
    labels = [label for axes in drawn["fig2"][0].axes for label in axes.get_legend_handles_labels()[1]]
    assert "paper, N = 64" not in labels
    paper = load_preset(ROOT, "paper-diagnostic", claims_of(ROOT, ["first-updates"]), shared=True)
    model = paper.parameters["first-updates/model"].model(64, "1/N")  # type: ignore[attr-defined]
    assert replace(runs, done=[Observation(Diagnostic(model=model), runs.done[0].result)]).is_of_the_paper
