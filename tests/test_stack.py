"""Descriptions of stacks: visits, refusals, and no field that changes nothing."""

import itertools
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from residual_theory.branches.single import Single
from residual_theory.errors import InputError, ResidualTheoryError
from residual_theory.montecarlo.simulate import simulate
from residual_theory.stack import LlamaStack, Stack, Visit, described
from residual_theory.store import digest
from residual_theory.theory.forward import predict

STACK: dict[str, Any] = {"loops": 3, "unique_layers": 2, "residual_scale": 0.4}
LLAMA: dict[str, Any] = STACK | {"width": 12, "mlp_width": 20, "heads": 3, "tokens": 5, "init_std": 0.2}

OTHER_STACK = {
    "loops": 4,
    "unique_layers": 3,
    "residual_scale": "1/N",
    "tied": False,
    "sharing": "consecutive",
    "activation": "linear",
    "branch": "mlp",
    "normalization": "rms",
    "loop_normalization": True,
    "weight_variance": 1.5,
    "hidden_variance": 1.5,
    "initial_variance": 0.5,
    "expansion": 2,
    "skip": 0.9,
    "carry": 0.9,
    "injection": 0.3,
    "prelude": 1,
    "coda": 1,
    "outer_scale": 0.5,
}
NEEDED: dict[str, dict[str, Any]] = {
    "hidden_variance": {"branch": "mlp"},
    "expansion": {"branch": "mlp"},
    "outer_scale": {"coda": 1},
}
OTHER_LLAMA = {
    "loops": 4,
    "unique_layers": 1,
    "residual_scale": "1/N",
    "tied": False,
    "width": 15,
    "mlp_width": 21,
    "heads": 2,
    "tokens": (0, 1, 2, 3, 0),
    "init_std": 0.3,
    "embedding_std": 0.03,
    "norm_epsilon": 1e-4,
    "rope": False,
}


def test_the_lists_of_other_values_are_complete() -> None:
    assert set(OTHER_STACK) == set(Stack.model_fields)
    assert set(OTHER_LLAMA) == set(LlamaStack.model_fields)


@pytest.mark.parametrize("field", OTHER_STACK)
def test_every_field_of_a_stack_changes_prediction_simulation_and_digest(field: str) -> None:
    needed: dict[str, Any] = STACK | NEEDED.get(field, {})
    base, other = Stack(**needed), Stack(**{**needed, field: OTHER_STACK[field]})
    if field == "expansion":  # at infinite width the ratio of two widths is of no account
        assert predict(base).drop_attrs().equals(predict(other).drop_attrs())
    else:
        assert not predict(base).drop_attrs().equals(predict(other).drop_attrs())
    drawn, others = (simulate(stack, width=16, samples=2).drop_attrs() for stack in (base, other))
    assert not drawn.equals(others)
    assert digest(described(base)) != digest(described(other))
    assert base != other


@pytest.mark.parametrize("field", OTHER_LLAMA)
def test_every_field_of_a_llama_stack_changes_the_prediction_and_the_digest(field: str) -> None:
    base, other = LlamaStack(**LLAMA), LlamaStack(**{**LLAMA, field: OTHER_LLAMA[field]})
    assert not predict(base).drop_attrs().equals(predict(other).drop_attrs())
    assert digest(described(base)) != digest(described(other))


def test_the_documented_defaults() -> None:
    stack, llama = Stack(loops=4), LlamaStack(loops=4, width=8, mlp_width=8, heads=1)
    assert described(stack) == {
        "kind": "Stack",
        "loops": 4,
        "unique_layers": 1,
        "residual_scale": "1/(N*sqrt(L))",
        "tied": True,
        "sharing": "cyclic",
        "activation": "relu",
        "branch": "single",
        "normalization": "none",
        "loop_normalization": False,
        "weight_variance": 1.0,
        "hidden_variance": 1.0,
        "initial_variance": 1.0,
        "expansion": 1,
        "skip": 1.0,
        "carry": 1.0,
        "injection": 0.0,
        "prelude": 0,
        "coda": 0,
        "outer_scale": 1.0,
    }
    assert (llama.tokens, llama.init_std, llama.embedding_std, llama.norm_epsilon) == (128, 0.02, 0.02, 1e-6)


@pytest.mark.parametrize("stack", [Stack(**STACK), LlamaStack(**(LLAMA | {"tokens": (3, 1, 3)}))])
def test_a_description_is_plain_json_and_makes_the_same_stack_again(stack: Stack | LlamaStack) -> None:
    written = json.loads(json.dumps(described(stack)))
    assert written.pop("kind") == type(stack).__name__
    again = type(stack).model_validate_json(json.dumps(written))
    assert again == stack
    assert hash(again) == hash(stack)


def test_epsilon_is_the_rule_at_the_sizes_of_the_stack() -> None:
    assert Stack(loops=4, unique_layers=9).epsilon == pytest.approx(1 / 12, rel=1e-15)
    assert Stack(loops=4, unique_layers=9, residual_scale="1/sqrt(N*L)").epsilon == pytest.approx(1 / 6, rel=1e-15)
    assert Stack(loops=4, unique_layers=9, residual_scale=2).epsilon == 2.0


