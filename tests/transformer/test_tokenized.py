"""Tokenized corpora, from a local data set and a tokenizer trained here: no network."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from residual_theory.errors import InputError
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.train import train

datasets = pytest.importorskip("datasets")
tokenizers = pytest.importorskip("tokenizers")
tokenized = pytest.importorskip("residual_theory.transformer.tokenized")

TEXTS = [f"Document {number} says {' '.join(f'word{number * k % 37}' for k in range(30))}." for number in range(120)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-pair encoding, trained on the texts."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return Path(path)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lines") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "number": 3}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def documents(part: torch.Tensor, tokenizer: Path) -> list[str]:
    read = tokenizers.Tokenizer.from_file(str(tokenizer))
    pieces = read.decode(part.tolist(), skip_special_tokens=False).split("<|endoftext|>")
    assert pieces.pop() == ""
    return list(pieces)


def test_documents_are_split_whole_and_read_back(lines: Path, tokenizer: Path) -> None:
    corpus = tokenized.load_dataset(lines, tokenizer)
    parts = [documents(part, tokenizer) for part in (corpus.train, corpus.validation)]
    assert sorted(parts[0] + parts[1]) == sorted(TEXTS)
    assert 2 <= len(parts[1]) <= 30
    assert parts[0] == [text for text in TEXTS if text in parts[0]]  # in order
    assert corpus.vocabulary == 400
    assert corpus.train.dtype == corpus.validation.dtype == torch.uint16
    assert corpus.unit == "token"


def test_every_form_of_a_data_set_gives_the_same_corpus(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    expected = tokenized.load_dataset(lines, tokenizer).digest
    made = datasets.Dataset.from_dict({"text": TEXTS})
    made.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "dictionary")
    made.to_parquet(tmp_path / "texts.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.jsonl").write_text(lines.read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("saved", "dictionary", "texts.parquet", "folder"):
        assert tokenized.load_dataset(tmp_path / name, tokenizer).digest == expected, name


def test_a_tokenizer_of_transformers_agrees(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="<|endoftext|>")
    fast.save_pretrained(tmp_path / "fast")
    assert tokenized.load_dataset(lines, tmp_path / "fast").digest == tokenized.load_dataset(lines, tokenizer).digest


def test_reading_stops_at_the_limit(lines: Path, tokenizer: Path) -> None:
    whole, some = (tokenized.load_dataset(lines, tokenizer, limit=limit) for limit in (None, 1000))
    sizes = [len(corpus.train) + len(corpus.validation) for corpus in (whole, some)]
    assert 1000 <= sizes[1] < 1200 < sizes[0]
    assert torch.equal(some.train, whole.train[: len(some.train)])


def test_a_model_trains_on_tokens(lines: Path, tokenizer: Path) -> None:
    corpus = tokenized.load_dataset(lines, tokenizer)
    model = ModelConfig(vocabulary=400, width=16, heads=2, mlp_width=24, context=16)
    result = train(model, TrainConfig(steps=60, learning_rate=1e-2, evaluation_sequences=8), corpus)
    assert float(result.validation_loss) < float(result.train_loss[0]) - 1
    assert result.validation_loss.attrs["units"] == "nat per token"
    with pytest.raises(InputError, match=r"^vocabulary = 399: .*400"):
        train(model.model_copy(update={"vocabulary": 399}), TrainConfig(steps=1), corpus)
    with pytest.raises(InputError, match=r"^text = .* tokens"):
        train(model.model_copy(update={"context": 10**6}), TrainConfig(steps=1), corpus)


def test_ids_beyond_sixteen_bits_are_kept(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    written = json.loads(tokenizer.read_text(encoding="utf-8"))
    written["added_tokens"][0]["id"] = written["model"]["vocab"]["<|endoftext|>"] = 70_000
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps(written), encoding="utf-8")
    corpus = tokenized.load_dataset(lines, wide)
    assert (corpus.vocabulary, corpus.train.dtype) == (70_001, torch.int32)
    assert int(corpus.train.max()) == 70_000


def test_what_cannot_be_read_is_refused_on_one_line(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "broken.jsonl").write_text("hello\n")
    (tmp_path / "archive.zip").touch()
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": TEXTS})}).save_to_disk(tmp_path / "dictionary")
    cases: list[tuple[str, Path, Path, dict[str, Any]]] = [
        ("text_column = 'body': choose from text, number", lines, tokenizer, {"text_column": "body"}),
        ("text_column = 'number': does not hold text", lines, tokenizer, {"text_column": "number"}),
        ("split = 'train': choose from test", tmp_path / "dictionary", tokenizer, {}),
        ("limit = 0", lines, tokenizer, {"limit": 0}),
        ("dataset = .*holds no text", tmp_path / "empty.jsonl", tokenizer, {}),
        ("dataset = .*cannot be read", tmp_path / "broken.jsonl", tokenizer, {}),
        ("dataset = .*ends in", tmp_path / "archive.zip", tokenizer, {}),
        ("tokenizer = .*cannot be read", lines, tmp_path / "bad.json", {}),
        ("tokenizer = .*cannot be read", lines, tmp_path, {}),
    ]
    for message, data, words, options in cases:
        with pytest.raises(InputError, match=f"^{message}") as caught:
            tokenized.load_dataset(data, words, **options)
        assert "\n" not in str(caught.value)


def test_a_library_that_is_not_installed_is_named(
    lines: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"^dataset = .*residual-theory\[data\]"):
        tokenized.load_dataset(lines, tokenizer)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"^tokenizer = .*residual-theory\[data\]"):
        tokenized.load_dataset(lines, tmp_path)
