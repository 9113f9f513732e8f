"""What is predicted of a stack at 2, 4 and 8 times its loops lies in the forecast from its own loops, or none is told.

Every kind of stack: each field away from its default. The same numbers are kept, so that the weights would be too.
"""

import math
from typing import Any

import numpy as np
import pytest

from residual_theory import LlamaStack, Stack, diagnose, predict
from residual_theory.diagnosis.diagnose import Diagnosis
from residual_theory.diagnosis.trajectory import Estimate

RMS: dict[str, Any] = {"normalization": "rms"}
KINDS: dict[str, dict[str, Any]] = {
    "ReLU": {},
    "ε = 1": {"residual_scale": 1.0},
    "ε = 1/√N": {"residual_scale": "1/sqrt(N)"},
    "untied": {"tied": False, "residual_scale": "1/sqrt(N)"},
    "two layers": {"unique_layers": 2},
    "four layers, pre-norm": {"unique_layers": 4, "residual_scale": 1.0, **RMS},
    "consecutive": {"unique_layers": 2, "sharing": "consecutive"},
    "linear": {"activation": "linear"},
    "leaky ReLU": {"activation": "leaky-relu"},
    "erf": {"activation": "erf"},
    "tanh, ε = 1": {"activation": "tanh", "residual_scale": 1.0},
    "gelu": {"activation": "gelu"},
    "silu": {"activation": "silu"},
    "sine": {"activation": np.sin, "residual_scale": 1.0},
    "mlp, three times as wide": {"branch": "mlp", "hidden_variance": 3.0, "expansion": 3},
    "gated": {"branch": "gated", "activation": "silu"},
    "gated, pre-norm": {"branch": "gated", "activation": "silu", "residual_scale": 0.5, **RMS},
    "pre-norm": RMS,
    "pre-norm, ε = 1": {"residual_scale": 1.0, **RMS},
    "post-norm": {"normalization": "post"},
    "both norms": {"normalization": "rms-post", "residual_scale": 0.5},
    "norm between loops": {"loop_normalization": True, "residual_scale": 1.0},
    "large weights": {"weight_variance": 2.0},
    "small input, pre-norm": {"initial_variance": 0.01, **RMS},
    "large input, pre-norm": {"initial_variance": 100.0, **RMS},
    "skip 0.9": {"skip": 0.9},
    "skip 0.9, pre-norm": {"skip": 0.9, "residual_scale": 0.3, **RMS},
    "skip 1.05": {"skip": 1.05},
    "DeepLoop": {"normalization": "rms-post", "skip": "(2*N*L)^0.5", "residual_scale": "(8*N*L)^(-0.5)"},
    "carry 0.8": {"carry": 0.8},
    "carry 0.8, pre-norm": {"carry": 0.8, "residual_scale": 0.3, **RMS},
    "carry 1.1, small ε": {"carry": 1.1, "residual_scale": 0.01},
    "carry 1.1, pre-norm": {"carry": 1.1, **RMS},
    "injection, pre-norm": {"injection": 1.0, "residual_scale": 0.3, **RMS},
    "injection": {"injection": 1.0},
    "injection and norm between loops": {"injection": 1.0, "loop_normalization": True, "residual_scale": 0.3},
    "Parcae": {"carry": 0.8, "injection": 0.2, "prelude": 2, "coda": 2},
    "Parcae, pre-norm": {"carry": 0.5, "injection": 0.5, "residual_scale": 0.3, **RMS},
    "prelude and coda": {"prelude": 2, "coda": 2, "outer_scale": 0.1, **RMS},
}
LLAMAS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Llama, ε = 1": {"residual_scale": 1.0},
    "Llama, untied": {"tied": False},
    "Llama, wide logits, no rotation": {"init_std": 0.12, "rope": False, "norm_epsilon": 1e-4},
}


def stack_of(kind: str, loops: int) -> Stack | LlamaStack:
    """With numbers for rules, which another loop count leaves as they are."""
    if kind in LLAMAS:
        shape: dict[str, Any] = {"width": 64, "mlp_width": 128, "heads": 4, "tokens": 4, "embedding_std": 0.5}
        llama = LlamaStack(loops=loops, unique_layers=2, **shape | {"init_std": 0.08} | LLAMAS[kind])
        return llama.model_copy(update={"residual_scale": llama.epsilon})
    stack = Stack(loops=loops, **KINDS[kind])
    numbers = {name: stack._value(name) for name in ("skip", "carry", "injection", "outer_scale")}
    return stack.model_copy(update=numbers | {"residual_scale": stack.epsilon})