def test_visits_of_a_tied_stack() -> None:
    stack = Stack(loops=3, unique_layers=2, residual_scale=0.5, activation="linear")
    assert stack.blocks == 6
    assert stack.visits == tuple(
        Visit(Single("linear"), weights, 0.5, block, loop)
        for block, (loop, weights) in enumerate(itertools.product(range(3), range(2)))
    )


def test_visits_of_an_untied_stack_share_no_weights() -> None:
    visits = Stack(loops=3, unique_layers=2, tied=False).visits
    assert [visit.weights for visit in visits] == list(range(6))
    assert [visit.loop for visit in visits] == [0, 0, 1, 1, 2, 2]


def test_visits_of_a_pattern() -> None:
    def weights(sharing: object) -> list[int]:
        return [visit.weights for visit in Stack(loops=3, unique_layers=2, sharing=sharing).visits]  # type: ignore[arg-type]

    assert weights("cyclic") == [0, 1, 0, 1, 0, 1]
    assert weights("consecutive") == [0, 0, 0, 1, 1, 1]
    assert weights([4, 4, 0, 1, 0, 4]) == [4, 4, 0, 1, 0, 4]


def test_visits_with_prelude_coda_carry_and_injection() -> None:
    stack = Stack(
        **(STACK | {"loops": 2, "prelude": 1, "coda": 1, "outer_scale": 0.7, "skip": 2.0, "carry": 0.5}),
        injection="1/N",
        loop_normalization=True,
    )
    assert stack.blocks == 6
    assert stack.loop_ends == (1, 3, 5)
    assert stack.visits == (
        Visit(Single("relu"), -1, 0.7, 0, None, carry=2.0),
        Visit(Single("relu"), 0, 0.4, 1, 0, carry=1.0, injection=0.5),
        Visit(Single("relu"), 1, 0.4, 2, 0, carry=2.0, normalized=True),
        Visit(Single("relu"), 0, 0.4, 3, 1, carry=1.0, injection=0.5),
        Visit(Single("relu"), 1, 0.4, 4, 1, carry=2.0, normalized=True),
        Visit(Single("relu"), -2, 0.7, 5, None, carry=2.0),
    )
    assert all(visit.normalized for visit in Stack(loops=2, normalization="rms-post", coda=1).visits)


def test_a_function_of_your_own_is_named_in_the_description() -> None:
    assert described(Stack(loops=2, activation=math.sin))["activation"] == "math:sin"
    assert described(Stack(loops=2, activation=np.vectorize(math.sin)))["activation"] == "numpy:vectorize"


def test_numpy_integers_are_integers() -> None:
    stack = Stack(loops=np.int64(2), prelude=np.int64(1), sharing=np.array([3, 0]))  # type: ignore[arg-type]
    assert stack == Stack(loops=2, prelude=1, sharing=(3, 0))


def test_a_llama_block_is_two_visits_with_weights_of_their_own() -> None:
    visits = LlamaStack(**(LLAMA | {"loops": 2})).visits
    assert [visit.branch.name for visit in visits] == ["attention", "silu"] * 4
    assert [visit.block for visit in visits] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [visit.loop for visit in visits] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [visit.weights for visit in visits] == [0, 1, 2, 3, 0, 1, 2, 3]
    untied = LlamaStack(**(LLAMA | {"loops": 2, "tied": False})).visits
    assert len({visit.weights for visit in untied}) == 8


def test_token_ids_are_a_count_a_tuple_or_a_list() -> None:
    assert LlamaStack(**(LLAMA | {"tokens": [7, 7, 1]})) == LlamaStack(**(LLAMA | {"tokens": (7, 7, 1)}))
    assert list(LlamaStack(**LLAMA).token_ids) == [0, 1, 2, 3, 4]
    assert list(LlamaStack(**(LLAMA | {"tokens": (7, 7, 1)})).token_ids) == [7, 7, 1]


def test_descriptions_are_frozen() -> None:
    stack = Stack(**STACK)
    with pytest.raises(ValidationError, match="frozen"):
        stack.loops = 9  # type: ignore[misc]
    assert stack.loops == 3


