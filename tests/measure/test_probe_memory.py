"""Bounded memory: what a sketch says against the exact numbers, at its stated error."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import residual_theory.measure.probe as probe_module
from residual_theory.measure.probe import probe
from residual_theory.measure.recorder import Recorder
from residual_theory.measure.sketch import Sketch, halved


class Shear(nn.Module):
    """h ← h + ε (h shifted along its entries): cosines of all sizes over the loops."""

    def __init__(self, epsilon: float = 0.7) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, h: Tensor) -> Tensor:
        return h + self.epsilon * torch.roll(h, 1, -1)


class Loop(nn.Module):
    def __init__(self, loops: int, between: float | None = None) -> None:
        super().__init__()
        self.block, self.loops, self.between = Shear(), loops, between

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.loops):
            h = self.block(h)
            if self.between is not None:
                h = self.between * h
        return h


def streams(samples: int, entries: int, seed: int = 3) -> Tensor:
    return torch.randn(samples, entries, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Every recorder that a probe makes."""
    made: list[Recorder] = []

    class Kept(Recorder):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(probe_module, "Recorder", Kept)
    return made


def test_two_hundred_visits_of_a_million_entries(recorders: list[Recorder]) -> None:
    """The snapshots alone would take 800 MB; what is held stays within 64 MiB and one stream."""
    memory, x = 2**26, streams(1, 10**6)
    model = Loop(200)
    model.block.epsilon = 0.01
    result = probe(model, block="block", inputs=x, memory=memory)
    (recorder,) = recorders
    assert recorder.most_held <= memory + x.nbytes
    assert recorder.held == recorder.sketch.nbytes + sum(kept.nbytes for kept in recorder._snapshots())  # type: ignore
    assert len(recorder._snapshots()) == 201
    assert result.attrs["sketch_dimension"] == 2**15
    assert result.attrs["sketch_stderr"] == 2**-7.5
    h = x
    for visit in range(201):
        if visit in (0, 1, 77, 200):
            assert float(result.second_moment[visit]) == pytest.approx(float(h.double().square().mean()), rel=1e-12)
        h = model.block(h)
    assert np.isnan(result.covariance_stderr).all()  # one sample


@pytest.mark.parametrize("between", [None, 1.5])
def test_the_stated_error_covers_the_truth(between: float | None) -> None:
    """Over 60 projections: mean square of errors in units of the stated one near 1, 95 % of them within 1.96."""
    x, model = streams(1, 12_000), Loop(6, between)
    exact = probe(model, block="block", inputs=x)
    assert "sketch_dimension" not in exact.attrs
    errors: dict[str, list[np.ndarray]] = {"increment_cosine": [], "covariance": []}
    rows, columns = np.tril_indices(6, -1)
    length = np.sqrt(exact.second_moment.values)
    for seed in range(60):
        found = probe(model, block="block", inputs=x, memory=200_000, seed=seed)
        assert found.attrs["sketch_dimension"] in (1024, 2048)
        assert found.attrs["changed_between_visits"] == exact.attrs["changed_between_visits"]
        np.testing.assert_allclose(found.second_moment, exact.second_moment, rtol=1e-12)
        np.testing.assert_allclose(np.diag(found.covariance), found.second_moment, rtol=1e-12)
        for name in errors:
            scale = np.outer(length, length) if name == "covariance" else 1.0
            truth = (exact[name].values / scale)[rows, columns]
            stated = (1 - truth**2) * found.attrs["sketch_stderr"]
            errors[name].append(((found[name].values / scale)[rows, columns] - truth) / stated)
    for name, each in errors.items():
        z = np.array(each)  # (projection, pair); the pairs of one projection go together
        inside = (np.abs(z) < 1.96).mean(1)
        assert inside.mean() > 0.95 - 3 * inside.std(ddof=1) / math.sqrt(60), name
        assert 0.7 < np.square(z).mean() < 1.4, name


def test_the_standard_error_over_samples_contains_the_sketch() -> None:
    """One stream given 400 times has no spread but that of its projections, which the standard error then is."""
    x = streams(1, 2048).expand(400, -1)
    exact = probe(Loop(4), block="block", inputs=x)
    found = probe(Loop(4), block="block", inputs=x, memory=8_000_000)
    assert found.attrs["sketch_dimension"] == 256
    rows, columns = np.tril_indices(4, -1)
    cosine, stderr = (found[n].values[rows, columns] for n in ("increment_cosine", "increment_cosine_stderr"))
    truth = exact["increment_cosine"].values[rows, columns]
    np.testing.assert_allclose(stderr, (1 - truth**2) * found.attrs["sketch_stderr"] / 20, rtol=0.25)
    bias = 1 / found.attrs["sketch_dimension"]
    assert (np.abs(cosine - truth) <= 4 * stderr + bias).all()


def test_gradients_and_layers_beside_a_sketch() -> None:
    x = streams(3, 4096).requires_grad_()
    exact = probe(Loop(4), block="block", inputs=x, with_gradients=True)
    found = probe(Loop(4), block="block", inputs=x, memory=150_000, with_gradients=True)
    np.testing.assert_array_equal(found.gradient_second_moment, exact.gradient_second_moment)
    assert found.layer.values.tolist() == exact.layer.values.tolist()


def test_an_overflow_in_a_sketch_is_named_too() -> None:
    x = torch.full((2, 4096), 1e19)
    x[1] = 1.0
    found = probe(Loop(3, between=1e15), block="block", inputs=x, memory=100_000)
    assert "sketch_dimension" in found.attrs
    assert found.attrs["first_nonfinite_visit"] == 3


def test_a_larger_memory_changes_nothing_but_where_it_is_needed() -> None:
    x = streams(4, 600)
    xr.testing.assert_identical(
        probe(Loop(5), block="block", inputs=x), probe(Loop(5), block="block", inputs=x, memory=6 * x.nbytes)
    )
    with pytest.raises(ValueError, match=r"^memory = 9600: cannot hold . visits of 4 samples × 600 entries"):
        probe(Loop(5), block="block", inputs=x, memory=x.nbytes)


def test_halving_a_sketch_is_having_made_it_smaller() -> None:
    x = streams(3, 1000)
    large, small = (Sketch(3, 1000, dimension, seed=8) for dimension in (64, 32))
    torch.testing.assert_close(halved(large(x)), small(x))
    large.halve()
    torch.testing.assert_close(large(x), small(x), rtol=0, atol=0)
