"""The exact infinite-width recursion for the covariance of a residual stream with any sharing of weights."""

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.inputs import input_correlations
from residual_theory.kernels.branch import kernels_of
from residual_theory.observables import dataset
from residual_theory.stack import LlamaStack, Stack, Visit, described
from residual_theory.theory.backward import Gradients, gradients
from residual_theory.theory.recursion import Streams, covariances, is_plain, vanishing

_LARGEST_STATE = 8 * 2**30  # bytes
_UNRESOLVED = 1e-10  # of the stream: squared changes below it are rounding when taken as differences


def predict(
    stack: Stack | LlamaStack, *, inputs: int | ArrayLike | None = None, with_gradients: bool = True
) -> xr.Dataset:
    """Second moments, covariances, increment cosines and gradients of a stack in the limit of infinite width.

    With one Gaussian matrix W, products with inputs that depend on earlier products are jointly Gaussian as d → ∞
    with covariance σ_w² E[x_i x_j]. Hence, over visits a, b of scales ε_a, ε_b,
      K(a, b) = K(0, 0) + Σ_{a' < a, b' < b, same weights} ε_a' ε_b' F(a', b'),
    with F the kernel of the branch (residual_theory.kernels.branch), evaluated at K of the two inputs; carries,
    injections and norms between visits change the sum as they change the stream. Gradients of ⟨v, h_V⟩/‖v‖, for a
    readout v independent of the weights, obey the mirrored recursion (residual_theory.theory.backward).
    N loops of L layers cost N(N+1)L/2 evaluations of F.

    Arguments:
      stack: a Stack (one position) or a LlamaStack (a matrix over token positions; its trace is reported).
      inputs: of a Stack, P independent data points through the same weights, or their correlations (P, P); see
        residual_theory.inputs. One input unless given. The law of each does not depend on the others, so an
        observable's mean over inputs is its value for one: input_covariance alone is computed for several.
      with_gradients: also the two observables of gradients, at about three times the cost and memory; for a
        LlamaStack at 6 (32 tokens) to 40 times (128 tokens) the cost.
    Returns: a Dataset of second_moment (visit), covariance (visit, visit_other), increment_cosine (loop,
      loop_other), gradient_second_moment (visit) and tangent_kernel, dimensionless float64; for a LlamaStack means
      over positions; with `inputs` also input_covariance (visit, input, input_other). A value beyond float64 is inf
      (NaN between unlike inputs), and the attribute first_nonfinite_visit names the first such visit. The attribute
      kernel_error bounds the relative error of the activation's kernel, 0 for closed forms; with a kinked function of
      your own the gradients' is larger. Gradients of a LlamaStack, and its tangent kernel, are NaN where they are not
      known to 5 %; gradient_error (the largest over visits) and tangent_kernel_error estimate how well they are known,
      and the attribute not_known says what is NaN for it. Where visits carry, inject or normalise, the cosine with a
      change below 1e-5 of the stream is NaN.
    Raises: InputError when the covariances would not fit into 8 GiB, when an activation's kernel is too inaccurate
      for the covariances to stay positive, for inputs that cannot be used, or for anything that is not a stack.
    Source: docs/theory.md, "The forward recursion"; for untied stacks the usual Gaussian-process kernels.

    >>> stack = Stack(loops=8, residual_scale="1/N", weight_variance=2.0, initial_variance=0.5)
    >>> round(float(predict(stack).second_moment[-1]), 8)
    1.10659806
    >>> predict(stack, inputs=2).input_covariance[-1].values.round(8).tolist()
    [[1.10659806, 0.22232321], [0.22232321, 1.10659806]]
    """
    if not isinstance(stack, Stack | LlamaStack):
        raise InputError("stack", stack, "give a Stack or a LlamaStack")
    distinct, place = _distinct_correlations(stack, inputs)
    check_memory(stack, with_gradients, len(place), len(distinct))
    visits, initial = stack.visits, initial_covariance(stack)
    kernels = kernels_of(visits)
    found = covariances(visits, initial, kernels, with_slopes=with_gradients)
    last = {visit.block: index for index, visit in enumerate(visits)}
    rows = np.array([0, *(last[block] + 1 for block in range(stack.blocks))])
    mean = found.mean[np.ix_(rows, rows)]
    _refuse_vanishing(visits, found)
    attrs = _attributes(stack, found, mean)
    values = {
        "second_moment": np.diag(mean),
        "covariance": mean,
        "increment_cosine": _cosines(stack, found, rows[list(stack.loop_ends)]),
    }
    if with_gradients:
        back = gradients(visits, found, len(initial))
        values |= {
            "gradient_second_moment": back.moments[rows],
            "tangent_kernel": np.asarray(sum(back.tangent.values())),
        }
        if isinstance(stack, LlamaStack):
            attrs |= _attributes_of_gradients(back, rows)
    if inputs is not None:
        against = covariances(visits, initial * distinct, kernels, with_slopes=False)
        values["input_covariance"] = against.first[:, place]
    return dataset(values, attrs=attrs)


def _distinct_correlations(stack: Stack | LlamaStack, inputs: int | ArrayLike | None) -> tuple[Array, NDArray[np.intp]]:
    """The correlations that occur between inputs, 1 first, and where (P, P) each does; none without inputs.

    Two inputs may change places and no third matters to them, so K((a, p), (b, q)) depends on them by ρ_pq alone, and
    one recursion carries an input against others of every correlation.
    """
    if inputs is None:
        return np.empty(0), np.empty((0, 0), dtype=np.intp)
    if not isinstance(stack, Stack):
        raise InputError("inputs", inputs, "give them with a Stack; a LlamaStack reads its tokens")
    correlations = input_correlations(inputs)
    descending, place = np.unique(-correlations, return_inverse=True)
    return -descending, place.reshape(correlations.shape)


