"""What this project relies on, held in its own continuous integration."""

from pathlib import Path

import torch
from torch import Tensor, nn

import residual_theory as rt
from residual_theory.testing import assert_confirmed, assert_growth_exponent, assert_scale_applied


class Looped(nn.Module):
    """One residual block, looped: h ← h + ε W₂ relu(W₁ h)."""

    def __init__(self, scale: float, loops: int = 4, width: int = 64) -> None:
        super().__init__()
        self.block = Block(scale, width)
        self.loops = loops

    def forward(self, h: Tensor) -> Tensor:
        """The stream (samples, width) after all loops."""
        for _ in range(self.loops):
            h = self.block(h)
        return h


class Block(nn.Module):
    """A module from whose input to whose output the stream goes, with one branch."""

    def __init__(self, scale: float, width: int) -> None:
        super().__init__()
        self.scale = scale
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, h: Tensor) -> Tensor:
        """The stream after this visit."""
        out: Tensor = h + self.scale * self.branch(h)
        return out


def test_our_claims_hold() -> None:
    """Each claim of the file confirmed, each false twin refuted; otherwise the evidence is the message."""
    here = Path(__file__).parent
    assert_confirmed(here / "claims.py", preset=here / "ci.toml")


def test_the_residual_scale_reaches_the_branch_once() -> None:
    """A scale that never arrives, and one that is applied twice, both fail."""
    assert_scale_applied(Looped, "block", torch.randn(8, 64), scale=1 / 4)


def test_untied_pre_norm_streams_grow_like_the_root_of_the_depth() -> None:
    """R² ~ V, over five depths large enough to forget the input, with the sampler's standard errors."""
    depths = (16, 32, 64, 128, 256)
    values, stderrs = [], []
    for depth in depths:
        stack = rt.Stack(loops=depth, residual_scale=1, normalization="rms", weight_variance=2, tied=False)
        found = rt.simulate(stack, width=64, samples=200, seed=1)
        values.append(float(found.second_moment[-1]))
        stderrs.append(float(found.second_moment_stderr[-1]))
    assert_growth_exponent(depths, values, stderrs, predicted=1.0, margin=0.1)
