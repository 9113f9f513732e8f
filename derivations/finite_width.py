"""A tied linear stack at finite width: its second moment as an exact polynomial in 1/d, by Wick pairings."""

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import sympy
from sympy import (
    Eq,
    Integral,
    KroneckerDelta,
    Limit,
    Rational,
    Sum,
    Symbol,
    binomial,
    exp,
    expand,
    oo,
    pi,
    sqrt,
    symbols,
)

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs.sign_proof import odd_integrand
from residual_theory.theory.finite_width import d, epsilon, pairings, sigma_w, tied_linear_second_moment

N, n = symbols("N n", integer=True, positive=True)
i, j, k, m = symbols("i j k m", integer=True, nonnegative=True)
INDICES = symbols("a b c e f g h l", integer=True, positive=True)
q_0, y, v = symbols("q_0 y v", positive=True)
w = Symbol("w", real=True)
NORMAL = exp(-(w**2) / 2) / sqrt(2 * pi)
SMALL = {d: (1, 3)}  # the number of terms grows like d^(i + j)


def entries(left: int, right: int, index: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """Row and column of every factor of tr((Wᵀ)^left W^right), given the index between each factor and the next."""
    chain = [(index[t - 1], index[t]) for t in range(left + right)]
    return [(column, row) if t < left else (row, column) for t, (row, column) in enumerate(chain)]


@lru_cache
def entry_by_entry(left: int, right: int, width: int) -> Any:
    """T from the moments of single entries, E w^(2m) = (2m − 1)!! / d^m, over all values of all indices."""
    total = 0
    for index in product(range(width), repeat=left + right):
        powers = Counter(entries(left, right, index)).values()
        if not any(power % 2 for power in powers):
            total += prod(prod(range(1, power, 2)) for power in powers)
    return Rational(total, width ** ((left + right) // 2 + (1 if left + right else 0)))


class T(sympy.Function):  # type: ignore[misc]
    """T(i, j, d) = E tr((Wᵀ)^i W^j)/d at σ_w = 1, which numbers turn into its value."""

    @classmethod
    def value(cls, left: Any, right: Any, width: Any) -> Any:
        """Its value where all arguments are numbers, and T(0, 0, d) = tr(1)/d."""
        if left == right == 0:
            return sympy.Integer(1)
        if left.is_Integer and right.is_Integer and width.is_Integer:
            return entry_by_entry(int(left), int(right), int(width))
        return None

    eval = value  # the name under which SymPy calls it


def paired(left: int, right: int, pairing: tuple[tuple[int, int], ...]) -> Any:
    """What one pairing contributes to T(left, right, d), as a sum over the indices of the trace."""
    index = INDICES[: left + right]
    place = entries(left, right, index)
    deltas = [KroneckerDelta(p, q) for s, t in pairing for p, q in zip(place[s], place[t], strict=True)]
    return Sum(sympy.prod(deltas), *((name, 1, d) for name in index)) / d ** (len(pairing) + 1)


def free_indices(total: Sum) -> Any:
    """A sum of products of Kronecker deltas, carried out index by index: a delta uses an index up, without one it is
    free and counts d."""
    summand, value = total.function, sympy.Integer(1)
    for index, low, high in total.limits:
        delta = next((each for each in summand.atoms(KroneckerDelta) if each.has(index)), None)
        if (low, high) != (1, d):
            raise DerivationError(f"the index {index} does not run from 1 to d")
        if delta is None:
            value *= d
        else:
            (other,) = set(delta.args) - {index}
            summand = summand.subs(index, other)
    must_vanish(summand - 1, "that the deltas are used up")
    return value


def by_deltas() -> Proof:
    """Sums of Kronecker deltas are carried out index by index."""

    def run(step: Step) -> None:
        must_vanish(
            step.lhs.replace(lambda e: isinstance(e, Sum), free_indices) - step.rhs, "the count of free indices"
        )

    return Proof("every Kronecker delta uses one index up", run)


def by_pairings(*uses: Step) -> Proof:
    """T is the sum over all pairings, each carried out index by index, or taken from the earlier steps if given."""

    def run(step: Step) -> None:
        left, right = map(int, step.lhs.args[:2])
        total = sum(paired(left, right, pairing) for pairing in pairings((0,) * (left + right)))
        if uses:
            must_vanish(total - sum(use.lhs for use in uses), "that the earlier steps are all its pairings")
            total = sum(use.rhs for use in uses)
        must_vanish(step.rhs - total.replace(lambda e: isinstance(e, Sum), free_indices), "that the pairings add up")

    how = "sum of the pairings before" if uses else "all pairings, each Kronecker delta using one index up"
    return Proof(how, run, uses)


def written_out(total: Any) -> Any:
    """A finite sum term by term, the outermost index first."""
    if not isinstance(total, Sum):
        return total
    *inner, (index, low, high) = total.limits
    body = Sum(total.function, *inner) if inner else total.function
    return sum(written_out(body.subs(index, value)) for value in range(int(low), int(high) + 1))


def by_overlaps(odd: Step, *uses: Step) -> Proof:
    """Multiply the sum out and put in the overlaps of earlier steps; an odd number of factors averages to zero."""

    def run(step: Step) -> None:
        must_vanish(odd.rhs, "that odd moments vanish")
        known = {frozenset(use.lhs.args[:2]): use.rhs for use in uses}  # tr M = tr Mᵀ: T is symmetric
        total = expand(step.lhs.replace(lambda e: isinstance(e, Sum), written_out))
        for overlap in total.atoms(T):
            powers = overlap.args[:2]
            if sum(powers) % 2 == 0 and frozenset(powers) not in known:
                raise DerivationError(f"{overlap} has not been found before")
            total = total.subs(overlap, 0 if sum(powers) % 2 else known[frozenset(powers)])
        must_vanish(total - step.rhs, "that both sides agree")

    return Proof("substitution of the overlaps", run, (odd, *uses))


def in_the_limit() -> Proof:
    """SymPy's limit of the left side is the right side, its sum carried out."""
    return Proof("SymPy's limit", lambda step: must_vanish(expand(step.lhs.doit() - step.rhs.doit()), "the limit"))


def wick() -> tuple[Step, Step]:
    """Why averages are sums over pairings."""

    by_parts = Step(
        "A Gaussian average by parts",
        sympy.Derivative(w**n * exp(-(w**2) / (2 * v)), w),
        (n * w ** (n - 1) - w ** (n + 1) / v) * exp(-(w**2) / (2 * v)),
        "The left side integrates to zero, so E w w^n = v n E w^(n−1): an entry of W, of variance v = σ_w²/d, is "
        "paired with each of the others that equal it in turn. Other entries are independent of it. Doing so with the "
        "first factor of a product until none is left gives Wick's theorem: the sum over all pairings, where the pair "
        "W_ab, W_ce counts (σ_w²/d) δ_ac δ_be.",
        proof=Proof("differentiation", lambda step: must_vanish(step.lhs.doit() - step.rhs, "the derivative")),
        domain={w: (-2, 2)},
    )
    return by_parts, Step(
        "Odd moments vanish",
        Integral(w ** (2 * n - 1) * NORMAL, (w, -oo, oo)),
        0 * n,
        "An odd number of factors cannot be paired off; W and −W have the same law.",
        proof=odd_integrand(),
    )


def second_powers(crossing: Any) -> tuple[Step, ...]:
    """All pairings behind the overlaps that N = 2 needs."""
    neighbours, crossed, nested = (paired(2, 2, pairing) for pairing in pairings((0,) * 4))
    own, same = (paired(left, right, ((0, 1),)) for left, right in ((1, 1), (0, 2)))
    planar = Step(
        "tr(WᵀWᵀWW): the nested pairing",
        nested,
        1 + 0 * d,
        "Written out, tr(WᵀWᵀWW) = Σ W_ae W_ba W_bc W_ce. Pairing each W with its own transpose, W_ae with W_ce and "
        "W_ba with W_bc, forces a = c alone. Three indices stay free: d^3 terms, against a factor 1/d from each pair "
        "and one from the definition of T. Only this pairing can be drawn without crossings or twists.",
        proof=by_deltas(),
        domain=SMALL,
    )
    others = Step(
        "tr(WᵀWᵀWW): the two other pairings",
        neighbours + crossed,
        crossing / d**2,
        "W_ae with W_ba and W_bc with W_ce, or W_ae with W_bc and W_ba with W_ce: both force all four indices to "
        "agree, and leave only d terms each.",
        proof=by_deltas(),
        domain=SMALL,
    )
    return (
        Step(
            "tr(WᵀW): its only pairing",
            own,
            1 + 0 * d,
            "tr(WᵀW) = Σ W_ba W_ba; a factor with itself sets no condition, and all d² terms count. Each pair "
            "brings 1/d, the definition of T another.",
            proof=by_deltas(),
        ),
        Step(
            "tr(WW): its only pairing",
            same,
            1 / d,
            "tr(WW) = Σ W_ba W_ab needs a = b, which leaves d terms. So h_0 and W²h_0 are not orthogonal on average "
            "at finite width.",
            proof=by_deltas(),
        ),
        planar,
        others,
    )


def overlaps(pairs: tuple[Step, ...]) -> dict[tuple[int, int], Step]:
    """The values of T that N ≤ 4 needs."""
    (one, same, planar, others), more = pairs, "All {} pairings, carried out index by index."

    def found(left: int, right: int, value: Any, because: str, *uses: Step) -> tuple[tuple[int, int], Step]:
        title = f"Value of T({left}, {right}, d)"
        step = Step(title, T(left, right, d), value, because, proof=by_pairings(*uses), domain=SMALL)
        return (left, right), step

    return dict(
        (
            found(1, 1, one.rhs, "Its one pairing.", one),
            found(0, 2, same.rhs, "Its one pairing.", same),
            found(2, 2, planar.rhs + others.rhs, "The sum of its three pairings.", planar, others),
            found(1, 3, 2 / d + 1 / d**2, more.format(3)),
            found(3, 3, 1 + 10 / d**2 + 4 / d**3, more.format(15)),
            found(0, 4, 1 / d + 2 / d**2, more.format(3)),
            found(2, 4, 3 / d + 4 / d**2 + 8 / d**3, more.format(15)),
            found(4, 4, 1 + 28 / d**2 + 28 / d**3 + 48 / d**4, more.format(105)),
        )
    )


def exact(loops: int) -> Any:
    """The library's polynomial for E R_N²/q_0, in y = εσ_w."""
    return sympy.collect(tied_linear_second_moment(loops).subs({epsilon: y, sigma_w: 1}), d)


def in_overlaps(loops: Any) -> Sum:
    """E R_N²/q_0 through the overlaps."""
    return Sum(binomial(loops, i) * binomial(loops, j) * y ** (i + j) * T(i, j, d), (i, 0, loops), (j, 0, loops))


def wide(loops: int) -> Sum:
    """E R_N²/q_0 at infinite width."""
    return Sum(binomial(loops, k) ** 2 * y ** (2 * k), (k, 0, loops))


def moments(odd: Step, known: dict[tuple[int, int], Step]) -> tuple[Step, ...]:
    """The theorem for N = 2, 3, 4, with y = εσ_w."""
    small, all_of_them = [known[key] for key in ((1, 1), (0, 2), (2, 2))], list(known.values())
    three = [step for (left, right), step in known.items() if max(left, right) <= 3]
    term = binomial(4, i) * binomial(4, j) * y ** (i + j) * T(i, j, d)
    diagonal = Sum(term.subs(j, i), (i, 0, 4))
    off_diagonal = (36 * y**6 + 66 * y**4 + 12 * y**2) / d + (48 * y**6 + 36 * y**4) / d**2 + 96 * y**6 / d**3
    return (
        Step(
            "N = 2",
            in_overlaps(2),
            exact(2),
            "h_N = Σ_k C(N, k) ε^k W^k h_0 by the binomial theorem (powers of one matrix commute), and as "
            "E h_0 h_0ᵀ is q_0 times the identity, E‖h_N‖²/d becomes a sum of traces. T(i, j, d) = T(j, i, d), as a "
            "matrix and its transpose have the same trace.",
            proof=by_overlaps(odd, *small),
            domain=SMALL,
        ),
        Step(
            "N = 3", in_overlaps(3), exact(3), "The same for three loops.", proof=by_overlaps(odd, *three), domain=SMALL
        ),
        Step(
            "N = 4, a power of W with itself",
            diagonal,
            sympy.collect(expand(exact(4) - off_diagonal), d),
            "The terms i = j, where finite width enters at order 1/d².",
            proof=by_overlaps(odd, *all_of_them),
            domain=SMALL,
        ),
        Step(
            "N = 4, different powers",
            2 * Sum(term, (i, 0, j - 1), (j, 1, 4)),
            off_diagonal,
            "The terms i < j, twice; they vanish at infinite width. The last two add up to the library's polynomial.",
            proof=by_overlaps(odd, *all_of_them),
            domain=SMALL,
        ),
    )


def checks() -> tuple[Step, ...]:
    """Width 1 and infinite width."""

    def width_one(loops: int) -> Step:
        return Step(
            f"Width 1, N = {loops}",
            Integral((1 + y * w) ** (2 * loops) * NORMAL, (w, -oo, oo)),
            exact(loops).subs(d, 1),
            "At d = 1 the matrix is one Gaussian number, and no pairing is needed.",
        )

    infinite = Step(
        "Infinite width, N = 3",
        Limit(exact(3), d, oo),
        wide(3),
        "Only the pairings that leave the most indices free survive, those of each W with its own transpose.",
        proof=in_the_limit(),
        domain={y: (Rational(1, 4), 1)},
    )
    return width_one(2), width_one(4), infinite


def leading(loops: int, written_out: bool, because: str) -> Step:
    """The coefficient of 1/d."""
    summand = (1 + i) * binomial(loops, i) * binomial(loops, i + 2 * m) * y ** (2 * i + 2 * m)
    total = 2 * Sum(summand, (m, 1, loops), (i, 0, loops))
    return Step(
        f"The coefficient of 1/d, N = {loops}",
        Limit(sympy.collect(expand(d * (exact(loops) - wide(loops).doit())), d), d, oo),
        expand(total.doit()) if written_out else total,
        because,
        proof=in_the_limit(),
        domain={y: (Rational(1, 4), 1)},
    )


def derive(crossing: Any = 2) -> Derivation:
    """The derivation, with `crossing` the claimed coefficient of the pairings that cannot be drawn in the plane."""
    by_parts, odd = wick()
    pairs = second_powers(crossing)
    known = overlaps(pairs)
    return Derivation(
        id="finite-width",
        title="A tied linear stack at finite width",
        statement=(
            "At every width d, E R_N²/q_0 of the tied linear stack is a polynomial in 1/d: a sum over i and j of "
            "C(N, i) C(N, j) (εσ_w)^(i+j) T(i, j, d), where T(i, j, d) = E tr((Wᵀ)^i W^j)/d at σ_w = 1 counts Wick "
            "pairings. For N = 2 and σ_w = 1 it is 1 + 4ε² + ε^4 + 2ε²/d + 2ε^4/d². For N ≤ 4 the coefficient of 1/d "
            "is the sum over i < j, j − i even, of 2(1 + i) C(N, i) C(N, j) (εσ_w)^(i+j)."
        ),
        formula=Eq(Symbol("R_N") ** 2 / q_0, in_overlaps(N).subs(y, epsilon * sigma_w)),
        assumptions=(
            "h ← h + ε W h, the same W at every visit, its entries independent of law N(0, σ_w²/d); any width d ≥ 1.",
            "h_0 is independent of W, its entries independent with mean zero and variance q_0.",
            "In the steps y = εσ_w, and W has entries of variance 1/d; R_N² stands for its average.",
        ),
        steps=(by_parts, odd, *pairs, *known.values(), *moments(odd, known), *checks(), *one_over_d()),
        not_proved=(
            "Wick's theorem for products of any length: the first step repeated, in words. The values of T that rest "
            "on it are compared with averages taken entry by entry at d ≤ 3.",
            "The polynomials beyond N = 4, which the library counts in the same way up to N = 6.",
            "The coefficient of 1/d for every N. It follows from T(i, j, d) = (1 + i)/d + O(1/d²) for i < j, j − i "
            "even, which is argued in words only; here enumeration confirms it for i, j ≤ 4.",
            "Fluctuations of R_N² about its average, and the ReLU stack at finite width.",
        ),
        source="this project; the linear case of arXiv:2606.18524, Theorem 1",
    )


def one_over_d() -> tuple[Step, Step]:
    """The leading correction."""
    return (
        leading(
            3,
            False,
            "It is why T(i, j, d) starts with (1 + i)/d for i < j, j − i even. Take the classes of equal indices for "
            "vertices and the m pairs for edges of a graph. The trace is a closed walk on it that uses each edge "
            "twice, W along its arrow and Wᵀ against it, and counts d^(c−m−1) with c vertices. For c = m + 1 the graph "
            "is a tree, so that i = j; for c = m it has one cycle. At a vertex of degree 1 the walk turns back, "
            "which it does only where the two powers meet, at two places: take such turns off until none is left, i "
            "in all, in one of 1 + i ways. What remains goes twice around the cycle: W^(j−i), opposite factors paired.",
        ),
        leading(4, True, "The same sum for four loops, written out."),
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(0),
    statement="only pairings that can be drawn in the plane count, so that different powers of W are orthogonal",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
