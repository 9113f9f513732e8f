"""Which modules a name or a pattern finds, and which weights are copies."""

import torch

from residual_theory.measure.blocks import _matches
from residual_theory.measure.sharing import _is_copy


def test_numbers_in_names_are_ordered_by_size() -> None:
    names = ["layers.10", "layers.2", "layers.1", "head"]
    assert _matches("layers.*", names) == ["layers.1", "layers.2", "layers.10"]


def test_constant_matrices_are_no_copies() -> None:
    """As gains or zeros at initialisation are: alike without having been shared."""
    assert not _is_copy(torch.zeros(3, 3), torch.zeros(3, 3))
    weights = torch.arange(9.0).reshape(3, 3)
    assert _is_copy(weights, weights.clone())
    assert not _is_copy(weights, weights)
