"""Corpora: what is read, how it is split, what is refused."""

import os
from pathlib import Path

import pytest
import torch

from residual_theory.errors import InputError
from residual_theory.transformer.data import batch, evaluation_windows, load_corpus


def text_of(tokens: torch.Tensor) -> str:
    return bytes(tokens.tolist()).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    for index in range(20):
        (root / ("deep" if index % 2 else "") / f"{index}.txt").write_text(f"<{index}>é", encoding="utf-8")
    return root


def test_the_default_is_the_standard_library() -> None:
    corpus = load_corpus()
    assert corpus.train.dtype == corpus.validation.dtype == torch.uint8
    total = len(corpus.train) + len(corpus.validation)
    assert total > 4_000_000
    assert 0.03 < len(corpus.validation) / total < 0.3
    assert corpus.name.startswith("python-3.")
    assert load_corpus(None).digest == corpus.digest


def test_a_folder_is_split_by_file(folder: Path) -> None:
    corpus = load_corpus(folder)
    parts = [set(text_of(part).split("é")[:-1]) for part in (corpus.train, corpus.validation)]
    assert len(parts[1]) == 2
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {f"<{index}>" for index in range(20)}


def test_what_is_not_text_is_left_out(folder: Path) -> None:
    digest = load_corpus(folder).digest
    (folder / "a.bin").write_bytes(b"a\0b")
    (folder / "b.bin").write_bytes(b"\xff\xfe")
    (folder / "empty.txt").touch()
    (folder / ".hidden").write_text("hidden", encoding="utf-8")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden", encoding="utf-8")
    (folder / "dangling").symlink_to(folder / "nowhere")
    assert load_corpus(str(folder)).digest == digest


def test_the_digest_follows_the_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    digest = load_corpus(folder).digest
    moved = folder.rename(tmp_path / "moved")
    assert load_corpus(moved).digest == digest
    (moved / "0.txt").write_text("other", encoding="utf-8")
    assert load_corpus(moved).digest != digest


def test_one_file_is_split_by_position(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("0123456789" * 10, encoding="utf-8")
    for source in (path, tmp_path):
        corpus = load_corpus(source)
        assert text_of(corpus.train) == "0123456789" * 9
        assert text_of(corpus.validation) == "0123456789"


@pytest.mark.parametrize(
    ("content", "mend"),
    [(b"", "empty"), (b"abc\0def", "UTF-8"), (b"caf\xe9", "UTF-8")],
    ids=["empty", "nul", "latin-1"],
)
def test_a_file_that_is_no_text_is_refused(content: bytes, mend: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^text = .*file.*{mend}") as caught:
        load_corpus(path)
    assert caught.value.argument == "text"


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^text = .*no such file"):
        load_corpus(tmp_path / "missing")
    with pytest.raises(InputError, match=r"^text = .*at least one text file"):
        load_corpus(tmp_path)
    with pytest.raises(InputError, match=r"^text = .*regular file"):
        load_corpus("/dev/null")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "locked.txt"
    path.write_text("text", encoding="utf-8")
    path.chmod(0)
    for source in (path, tmp_path):
        with pytest.raises(InputError, match=r"^text = .*cannot be read"):
            load_corpus(source)


def test_batches_are_windows_drawn_by_the_generator_given() -> None:
    split = torch.arange(100, dtype=torch.uint8)
    draws = [batch(split, 64, 9, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    inputs, targets = draws[0]
    assert inputs.shape == targets.shape == (64, 9)
    assert inputs.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, draws[1][0])
    assert not torch.equal(inputs, draws[2][0])


def test_every_position_can_be_drawn_and_none_beyond_the_end() -> None:
    split = torch.arange(12, dtype=torch.uint8)
    inputs, targets = batch(split, 500, 9, torch.Generator().manual_seed(0))
    assert set(inputs[:, 0].tolist()) == {0, 1, 2}
    assert targets.max() == 11


def test_evaluation_windows_span_the_split() -> None:
    split = torch.arange(100, dtype=torch.uint8)
    inputs, targets = evaluation_windows(split, 4, 9)
    assert inputs[:, 0].tolist() == [0, 30, 60, 90]
    assert targets[-1, -1] == 99
    assert evaluation_windows(split, 1, 9)[0].tolist() == [list(range(9))]
    assert evaluation_windows(split, 10**9, 9)[0][:, 0].tolist() == list(range(91))  # one at each position, no more


def test_a_split_shorter_than_a_sequence_is_refused() -> None:
    split = torch.zeros(9, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"^text = .*9 bytes.*context \+ 1 = 10"):
        batch(split, 1, 9, torch.Generator())
    with pytest.raises(InputError, match=r"^text = "):
        evaluation_windows(split, 1, 9)