BAD_EVERYWHERE = [
    ("loops", 0, "greater than or equal to 1"),
    ("loops", -1, "greater than or equal to 1"),
    ("loops", 2.5, "valid integer"),
    ("loops", 2.0, "valid integer"),
    ("loops", True, "valid integer"),
    ("loops", "2", "valid integer"),
    ("loops", None, "valid integer"),
    ("unique_layers", 0, "greater than or equal to 1"),
    ("residual_scale", -0.1, "at least 0"),
    ("residual_scale", math.nan, "finite"),
    ("residual_scale", math.inf, "finite"),
    ("residual_scale", True, "valid"),
    ("residual_scale", None, "valid"),
    ("residual_scale", [0.5], "valid"),
    ("residual_scale", "1/M", "write a formula"),
    ("residual_scale", "__import__('os')", "write a formula"),
    ("residual_scale", "1/(N-3)", "has no finite value at N = 3"),
    ("residual_scale", "9^9^9^9", "has no finite value"),
    ("residual_scale", "(" * 5000 + "N", "write a formula"),
    ("residual_scale", "1\n/\nN", "write a formula"),
    ("tied", 1, "valid boolean"),
    ("tied", "yes", "valid boolean"),
    ("depth", 3, "has no such field"),
]
BAD_STACK = [
    ("activation", "softplus", "'gelu' or 'silu'"),
    ("activation", None, "'gelu' or 'silu'"),
    ("normalization", "layer", "'post' or 'rms-post'"),
    ("branch", "conv", "'mlp' or 'gated'"),
    ("hidden_variance", 2.0, "needs branch = 'mlp' or 'gated'"),
    ("expansion", 4, "needs branch = 'mlp' or 'gated'"),
    ("sharing", "all", "'cyclic' or 'consecutive'"),
    ("sharing", (0, 1, 0, -1, 0, 1), "number the weights from 0"),
    ("loops", 10**200, "less than or equal to 1000000000000"),
    ("sharing", (0, 1), "must name the weights of all loops × unique_layers = 6 visits"),
    ("skip", "1/(N-3)", "has no finite value at N = 3"),
    ("carry", -0.5, "at least 0"),
    ("injection", "1/M", "write a formula"),
    ("outer_scale", math.inf, "finite"),
    ("prelude", -1, "greater than or equal to 0"),
    ("coda", True, "valid integer"),
    ("weight_variance", 0.0, "greater than 0"),
    ("weight_variance", math.nan, "finite number"),
    ("weight_variance", "1", "valid number"),
    ("initial_variance", -1.0, "greater than 0"),
    ("initial_variance", math.inf, "finite number"),
    ("width", 8, "has no such field"),
]
BAD_LLAMA = [
    ("heads", 5, "must divide width = 12"),
    ("heads", 24, "must divide width = 12"),
    ("heads", 0, "greater than or equal to 1"),
    ("width", 0, "greater than or equal to 1"),
    ("mlp_width", 2.5, "valid integer"),
    ("tokens", (), "at least one token"),
    ("tokens", 0, "greater than or equal to 1"),
    ("tokens", True, "valid"),
    ("tokens", (1.5,), "valid"),
    ("tokens", {1, 2}, "valid"),
    ("init_std", 0.0, "greater than 0"),
    ("embedding_std", -0.02, "greater than 0"),
    ("norm_epsilon", -1e-6, "greater than or equal to 0"),
    ("activation", "relu", "has no such field"),
]


@pytest.mark.parametrize(
    ("kind", "field", "value", "mend"),
    [(Stack, *bad) for bad in BAD_EVERYWHERE + BAD_STACK] + [(LlamaStack, *bad) for bad in BAD_EVERYWHERE + BAD_LLAMA],
)
def test_a_field_that_cannot_be_used_is_named_with_its_value_and_mend(
    kind: type[Stack | LlamaStack], field: str, value: object, mend: str
) -> None:
    with pytest.raises(InputError) as caught:
        kind(**{**(STACK if kind is Stack else LLAMA), field: value})
    error = caught.value
    assert error.argument == field
    assert error.value == value or value != value
    assert str(error).startswith(f"{field} = ")
    assert mend in str(error)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 250


def test_a_stream_that_vanishes_has_no_norm() -> None:
    fields: dict[str, Any] = {"loops": 2, "unique_layers": 2, "residual_scale": 0.0, "skip": 0.0}
    assert predict(Stack(**fields)).second_moment.values.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    for normed in ({"normalization": "rms", "injection": 1.0}, {"normalization": "post"}, {"loop_normalization": True}):
        with pytest.raises(InputError, match=r"^residual_scale = 0\.0: the stream vanishes at visit [12]"):
            predict(Stack(**fields, **normed))
    with pytest.raises(InputError, match=r"^outer_scale = 0\.0: the stream vanishes at visit 1"):
        predict(Stack(loops=1, prelude=2, outer_scale=0.0, skip=0.0, normalization="rms", injection=1.0))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InputError, match=r"^loops = None: Stack needs this field$"):
        Stack()  # type: ignore[call-arg]


def test_an_input_error_is_a_value_error_and_survives_a_worker_process() -> None:
    error = InputError("loops", "a\nb" * 100, "choose\n  fewer")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InputError
    assert issubclass(InputError, ResidualTheoryError)
    assert issubclass(InputError, ValueError)
    assert (again.argument, again.value, again.mend) == (error.argument, error.value, error.mend)
    assert str(again) == str(error)
    assert len(str(error).splitlines()) == 1
    assert "..." in str(error)
    assert str(error).endswith(": choose fewer")
