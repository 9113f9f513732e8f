"""The text that Transformers read, read once a process."""

import functools
from pathlib import Path

from residual_theory.errors import InputError
from residual_theory.transformer.data import Corpus, load_corpus

corpus_at = functools.lru_cache(maxsize=4)(load_corpus)


def corpus_as_planned(text: Path | None, digest: str) -> Corpus:
    """The text that a measurement was planned with.

    Raises: InputError when it has changed since.
    """
    corpus = corpus_at(text)
    if corpus.digest != digest:
        raise InputError("text", str(text), "has changed since the run began; run again")
    return corpus
