"""What blocks of Transformers add, and what redrawing one changes."""

from typing import Any

import numpy as np
import pytest

from residual_theory.errors import InputError
from residual_theory.measure.probe import probe
from residual_theory.measurements.redrawing import redrawn_blocks
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.data import evaluation_windows, load_corpus
from residual_theory.transformer.model import LoopedTransformer

SMALL: dict[str, Any] = {"width": 16, "heads": 2, "mlp_width": 24, "context": 8, "init_std": 0.1}
RUN: dict[str, Any] = {"models": 2, "first_model": 3, "windows": 2, "seed": 5}


def test_blocks_add_what_a_probe_of_the_same_models_sees() -> None:
    """And redrawing a later block changes nothing of one loop's earlier ones."""
    config, corpus = ModelConfig(unique_layers=2, loops=1, residual_scale=0.5, **SMALL), load_corpus()
    found = redrawn_blocks(config, corpus, **RUN)
    expected = []
    for index in (3, 4):
        seed = int(np.random.SeedSequence(5, spawn_key=(index,)).generate_state(2, np.uint64)[0] >> np.uint64(1))
        network = LoopedTransformer(config, seed)
        K = probe(network, block=network.blocks, inputs=evaluation_windows(corpus.validation, 2, 8)[0]).covariance
        changes = np.diff(np.diff(K.values, axis=0), axis=1)
        expected.append(np.diag(changes) / (0.5 * 0.1) ** 2)
    assert found.output_square.values == pytest.approx(np.mean(expected, axis=0), rel=1e-4)
    assert float(found.redraw_change[0, 1]) == 0
    assert float(found.redraw_change[1, 0]) > 0
    assert float(found.other_change) == pytest.approx(float(found.redraw_change[1, 0]) / 2)
    assert found.tokens.shape == (2, 8)


def test_blocks_that_do_more_than_add_are_refused() -> None:
    for name, value in (("tied", False), ("normalization", "post"), ("carry", 0.5), ("coda", 1)):
        config = ModelConfig(**{"loops": 2, **SMALL, name: value})
        with pytest.raises(InputError, match=rf"^{name} = .*: blocks that only add have "):
            redrawn_blocks(config, load_corpus(), **RUN)
