"""Gradients at every visit: against autograd by hand, numbers known exactly, and the infinite-width prediction."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from residual_theory.measure.probe import probe
from residual_theory.stack import Stack
from residual_theory.theory.forward import predict

GENERATOR = torch.Generator().manual_seed(77)
X = torch.randn(5, 3, 8, generator=GENERATOR, dtype=torch.float64)


def weights(*shape: int, scale: float = 1.0) -> nn.Parameter:
    drawn = torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)
    return nn.Parameter(scale * drawn / math.sqrt(shape[-1]))


class Residual(nn.Module):
    """h ← h + ε W φ(h), raw or pre-norm."""

    def __init__(self, width: int, epsilon: float, variance: float = 1.0, norm: bool = False) -> None:
        super().__init__()
        self.weight = weights(width, width, scale=math.sqrt(variance))
        self.epsilon, self.norm = epsilon, norm

    def forward(self, h: Tensor) -> Tensor:
        u = nn.functional.rms_norm(h, h.shape[-1:]) if self.norm else h
        return h + self.epsilon * torch.relu(u) @ self.weight.T


class Loop(nn.Module):
    def __init__(self, block: nn.Module, loops: int, head: nn.Module | None = None) -> None:
        super().__init__()
        self.block, self.loops, self.head = block, loops, head or nn.Identity()

    def forward(self, h: Tensor) -> Any:
        for _ in range(self.loops):
            h = self.block(h)
        return self.head(h)


def by_hand(model: Loop, x: Tensor, readout: Tensor) -> list[Tensor]:
    """The gradient at each visit, one visit at a time: the loops from h_k on, as a function of h_k."""
    gradients = []
    h = x.detach()
    for visit in range(model.loops + 1):
        start = h.clone().requires_grad_()
        out = start
        for _ in range(model.loops - visit):
            out = model.block(out)
        gradients.append(torch.autograd.grad((out * readout).sum(), start)[0])
        h = model.block(h).detach()
    return gradients


def test_against_autograd_by_hand() -> None:
    model = Loop(Residual(8, 0.4), loops=4)
    result = probe(model, block="block", inputs=X, with_gradients=True, seed=11)
    readout = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    readout /= readout.square().sum((1, 2), keepdim=True).sqrt()
    squares = torch.stack([g.square().sum((1, 2)) for g in by_hand(model, X, readout)])  # (visit, sample)
    np.testing.assert_allclose(result.gradient_second_moment, squares.mean(1), rtol=1e-12)
    np.testing.assert_allclose(
        result.gradient_second_moment_stderr, squares.std(1) / math.sqrt(5), rtol=1e-9, atol=1e-15
    )
    assert float(result.gradient_second_moment[-1]) == pytest.approx(1, rel=1e-12)
    other = probe(model, block="block", inputs=X, with_gradients=True, seed=12)
    assert abs(other.gradient_second_moment - result.gradient_second_moment)[0] > 1e-6


def test_a_loss_of_the_output() -> None:
    """f may be any scalar of the output, here through a head, and is taken as it is."""
    head = nn.Linear(8, 2, dtype=torch.float64)
    model = Loop(Residual(8, 0.4), loops=3, head=head)
    result = probe(model, block="block", inputs=X, with_gradients=True, loss=lambda out: out.square().sum())
    h = X
    with torch.no_grad():
        for _ in range(3):
            h = model.block(h)
    gradients = by_hand(Loop(model.block, 3), X, 2 * head(h).detach() @ head.weight.detach())
    squares = [float(g.square().sum((1, 2)).mean()) for g in gradients]
    np.testing.assert_allclose(result.gradient_second_moment, squares, rtol=1e-12)


def test_the_forward_observables_stay_as_they_are_without() -> None:
    model = Loop(Residual(8, 0.4), loops=3)
    without = probe(model, block="block", inputs=X)
    found = probe(model, block="block", inputs=X, with_gradients=True)
    xr.testing.assert_identical(found.drop_vars(["gradient_second_moment", "gradient_second_moment_stderr"]), without)


@pytest.mark.parametrize("trainable", [True, False])
def test_nothing_is_left_behind(trainable: bool) -> None:
    model = Loop(Residual(8, 0.4), loops=3).requires_grad_(trainable)
    x = X.clone()
    probe(model, block="block", inputs=x, with_gradients=True)
    assert not x.requires_grad
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad == trainable for p in model.parameters())


def test_an_embedding_that_is_frozen() -> None:
    class Model(Loop):
        def __init__(self) -> None:
            super().__init__(Residual(8, 0.4), loops=2)
            self.embedding = nn.Embedding(10, 8, dtype=torch.float64)

        def forward(self, h: Tensor) -> Any:
            return super().forward(self.embedding(h))

    model = Model()
    tokens = torch.arange(6).view(2, 3)
    found = probe(model, block="block", inputs=tokens, with_gradients=True)
    xr.testing.assert_identical(
        probe(model.requires_grad_(False), block="block", inputs=tokens, with_gradients=True), found
    )


def test_a_stream_changed_in_place_later_keeps_its_gradient() -> None:
    class InPlace(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            for _ in range(2):
                h = self.block(h)
                h.mul_(3.0)  # after the visit
            return h

        def __init__(self) -> None:
            super().__init__()
            self.block = Residual(8, 0.0)

    result = probe(InPlace(), block="block", inputs=X, with_gradients=True)
    np.testing.assert_allclose(result.gradient_second_moment, [9.0, 9.0, 1.0], rtol=1e-12)
    assert result.attrs["changed_between_visits"] == 1  # the same tensor object, but no longer what the visit left


def test_bfloat16() -> None:
    model = Loop(Residual(8, 0.4), loops=3)
    exact = probe(model, block="block", inputs=X, with_gradients=True)
    found = probe(model.bfloat16(), block="block", inputs=X.bfloat16(), with_gradients=True)
    np.testing.assert_allclose(found.gradient_second_moment, exact.gradient_second_moment, rtol=0.05)


@pytest.mark.parametrize("normalization", ["none", "rms"])
@pytest.mark.parametrize("epsilon", [0.25, 0.5])
def test_a_wide_tied_stack_obeys_the_prediction(normalization: Any, epsilon: float) -> None:
    """Mean over independent stacks, within four standard errors and a finite-width term of a few 1/d."""
    loops, width, stacks, variance = 4, 384, 24, 1.5
    law = predict(
        Stack(loops=loops, residual_scale=epsilon, weight_variance=variance, initial_variance=2.0,
              normalization=normalization)
    ).gradient_second_moment.values  # fmt: skip
    x = math.sqrt(2.0) * torch.randn(stacks, 1, width, generator=GENERATOR, dtype=torch.float64)
    drawn: list[np.ndarray] = []
    for one in x:
        model = Loop(Residual(width, epsilon, variance, norm=normalization == "rms"), loops)
        result = probe(model, block="block", inputs=one, with_gradients=True, seed=len(drawn))
        drawn.append(result.gradient_second_moment.values)
    found = np.stack(drawn)
    stderr = found.std(0, ddof=1) / math.sqrt(stacks)
    assert (np.abs(found.mean(0) - law) <= 4 * stderr + 4 * law / width).all()
    tied_as_untied = predict(
        Stack(loops=loops, residual_scale=epsilon, weight_variance=variance, initial_variance=2.0, tied=False,
              normalization=normalization)
    ).gradient_second_moment.values  # fmt: skip
    if epsilon == 0.5:
        assert abs(found.mean(0) - tied_as_untied)[0] > 4 * stderr[0] + 4 * law[0] / width
