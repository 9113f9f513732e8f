"""Results of runs that are not finished: what they list, and which figures can be drawn from them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from residual_theory.claims.session import Selection, Session
from residual_theory.cli import main
from residual_theory.measurements.kinds import Prediction, Simulation
from residual_theory.measurements.measurement import Context, Measurement
from residual_theory.report.results import Results
from residual_theory.store import Store

Make = Callable[..., Path]
NEEDS = (("tiny", "simulation"),)


class StoppedError(Exception):
    pass


@pytest.fixture
def root(make_root: Make) -> Path:
    return make_root()


@pytest.fixture
def interrupted(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """A run that was stopped at its first measurement, and in which the second was made since."""

    def stop(*_: object) -> None:
        raise StoppedError

    session = Session(Selection.prepare("quick", tmp_path / "results", ids=("tiny",), root=root))
    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "measure", stop)
        with pytest.raises(StoppedError):
            session.verify()
    found = Results(tmp_path / "results/quick")
    assert found.missing(NEEDS, partial=True) == ["tiny"]
    (prediction,) = found.planned(*NEEDS[0], Prediction)
    Store(found.folder / "data").make(prediction.specification(), lambda _: prediction.measure(Context(root)))
    return found


def test_what_is_planned_is_listed_before_it_is_made(interrupted: Results) -> None:
    assert [one.kind for one in interrupted.planned(*NEEDS[0], Measurement)] == ["simulation", "prediction"]
    assert [one.measurement.kind for one in interrupted.of(*NEEDS[0], Measurement, partial=True)] == ["prediction"]
    assert (interrupted.missing(NEEDS), interrupted.missing(NEEDS, partial=True)) == (["tiny"], [])


def test_a_figure_waits_for_its_results_unless_it_may_be_partial(
    root: Path, interrupted: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["figures", "--root", str(root), "--results", str(interrupted.folder.parent)]
    assert main(arguments) == 2
    assert "run residual-theory verify tiny first" in capsys.readouterr().err
    script = root / "figures/tiny.py"
    changed = script.read_text().replace("Prediction)\n", "Prediction, partial=True)\n")
    details = "details=lambda found: f'In {found.folder.name}.',"
    script.write_text(changed.replace("draw=draw,", f"draw=draw, partial=True, {details}"))
    assert main(arguments) == 0
    sidecar = json.loads((interrupted.folder / "figures/tiny.json").read_text())
    assert sidecar["caption"] == "Nothing <b>much</b>. In quick."
    before = interrupted.digest_of(NEEDS)
    Session(Selection.prepare("quick", interrupted.folder.parent, ids=("tiny",), root=root)).verify()
    assert interrupted.digest_of(NEEDS) != before  # so that the figure is drawn again
