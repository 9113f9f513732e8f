"""What the many-loop limit, the bounds and the rates of growth refuse, and what they must not."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.stack import LlamaStack, Stack
from residual_theory.theory.bounds import Bounds, bounds
from residual_theory.theory.forward import predict
from residual_theory.theory.growth import growth_constant, growth_exponents
from residual_theory.theory.loop_limit import Branch, goursat, loop_limit


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: Array) -> Array:
        return x


UNCOVERED: list[dict[str, Any]] = [
    *({"branch": bad} for bad in ("mlp", "gated")),
    *({"normalization": bad} for bad in ("post", "rms-post")),
    *({name: 1} for name in ("prelude", "coda")),
    *({name: rule} for name in ("skip", "carry", "injection") for rule in (0.9, "1/N")),
    {"sharing": "consecutive"},
    {"sharing": [0, 1] * 6},
    {"activation": "tanh"},
    {"activation": Unhashable()},
    {"loop_normalization": True},
]


def bounds_of(**fields: Any) -> Bounds:
    return bounds(Stack(loops=4, unique_layers=3, **fields))


REFUSED: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *((loop_limit, {"strength": bad}) for bad in (-1.0, math.inf, math.nan, 10**400, "1", True)),
    *((partial(loop_limit, 1.0), {"tolerance": bad}) for bad in (0.0, 2.0, math.nan)),
    *((partial(loop_limit, 1.0), {name: bad}) for name in ("activation", "normalization") for bad in ("sine", 3)),
    *((partial(loop_limit, 1.0), {name: bad}) for name in ("weight_variance", "initial_variance") for bad in (-1.0, 0)),
    *((partial(loop_limit, 1.0), {"normalization": bad}) for bad in ("post", "rms-post")),
    (partial(loop_limit, 1.0), {"normalization": []}),
    *((bounds_of, bad) for bad in UNCOVERED),
    (lambda loops: bounds(Stack(loops=loops, unique_layers=11)), {"loops": 10**6}),
    (bounds, {"stack": LlamaStack(loops=2, width=8, mlp_width=8, heads=1)}),
    (bounds, {"stack": 3}),
    (growth_exponents, {"loop_exponent": -0.1}),
    (partial(growth_exponents, 0.5), {"layer_exponent": math.inf}),
    (growth_constant, {"activation": []}),
    *((growth_constant, {name: -1}) for name in ("activation", "scale", "weight_variance", "unique_layers")),
]


@pytest.mark.parametrize(("function", "argument"), REFUSED)
def test_an_argument_that_cannot_be_used_is_named(function: Callable[..., Any], argument: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        function(**argument)
    assert [caught.value.argument] == list(argument)


def test_consecutive_layers_leave_the_bounds_of_cyclic_ones() -> None:
    """Layers apart multiply, so that log R² grows as L and not as √L: this is why the bounds refuse them."""
    fields: dict[str, Any] = {"loops": 48, "unique_layers": 4, "residual_scale": 0.08}
    assert bounds(Stack(**fields)).upper < 0.1 * float(
        predict(Stack(sharing="consecutive", **fields)).second_moment[-1]
    )


def test_rules_that_change_nothing_are_covered() -> None:
    plain = bounds(Stack(loops=4, unique_layers=3))
    assert bounds(Stack(loops=4, unique_layers=3, skip="N/4", carry="L/3", injection="N-4")) == plain


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_numbers_of_numpy_are_numbers(kind: Callable[[float], float]) -> None:
    found = loop_limit(kind(0.5), weight_variance=kind(2), initial_variance=kind(0.25), tolerance=kind(2**-12))
    assert found == loop_limit(0.5, weight_variance=2.0, initial_variance=0.25, tolerance=2**-12)
    assert growth_exponents(kind(0.5), kind(0.25)) == (0.5, 0.5)
    assert growth_constant("linear", kind(4), scale=kind(0.5)) == 2.0


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    values = 0

    def row(covariance: Array, states: Array) -> Array:
        nonlocal values
        values += len(covariance)
        return covariance

    monkeypatch.setattr("residual_theory.theory.loop_limit._MOST_WORK", 2e6)
    branch = Branch(lambda variance: variance[:, None], row, cost=10.0)
    with pytest.raises(InputError, match=r"^tolerance = 1e-12: \d+ intervals reach .* strength 9; ask for less$"):
        goursat(branch, 9.0, 1.0, 1e-12)
    assert 1e4 < values <= 2e5 + 1
    with pytest.raises(InputError, match=r"^strength = 200: no grid .* smaller strength$"):
        goursat(branch, 200, 1.0, 1e-2)
