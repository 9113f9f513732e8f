"""The commands sweep and plan as a user meets them."""

import json
from pathlib import Path

import pytest
import xarray as xr

from residual_theory.cli import main
from residual_theory.store import Store

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
TINY = [
    "--loops", "1,2", "--rules", "1/sqrt(N),1/N", "--rates", "1e-3,1e-2", "--seeds", "0,1", "--width", "16",
    "--heads", "2", "--mlp-width", "24", "--context", "16", "--steps", "4", "--batch-size", "2", "--jobs", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_sweep_prints_the_best_rates_and_keeps_the_losses(tmp_path: Path, capsys: Capture) -> None:
    out, text = tmp_path / "losses.nc", tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    command = ["sweep", *TINY, "--results", str(tmp_path), "--text", str(text), "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "1/sqrt(N)" in printed
    assert "0 of 4" in printed
    assert "s a step apart" in printed
    assert xr.load_dataset(out).sizes["learning_rate"] == 2
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(row["rule"], row["loops"]) for row in document["rows"]] == [
        ("1/sqrt(N)", 1), ("1/sqrt(N)", 2), ("1/N", 1), ("1/N", 2),
    ]  # fmt: skip
    assert document["sweep"]["training"]["steps"] == 4
    assert document["ways"] == {}  # all was found again


def test_plan_says_what_a_sweep_costs(capsys: Capture) -> None:
    assert main(["plan", "paper", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["sweep"]
    assert cost["runs"] == 96
    assert cost["gpu_hours"] == pytest.approx(cost["operations"] / (0.4 * 989e12) / 3600)
    assert main(["plan", "gpu", "--peak", "1e15", "--utilization", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "147 runs" in printed
    assert "assumed: 0.5 of 1e+15 operations/s" in printed
    assert main(["plan", "laptop", "--jobs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "196 runs, 2 at a time" in printed
    assert "measured here" in printed


def test_plan_says_what_claims_took(tmp_path: Path, capsys: Capture) -> None:
    assert main(["plan", "--preset", "quick", "--results", str(tmp_path)]) == 0
    assert "of which no time is recorded" in capsys.readouterr().out
    spec = {"instrument": "derive", "name": "a measurement"}
    Store(tmp_path / "quick" / "data").make(spec, lambda _: xr.Dataset())
    (tmp_path / "quick" / "measurements.json").write_text(json.dumps({"relu-kernel/symbolic": [spec]}))
    assert main(["plan", "--preset", "quick", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "relu-kernel/symbolic" in printed
    assert "1 of " in printed


BAD_INPUTS = {
    "no such sweep": (["sweep", "huge"], "sweep = 'huge': choose from gpu, laptop, paper, paper-sqrt"),
    "no such file": (["sweep", "huge.toml"], "sweep = 'huge.toml': cannot be read"),
    "words for loops": (["sweep", "--loops", "many"], "loops = 'many'"),
    "words for rates": (["sweep", "--rates", "1e-3,fast"], "rates = '1e-3,fast'"),
    "falling rates": (["sweep", "--rates", "2e-3,1e-3"], "must rise"),
    "unknown rule": (["sweep", "--rules", "1/M"], "residual_scale = '1/M'"),
    "unknown way": (["sweep", "--way", "sideways"], "way = 'sideways'"),
    "heads that do not divide": (["sweep", "--width", "20", "--heads", "3"], "heads = 3"),
    "out is a folder": (["sweep", "--out", "tests"], "out = 'tests'"),
    "negative jobs": (["sweep", "--jobs", "-1"], "jobs = -1"),
    "missing text": (["sweep", "--text", "no-such"], "text = 'no-such'"),
    "plan of nothing": (["plan"], "preset = None"),
    "plan of two": (["plan", "gpu", "--preset", "gpu"], "not both"),
    "plan of an unknown preset": (["plan", "--preset", "huge"], "preset = 'huge'"),
    "no peak": (["plan", "gpu", "--peak", "0"], "peak = 0"),
    "a device that is not here": (["sweep", "--device", "cuda:99"], "device = 'cuda:99'"),
    "plan of no name": (["plan", ""], "sweep = ''"),
    "too good a use of what is measured": (["plan", "laptop", "--utilization", "2"], "utilization = 2"),
    "too good a use": (["plan", "gpu", "--utilization", "2"], "utilization = 2"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_clear_line(case: str, tmp_path: Path, capsys: Capture) -> None:
    command, told = BAD_INPUTS[case]
    results = ["--results", str(tmp_path / "results")]
    assert main([*command, *results]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert told in printed.err
    assert printed.err.count("\n") == 1
