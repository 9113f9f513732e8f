"""What a preset leaves out runs only when named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from residual_theory.claims.session import Selection
from residual_theory.cli import main
from residual_theory.errors import InputError

Make = Callable[..., Path]


def test_a_claim_left_out_by_the_preset_runs_only_when_named(make_root: Make, tmp_path: Path) -> None:
    root = make_root(preset='[run]\nleave_out = ["tiny.simulation"]\n')
    assert [claim.id for claim in Selection.prepare("quick", tmp_path, root=root).claims] == ["relu-kernel"]
    assert [claim.id for claim in Selection.prepare("quick", tmp_path, root=root, ids=["tiny"]).claims] == ["tiny"]


def test_the_report_leaves_out_the_figures_of_claims_left_out(
    make_root: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_root(preset='[run]\nleave_out = ["tiny.simulation"]\n')
    assert main(["reproduce", "--root", str(root), "--results", str(tmp_path), "--jobs", "1"]) == 0
    assert "left out tiny" in capsys.readouterr().out
    assert (tmp_path / "quick/report.html").exists()


def test_leaving_out_what_is_no_claim_is_refused(make_root: Make, tmp_path: Path) -> None:
    root = make_root(preset='[run]\nleave_out = ["tiny.model"]\n')
    with pytest.raises(InputError, match=r"leave_out = .tiny.model.: is no claim"):
        Selection.prepare("quick", tmp_path, root=root)
