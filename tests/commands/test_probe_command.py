"""The command `probe`: a model from a file or a folder, its inputs from anywhere, and one line for every bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory.cli import main
from residual_theory.netcdf import read_dataset

Capture = pytest.CaptureFixture[str]
MODULE = """
import torch
from torch import nn
from {neighbour} import WIDTH


class Looped(nn.Module):
    def __init__(self, loops=8):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=True, norm_first=True)
        self.loops = loops

    def forward(self, h):
        for _ in range(self.loops):
            h = self.layer(h)
        return h


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.core = nn.Embedding(256, WIDTH), Looped(6)

    def forward(self, tokens):
        return self.core(self.embedding(tokens))


class Halting(Looped):
    def forward(self, h, mask):
        for loop in range(self.loops):
            h = torch.where((torch.arange(5) < 2)[:, None] & (loop > 1), h, self.layer(h))
        return h


def make_mask():
    return torch.tensor([[1, 1, 1, 0, 0]] * 4)


def masked_inputs():
    return {{"h": torch.randn(4, 5, WIDTH), "mask": make_mask()}}


def make_inputs():
    return {{"h": torch.ones(4, 5, WIDTH)}}


ready, once, number = Looped(5), Looped(1), 3


def failing():
    raise RuntimeError("it broke\\nin two lines")


