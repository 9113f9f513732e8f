"""The loop's linearised map against matrices whose eigenvalues and singular values are known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import ArpackNoConvergence, aslinearoperator
from torch import Tensor, nn

from residual_theory import InputError, diagnose, probe
from residual_theory.measure import loop_map


class Loop(nn.Module):
    """A block looped, then the input added again if wanted, except after the last."""

    def __init__(self, block: nn.Module, loops: int, between: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.block, self.loops, self.between = block, loops, between

    def forward(self, h: Tensor) -> Tensor:
        e = h
        for loop in range(self.loops):
            if loop and self.between is not None:
                h = self.between(h, e)
            h = self.block(h)
        return h


def linear(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(len(matrix), len(matrix), bias=False).to(matrix.dtype)
    layer.weight = nn.Parameter(matrix)
    return layer


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attrs_of(model: nn.Module, inputs: Tensor, block: str = "block") -> dict[str, float]:
    return dict(probe(model, block=block, inputs=inputs, loop_map=True).attrs)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_matrix(seed: int) -> None:
    matrix = drawn(32, 32, seed=seed) / 32**0.5
    found = attrs_of(Loop(linear(matrix), 6), drawn(4, 32, seed=9))
    values = np.linalg.eigvals(matrix.numpy())
    largest = values[abs(values).argmax()]
    assert abs(found["loop_radius"] - abs(largest)) <= found["loop_radius_error"] < 0.01
    assert found["loop_angle"] == pytest.approx(abs(np.angle(largest)), abs=0.01)
    assert abs(found["loop_norm"] - float(torch.linalg.matrix_norm(matrix, 2))) <= found["loop_norm_error"] < 0.01


def test_it_differs_from_its_transpose_and_a_shear_grows_at_first() -> None:
    """h ← S h, S = 0.8 I + shear: ρ = 0.8, yet one loop can grow a disturbance."""
    shear = 0.8 * torch.eye(8, dtype=torch.float64)
    shear[0, 1] = 2.0
    found = probe(Loop(linear(shear), 8), block="block", inputs=drawn(3, 8), loop_map=True)
    assert found.loop_norm == pytest.approx(float(torch.linalg.matrix_norm(shear, 2)), abs=0.01)
    assert found.loop_norm > 2 > 1 > found.loop_radius - 0.05


def test_many_eigenvalues_of_one_size() -> None:
    turn = 1.05 * torch.linalg.qr(drawn(24, 24))[0]
    found = attrs_of(Loop(linear(turn), 12), drawn(6, 24))
    assert found["loop_radius"] == pytest.approx(1.05, abs=0.01)
    assert found["loop_norm"] == pytest.approx(1.05, abs=0.01)


def test_what_lies_between_visits_and_other_blocks_is_in_it() -> None:
    half = attrs_of(Loop(linear(torch.eye(8, dtype=torch.float64)), 6, lambda h, e: h / 2 + e), drawn(3, 8))
    assert half["loop_radius"] == pytest.approx(0.5, abs=0.01)
    one, two = linear(2 * torch.eye(8, dtype=torch.float64)), linear(0.3 * torch.eye(8, dtype=torch.float64))
    both = probe(nn.Sequential(*[one, two] * 4), block=[one, two], inputs=drawn(3, 8), loop_map=True)
    assert both.loop_radius == pytest.approx(0.6, abs=0.01)


def test_it_agrees_with_the_jacobian_of_an_encoder_layer() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True).double().eval()
    model, inputs = Loop(layer, 4), drawn(1, 3, 16)
    before = Loop(layer, 3)(inputs).detach()
    jacobian = torch.autograd.functional.jacobian(layer, before).reshape(48, 48)  # type: ignore[no-untyped-call]
    found = attrs_of(model, inputs)
    radius = float(torch.linalg.eigvals(jacobian).abs().max())
    assert abs(found["loop_radius"] - radius) <= found["loop_radius_error"] + 1e-3
    assert found["loop_norm"] == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=0.01)
    plain = probe(model, block="block", inputs=inputs)
    assert not [name for name in plain.attrs if name.startswith("loop_")]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_it_cannot_be_measured_of_is_refused() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8).double()

        def forward(self, h: Tensor) -> Tensor:
            with torch.no_grad():
                out: Tensor = self.linear(h)
            return out

    with pytest.raises(InputError, match="loop_map = True: no gradient"):
        probe(Loop(Detached(), 6), block="block", inputs=drawn(3, 8), loop_map=True)
    with pytest.raises(InputError, match="at least 4 entries, not 3"):
        probe(Loop(nn.Linear(3, 3).double(), 6), block="block", inputs=drawn(1, 3), loop_map=True)


def test_a_diagnosis_names_the_regime_and_warns() -> None:
    """A small mode that grows fast, unseen so far: R does not show it, the map does."""
    fast = 1.03 * torch.eye(16, dtype=torch.float64)
    fast[0, 0] = 1.9
    inputs = drawn(4, 16)
    inputs[:, 0] = 1e-9
    model = Loop(linear(fast), 8)
    found = diagnose(probe(model, block="block", inputs=inputs, loop_map=True))
    assert "grows, × 1.9 a loop" in found.regime
    assert str(found).splitlines()[3].startswith("Beware: forecasts may be too low")
    assert "beware: " in found.explain()
    assert diagnose(probe(model, block="block", inputs=inputs)).warning == ""
    still = diagnose(
        probe(Loop(linear(0.5 * torch.eye(8).double()), 12), block="block", inputs=drawn(3, 8), loop_map=True)
    )
    assert "settles, × 0.5" in still.regime
    assert math.isfinite(still.rate.value)


def test_an_eigenvector_that_is_off_shows_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = np.array([[1.0], [0.1], [0.0]])
    monkeypatch.setattr(loop_map, "eigs", lambda *_, **__: (np.array([2.0 + 0j]), vector + 0j))
    value, error = loop_map._largest_eigenvalue(aslinearoperator(np.diag([2.0, 1.0, 0.5])), np.ones(3))
    assert value == 2
    assert error == pytest.approx(0.1 + 2e-3)  # ‖Av − 2v‖, and the tolerance


def test_without_convergence_products_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow decay of what is smaller: the growth is that of the last quarter, the norm a root."""

    def fail(*_: object, **__: object) -> None:
        raise ArpackNoConvergence("", np.array([]), np.array([]))

    monkeypatch.setattr(loop_map, "svds", fail)
    matrix, start = np.diag([1.5, 1.47]), np.array([0.05, 1.0])
    norm, error = loop_map._largest_singular_value(aslinearoperator(matrix), start)
    sizes = [np.linalg.norm(np.linalg.matrix_power(matrix.T @ matrix, step) @ start) for step in range(65)]
    assert norm**2 == pytest.approx((sizes[64] / sizes[48]) ** (1 / 16), rel=1e-9)
    assert 1.47 < norm < 1.5
    assert error > 0.003