def later(stack: Stack | LlamaStack, factor: int, scale: float = 1.0) -> np.ndarray:
    """R after each loop of the same stack, looped so many times as often at `scale` times its ε."""
    wanted = {"loops": factor * stack.loops, "residual_scale": stack.epsilon * scale}
    longer = stack.model_copy(update=wanted)
    squares = predict(longer, with_gradients=False).second_moment.values[list(longer.loop_ends)]
    return np.asarray(np.sqrt(squares))


def holds(said: Estimate, seen: float) -> bool:
    return said.low * (1 - 1e-6) <= seen <= said.high * (1 + 1e-6)


@pytest.mark.parametrize("kind", [*KINDS, *LLAMAS])
@pytest.mark.parametrize("loops", [6, 12])
def test_forecasts_hold_what_is_predicted(kind: str, loops: int) -> None:
    stack = stack_of(kind, loops)
    found = diagnose(predict(stack, with_gradients=False))
    if kind == "consecutive":
        assert found.forecasts == ()
        assert "do not take turns" in str(found)
        return
    seen = later(stack, 8)
    for each in found.forecasts:
        assert not each.same.told or holds(each.same, float(seen[each.factor * loops])), each
        if each.factor == 8 and each.scale > 0 and each.recommended.told:
            assert holds(each.recommended, float(later(stack, 8, each.scale)[-1])), each


def test_most_forecasts_are_told_and_narrow_enough_to_be_wrong() -> None:
    told, wrong_twin, total = 0, 0, 0
    for kind in KINDS:
        found = diagnose(predict(stack_of(kind, 12), with_gradients=False))
        for each in found.forecasts[:2]:
            total += 1
            told += each.same.told
            wrong_twin += each.same.told and not holds(each.same, 2 * each.same.value)
    assert told > 0.7 * total
    assert wrong_twin > 0.8 * told


def test_every_field_is_moved_from_its_default() -> None:
    moved = {name for fields in KINDS.values() for name in fields}
    assert moved | {"loops"} == set(Stack.model_fields)


def test_what_moves_the_stream_by_itself_is_not_charged_to_the_branch() -> None:
    """An injection of 1 a loop makes R grow like the loops at any ε."""
    for kind in ("injection, pre-norm", "injection", "carry 1.1, pre-norm", "skip 1.05"):
        found = diagnose(predict(stack_of(kind, 12), with_gradients=False))
        assert math.isnan(found.residual_scale)
        assert all(math.isnan(each.scale) and math.isnan(each.recommended.value) for each in found.forecasts)
        assert "none is recommended" in str(found)
        assert "no ε is recommended" in found.explain()
    steady = diagnose(predict(stack_of("injection, pre-norm", 12), with_gradients=False))
    assert steady.forecasts[0].same.value == pytest.approx(25.5, abs=0.1)


def test_a_llama_loop_is_forecast_by_its_law() -> None:
    found = diagnose(predict(stack_of("Llama", 16), with_gradients=False))
    seen = later(stack_of("Llama", 16), 4)
    assert found.forecasts[1].same.value == pytest.approx(seen[64], rel=0.5)


def text(found: Diagnosis) -> list[str]:
    return str(found).splitlines()


def test_three_lines_say_what_it_does_why_and_what_to_do() -> None:
    for kind, start in {
        "ε = 1": "Explodes with more loops: size",
        "pre-norm, ε = 1": "Grows with more loops: size",
        "post-norm": "Stable at 8 times the 12 loops: size 1 now",
        "Parcae, pre-norm": "Stable at 8 times the 12 loops: size",
        "skip 0.9": "The stream shrinks: size",
        "gated": "Grows with more loops: size",
    }.items():
        first, why, advice = text(diagnose(predict(stack_of(kind, 12), with_gradients=False)))
        assert first.startswith(start)
        assert why.startswith("Why: over 12 loops its size")
        assert advice.startswith("Do: ")
        assert not set("γκρεΔ") & set(first + why + advice)  # no symbols to look up
        assert "nan" not in first + why + advice


def test_an_interval_that_cannot_be_is_not_printed() -> None:
    found = diagnose(predict(Stack(loops=8, residual_scale=1.0, weight_variance=0.2, **RMS), with_gradients=False))
    assert 0 <= found.alignment.low <= found.alignment.high <= 8
    assert -1 <= found.cosine.low <= found.cosine.high <= 1
