"""The recursion for covariances of a stream over its visits, one row at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg.lapack import dtbtrs

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.kernels.branch import Kernel, Slopes, State
from residual_theory.stack import Visit

_BEYOND_ONE = 1e-6  # how far a correlation may pass 1 by rounding
_SUBNORMAL = 1e-290  # products of norms below it have lost their digits


@dataclass
class Group:
    """The visits that share one set of weights, what their kernel keeps of each, and of each pair."""

    visits: Array  # indices, in order
    scales: Array
    kernel: Kernel
    done: int = 0
    states: State = ()
    slopes: Slopes | None = None  # pair (i, j ≤ i) of the group at index i(i + 1)/2 + j

    def add(self, own: Array) -> tuple[State, State]:
        """Take in the next visit, of covariance `own`: its state, and those of all visits so far."""
        state = self.kernel.state(own)
        if not self.states:
            self.states = tuple(np.empty((len(self.visits), *part.shape)) for part in state)
        for kept, part in zip(self.states, state, strict=True):
            kept[self.done] = part
        self.done += 1
        return state, self.seen

    @property
    def seen(self) -> State:
        """The states of all visits so far, stacked."""
        return tuple(kept[: self.done] for kept in self.states)

    def keep(self, slopes: Slopes) -> None:
        """Remember the slopes of the visit just added against all visits so far."""
        count = len(self.visits)
        if self.slopes is None:
            shape = (count * (count + 1) // 2, *slopes.stream.shape[1:])
            self.slopes = Slopes(np.empty(shape), np.empty(shape))
        row = slice(self.done * (self.done - 1) // 2, self.done * (self.done + 1) // 2)
        for kept, part in zip(self.slopes, slopes, strict=True):
            kept[row] = part

    def later(self, index: int) -> Slopes:
        """The slopes of the group's visit `index` against itself and every later one, (m, T, T')."""
        assert self.slopes is not None
        others = np.arange(index, self.done)
        pairs = others * (others + 1) // 2 + index
        return Slopes(*(kept[pairs].swapaxes(1, 2) for kept in self.slopes))

    def varied(self) -> "Group":
        """The same visits with another kernel backward, where that is approximate."""
        assert self.slopes is not None
        others = np.arange(self.done)
        found = self.kernel.varied(self.seen, self.slopes.stream[others * (others + 3) // 2])
        return self if found is None else replace(self, kernel=found[0], states=found[1])

    def states_from(self, place: int) -> tuple[State, State]:
        """The state of the group's visit `place`, and those of itself and every later one."""
        return tuple(kept[place] for kept in self.states), tuple(kept[place : self.done] for kept in self.states)


@dataclass
class Streams:
    """What the recursion finds, over V visits at T positions."""

    mean: Array  # (V + 1, V + 1): K(a, b) averaged over positions
    first: Array  # (V + 1, T'): K(a, a) between the first position and each; NaN, or inf, beyond `reached`
    increments: Array  # (loop, loop): mean product of the branches' scaled outputs, summed over each loop
    of_loop: Array  # (V,): the loop of each visit, −1 outside
    divisors: Array  # (V, T): what each visit divides the stream by; 1 where it is not normalised
    groups: Mapping[int, Group]  # by weights
    entry: int  # the visit that opens the first loop
    reached: int = 0  # visits computed before a value passed float64

    @property
    def kernel_error(self) -> float:
        """A bound on the relative error of the kernels where they were evaluated; 0 for closed forms."""
        return max(group.kernel.error(group.seen) for group in self.groups.values() if group.done)


def is_plain(visits: Sequence[Visit]) -> bool:
    """Whether every visit only adds its branch to the stream."""
    return all((visit.carry, visit.injection, visit.normalized) == (1.0, 0.0, False) for visit in visits)


def groups_of(visits: Sequence[Visit], kernels: Mapping[int, Kernel]) -> dict[int, Group]:
    """The visits by the weights they use."""
    indices: dict[int, list[int]] = {}
    for index, visit in enumerate(visits):
        indices.setdefault(visit.weights, []).append(index)
    return {
        weights: Group(np.array(own), np.array([visits[i].scale for i in own]), kernels[weights])
        for weights, own in indices.items()
    }


