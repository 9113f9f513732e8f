"""Exact second moments of linear stacks at every finite width, by Wick's theorem (Isserlis 1918).

Products of Gaussian matrices average to a sum over the ways to pair equal matrices off. Each pair forces their row
indices to agree and their column indices too; every index that stays free is summed over d values. So an average is a
polynomial in 1/d whose coefficients count pairings.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import comb, prod
from numbers import Integral
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy

from residual_theory.errors import InputError
from residual_theory.stack import Stack
from residual_theory.theory.arguments import refuse_variants

Word = tuple[int, ...]  # which matrix acts, from the first to the last; equal numbers are the same matrix
_MOST_FACTORS = 64  # in one trace
MOST_PAIRINGS = 200_000  # a few seconds; six loops of one layer have 140 152
_LARGEST = float(np.finfo(np.float64).max)
epsilon, sigma_w = sympy.symbols("epsilon sigma_w", positive=True)
d = sympy.Symbol("d", integer=True, positive=True)


def pairings(letters: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    """All ways to pair off the places of equal letters.

    >>> list(pairings((7, 5, 7, 5)))
    [((0, 2), (1, 3))]
    """

    def rest(places: Word) -> Iterator[tuple[tuple[int, int], ...]]:
        if not places:
            yield ()
            return
        head, *others = places
        for partner in others:
            if letters[partner] == letters[head]:
                for more in rest(tuple(place for place in others if place != partner)):
                    yield ((head, partner), *more)

    return rest(tuple(range(len(letters))))


def overlap_counts(left: Sequence[int], right: Sequence[int]) -> Mapping[int, int]:
    """How many pairings of E tr(Pᵀ Q)/d come with each power of 1/d, at σ_w = 1.

    P and Q are the products of the matrices named in `left` and `right`, the first named acting first; the matrices
    are independent, their entries independent of law N(0, 1/d). The result is exact at every width.

    Arguments:
      left, right: integers that number the matrices.
    Returns: {power of 1/d: number of pairings}; empty when no pairing exists and the average vanishes.
    Raises: InputError for what is no sequence of integers, and for more pairings than can be counted in seconds.
    Source: derivations/finite_width.py.

    >>> dict(overlap_counts((4, 4, 4), (4, 4, 4)))  # E‖W³‖²/d = 1 + 10/d² + 4/d³
    {0: 1, 2: 10, 3: 4}
    """
    words = [_word("left", left), _word("right", right)]
    letters = Counter(words[0] + words[1])
    if any(times % 2 for times in letters.values()):
        return MappingProxyType({})
    count, factors = 1, letters.total()
    for times in letters.values():
        for k in range(1, times, 2):
            count *= k
            if max(count, factors * count // _MOST_FACTORS) > MOST_PAIRINGS:
                raise InputError("left", left, f"{factors} factors have over {MOST_PAIRINGS} pairings; take fewer")
    if factors > _MOST_FACTORS:
        raise InputError("left", left, f"{factors} factors are more than {_MOST_FACTORS}; take fewer")
    return _overlap_counts(*sorted(words))


def _word(name: str, letters: Sequence[int]) -> Word:
    if not isinstance(letters, Sequence | np.ndarray) or not all(isinstance(letter, Integral) for letter in letters):
        raise InputError(name, letters, "give a sequence of integers, one a factor")
    return tuple(int(letter) for letter in letters)


def _inner(left: Word, right: Word) -> tuple[Word, Word]:
    """The words without matrices that stand first or last in both and nowhere else: E WᵀW = E WWᵀ = I."""
    times = Counter(left + right)
    while left and right and left[0] == right[0] and times[left[0]] == 2:
        left, right = left[1:], right[1:]
    while left and right and left[-1] == right[-1] and times[left[-1]] == 2:
        left, right = left[:-1], right[:-1]
    return left, right


@lru_cache(maxsize=4096)
def _overlap_counts(left: Word, right: Word) -> Mapping[int, int]:
    left, right = _inner(left, right)
    letters = (*left, *reversed(right))  # the trace reads W_l1ᵀ … W_liᵀ W_rj … W_r1, a closed chain of indices
    size, half = len(letters), len(letters) // 2
    if size == 0:
        return MappingProxyType({0: 1})
    # Half-edges 2t (row) and 2t + 1 (column) of factor t. A transposed factor is entered by its column.
    entered = [2 * t + (t < len(left)) for t in range(size)]
    neighbour = [0] * (2 * size)  # the half-edge of the next or last factor that carries the same index
    for t in range(size):
        leaving, arriving = entered[t] ^ 1, entered[(t + 1) % size]
        neighbour[leaving], neighbour[arriving] = arriving, leaving
    found: Counter[int] = Counter()
    for pairing in pairings(letters):
        partner = [0] * size
        for one, other in pairing:
            partner[one], partner[other] = other, one
        found[half + 1 - _free_indices(partner, neighbour)] += 1
    return MappingProxyType(dict(sorted(found.items())))


def _free_indices(partner: list[int], neighbour: list[int]) -> int:
    """Cycles of half-edges that must carry the same index: rows go with rows, columns with columns."""
    seen, cycles = [False] * len(neighbour), 0
    for start in range(len(neighbour)):
        if seen[start]:
            continue
        cycles, here = cycles + 1, start
        while not seen[here]:
            across = 2 * partner[here >> 1] + (here & 1)
            seen[here] = seen[across] = True
            here = neighbour[across]
    return cycles


def power_overlap(left: int, right: int) -> Any:
    """E tr((W^left)ᵀ W^right)/d at width d, a SymPy polynomial in 1/d and `sigma_w`.

    W_ij and W_kl average to σ_w²/d when i = k and j = l, and are else uncorrelated; all entries are Gaussian. Exact
    at every width.

    Arguments:
      left, right: powers ≥ 0.
    Raises: InputError for more factors than can be paired off in seconds.
    Source: derivations/finite_width.py.

    >>> power_overlap(1, 3)
    2*sigma_w**4/d + sigma_w**4/d**2
    """
    for name, power in (("left", left), ("right", right)):
        _at_least(name, power, 0)
    factors = int(left) + int(right)
    if factors % 2:
        return sympy.Integer(0)
    if factors > _MOST_FACTORS:
        raise InputError("left", left, f"{factors} factors have more than {MOST_PAIRINGS} pairings; take fewer")
    count = prod(range(1, factors, 2))
    if count > MOST_PAIRINGS:
        raise InputError("left", left, f"{factors} factors have {count} pairings; at most {MOST_PAIRINGS} are counted")
    found = overlap_counts((0,) * left, (0,) * right)
    return sum((count * sigma_w**factors / d**power for power, count in found.items()), sympy.Integer(0))


def tied_linear_second_moment(loops: int) -> Any:
    """E R_N²/q0 of the tied linear stack h ← h + εWh at every width, a SymPy polynomial in 1/d.

    E R_N²/q0 = Σ_ij ε^(i+j) C(N, i) C(N, j) E tr((Wᵀ)^i W^j)/d, with W_ij ~ N(0, σ_w²/d) and h_0 of independent entries
    of variance q0. No limit is taken.

    Arguments:
      loops: N, from 1 to 6.
    Returns: an expression in `epsilon`, `sigma_w` and `d`.
    Raises: InputError when there are too many pairings to count.
    Source: derivations/finite_width.py.

    >>> tied_linear_second_moment(2).subs(sigma_w, 3)
    81*epsilon**4 + 36*epsilon**2 + 1 + 18*epsilon**2/d + 162*epsilon**4/d**2
    """
    _at_least("loops", loops, 1)
    _few_visits(loops, loops)
    t = epsilon**2 * sigma_w**2
    found = _coefficients(loops, (0,) * loops)
    return sum((count * t**pairs / d**power for (pairs, power), count in found.items()), sympy.Integer(0))


def second_moment_at_width(stack: Stack, width: int) -> float:
    """E R² after the last visit of a raw linear stack at a finite width, exactly.

    Every product of the stack's matrices is averaged over the law of `Stack`, tied or not; no limit is taken. As the
    width grows the value tends to that of `predict`.

    Arguments:
      stack: a Stack of few visits, with activation "linear", normalization "none", any `sharing`, and the default
        branch, skip, carry, injection, prelude, coda and loop_normalization.
      width: d ≥ 1.
    Returns: E‖h_V‖²/d, dimensionless; inf when it is beyond float64.
    Raises: InputError naming the field that cannot be used, or saying how many pairings there would be.
    Source: derivations/finite_width.py.

    >>> stack = Stack(loops=2, residual_scale=0.5, activation="linear", weight_variance=2.0, initial_variance=3.0)
    >>> second_moment_at_width(stack, 4)  # 3 (1 + 4s + s² + 2s/d + 2s²/d²) at s = ε²σ_w² = 1/2
    10.59375
    """
    if not isinstance(stack, Stack):
        raise InputError("stack", stack, "give a Stack")
    _at_least("width", width, 1)
    if width > _LARGEST:
        raise InputError("width", width, "must be within float64")
    if stack.activation != "linear":
        raise InputError("activation", stack.activation, "only linear stacks are known at finite width; use 'linear'")
    if stack.normalization != "none":
        raise InputError("normalization", stack.normalization, "only raw stacks are known at finite width; use 'none'")
    refuse_variants(stack, "only stacks of single matrices added to the stream are known at finite width")
    _few_visits(stack.loops, stack.blocks)
    found = _coefficients(stack.loops, tuple(visit.weights for visit in stack.visits))
    with np.errstate(over="ignore", under="ignore"):
        t = np.float64(stack.epsilon) ** 2 * stack.weight_variance
        terms = [count * t**pairs / np.float64(width) ** power for (pairs, power), count in found.items()]
        return float(stack.initial_variance * np.sum(terms))


def _few_visits(loops: int, visits: int) -> None:
    if visits >= MOST_PAIRINGS.bit_length():  # there are at least 2^visits pairings
        raise InputError("loops", loops, f"{visits} visits have more than {MOST_PAIRINGS} pairings; take fewer visits")


def _coefficients(loops: int, letters: Word) -> Mapping[tuple[int, int], int]:
    """{(power of ε²σ_w², power of 1/d): pairings}, over all pairs of products that visits to `letters` give rise to."""
    total = prod(_involutions(2 * times) for times in Counter(letters).values())
    if total > MOST_PAIRINGS:
        raise InputError(
            "loops", loops, f"there are {total} pairings to count, more than {MOST_PAIRINGS}; take fewer visits"
        )
    return _count(letters)


@lru_cache(maxsize=256)
def _count(letters: Word) -> Mapping[tuple[int, int], int]:
    if len(set(letters)) == len(letters):  # every product pairs with itself alone
        return MappingProxyType({(k, 0): comb(len(letters), k) for k in range(len(letters) + 1)})
    words: Counter[Word] = Counter({(): 1})  # Π (1 + εW) multiplied out
    for letter in letters:
        words.update({(*word, letter): times for word, times in words.items()})
    alike: defaultdict[Word, list[Word]] = defaultdict(list)  # only these can be paired off against each other
    for word in words:
        alike[tuple(sorted(letter for letter, times in Counter(word).items() if times % 2))].append(word)
    found: Counter[tuple[int, int]] = Counter()
    for group in alike.values():
        for left in group:
            for right in group:
                times = words[left] * words[right]
                for power, count in overlap_counts(left, right).items():
                    found[(len(left) + len(right)) // 2, power] += times * count
    return MappingProxyType(dict(sorted(found.items())))


def _involutions(places: int) -> int:
    """Ways to pair off some of the places, leaving the others alone."""
    last, now = 1, 1
    for place in range(1, places):
        last, now = now, now + place * last
    return now


def _at_least(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(name, value, f"must be an integer of at least {least}")
