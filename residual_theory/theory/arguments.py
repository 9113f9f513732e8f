"""Arguments of the closed laws, and the stacks that they do not cover."""

from typing import Any

import numpy as np

from residual_theory.errors import InputError
from residual_theory.scaling import rule_value
from residual_theory.stack import Stack

_LARGEST = float(np.finfo(np.float64).max)


def plain(value: Any) -> Any:
    """A NumPy number as Python's; narrow floats of NumPy overflow when compared with wide ones."""
    return float(value) if isinstance(value, np.floating | np.integer) else value


def number(name: str, value: object, least: float = 0.0, most: float = _LARGEST) -> float:
    """A number of the range as a float.

    Raises: InputError naming the argument.
    """
    given = plain(value)
    if isinstance(given, bool) or not isinstance(given, int | float) or not least <= given <= most:
        raise InputError(name, value, f"give a number from {least:g} to {most:g}")
    return float(given)


def refuse_post_norm(normalization: object) -> None:
    """Raise InputError for a normalization other than "none" and "rms"."""
    if not isinstance(normalization, str) or normalization not in ("none", "rms"):
        raise InputError("normalization", normalization, "only 'none' and 'rms' are known here")


def refuse_variants(stack: Stack, known: str) -> None:
    """Raise InputError for a field that makes anything but h ← h + ε W φ(h) of visits, `normalization` aside."""
    if not isinstance(stack, Stack):
        raise InputError("stack", stack, "give a Stack")
    for name in ("branch", "prelude", "coda", "loop_normalization", "skip", "carry", "injection"):
        given, ruled = getattr(stack, name), name in ("skip", "carry", "injection")
        value = rule_value(name, given, stack.loops, stack.unique_layers) if ruled else given
        if value != Stack.model_fields[name].default:
            raise InputError(name, given, f"{known}; leave it at its default")
