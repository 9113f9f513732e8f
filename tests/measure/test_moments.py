"""What a probe makes of sketched streams."""

import torch

from residual_theory.measure.moments import _with_lengths


def test_lengths_beside_sketched_products_are_the_exact_ones() -> None:
    """To the last bit, and whatever the sketch says of them."""
    squares = torch.tensor([[1 / 3, 0.7, 5.1, 0.0]], dtype=torch.float64)
    sketched = torch.rand(1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(4)
    found = _with_lengths(sketched + sketched.mT, squares)
    assert torch.equal(found.diagonal(dim1=1, dim2=2), squares)
    assert not found[0, 3].any()
