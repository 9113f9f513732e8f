"""Activations given as functions of NumPy arrays, and checks of what they return."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residual_theory.errors import InputError

Floats = NDArray[np.floating[Any]]


def refusal(function: Callable[[Any], Any], mend: str) -> InputError:
    """The error that names a user's function."""
    return InputError("activation", getattr(function, "__name__", function), mend)


def values_at(function: Callable[[Any], Any], points: Floats) -> Floats:
    """φ at the points, of their dtype. The function gets a copy, since it may write into its argument.

    Raises: InputError when the function fails, or does not map real numbers to real numbers elementwise.
    """
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            found = function(points.copy())
            values = np.asarray(found)
    except Exception as error:  # a function of the user's may raise anything
        raise refusal(
            function, f"fails on an array ({type(error).__name__}: {error}); give a vectorised numpy function"
        ) from error
    if values.shape != points.shape or values.dtype.kind not in "biuf" or isinstance(found, np.ma.MaskedArray):
        masked = "masked " * isinstance(found, np.ma.MaskedArray)
        got = f"maps {points.dtype} {points.shape} to {masked}{values.dtype} {values.shape}"
        raise refusal(function, f"{got}; give a function that maps real numbers to real numbers elementwise")
    with np.errstate(over="ignore"):  # of a longer float
        return values.astype(points.dtype)
