"""docs/example and docs/your-claims.md as a user meets them: an installed wheel, away from the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from residual_theory.cli import main

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs/example"
GUIDE = (ROOT / "docs/your-claims.md").read_text()
SHORTEST, SCHEMA = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.S)


def test_the_shortest_claim_is_a_dozen_lines_and_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in SHORTEST.splitlines() if line and not line.startswith("#")]
    modules = [line.split()[1] for line in lines if line.startswith(("from ", "import "))]
    assert modules == ["residual_theory", "residual_theory.claims"]
    assert len(lines) - len(modules) <= 12
    (tmp_path / "claims.py").write_text(SHORTEST)
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "claims.py", "--json", "v.json", "--jobs", "1"]) == 0
    (row,) = json.loads((tmp_path / "v.json").read_text())["claims"]
    assert (row["id"], row["verdict"], row["twin_verdict"]) == ("decaying-loops", "confirmed", "refuted")


def test_the_example_is_verified_at_its_own_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE)
    words = ["--preset", "ci.toml", "--results", str(tmp_path), "--json", str(tmp_path / "v.json"), "--jobs", "1"]
    assert main(["verify", "claims.py", *words]) == 0
    (row,) = json.loads((tmp_path / "v.json").read_text())["claims"]
    assert (row["id"], row["verdict"], row["twin_verdict"]) == ("injected-growth", "confirmed", "refuted")


def test_the_guide_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link
    exec(compile(SCHEMA, "your-claims.md", "exec"), {})
    assert "Verdicts preset claims refused" in capsys.readouterr().out
    (steps,) = re.findall(r"^    claims.py .*?\n\n", GUIDE, flags=re.S | re.M)
    assert all((EXAMPLE / line.split()[0]).is_file() for line in steps.splitlines() if line)


@pytest.mark.slow
def test_the_example_from_a_wheel(tmp_path: Path) -> None:
    """Its claims verified and its tests run, with nothing of the checkout on the path."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, away = tmp_path / "site", tmp_path / "away"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    shutil.copytree(EXAMPLE, away)
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True, check=False)

    where = run("-c", "import residual_theory; print(residual_theory.__file__)")
    assert where.stdout.startswith(str(site))
    program = "import sys; from residual_theory.cli import main; sys.exit(main())"
    done = run("-c", program, "verify", "claims.py", "--preset", "ci.toml", "--json", "v.json", "--junit", "v.xml")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((away / "v.json").read_text())["claims"]
    assert (row["verdict"], row["twin_verdict"]) == ("confirmed", "refuted")
    assert (away / "v.xml").stat().st_size
    assert (site / "residual_theory/claims/verdicts.schema.json").is_file()
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_claims.py")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