def covariances(
    visits: Sequence[Visit], initial: Array, kernels: Mapping[int, Kernel], *, with_slopes: bool
) -> Streams:
    """K over all visits from K(0, 0) = `initial` (T, T), row a + 1 from row a; only one row of matrices is kept.

    An `initial` (1, T') is one position against T' of its own law, itself first; products among the others are not
    needed then, since two positions may change places. It takes elementwise kernels, and gives no slopes.

    With D(a, b') the covariance of two branches' outputs, X(b) = ⟨branch_a, h_b⟩ gathers ε_b' D(a, b') over b' < b
    as the stream itself does, and K(a + 1, b) = carry K(a, b) + injection ⟨e, h_b⟩ + ε_a X(b).
    """
    V, T = len(visits), len(initial)
    plain = is_plain(visits)
    found = _empty(visits, initial, kernels)
    row = np.empty((V + 1, *initial.shape))  # K(a, b) for b ≤ a
    row[0] = initial
    injected = np.zeros(row.shape) if any(visit.injection for visit in visits) else None  # ⟨e, h_b⟩
    with np.errstate(over="ignore", invalid="ignore"):
        for a, visit in enumerate(visits):
            group = found.groups[visit.weights]
            left, right = group.add(row[a])
            shared = group.visits[: group.done]
            covariance = row[shared]
            D = group.kernel.forward(covariance, left, right) * group.scales[: group.done, None, None]
            if with_slopes:
                group.keep(group.kernel.slopes(covariance, left, right))
            _add_increments(found, visit, visit.scale * np.einsum("itt->i", D[:, :, :T]) / T, shared, a)
            if plain:
                _add_branch(row, visit.scale * D, shared, a)
            else:
                if injected is not None and a == found.entry:
                    injected[: a + 1] = row[: a + 1]
                X = _gather(visits[: a + 1], found.divisors[: a + 1], D, shared)
                found.divisors[a] = _step(row, injected, X, visit, a, found.entry)
                if injected is not None and a >= found.entry:
                    injected[a + 1] = _mirror(row[found.entry])
            found.mean[a + 1, : a + 2] = np.einsum("btt->b", row[: a + 2, :, :T]) / T
            if not math.isfinite(found.mean[a + 1, a + 1]):
                found.mean[a + 1] = np.inf
                if visit.loop is not None:
                    found.increments[visit.loop :] = np.nan
                break
            found.reached = a + 1
            found.first[a + 1] = row[a + 1, 0]
        for lower in (found.mean, found.increments):
            lower[:] = np.tril(lower) + np.tril(lower, -1).T
        _check_positive(found.mean, visits)
    return found


def _empty(visits: Sequence[Visit], initial: Array, kernels: Mapping[int, Kernel]) -> Streams:
    """The streams before their first visit."""
    V, T = len(visits), len(initial)
    loops = [visit.loop for visit in visits if visit.loop is not None]
    entry = next((a for a, visit in enumerate(visits) if visit.loop is not None), V)
    mean = np.full((V + 1, V + 1), np.inf)
    mean[0, 0] = np.trace(initial) / T
    first = np.full((V + 1, initial.shape[1]), np.nan)
    first[0], first[1:, 0] = initial[0], np.inf
    increments = np.zeros((max(loops) + 1, max(loops) + 1))
    of_loop = np.array([-1 if visit.loop is None else visit.loop for visit in visits])
    return Streams(mean, first, increments, of_loop, np.ones((V, T)), groups_of(visits, kernels), entry)


def _add_increments(found: Streams, visit: Visit, products: Array, shared: Array, a: int) -> None:
    """Add visit a's products with the visits that share its weights to those of their loops."""
    if visit.loop is not None:
        others = found.of_loop[shared]
        both = np.where((others == visit.loop) & (shared < a), 2.0, 1.0)  # (a, b) and (b, a) of one loop
        np.add.at(found.increments[visit.loop], others, both * products)


