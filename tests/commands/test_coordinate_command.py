"""The command coordinate-check, on files of users."""

import json
from pathlib import Path

import pytest
import typer
import xarray as xr

from residual_theory.commands.coordinate import coordinate_check as command
from residual_theory.errors import InputError

USERS_FILE = """
import torch

block = "layer"
inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
targets = torch.zeros(8, 16)


class Model(torch.nn.Module):
    def __init__(self, loops, scale):
        super().__init__()
        self.loops, self.scale, self.layer = loops, scale, torch.nn.Linear(16, 16)

    def forward(self, x):
        for _ in range(self.loops):
            x = x + self.scale * self.layer(x.relu())
        return x


def make(loops, layers):
    return Model(loops, loops**-POWER)


def optimizer(model, loops, layers):
    return torch.optim.Adam(model.parameters(), lr=1e-3)
"""


def run_command(*words: str) -> int:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return int(app(args=list(words), standalone_mode=False) or 0)


def test_the_command_writes_everything_and_its_status_is_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, figure = tmp_path / "mine.py", tmp_path / "runs.nc", tmp_path / "check.png"
    file.write_text(USERS_FILE.replace("POWER", "1"))
    options = ("--steps", "1", "--seeds", "6")
    assert run_command(str(file), "--out", str(out), "--figure", str(figure), *options) == 0
    assert capsys.readouterr().out.startswith("confirmed: ")
    assert xr.load_dataset(out, engine="h5netcdf").sizes["seed"] == 6
    assert figure.read_bytes().startswith(b"\x89PNG")
    file.write_text(USERS_FILE.replace("POWER", "0.5"))
    assert run_command(str(file), *options, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "refuted"
    assert {"quantity", "step", "slope", "low", "high", "verdict"} <= set(document["slopes"][0])


def test_runs_that_are_not_finite_are_drawn_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out, figure = tmp_path / "mine.py", tmp_path / "runs.nc", tmp_path / "check.png"
    (tmp_path / "neighbour_of_mine.py").write_text("NAN = float('nan')")
    file.write_text("from neighbour_of_mine import NAN" + USERS_FILE.replace("loops**-POWER", "NAN"))
    options = ("--steps", "1", "--seeds", "2", "--out", str(out), "--figure", str(figure))
    assert run_command(str(file), *options) == 3
    assert "not finite: loops 2, unique_layers 1, seed 0 from step 0 on" in capsys.readouterr().out
    assert out.exists()
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("block = 'layer'", (), "must define make"),
        ("1 / 0", (), "cannot be read (ZeroDivisionError"),
        (USERS_FILE, ("--figure", "check.txt"), "name a file that ends in .png, .pdf or .svg"),
        (USERS_FILE, ("--loops", "2,4,x"), "loops = '2,4,x': must be an integer"),
        (USERS_FILE.replace("POWER", "1"), ("--layers", "0"), "unique_layers = [0]: give different whole numbers"),
        (None, (), "is not a file"),
        (USERS_FILE.replace("loops**-POWER", "1 / 0"), (), "raised ZeroDivisionError: division by zero"),
        (USERS_FILE.replace("make(loops, layers)", "make()"), (), "raised TypeError"),
        (USERS_FILE.replace("targets = torch.zeros(8, 16)", "loss = 5"), (), "loss = 5: give a function"),
    ],
)
def test_the_command_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("mine.py").write_text(text)
    with pytest.raises(InputError) as caught:
        run_command("mine.py", *words)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == [path for path in (tmp_path / "mine.py",) if text is not None]