def _refuse_vanishing(visits: Sequence[Visit], found: Streams) -> None:
    """Raise InputError for a stream that becomes zero before a norm that adds nothing to it."""
    if found.mean[0, 0] == 0:  # embeddings below float64
        return
    for index, visit in enumerate(visits):
        if visit.branch.epsilon == 0 and found.mean[index, index] == 0:
            raise vanishing(visits[index - 1], index)


def _attributes(stack: Stack | LlamaStack, found: Streams, mean: Array) -> dict[str, str | int | float]:
    """What is said of the whole prediction."""
    attrs: dict[str, str | int | float] = {
        "method": "infinite-width recursion",
        "description": json.dumps(described(stack), sort_keys=True),
        "kernel_error": found.kernel_error,
    }
    if not np.isfinite(mean).all():
        attrs["first_nonfinite_visit"] = int(np.argmin(np.isfinite(np.diag(mean))))
    return attrs


def _attributes_of_gradients(back: Gradients, rows: Array) -> dict[str, str | float]:
    """The errors of gradients that pass through attention, and which values are not given for that."""
    errors = back.moments_error[rows]
    attrs: dict[str, str | float] = {
        "gradient_error": float(errors.max()),
        "tangent_kernel_error": back.tangent_error,
    }
    unknown = [int(i) for i in np.flatnonzero(np.isnan(back.moments[rows]))]
    if unknown or np.isnan(list(back.tangent.values())).any():
        what = [f"gradient_second_moment at visits {unknown[0]} to {unknown[-1]}"] * bool(unknown)
        what += ["tangent_kernel"] * bool(np.isnan(list(back.tangent.values())).any())
        attrs["not_known"] = (
            f"{' and '.join(what)}: the gradient through the attention's logits is known to "
            f"{max(attrs['gradient_error'], back.tangent_error):.0%} only, and given where it is known to 5 %"
        )
    return attrs


def check_memory(stack: Stack | LlamaStack, with_gradients: bool, inputs: int = 0, correlations: int = 0) -> None:
    """Raise InputError, saying how much it would take, for a stack whose covariances do not fit into 8 GiB.

    With several inputs to a Stack, `inputs` is their number and `correlations` that of the distinct ones between them.
    """
    branches, positions = (2, len(stack.token_ids)) if isinstance(stack, LlamaStack) else (1, 1)
    visits = stack.blocks * branches
    streams = 8 * (2 * (visits + 1) ** 2 + 8 * (visits + 1) * positions**2)  # moments over pairs, matrices over visits
    slopes = 8 * 2 * branches * _sharing_pairs(stack) * positions**2 if with_gradients else 0
    several = 8 * (visits + 1) * (9 * correlations + inputs**2)  # rows over visits, and what is returned
    what = f"{visits} visits" if positions == 1 else f"{visits} visits at {positions} positions"
    if streams + slopes > _LARGEST_STATE:
        mend = f"the covariances of {what} need {(streams + slopes) / 2**30:.1f} GiB; ask for fewer"
        if streams <= _LARGEST_STATE:
            mend += f", or for no gradients ({streams / 2**30:.1f} GiB)"
        sizes = {"loops": stack.looped_blocks * branches, "tokens": positions}
        if isinstance(stack, Stack):
            sizes |= {"prelude": stack.prelude, "coda": stack.coda}
        largest = max(sizes, key=lambda name: sizes[name])
        raise InputError(largest, getattr(stack, largest), mend)
    if streams + slopes + several > _LARGEST_STATE:
        mend = f"the covariances between inputs at {what} need {several / 2**30:.1f} GiB; ask for fewer"
        raise InputError("inputs", inputs, mend)


def _sharing_pairs(stack: Stack | LlamaStack) -> int:
    """Pairs of blocks that share weights, each with itself included."""
    if not stack.tied:
        return stack.blocks
    if isinstance(stack, Stack) and isinstance(stack.sharing, tuple):
        counts = np.unique(stack.sharing, return_counts=True)[1]
        return int(np.sum(counts * (counts + 1)) // 2)
    return stack.unique_layers * stack.loops * (stack.loops + 1) // 2


def initial_covariance(stack: Stack | LlamaStack) -> Array:
    if isinstance(stack, LlamaStack):
        tokens = np.array(stack.token_ids)
        return np.where(tokens[:, None] == tokens[None, :], stack.embedding_std**2, 0.0)
    return np.full((1, 1), stack.initial_variance)


def _cosines(stack: Stack | LlamaStack, found: Streams, ends: Array) -> Array:
    """Cosines between the changes of the stream over the loops."""
    products = found.increments
    if not is_plain([visit for visit in stack.visits if visit.loop is not None]):
        of_ends = found.mean[np.ix_(ends, ends)]
        with np.errstate(invalid="ignore"):
            products = np.diff(np.diff(of_ends, axis=0), axis=1)
            lost = np.diag(products) < _UNRESOLVED * np.diag(of_ends)[1:]
        products[lost] = products[:, lost] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.sqrt(np.diag(products))
        return np.asarray(products / np.outer(size, size))