def list_inputs():
    return [1, 2]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file of models beside one that it imports."""
    neighbour = f"neighbour_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{neighbour}.py").write_text("WIDTH = 8\n")
    (tmp_path / "looped.py").write_text(MODULE.format(neighbour=neighbour))
    return str(tmp_path / "looped.py")


def document(capsys: Capture, *words: str) -> dict[str, Any]:
    assert main(["probe", *words, "--json"]) == 0
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


def test_three_lines_and_all_of_it(file: str, capsys: Capture) -> None:
    words = ["probe", f"{file}:Looped", "--block", "layer", "--shape", "6,5,8", "--gradients"]
    assert main(words) == 0
    short = capsys.readouterr().out
    assert [line.split(":")[0] for line in short.splitlines()] == ["Grows with more loops", "Why", "Do"]
    assert main([*words, "--verbose"]) == 0
    printed = capsys.readouterr().out
    for word in ("(input)", "layer", "cosine with the first", "gradient²", "6 samples in eval mode", "law: "):
        assert word in printed
    assert printed.index("law: ") > printed.index("growth")
    assert short in printed


def test_what_is_written_is_what_is_printed(file: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "measured.nc"
    words = (f"{file}:Looped", "--block", "layer", "--shape", "6,5,8", "--out", str(out))
    shown = document(capsys, *words)
    kept = read_dataset(out, argument="out")
    assert kept.attrs["model_source"] == f"{file}:Looped"
    assert shown["second_moment"] == kept.second_moment.values.tolist()
    assert shown["layer"] == kept.layer.values.tolist() == ["", *["layer"] * 8]
    assert shown["diagnosis"]["law"]
    again = tmp_path / "again.nc"
    document(capsys, *words[:-1], str(again))
    xr.testing.assert_identical(read_dataset(again, argument="out"), kept)  # weights and inputs from the seed
    assert document(capsys, *words[:-2], "--seed", "1")["second_moment"] != shown["second_moment"]


@pytest.mark.parametrize(
    ("words", "visits", "samples"),
    [
        (["{}:Looped", "--block", "layer", "--inputs", "{}:make_inputs"], 8, 4),
        (["{}:ready", "--block", "layer", "--inputs", "{}:make_inputs", "--dtype", "bfloat16"], 5, 4),
        (["{}:Reader", "--block", "core.*", "--tokens", "7", "--vocabulary", "9"], 6, 8),
        (["{}:Reader", "--block", "core.layer", "--text", "{}", "--tokens", "7", "--samples", "3"], 6, 3),
        (["{}:Looped", "--block", "layer.linear?", "--shape", "6,5,8", "--training"], None, None),
    ],
)
def test_where_inputs_come_from(
    file: str, words: list[str], visits: int | None, samples: int | None, capsys: Capture
) -> None:
    words = [word.format(file) for word in words]
    if visits is None:  # a linear layer of another width out than in
        assert main(["probe", *words]) == 2
        assert "has a stream of shape" in capsys.readouterr().err
        return
    shown = document(capsys, *words)
    assert (shown["visits"], shown["samples"]) == (visits, samples)


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("--dtype", "float64", "dtype"),
        ("--training", None, "mode"),
        ("--increments", "visit", "loops_are"),
        ("--memory", "1", "sketch_dimension"),
        ("--gradients", None, "gradient_second_moment"),
    ],
)
def test_every_option_reaches_the_probe(file: str, option: str, value: str | None, key: str, capsys: Capture) -> None:
    words = (f"{file}:ready", "--block", "layer", "--shape", "20,320,8" if option == "--memory" else "3,4,8")
    plain = document(capsys, *words)
    changed = document(capsys, *words, option, *([value] if value else []))
    assert changed.get(key) != plain.get(key)


def test_the_block_the_stream_and_the_mask(file: str, capsys: Capture) -> None:
    words = (f"{file}:Halting", "--inputs", f"{file}:masked_inputs")
    found = document(capsys, *words)
    assert found["blocks"] == "layer"
    assert document(capsys, *words, "--block", "**.layer", "--stream", "src") == found
    assert document(capsys, *words, "--block", "layer", "--stream", "0,")["second_moment"] == found["second_moment"]
    masked = document(capsys, *words, "--mask", "mask")
    assert masked["second_moment"] == document(capsys, *words, "--mask", f"{file}:make_mask")["second_moment"]
    assert masked["second_moment"] != found["second_moment"]
    assert main(["probe", *words, "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert "the model itself makes the stream after" in printed
    assert "60.0%" in printed


def test_one_visit_has_no_diagnosis(file: str, capsys: Capture) -> None:
    words = (f"{file}:once", "--block", "layer", "--shape", "3,4,8")
    assert main(["probe", *words]) == 0
    assert "no diagnosis: " in capsys.readouterr().out
    assert "refused" in document(capsys, *words)["diagnosis"]


def test_a_figure(file: str, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("residual_theory.report.diagnosis_figure")
    picture = tmp_path / "probe.png"
    words = ["probe", "--block", "layer", "--shape", "6,5,8", "--figure", str(picture)]
    assert main([*words, f"{file}:Looped"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    assert main([*words, f"{file}:once"]) == 2
    assert "there is no diagnosis to draw" in capsys.readouterr().err
    assert not picture.exists()


def test_a_pretrained_folder(tmp_path: Path, capsys: Capture) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    config = transformers.AlbertConfig(
        vocab_size=30, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=24,
        num_hidden_layers=6,
    )  # fmt: skip
    folder = tmp_path / "albert"
    transformers.AlbertModel(config).save_pretrained(folder)
    text = tmp_path / "text.txt"
    text.write_text("one two three " * 200)
    words = ("--hf", str(folder), "--block", "encoder.albert_layer_groups")
    capsys.readouterr()
    assert document(capsys, *words, "--tokens", "5")["visits"] == 6  # the ids that the model's own config allows
    assert document(capsys, *words[:2], "--tokens", "5")["blocks"] == "encoder.albert_layer_groups.0"
    inner = document(capsys, *words[:2], "--block", "**.albert_layers.*", "--tokens", "5")
    assert (inner["blocks"], inner["visits"]) == ("encoder.albert_layer_groups.0.albert_layers.0", 6)
    assert main(["probe", *words, "--text", str(text), "--tokens", "5"]) == 2  # a folder without one gets an empty one
    assert "a tokenizer that knows no word" in capsys.readouterr().err
    vocabulary = tokenizers.models.WordLevel({"one": 0, "two": 1, "three": 2, "?": 3}, unk_token="?")
    tokenizer = tokenizers.Tokenizer(vocabulary)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    shown = document(capsys, *words, "--text", str(text), "--tokens", "5", "--samples", "3")
    assert (shown["visits"], shown["samples"]) == (6, 3)
    assert np.isfinite(shown["second_moment"]).all()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["{}:once", "--shape", "3,4,8"], "block = None: no module is called more than once"),
        (["{}:Looped", "--block", "*.layer", "--shape", "3,4,8"], "two stars are any number: **.layer"),
        (
            ["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--stream", "x,y,z"],
            "stream = ('x', 'y', 'z'): give a",
        ),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--stream", "x"], "no floating-point argument x"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--mask", "{}:number"], "must be a tensor of 1 and 0"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--mask", "{}:make_mask"], "must have the leading axes"),
        (["--block", "layer", "--shape", "3,4,8"], "model = None"),
        (["{}:Looped", "--hf", "x", "--block", "layer", "--shape", "3,4,8"], "give either a file"),
        (["{}", "--block", "layer", "--shape", "3,4,8"], "write FILE.py:make_model"),
        (["{}x.py:Looped", "--block", "layer", "--shape", "3,4,8"], "there is no such file"),
        (["{}:Loop", "--block", "layer", "--shape", "3,4,8"], "the file defines no Loop"),
        (["{}:number", "--block", "layer", "--shape", "3,4,8"], "makes int, not a torch.nn.Module"),
        (["{}:failing", "--block", "layer", "--shape", "3,4,8"], "raised RuntimeError: it broke in two lines"),
        (["{}:Looped", "--block", "layers", "--shape", "3,4,8"], "did you mean layer"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,9"], "raised RuntimeError"),
        (["{}:Looped", "--block", "layer", "--shape", "3"], "give samples and entries"),
        (["{}:Looped", "--block", "layer", "--shape", "3,0"], "give samples and entries"),
        (["{}:Looped", "--block", "layer", "--shape", "3,a"], "shape = '3,a': must be an integer"),
        (["{}:Looped", "--block", "layer"], "give one of --inputs"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--tokens", "4"], "give one of --inputs"),
        (["{}:Looped", "--block", "layer", "--inputs", "{}:list_inputs"], "give a tensor, a tuple"),
        (["{}:Looped", "--block", "layer", "--inputs", "{}:none"], "the file defines no none"),
        (["{}:Reader", "--block", "core", "--tokens", "4"], "vocabulary = None"),
        (["{}:Reader", "--block", "core", "--tokens", "4", "--vocabulary", "999"], "raised IndexError"),
        (["{}:Reader", "--block", "core", "--tokens", "0", "--vocabulary", "9"], "tokens = 0: must be at least 1"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--vocabulary", "9"], "goes with --tokens alone"),
        (["{}:Reader", "--block", "core", "--text", "nowhere"], "text = 'nowhere'"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--device", "abacus"], "device = 'abacus'"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--dtype", "int8"], "dtype = 'int8'"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--memory", "0"], "memory = 0"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--increments", "x"], "increments = 'x'"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--figure", "x.gif"], "name a file that ends in"),
        (["{}:Looped", "--block", "layer", "--shape", "9999999999999,8"], "shape = '9999999999999,8': raised"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--seed", "-1"], "seed = -1"),
        (["{}:Looped", "--block", "layer", "--shape", "3,4,8", "--seed", f"{2**64}"], f"seed = {2**64}"),
        (["--hf", "{}", "--block", "layer", "--tokens", "4"], "holds no model"),
    ],
)
def test_misuse_is_one_line_and_status_2(file: str, words: list[str], line: str, capsys: Capture) -> None:
    if "--hf" in words:
        pytest.importorskip("transformers")
        words = [word.format(Path(file).parent) if word == "{}" else word for word in words]
    out = str(Path(file).with_name("out.nc"))
    assert main(["probe", *(word.format(file) for word in words), "--out", out]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not Path(out).exists()
