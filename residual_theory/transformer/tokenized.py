"""Corpora of a Hugging Face data set, local or streamed, read through a tokenizer."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from residual_theory.errors import InputError
from residual_theory.transformer.data import VALIDATION_SHARE, Corpus

_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")  # what a bare tokenizer.json calls its end of sequence
_AT_ONCE = 256  # documents tokenized together
_MEND = "pip install 'residual-theory[data]'"
Encode = Callable[[list[str]], list[list[int]]]


def load_dataset(
    name_or_folder: str | Path,
    tokenizer: str | Path,
    *,
    split: str = "train",
    text_column: str = "text",
    configuration: str | None = None,
    limit: int | None = None,
) -> Corpus:
    """Read documents, and split them into a training and a validation part, the same way on every call.

    Documents are joined in their order, each followed by the tokenizer's end-of-sequence token if it has one. A tenth
    of them is for validation: those whose text has a small SHA-256, so that copies of a document are in one part.

    Arguments:
      name_or_folder: a data set on the Hugging Face hub, which is streamed; or a folder that `save_to_disk` wrote or
        that holds files; or one file (JSON lines, Parquet, CSV, text).
      tokenizer: one on the hub, or a folder, for transformers' AutoTokenizer; or a tokenizer.json.
      split, configuration: of the data set, by name. text_column: where the documents are.
      limit: tokens after which reading stops (with the document that reaches it); None reads all.
    Returns: a Corpus of ids, uint16 or int32, with the tokenizer's vocabulary.
    Raises: InputError naming the argument: libraries that are not installed, a data set, column or tokenizer that
      cannot be read, one without text.
    """
    if limit is not None and limit < 1:
        raise InputError("limit", limit, "must be at least 1 token")
    encode, vocabulary, end = _tokenizer(tokenizer)
    dtype = np.uint16 if vocabulary <= 2**16 else np.int32
    parts = {True: bytearray(), False: bytearray()}  # ids, by whether they are for validation; in memory once
    count = 0
    texts = _texts(name_or_folder, split, text_column, configuration)
    while (chunk := list(islice(texts, _AT_ONCE))) and (limit is None or count < limit):
        for text, ids in zip(chunk, encode(chunk), strict=True):
            parts[_is_held_out(text)] += np.array([*ids, *end], dtype=dtype).tobytes()
            count += len(ids) + len(end)
            if limit is not None and count >= limit:
                break
    if not count:
        raise InputError("dataset", str(name_or_folder), "holds no text")
    train, validation = (np.frombuffer(parts[held], dtype) for held in (False, True))
    content = hashlib.sha256(f"{vocabulary} {len(train)} {len(validation)} ".encode())
    content.update(parts[False])
    content.update(parts[True])
    named = f"{name_or_folder}:{split}"
    return Corpus(
        named, torch.from_numpy(train), torch.from_numpy(validation), content.hexdigest(), vocabulary, "token"
    )


def _is_held_out(text: str) -> bool:
    first = int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:4])
    return first < VALIDATION_SHARE * 2**32


def _texts(source: str | Path, split: str, column: str, configuration: str | None) -> Iterator[str]:
    """The documents that are not empty."""
    try:
        documents = _documents(source, split, configuration)
        for document in documents:
            if column not in document:
                raise InputError("text_column", column, f"choose from {', '.join(document)}")
            if not isinstance(document[column], str | None):
                raise InputError("text_column", column, "does not hold text")
            if document[column]:
                yield document[column]
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  (network, formats, scripts: whatever the data set's library meets)
        reason = " ".join(str(error).split())[:160]
        raise InputError("dataset", str(source), f"cannot be read: {reason}") from None


def _documents(source: str | Path, split: str, configuration: str | None) -> Iterable[dict[str, Any]]:
    try:
        datasets: Any = import_module("datasets")
    except ImportError:
        raise InputError("dataset", str(source), f"needs the datasets library: {_MEND}") from None
    path = Path(source)
    documents: Any
    if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        documents = datasets.load_from_disk(str(path))
        if isinstance(documents, datasets.DatasetDict):
            if split not in documents:
                raise InputError("split", split, f"choose from {', '.join(documents)}")
            documents = documents[split]
    elif path.is_file():
        if path.suffix not in _BUILDERS:
            raise InputError("dataset", str(source), f"name a file that ends in {', '.join(_BUILDERS)}")
        files = {split: str(path)}
        documents = datasets.load_dataset(_BUILDERS[path.suffix], data_files=files, split=split, streaming=True)
    else:
        documents = datasets.load_dataset(str(source), configuration, split=split, streaming=True)
    found: Iterable[dict[str, Any]] = documents
    return found


def _tokenizer(name: str | Path) -> tuple[Encode, int, list[int]]:
    """How to encode documents, the vocabulary, and the end-of-sequence token as a list of none or one."""
    tokenizer: Any
    try:
        if Path(name).is_file():
            tokenizer = import_module("tokenizers").Tokenizer.from_file(str(name))
            ids, end = tokenizer.get_vocab(with_added_tokens=True), None
        else:
            tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(str(name))
            ids, end = tokenizer.get_vocab(), tokenizer.eos_token_id
    except ImportError:
        raise InputError("tokenizer", str(name), f"needs the transformers library: {_MEND}") from None
    except Exception as error:  # noqa: BLE001  (tokenizers raises Exception itself)
        reason = " ".join(str(error).split())[:160]
        raise InputError("tokenizer", str(name), f"cannot be read: {reason}") from None
    vocabulary = 1 + max(ids.values(), default=-1)
    if vocabulary < 2:
        raise InputError("tokenizer", str(name), "has no vocabulary")

    def encode(texts: list[str]) -> list[list[int]]:
        if hasattr(tokenizer, "encode_batch"):
            return [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]
        return list(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])

    if end is None:
        end = next((ids[word] for word in _ENDS if word in ids), None)
    return encode, vocabulary, [] if end is None else [end]