def vanishing(visit: Visit, index: int) -> InputError:
    """The refusal of a stream that is zero after `visit`, when it is to be normalised."""
    name = "outer_scale" if visit.loop is None else "residual_scale"
    return InputError(
        name, visit.scale, f"the stream vanishes at visit {index} and cannot be normalised; keep some of it"
    )


def _check_positive(mean: Array, visits: Sequence[Visit]) -> None:
    """A covariance that passes the product of the norms by more than rounding belongs to no pair of streams."""
    norms = np.sqrt(np.diag(mean))
    sizes = norms[:, None] * norms
    beyond = np.isfinite(mean) & (np.abs(mean) > (1 + _BEYOND_ONE) * sizes) & (np.abs(mean) > _SUBNORMAL)
    if beyond.any():
        visit = int(np.argmax(np.tril(beyond).any(axis=1)))
        mend = f"covariances lose positive definiteness at visit {visit}; its kernel is too inaccurate there"
        raise InputError("activation", visits[visit - 1].branch.name, mend)


def _mirror(covariance: Array) -> Array:
    """K(b, a) from K(a, b): the transpose (T, T), or the same (1, T') for one position against others of its law."""
    return covariance.T if len(covariance) == covariance.shape[1] else covariance


def _add_branch(row: Array, D: Array, shared: Array, a: int) -> None:
    """Row a + 1 in place of row a when the branch is all that is added; D (m, T, T') holds both scales."""
    X = np.cumsum(D, axis=0)  # X(b) changes only after a visit of the same weights
    if len(shared) == a + 1:  # every visit so far
        row[1 : a + 1] += X[:-1]
    elif row.shape[1] == 1:
        steps = np.searchsorted(shared, np.arange(a + 1)) - 1  # the last shared visit before b
        row[: a + 1] += np.where((steps < 0)[:, None, None], 0.0, X[steps])
    else:  # no array as large as the row is made beside it
        for start, stop, part in zip(shared, [*shared[1:], a], X, strict=True):
            row[start + 1 : stop + 1] += part
    row[a + 1] = _mirror(row[a]) + X[-1]


def _gather(visits: Sequence[Visit], divisors: Array, D: Array, shared: Array) -> Array:
    """X(b) for b = 0 … a + 1: X(b + 1) = (carry_b X(b) + [b shared] D(b))/divisor_b, a banded triangular system.

    The injected e does not enter: it does not depend on the weights of the loops.
    """
    count, T = divisors.shape
    X = np.zeros((count + 1, *D.shape[1:]))
    source = np.zeros((count, *D.shape[1:]))
    source[shared] = D
    carries = np.array([visit.carry for visit in visits])
    for t in range(T):
        bands = np.vstack([divisors[:, t], np.append(-carries[1:], 0.0)])
        ours = source[:, :, t::T]  # the right positions of these divisors: t alone, or all if T = 1
        solved, info = dtbtrs(bands, ours.reshape(count, -1), uplo="L")
        assert info == 0, "divisors are positive"
        X[1:, :, t::T] = solved.reshape(ours.shape)
    return X


def _step(row: Array, injected: Array | None, X: Array, visit: Visit, a: int, entry: int) -> Array:
    """Row a + 1 in place of row a, in general; returns what the stream was divided by."""
    row[: a + 1] *= visit.carry
    row[: a + 1] += visit.scale * X[: a + 1]
    own = visit.scale * X[a + 1]
    if injected is not None and visit.injection:
        row[: a + 1] += visit.injection * injected[: a + 1]
        own += visit.injection * _mirror(row[entry])
    row[a + 1] = visit.carry * _mirror(row[a]) + own
    if not visit.normalized:
        return np.ones(row.shape[1])
    divisor = np.sqrt(np.diag(row[a + 1]))
    if not divisor.all():
        raise vanishing(visit, a + 1)
    row[: a + 1] /= divisor[:, None]
    row[a + 1] /= np.outer(divisor, divisor)
    return np.asarray(divisor)
