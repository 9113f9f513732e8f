"""Random stacks over every field of `Stack`, each choice of a field as often as every other."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from residual_theory import Stack


def soft_sign(x: Any) -> Any:
    """An activation of one's own, of arrays and tensors alike."""
    return x / (1 + x * x) ** 0.5


CHOICES: dict[str, Sequence[Any]] = {
    "activation": ("relu", "leaky-relu", "linear", "erf", "tanh", "gelu", "silu", soft_sign),
    "branch": ("single", "mlp", "gated"),
    "normalization": ("none", "rms", "post", "rms-post"),
    "weights": ("cyclic", "consecutive", "own order", "untied"),
    "residual_scale": ("1/N", "1/sqrt(N)", "1/(N*sqrt(L))", "N^-0.5*L^-0.5", 0.3, "1/(N+L)"),
    "loop_normalization": (False, False, True),
    "loops": (1, 2, 3, 4),
    "unique_layers": (1, 2, 3),
    "expansion": (1, 2, 3),
    "skip": (1.0, 1.0, 0.8, "1/N^0.25", "(2*N*L)^0.125"),
    "carry": (1.0, 1.0, 0.7, "1-1/(N+L)"),
    "injection": (0.0, 0.0, 0.4, "1/N"),
    "prelude": (0, 0, 1, 2),
    "coda": (0, 0, 1, 2),
    "outer_scale": (0.5, "1/sqrt(N*L)", 0.2),
    "inputs": (1, 1, 2, 3),
}
SPREAD = {"weight_variance": (0.5, 1.8), "hidden_variance": (0.5, 1.5), "initial_variance": (0.4, 2.0)}


class Described(NamedTuple):
    """A stack, and the correlations (P, P) of the inputs that pass through it; None of a single one."""

    stack: Stack
    correlations: NDArray[np.float64] | None

    def __str__(self) -> str:
        given = {
            name: value.__name__ if callable(value) else value
            for name in type(self.stack).model_fields
            if (value := getattr(self.stack, name)) != type(self.stack).model_fields[name].default
        }
        several = [] if self.correlations is None else [f"inputs={len(self.correlations)}"]
        return " ".join([f"{name}={value}".replace(" ", "") for name, value in given.items()] + several)


def descriptions(count: int, seed: int) -> Iterator[Described]:
    """Random stacks whose fields vary independently."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name, choices in CHOICES.items():
        rounds = [rng.permutation(len(choices)) for _ in range(count // len(choices) + 1)]
        columns[name] = [choices[k] for k in np.concatenate(rounds)[:count]]
    for index in range(count):
        yield _described({name: column[index] for name, column in columns.items()}, rng)


def _described(fields: dict[str, Any], rng: np.random.Generator) -> Described:
    fields |= {name: round(float(rng.uniform(*bounds)), 2) for name, bounds in SPREAD.items()}
    weights, inputs, visits = fields.pop("weights"), fields.pop("inputs"), fields["loops"] * fields["unique_layers"]
    fields["tied"] = weights != "untied"
    if weights == "own order":
        fields["sharing"] = tuple(int(number) for number in rng.integers(0, max(1, visits - 1), visits))
    elif fields["tied"]:
        fields["sharing"] = weights
    if fields["branch"] == "single":
        del fields["hidden_variance"], fields["expansion"]
    return Described(Stack(**fields), None if inputs == 1 else _correlations(inputs, rng))


def _correlations(inputs: int, rng: np.random.Generator) -> NDArray[np.float64]:
    rows = rng.standard_normal((inputs, inputs + 1))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = rows @ rows.T
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)
