"""What `list` prints: by the paper's order, and as README's table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sympy

from residual_theory.claims.headers import FigureHeader, Header, Level
from residual_theory.claims.paper import PLACES
from residual_theory.cli import main
from residual_theory.commands.listing import by_place, left_out_of_quick, markdown, theorems
from residual_theory.proofs import Derivation, Step

ROOT = Path(__file__).parents[2]
FILE = Path("claims.py")


def header(name: str, level: Level = "simulation", *paper: str, recorded: str = "confirmed") -> Header:
    return Header(name, f"what {name} says, by {level}. More of it.", "this project", paper, level, recorded, "r", FILE)


def rows(*claims: Header, figures: tuple[FigureHeader, ...] = ()) -> dict[str, list[str]]:
    (table,) = by_place(claims, figures)
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    return {place: list(rest) for place, _, *rest in zip(*cells, strict=True)}


def test_the_papers_order_shows_empty_levels_and_ends_beyond_it() -> None:
    found = rows(
        header("a", "simulation", "Theorem 1"),
        header("a", "symbolic", "Theorem 1"),
        header("b", "simulation", "Theorem 1", "Fig. 4", recorded="refuted"),
        header("c", "model"),
        figures=(FigureHeader("f", "F", ("Fig. 4",), FILE), FigureHeader("g", "G", (), FILE)),
    )
    assert list(found) == [*PLACES, ""]
    assert found["Theorem 1"] == ["a", "a\nb (refuted)", "–", "–"]
    assert found["Fig. 4"] == ["–", "b (refuted)", "–", "f"]
    assert found["Lemma 4"] == ["–"] * 4
    assert found[""] == ["–", "–", "c", "g"]


def test_the_table_for_readme() -> None:
    claims = [
        header("late", "model"),
        replace(header("early", "symbolic", "Theorem 1"), statement="It |is|, e.g. so. Then more."),
        header("middle", "symbolic", "Fig. 4"),
        header("middle", "simulation", "Fig. 4", "Fig. 9", recorded="refuted"),
        header("open", "model", recorded="inconclusive"),
    ]
    assert markdown(claims, {"late/model", "middle/model", "open/model"}).splitlines()[2:] == [
        "| early: It \\|is\\|, e.g. so | Theorem 1 | ✓ | | |",
        "| middle: what middle says, by simulation. More of it. | Fig. 4, Fig. 9 | ✓ | **refuted** | |",
        "| late: what late says, by model. More of it. | | | | ✓ (laptop) |",
        "| open: what open says, by model. More of it. | | | | inconclusive (laptop) |",
    ]


def test_the_page_of_theorems_is_by_the_papers_order() -> None:
    step = Step("t", sympy.Symbol("x"), sympy.Symbol("y"), "w")
    made = Derivation("late", "T", "What it states.", "x", (), (step,), (), "s", "Theorem 1", "as written", "Nothing.")
    early = replace(made, id="early", paper=("Theorem 2", "Lemma 4"), verdict="with a constant", needed="A root.")
    ours = replace(made, id="ours", verdict="")
    claims = [
        header("ours", "symbolic", "Theorem 1"),
        header("late", "symbolic", "Theorem 1"),
        header("ours", "model", "Theorem 1"),
    ]
    page = theorems([made, early, ours], claims)
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == ["Lemma 4, Theorem 2", "Theorem 1"]
    assert "- **Verdict**: with a constant.\n- **Needed**: A root.\n" in page
    assert "`residual-theory derive late`, 1 steps.\n- **Ours beside it**: ours (proved, model)." in page


def test_sweeps_are_left_out_of_the_preset_quick() -> None:
    assert "lr-direction/model" in left_out_of_quick(ROOT)
    assert "loss-advantage/model" not in left_out_of_quick(ROOT)


def test_list_by_the_papers_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--paper", "--root", str(ROOT)]) == 0
    printed = capsys.readouterr().out
    spots = [printed.index(words) for words in ("Theorem 1 ", "looped-growth", "Fig. 2 ", "beyond the paper", "parcae")]
    assert spots == sorted(spots)


def test_list_of_another_root(make_root: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = make_root()
    file = root / "simulations/tiny.py"
    file.write_text(file.read_text().replace('source="this project",', 'source="mine", paper=("Fig. 9", "Lemma 4"),'))
    for option, line in (
        ("--paper", "│ Lemma 4 "),
        ("--markdown", "| tiny: two loops at width 3 | Lemma 4, Fig. 9 | | ✓ | |"),
    ):
        assert main(["list", option, "--root", str(root)]) == 0
        (found,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith(line))
        assert "tiny" in found


def test_what_was_tried_elsewhere_is_told_so_wherever_it_is_read(
    make_root: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verdict on a claim with a regime, as list, README's table and the report have it; and not of one without."""
    root = make_root("EXACT + 2", "EXACT - 2", "refuted")
    (root / "derivations/relu_kernel.py").unlink()  # takes long
    file = root / "simulations/tiny.py"
    file.write_text(file.read_text().replace('source="this project",', 'source="mine", regime="width 3",'))
    for option, words in (
        ([], "not reproduced at width 3"),
        (["--paper"], "tiny (not reproduced at width 3)"),
        (["--markdown"], "| **not reproduced** at width 3 |"),
    ):
        assert main(["list", *option, "--root", str(root)]) == 0
        printed = capsys.readouterr().out
        assert words in printed
        assert "refuted" not in printed
    results = tmp_path / "results"
    assert main(["reproduce", "--root", str(root), "--results", str(results), "--jobs", "1"]) == 0
    page = (results / "quick/report.html").read_text()
    assert page.count("not reproduced at width 3") == 3  # the verdict, that on record, and beside the findings
    assert "family beyond" in page
    assert '"verdict": "refuted"' in (results / "quick/claims.json").read_text()  # the word that programs read
