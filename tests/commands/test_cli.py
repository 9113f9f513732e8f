"""The command as a user meets it: what it prints, its exit statuses, and one clear line for every bad input."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from residual_theory.cli import main
from residual_theory.commands import claims, stacks
from residual_theory.commands.coordinate import coordinate_check

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_predict_prints_the_known_value(capsys: Capture) -> None:
    assert main(["predict", "--loops", "64", "--scale", "1/N"]) == 0
    assert "1.56567037" in capsys.readouterr().out


def test_predict_takes_every_field_of_a_stack(capsys: Capture) -> None:
    options = {
        "--layers": "3",
        "--scale": "0.3",
        "--activation": "linear",
        "--normalization": "rms",
        "--weight-variance": "2",
        "--initial-variance": "0.5",
    }
    texts = set()
    for chosen in ([], *([key, value] for key, value in options.items()), ["--no-tied"]):
        assert main(["predict", "--loops", "4", "--json", *chosen]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == len(options) + 2


def test_predict_json(capsys: Capture) -> None:
    assert main(["predict", "--loops", "8", "--scale", "1/sqrt(N)", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["second_moment"][-1] == pytest.approx(9.21578993, rel=1e-8)
    assert document["description"]["loops"] == 8


def test_predict_says_where_it_overflows(capsys: Capture) -> None:
    assert main(["predict", "--loops", "1000", "--scale", "1"]) == 0
    assert "an infinity or a NaN at visit 6" in capsys.readouterr().out


def test_simulate_compares_with_the_prediction(capsys: Capture) -> None:
    command = ["simulate", "--loops", "4", "--scale", "1/N", "--width", "256", "--samples", "150", "--seed", "1"]
    assert main(command) == 0
    assert "confirmed: second_moment at visit" in capsys.readouterr().out
    assert main([*command[:-4], "--samples", "1"]) == 0
    assert "no standard error" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 150


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"residual-theory {metadata.version('residual-theory')}\n"


def test_help_lists_every_command_by_the_first_line_of_its_docstring(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name, function in (("list", claims.list_), ("predict", stacks.predict), ("coordinate-check", coordinate_check)):
        assert re.search(rf"│ {name} +{re.escape(str(function.__doc__).splitlines()[0])} ", listed)
        assert main([name, "--help"]) == 0
        assert str(function.__doc__).splitlines()[0] in capsys.readouterr().out


def test_list_shows_claims_levels_and_figures(capsys: Capture) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for word in ("looped-growth", "loss-advantage", "symbolic", "simulation", "model", "–", "norm-against-loop"):
        assert word in printed


def test_derive_prints_text_and_latex(capsys: Capture) -> None:
    assert main(["derive", "relu-kernel"]) == 0
    assert "Not proved" in capsys.readouterr().out
    assert main(["derive", "relu-kernel", "--latex"]) == 0
    assert r"\section*" in capsys.readouterr().out


def test_verify_writes_json(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "verdicts.json"
    assert main(["verify", "relu-kernel", "--results", str(tmp_path / "r"), "--json", str(file)]) == 0
    document = json.loads(file.read_text())
    assert document["preset"] == "quick"
    assert document["claims"][0]["twin_verdict"] == "refuted"
    assert document["provenance"]["libraries"]["torch"]
    assert "relu-kernel" in capsys.readouterr().out


BAD_INPUTS = {
    "unknown claim": (["verify", "no-such-claim"], "no-such-claim"),
    "unknown derivation": (["derive", "no-such"], "no-such"),
    "unknown figure": (["figures", "no-such"], "no-such"),
    "figure without results": (["figures", "norm-against-loop"], "run residual-theory verify norm-at-init"),
    "unknown preset": (["verify", "--preset", "huge"], "preset = 'huge': choose from"),
    "unknown rule": (["predict", "--loops", "4", "--scale", "1/M"], "--scale = '1/M'"),
    "code for a rule": (["predict", "--loops", "4", "--scale", "__import__('os')"], "write a formula in N and L"),
    "dividing by zero": (["predict", "--loops", "4", "--scale", "1/(N-4)"], "no finite value"),
    "no loops": (["predict", "--loops", "0"], "--loops = 0"),
    "loops are words": (["predict", "--loops", "many"], "many"),
    "loops forgotten": (["predict"], "loops"),
    "too many loops": (["predict", "--loops", "100000"], "GiB"),
    "negative width": (["simulate", "--loops", "4", "--width", "-3"], "width = -3"),
    "no samples": (["simulate", "--loops", "4", "--width", "8", "--samples", "0"], "samples = 0"),
    "NaN scale": (["predict", "--loops", "4", "--scale", "nan"], "--scale = 'nan'"),
    "infinite variance": (["predict", "--loops", "4", "--weight-variance", "inf"], "--weight-variance = inf"),
    "unknown device": (["simulate", "--loops", "4", "--width", "8", "--device", "abacus"], "abacus"),
    "widths that are none": (["simulate", "--loops", "4", "--width", "8,x"], "several such as 256,512"),
    "one width twice": (["simulate", "--loops", "4", "--width", "8,8"], "two different widths"),
    "no accuracy": (["simulate", "--loops", "4", "--width", "8", "--target-stderr", "0%"], "must be positive"),
    "no such observable": (["simulate", "--loops", "4", "--width", "8", "--target-stderr", "x=1"], "choose from"),
    "a file of something else": (
        ["simulate", "--loops", "4", "--width", "8", "--file", __file__],
        "no readable result",
    ),
    "half precision": (["simulate", "--loops", "4", "--width", "8", "--dtype", "float16"], "float16"),
    "figures of an unknown preset": (["figures", "--preset", "huge"], "preset = 'huge': choose from"),
    "too wide": (["simulate", "--loops", "1", "--width", "10000000", "--method", "dense"], "GiB"),
    "verdicts into a folder": (["verify", "relu-kernel", "--json", "tests"], "json = 'tests'"),
    "negative jobs": (["verify", "--jobs", "-1"], "jobs = -1"),
    "root without claims": (["list", "--root", "residual_theory"], "root = 'residual_theory'"),
    "missing text": (["verify", "loss-advantage", "--text", "no/such/file"], "no/such/file"),
    "unknown command": (["frobnicate"], "frobnicate"),
    "unknown option": (["predict", "--loops", "4", "--colour", "red"], "--colour"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_bad_input_is_one_line_and_status_2(arguments: list[str], words: str, tmp_path: Path, capsys: Capture) -> None:
    if arguments[0] in ("verify", "figures"):
        arguments = [*arguments, "--results", str(tmp_path / "results")]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert words in printed.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"\x00\x01\x02" * 999, "text"), (b"brief", "short")])
def test_unusable_text_is_refused(content: bytes, words: str, tmp_path: Path, capsys: Capture) -> None:
    text = tmp_path / "text"
    text.write_bytes(content)
    assert main(["verify", "loss-advantage", "--text", str(text), "--results", str(tmp_path / "results")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "text = " in printed
    assert words in printed
    assert not list(tmp_path.rglob("*.nc"))


def test_unwritable_results_are_refused_before_anything_is_measured(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert main(["verify", "looped-growth", "--results", str(tmp_path / "file")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "results = " in printed
    assert (
        main(["verify", "relu-kernel", "--results", str(tmp_path / "r"), "--json", str(tmp_path / "file" / "v")]) == 2
    )
    assert "json = " in capsys.readouterr().err


def test_a_reader_that_leaves_changes_no_status(tmp_path: Path) -> None:
    program = "import sys; from residual_theory.cli import main; sys.exit(main())"
    command = f'{sys.executable} -c "{program}" predict --loops 900 --json | head -c 10; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0\n")
    assert done.stderr == ""


def test_a_device_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    assert main(["verify", "relu-kernel", "--results", str(tmp_path / "r"), "--json", str(pipe)]) == 0
    assert json.loads(reader.communicate(timeout=30)[0])["preset"] == "quick"
    assert pipe.is_fifo()


def test_a_terminal_without_greek_gets_question_marks() -> None:
    program = "import sys; from residual_theory.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "derive", "relu-kernel"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_installed_command_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    program = "import sys; from residual_theory.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "predict", "--loops", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
