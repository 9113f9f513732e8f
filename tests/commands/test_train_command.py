"""residual-theory train: every option reaches its field, runs resume, bad input is one line and status 2."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from residual_theory.cli import main
from residual_theory.commands.training import MODEL_OPTIONS, TRAINING_OPTIONS
from residual_theory.transformer.config import ModelConfig, TrainConfig

SMALL = ["--width", "16", "--heads", "2", "--context", "16", "--batch-size", "2", "--evaluation-sequences", "4"]


def run(text: Path, *options: str) -> int:
    return main(["train", *SMALL, "--text", str(text), *options])


def test_every_field_has_an_option_of_its_default() -> None:
    for table, config in ((MODEL_OPTIONS, ModelConfig), (TRAINING_OPTIONS, TrainConfig)):
        assert {option.field for option in table.values()} == set(config.model_fields)
        for option in table.values():
            default = config.model_fields[option.field].default
            if option.default is not None:
                assert option.default == (str(default) if option.kind is str else default), option.field
            assert option.default is not None or option.field in ("mlp_width", "vocabulary") or default is None


def test_options_reach_their_fields(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "--loops": 3, "--layers": 2, "--scale": "1/N", "--mlp-width": 20, "--vocabulary": 300, "--init-std": 0.1,
        "--initial-distribution": "normal", "--norm-epsilon": 1e-3, "--rope-base": 50.0, "--normalization": "sandwich",
        "--skip": 0.9, "--carry": 0.8, "--injection": "1/N", "--prelude": 1, "--coda": 2, "--outer-scale": 0.5,
        "--branch-gain": 0.7, "--steps": 2, "--accumulation": 2, "--learning-rate": 1e-3, "--rule": "paper",
        "--tuned-layers": 4, "--block-rate": "1/sqrt(N)", "--warmup": 1, "--decay": 0.5, "--weight-decay": 0.0,
        "--beta1": 0.8, "--beta2": 0.9, "--adam-epsilon": 1e-6, "--grad-clip": 0, "--validate-every": 1,
        "--stop-above": 20.0, "--diverged-above": 10.0, "--dtype": "bfloat16", "--seed": 5,
    }  # fmt: skip
    flags = ["--loop-normalization", "--no-tied", "--biases", "--recompute"]
    assert run(text, *[str(word) for pair in given.items() for word in pair], *flags, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    fields = {**found["model"], **found["training"]}
    for name, value in given.items():
        option = {**MODEL_OPTIONS, **TRAINING_OPTIONS}[name[2:].replace("-", "_")]
        assert fields[option.field] == (None if name == "--grad-clip" else value), name
    assert (fields["loop_normalization"], fields["tied"], fields["biases"], fields["recompute"]) == (1, 0, 1, 1)
    assert len(found["train_loss"]) == len(found["validation"]) == 2
    assert found["tokens_per_second"] > 0


def test_the_outcome_is_printed_and_kept(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run.nc"
    assert run(text, "--steps", "6", "--loops", "2", "--out", str(out)) == 0
    told = capsys.readouterr().out
    result = xr.load_dataset(out, engine="h5netcdf")
    assert f"{float(result.validation_loss):.4f}" in told
    parameters = 256 * 16 + 4 * 16 * 16 + 3 * 16 * 48 + 3 * 16
    assert result.attrs["parameters"] == parameters
    assert f"{parameters:,}" in told
    assert set(torch.load(tmp_path / "run.pt", weights_only=True)) >= {"weights", "optimizer", "done"}
    assert run(text, "--steps", "6", "--loops", "2", "--out", str(out)) == 0
    assert xr.load_dataset(out, engine="h5netcdf").identical(result)


def test_a_diverged_run_is_a_result(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run.nc"
    assert run(text, "--steps", "6", "--learning-rate", "100", "--warmup", "0", "--json", "--out", str(out)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["diverged"], found["validation_loss"]) == (True, None)
    assert None in found["train_loss"]


def test_a_run_that_diverges_at_once_is_a_result(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(text, "--steps", "3", "--skip", "1e300") == 0
    printed = capsys.readouterr().out
    assert "0 of 3" in printed
    assert "nan" in printed


def test_a_state_without_all_its_parts_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, state_file = tmp_path / "run.nc", tmp_path / "run.pt"
    assert run(text, "--steps", "2", "--out", str(out)) == 0
    state = torch.load(state_file)
    for broken in ({name: part for name, part in state.items() if name != "shuffle"}, state | {"weights": {}}):
        torch.save(broken, state_file)
        capsys.readouterr()
        assert run(text, "--steps", "2", "--out", str(out)) == 2
        told = capsys.readouterr().err
        assert "run.pt': is not intact (" in told
        assert told.count("\n") == 1


def test_a_killed_command_goes_on_to_the_same_bits(text: Path, tmp_path: Path) -> None:
    options = ["--steps", "150", "--loops", "4", "--checkpoint-every", "15", "--learning-rate", "0.01"]
    killed, whole = tmp_path / "killed.nc", tmp_path / "whole.nc"
    program = "import sys; from residual_theory.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-c", program, "train", *SMALL, "--text", str(text), *options, "--out", str(killed)]
    running = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 60
    while not killed.with_suffix(".pt").exists() and time.monotonic() < end:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not killed.exists()
    done = torch.load(killed.with_suffix(".pt"), weights_only=True)["done"]
    assert done % 15 == 0
    assert done < 150
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run(text, *options, "--out", str(killed)) == run(text, *options, "--out", str(whole)) == 0
    finally:
        torch.set_num_threads(threads)
    one, other = (xr.load_dataset(path, engine="h5netcdf") for path in (killed, whole))
    assert one.identical(other)
    assert np.isfinite(one.train_loss).all()


def test_a_local_data_set_is_read_through_its_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{number}": number for number in range(50)}
    made: Any = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    lines = [json.dumps({"body": " ".join(f"w{(n * k) % 50}" for k in range(40))}) for n in range(100)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n")
    data = ["--dataset", str(tmp_path / "texts.jsonl"), "--tokenizer", str(tmp_path / "tokenizer.json")]
    assert main(["train", *SMALL, *data, "--text-column", "body", "--steps", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["vocabulary"] == 50
    assert found["train_loss"][0] == pytest.approx(np.log(50), abs=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "15"], "heads = 2"),
        (["--loops", "0"], "loops = 0"),
        (["--scale", "1/K"], "--scale = '1/K'"),
        (["--rule", "mup"], "--rule = 'mup'"),
        (["--warmup", "x"], "warmup = 'x'"),
        (["--warmup", "1.5"], "warmup = 1.5"),
        (["--vocabulary", "100"], "vocabulary = 100"),
        (["--context", "10000000"], "text = "),
        (["--device", "cuda:99"], "device = 'cuda:99'"),
        (["--dtype", "float16"], "dtype = 'float16'"),
        (["--accumulation", "3"], "accumulation = 3"),
        (["--learning-rate", "nan"], "--learning-rate = nan"),
        (["--tokenizer", "gpt2"], "tokenizer = 'gpt2'"),
        (["--dataset", "x", "--tokenizer", "gpt2"], "text = "),
        (["--out", "/dev/null/x.nc"], "out = '/dev/null/x.nc'"),
        (["--out", "weights.pt"], "out = 'weights.pt'"),
        (["--checkpoint-every", "0"], "every = 0"),
        (["--steps", "many"], "steps"),
        (["--steps", "2000000000000"], "--steps = 2000000000000: should be less than or equal to 100000000"),
        (["--limit", "5"], "limit = 5: goes with --dataset"),
        (["--split", "test"], "split = 'test': goes with --dataset"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    options: list[str], message: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(text, "--steps", "1", *options) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not Path("weights.pt").exists()
