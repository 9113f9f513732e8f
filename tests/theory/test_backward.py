"""Gradients and the tangent kernel: recorded values, the double sum as it stands, and autograd on random stacks."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory.montecarlo.simulate import simulate
from residual_theory.stack import Stack
from residual_theory.theory import backward, forward, recursion
from residual_theory.theory.forward import predict


@pytest.mark.parametrize(
    ("loops", "scale", "gradient", "tangent"),
    [(8, "1/N", 1.5100587, 0.5995495), (32, "1/sqrt(N)", 193.542203, 993.08993)],
)
def test_recorded_values(loops: int, scale: str, gradient: float, tangent: float) -> None:
    predicted = predict(Stack(loops=loops, residual_scale=scale))
    assert float(predicted.gradient_second_moment[0]) == pytest.approx(gradient, rel=1e-7)
    assert float(predicted.tangent_kernel) == pytest.approx(tangent, rel=1e-7)
    assert float(predicted.gradient_second_moment[-1]) == 1.0


def probability_of_both(cosine: float) -> float:
    return (math.pi - math.acos(max(-1.0, min(1.0, cosine)))) / math.tau


@pytest.mark.parametrize("normalization", ["none", "rms"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("loops", "unique_layers", "scale"), [(5, 1, 0.5), (3, 2, 0.9), (1, 4, 1.3)])
def test_the_recursion_is_the_double_sum(
    normalization: str, tied: bool, loops: int, unique_layers: int, scale: float
) -> None:
    fields: dict[str, Any] = {"loops": loops, "unique_layers": unique_layers, "residual_scale": scale, "tied": tied}
    stack = Stack(**fields, normalization=normalization, weight_variance=1.7, initial_variance=0.6)  # type: ignore[arg-type]
    predicted, V = predict(stack), loops * unique_layers
    K = predicted.covariance.values
    size = np.sqrt(np.diag(K)) if normalization == "rms" else np.ones(V + 1)
    norms = np.sqrt(np.diag(K))

    def same(a: int, b: int) -> bool:
        return a % unique_layers == b % unique_layers if tied else a == b

    @cache
    def moment(n: int, m: int) -> float:
        total = 0.0
        for a in range(n, V):
            for b in range(m, V):
                if same(a, b):
                    cosine = 1.0 if a == b else K[a, b] / (norms[a] * norms[b])
                    total += probability_of_both(cosine) / (size[a] * size[b]) * moment(a + 1, b + 1)
        return 1 + scale**2 * 1.7 * total

    def product(a: int, b: int) -> float:
        angle = 0.0 if a == b else math.acos(min(1.0, K[a, b] / (norms[a] * norms[b])))
        kappa = (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.tau
        return kappa * (1.0 if normalization == "rms" else norms[a] * norms[b])

    expected = [moment(n, n) for n in range(V + 1)]
    np.testing.assert_allclose(predicted.gradient_second_moment, expected, rtol=1e-7)
    pairs = ((a, b) for a in range(V) for b in range(V) if same(a, b))
    tangent = scale**2 * sum(moment(a + 1, b + 1) * product(a, b) for a, b in pairs)
    assert float(predicted.tangent_kernel) == pytest.approx(tangent, rel=1e-7)


def test_the_general_path_agrees_with_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(loops=9, unique_layers=3, residual_scale=0.4, activation="linear")
    plain = predict(stack)
    for module in (recursion, backward, forward):
        monkeypatch.setattr(module, "is_plain", lambda visits: False)
    general = predict(stack)
    for name in plain.data_vars:
        np.testing.assert_allclose(general[name], plain[name], rtol=1e-10, atol=1e-12)


# Against autograd


def algebraic(x: Any) -> Any:
    """A sigmoid of the user's own."""
    return x / (1 + x * x) ** 0.5


def stack(loops: int, **fields: Any) -> Callable[[], Stack]:
    return lambda: Stack(loops=loops, **{"residual_scale": 0.5, **fields})


STACKS = {
    "raw": stack(4, weight_variance=1.3, initial_variance=0.7),
    "pre-norm": stack(3, unique_layers=2, normalization="rms"),
    "consecutive": stack(3, unique_layers=2, sharing="consecutive"),
    "list": stack(3, unique_layers=2, sharing=(0, 0, 1, 2, 1, 0), residual_scale=0.4),
    "prelude and coda": stack(3, prelude=2, coda=1, outer_scale=0.7, initial_variance=0.4),
    "injection": stack(4, carry=0.6, injection=0.5, prelude=1),
    "injection, two layers": stack(4, unique_layers=2, carry=0.6, injection=0.5, normalization="rms"),
    "norm between loops": stack(4, unique_layers=2, loop_normalization=True, initial_variance=2.0),
    "DeepLoop": stack(4, residual_scale="(8*N)^-0.5", skip="(2*N)^0.5", normalization="rms-post", initial_variance=2.0),
    "post-norm with injection": stack(4, normalization="post", carry=0.9, injection=0.3, prelude=1, coda=1),
    "two matrices": stack(3, branch="mlp", expansion=2, hidden_variance=1.6, weight_variance=0.8, activation="gelu"),
    "gated": stack(3, branch="gated", hidden_variance=1.2, normalization="rms", activation="silu"),
    "gated, raw": stack(2, branch="gated", hidden_variance=0.6, activation="leaky-relu"),
    "tanh": stack(4, activation="tanh", weight_variance=2.0),
    "erf": stack(4, activation="erf", unique_layers=2, normalization="rms", weight_variance=2.0),
    "own": stack(3, activation=algebraic, initial_variance=1.5),
}


@pytest.mark.parametrize("name", STACKS)
def test_autograd_finds_the_predicted_gradients(name: str) -> None:
    """The term of order 1/d is taken out by two widths; 5 standard errors over 16 stacks of a few numbers each."""
    predicted = predict(STACKS[name]())
    small, large = _drawn(name, 96), _drawn(name, 192)
    for observable in ("gradient_second_moment", "tangent_kernel", "second_moment"):
        law = predicted[observable].values
        limit = (2 * large[observable] - small[observable]).values
        stderr = np.hypot(2 * large[f"{observable}_stderr"].values, small[f"{observable}_stderr"].values)
        assert (np.abs(limit - law) <= 5 * stderr + 1e-12).all(), (limit, stderr, law)
        assert (stderr < 0.15 * np.abs(law)).all()  # sharp enough to tell


@cache
def _drawn(name: str, width: int) -> xr.Dataset:
    return simulate(STACKS[name](), width=width, samples=64, seed=11, method="dense", with_gradients=True)


def test_false_laws_are_told_apart() -> None:
    """Were visits untied, or the derivative's kernel that of the activation, the numbers would be far off."""
    untied = predict(STACKS["raw"]().model_copy(update={"tied": False}))
    drawn = _drawn("raw", 192)
    assert abs(drawn.tangent_kernel - untied.tangent_kernel) > 10 * drawn.tangent_kernel_stderr


def test_what_overflows_is_inf() -> None:
    predicted = predict(Stack(loops=700, residual_scale=1.0))
    assert np.isposinf(predicted.gradient_second_moment).all()
    assert np.isposinf(predicted.tangent_kernel)
