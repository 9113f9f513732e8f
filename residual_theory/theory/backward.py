"""Gradients of a readout and the tangent kernel at infinite width: the recursion of theory.recursion, mirrored."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dtbtrs

from residual_theory.arrays import Array
from residual_theory.stack import Visit
from residual_theory.theory.recursion import Streams, is_plain

_LARGEST_ERROR = 0.05  # estimated, of a value that is given; beyond it stands NaN


class Gradients(NamedTuple):
    """What the mirrored recursion finds, NaN where it is not known to 5 %."""

    moments: Array  # (V + 1,): mean squares of the gradient at every visit, the last of them 1
    tangent: dict[int, float]  # each layer's part of the tangent kernel, by the number of its weights
    moments_error: Array  # (V + 1,): estimated relative errors; 0 where nothing is approximate but activations' kernels
    tangent_error: float  # of the whole tangent kernel


def gradients(visits: Sequence[Visit], found: Streams, positions: int) -> Gradients:
    """The gradients' mean squares and the tangent kernel with an estimate of their errors.

    The estimate is twice what changes when approximate kernels are replaced by others (`Kernel.varied`): for attention
    by ones of another form where two visits' logits are alike in part, and right by sampling where they are the same.
    """
    moments, tangent = _gradients(visits, found, positions)
    groups = found.groups
    if found.reached == len(visits):
        groups = {weights: group.varied() for weights, group in groups.items()}
    if all(group is found.groups[weights] for weights, group in groups.items()):
        return Gradients(moments, tangent, np.zeros(len(moments)), 0.0)
    others, varied = _gradients(visits, replace(found, groups=groups), positions)
    whole = np.array([sum(tangent.values()), sum(varied.values())])
    error, tangent_error = _change(others, moments), float(_change(whole[1:], whole[:1]).item())
    if tangent_error > _LARGEST_ERROR:
        tangent = dict.fromkeys(tangent, float("nan"))
    return Gradients(np.where(error <= _LARGEST_ERROR, moments, np.nan), tangent, error, tangent_error)


def _change(others: Array, values: Array) -> Array:
    """Twice |log(other/value)|; 0 for equal values, inf where one is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(others == values, 0.0, 2 * np.abs(np.log(others / values)))
    return np.asarray(np.where(np.isnan(found), np.inf, found))


def _gradients(visits: Sequence[Visit], found: Streams, positions: int) -> tuple[Array, dict[int, float]]:
    """Mean squares of the gradient at every visit, and the tangent kernel.

    With g_a = ∂⟨v, h_V⟩/∂h_a, v independent of the weights and ‖v‖ = 1, the backward products Wᵀg decouple from the
    forward ones as d → ∞, so M(a, b) = E⟨g_a, g_b⟩ obeys
      g_a = (carry_a g_{a+1} + ε_a B_aᵀ g_{a+1})/divisor_a,  E⟨B_aᵀg, B_bᵀg'⟩ = backward_ab(E⟨g, g'⟩) for equal weights,
    and zero for others; what a norm's Jacobian adds to 1/divisor has rank one and vanishes in the limit. Over token
    positions every one has a readout of its own, and results are averaged. The tangent kernel is
    Σ_W E‖∂f/∂W‖²/fan-in = Σ_ab ε_a ε_b M(a+1, b+1)·F_ab for branches of one matrix with weight variance taken out.

    Returns: (V + 1) values, the last of them 1, and each layer's part of the tangent kernel, by the number of its
      weights; inf where the streams pass float64.
    """
    V, T = len(visits), positions
    if found.reached < V:
        return np.full(V + 1, np.inf), dict.fromkeys(found.groups, float("inf"))
    plain = is_plain(visits)
    row = np.zeros((V + 1, T, T))  # M(a, b) for b ≥ a
    row[V] = np.eye(T) / T
    moments, tangent = np.ones(V + 1), dict.fromkeys(found.groups, 0.0)
    injected = np.array([visit.injection for visit in visits])[:, None] / found.divisors  # (visit, position)
    source = np.zeros((V + 1, T, T)) if injected.any() else None  # ⟨s, g_b⟩ with s = ∂f/∂e
    with np.errstate(over="ignore", invalid="ignore"):
        for a in reversed(range(V)):
            visit, group = visits[a], found.groups[visits[a].weights]
            index = int(np.searchsorted(group.visits, a))
            later, slopes = group.visits[index:], group.later(index)
            if source is not None and a >= found.entry:
                _note_injected(row, source, injected, a + 1)
            outer = row[later + 1] / (found.divisors[a][:, None] * found.divisors[later][:, None, :])
            scales = visit.scale * group.scales[index:]
            twice = np.where(later > a, 2.0, 1.0)
            back = group.kernel.backward(slopes, outer, *group.states_from(index))
            tangent[visit.weights] += float(np.einsum("m,mtu,mtu->", scales * twice, outer, back.weights))
            D = scales[:, None, None] * back.inputs
            if plain:
                _add_branch(row, D, later, a)
            else:
                Y = _gather(visits[a:], found.divisors[a:], D, later - a)
                carry = (visit.carry / found.divisors[a])[:, None]
                row[a + 1 :] = carry * row[a + 1 :] + Y[1:]
                row[a] = carry * row[a + 1].T + Y[0]
            if source is not None and a == found.entry:
                _add_injected(row, source, injected, a)
            moments[a] = np.trace(row[a])
    return moments, tangent


