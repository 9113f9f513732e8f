"""The exact infinite-width recursion for the covariance of a residual stream with any sharing of weights."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.observables import dataset
from residual_theory.stack import LlamaStack, Stack, Visit, described
from residual_theory.theory.kernels import Array, Kernel, kernels_of

_LARGEST_STATE = 8 * 2**30  # bytes


def predict(stack: Stack | LlamaStack) -> xr.Dataset:
    """Second moments, covariances and increment cosines of a stack in the limit of infinite width.

    With one Gaussian matrix W, products with inputs that depend on earlier products are jointly Gaussian as d → ∞
    with covariance σ_w² E[x_i x_j]. Hence, over visits a, b of scales ε_a, ε_b,
      K(a, b) = K(0, 0) + Σ_{a' < a, b' < b, same weights} ε_a' ε_b' F(a', b'),
    with F the dual kernel of the branch (residual_theory.theory.kernels), evaluated at K of the two inputs.
    N loops of L layers cost N(N+1)L/2 evaluations of F.

    Arguments:
      stack: a Stack (one position) or a LlamaStack (a matrix over token positions; its trace is reported).
    Returns: a Dataset of second_moment (visit), covariance (visit, visit_other) and increment_cosine (loop,
      loop_other), dimensionless float64; for a LlamaStack means over positions. A value beyond float64 is inf, and
      the attribute first_nonfinite_visit names the first such visit.
    Raises: InputError when the covariances would not fit into 8 GiB, or for anything that is not a stack.
    Source: docs/theory.md, "The forward recursion"; for untied stacks the usual Gaussian-process kernels.

    >>> stack = Stack(loops=8, residual_scale="1/N", weight_variance=2.0, initial_variance=0.5)
    >>> round(float(predict(stack).second_moment[-1]), 8)
    1.10659806
    """
    if not isinstance(stack, Stack | LlamaStack):
        raise InputError("stack", stack, "give a Stack or a LlamaStack")
    _check_memory(stack)
    visits = stack.visits
    initial = _initial_covariance(stack)
    covariance, increments = _covariances(visits, initial, kernels_of(stack))
    ends = np.array(
        [0] + [i + 1 for i, v in enumerate(visits) if i + 1 == len(visits) or visits[i + 1].block != v.block]
    )
    mean = np.einsum("abtt->ab", covariance)[np.ix_(ends, ends)] / len(initial)
    lower = np.tril_indices(len(mean), -1)
    mean.T[lower] = mean[lower]
    size = np.sqrt(np.diag(increments))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = increments / np.outer(size, size)
    attrs: dict[str, str | int] = {
        "method": "infinite-width recursion",
        "description": json.dumps(described(stack), sort_keys=True),
    }
    if not np.isfinite(mean).all():
        attrs["first_nonfinite_visit"] = int(np.argmin(np.isfinite(np.diag(mean))))
    values = {"second_moment": np.diag(mean), "covariance": mean, "increment_cosine": cosine}
    return dataset(values, attrs=attrs)


def _check_memory(stack: Stack | LlamaStack) -> None:
    branches, positions = (2, len(stack.token_ids)) if isinstance(stack, LlamaStack) else (1, 1)
    visits = stack.blocks * branches
    needed = 8 * (visits + 1) ** 2 * positions**2
    if needed > _LARGEST_STATE:
        what = f"{visits} visits" if positions == 1 else f"{visits} visits at {positions} positions"
        raise InputError(
            "loops", stack.loops, f"the covariances of {what} need {needed / 2**30:.1f} GiB; ask for fewer"
        )


def _initial_covariance(stack: Stack | LlamaStack) -> Array:
    if isinstance(stack, LlamaStack):
        tokens = np.array(stack.token_ids)
        return np.where(tokens[:, None] == tokens[None, :], stack.embedding_std**2, 0.0)
    return np.full((1, 1), stack.initial_variance)


def _covariances(visits: Sequence[Visit], initial: Array, kernels: Mapping[str, Kernel]) -> tuple[Array, Array]:
    """K (visit, visit, T, T), filled for visit ≥ visit_other only, and the increments' mean products (loop, loop).

    Row a + 1 follows from row a by K(a+1, b+1) = K(a, b+1) + Σ_{b' ≤ b} D(a, b'), where D(a, b') is the covariance of
    the two visits' updates: one running sum a visit instead of a double sum for each pair.
    """
    tokens = len(initial)
    weights = np.array([visit.weights for visit in visits])
    scales = np.array([visit.scale for visit in visits])
    loops = np.array([visit.loop for visit in visits])
    K = np.empty((len(visits) + 1, len(visits) + 1, tokens, tokens))
    K[0, 0] = initial
    squares = np.empty((len(visits) + 1, tokens))  # (visit, position)
    squares[0] = np.diag(initial)
    increments = np.zeros((loops[-1] + 1, loops[-1] + 1))
    with np.errstate(over="ignore", invalid="ignore"):
        for a, visit in enumerate(visits):
            shared = np.flatnonzero(weights[: a + 1] == visit.weights)
            update = kernels[visit.branch](K[a, shared], squares[a], squares[shared])
            update *= (visit.scale * scales[shared])[:, None, None]  # D(a, shared)
            step = np.zeros((a + 1, tokens, tokens))
            step[shared] = update
            np.cumsum(step, axis=0, out=step)
            K[a + 1, 0] = K[a, 0]
            K[a + 1, 1 : a + 1] = K[a, 1 : a + 1] + step[:-1]
            K[a + 1, a + 1] = K[a + 1, a].T + step[-1]
            squares[a + 1] = np.diag(K[a + 1, a + 1])
            np.add.at(increments[visit.loop], loops[shared], np.einsum("itt->i", update) / tokens)
            if not np.isfinite(squares[a + 1]).all():
                K[a + 1 :] = np.inf
                increments[visit.loop :] = np.nan
                break
    lower = np.tril_indices(len(increments), -1)
    increments.T[lower] = increments[lower]
    return K, increments
