"""What README shows is run as it stands there."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from residual_theory.calibration.calibrate import Rate
from residual_theory.cli import main
from residual_theory.commands.operating import SHOWN, cell

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=["stack", "sampling", "gradients", "module"])
def test_each_python_example_runs_alone(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    assert "nan" not in printed
    if "compare" in block:
        assert printed.startswith("confirmed")


@pytest.mark.parametrize("command", ["predict", "recommend", "simulate"])
def test_each_command_shown_runs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = re.findall(rf"^residual-theory ({command} .*?)(?:  .*)?$", README, flags=re.M)
    assert main(shlex.split(line.replace("[--json]", ""))) == 0
    assert "inconclusive" not in capsys.readouterr().out


def test_the_model_shown_is_probed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n# mine.py\n(.*?)```", (ROOT / "docs/models.md").read_text(), flags=re.S)
    (tmp_path / "mine.py").write_text(program)
    figure = tmp_path / "stream.png"
    given = ["--block", "layer", "--shape", "8,16,64", "--figure", str(figure)]
    assert main(["probe", f"{tmp_path / 'mine.py'}:make_model", *given]) == 0
    assert "law:" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_coordinate_check_shown_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n# check.py\n(.*?)```", (ROOT / "docs/models.md").read_text(), flags=re.S)
    (tmp_path / "check.py").write_text(program)
    assert main(["coordinate-check", str(tmp_path / "check.py")]) == 0
    assert capsys.readouterr().out.startswith("confirmed")


def test_the_table_of_claims_is_that_of_the_claims(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is not, `make readme` writes it anew."""
    assert main(["list", "--markdown", "--root", str(ROOT)]) == 0
    (table,) = re.findall(r"<!-- table of claims.*? -->\n\n(.*?)\n\n<!-- end of the table -->", README, flags=re.S)
    assert table == capsys.readouterr().out.rstrip("\n")


def test_the_page_on_the_papers_theorems_is_that_of_the_derivations(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is not, `make paper` writes it anew."""
    assert main(["list", "--theorems", "--root", str(ROOT)]) == 0
    assert (ROOT / "docs/paper.md").read_text() == capsys.readouterr().out


def test_the_operating_curve_shown_is_that_of_the_file() -> None:
    rates: dict[str, dict[tuple[str, float], Rate]] = {}
    with (ROOT / "docs/operating-curve.csv").open() as file:
        for row in csv.DictReader(file):
            rate = Rate(int(row["count"]), int(row["runs"]), float(row["due_most"]), float(row["due_least"]) or None)
            rates.setdefault(row["situation"], {})[row["event"], float(row["inside"])] = rate
    assert len(rates) == 10
    for name, found in rates.items():
        (line,) = re.findall(rf"^\| {re.escape(name)} \| [^|]* \| (.*) \|$", README, flags=re.M)
        assert line.split(" | ") == [cell(found.get(place)) for place in SHOWN.values()]