def _add_branch(row: Array, D: Array, later: Array, a: int) -> None:
    """Row a in place of row a + 1 when the branch is all that is added; D (m, T, T') holds both scales."""
    Y = np.cumsum(D[::-1], axis=0)[::-1]  # Y(b) changes only at a visit of the same weights
    if row.shape[1] == 1:
        steps = np.searchsorted(later, np.arange(a + 1, len(row)))  # the first shared visit from b on
        row[a + 1 :] += np.concatenate([Y, np.zeros((1, 1, 1))])[steps]
    else:  # no array as large as the row is made beside it
        for start, stop, part in zip(later[:-1], later[1:], Y[1:], strict=True):
            row[start + 1 : stop + 1] += part
    row[a] = row[a + 1].T + Y[0]


def _gather(visits: Sequence[Visit], divisors: Array, D: Array, later: Array) -> Array:
    """Y(b) = ε_a⟨B_aᵀ g_{a+1}/divisor_a, g_b⟩ for b = a … V: Y(b) = carry_b Y(b + 1)/divisor_b + [b shared] D(b)."""
    count, T = len(visits), D.shape[1]
    Y, known = np.zeros((count + 1, T, T)), np.zeros((count, T, T))
    known[later] = D
    carries = np.array([visit.carry for visit in visits])
    for t in range(T):  # a banded system, lower triangular from the last visit back
        bands = np.vstack([np.ones(count), np.append(-(carries / divisors[:, t])[::-1][1:], 0.0)])
        solved, info = dtbtrs(bands, known[::-1, :, t], uplo="L")
        assert info == 0, "the diagonal is 1"
        Y[:-1, :, t] = solved[::-1]
    return Y


def _note_injected(row: Array, source: Array, injected: Array, b: int) -> None:
    """Add injection_{b-1} g_b/divisor_{b-1} to s, given row b of M: its products with every gradient from g_b on."""
    source[b:] += injected[b - 1][:, None] * row[b:]
    source[b] += np.einsum("ct,cut->tu", injected[b:], row[b + 1 :])


def _add_injected(row: Array, source: Array, injected: Array, a: int) -> None:
    """Add s to g_a, where e leaves the stream."""
    cross = np.einsum("bu,btu->tu", injected[a:], row[a + 1 :])
    row[a + 1 :] += source[a + 1 :]
    row[a] += cross + cross.T + np.einsum("bu,btu->tu", injected[a:], source[a + 1 :])
