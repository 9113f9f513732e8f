"""Theorem 1 of the paper by its own proof, under its own assumptions, with the bound from both sides."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from sympy import Max, Sum, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.lemmas import positive_sums, vectors
from residual_theory.lemmas.positive_sums import high, low
from residual_theory.lemmas.vectors import N, d, i, j, n, norm
from residual_theory.proofs import Derivation, Proof, Step, main
from residual_theory.proofs.sum_proof import by_sums, unrolled
from residual_theory.proofs.tables import evaluated

loops = sympy.Symbol("k", integer=True, nonnegative=True)
eps, c_w, C_w, bound = symbols("epsilon c_W C_W B", positive=True)
gap, more, spare = symbols("g h f", nonnegative=True)
W = evaluated("W", lambda row, column: ((2 * row + 3 * column) % 7 - 2) / 4)  # of both signs


@lru_cache(maxsize=512)
def entry(visit: Fraction, place: Fraction, width: Fraction, scale: Fraction) -> Fraction:
    """One entry of the stream of a ReLU layer, exactly."""
    if visit == 0:
        return 1 / place
    columns = [Fraction(column) for column in range(1, int(width) + 1)]
    images = [max(entry(visit - 1, column, width, scale), Fraction(0)) for column in columns]
    changes = (((2 * place + 3 * column) % 7 - 2) / 4 * one for column, one in zip(columns, images, strict=True))
    return entry(visit - 1, place, width, scale) + scale * sum(changes)


h = evaluated("h", entry, shown=2)  # h(n, i): entry i of the stream after n visits
u = evaluated("u", lambda *at: max(entry(*at), Fraction(0)), "nonnegative", shown=2)  # its image φ(h_n)


def stream(visits: Any) -> Callable[[Any], Any]:
    """The entries of h after some visits."""
    return lambda place: h(visits, place, d, eps)


def image(visit: Any, place: Any) -> Any:
    """An entry of the image at the visit of this number, 1…N."""
    return u(visit - 1, place, d, eps)


def total(place: Any) -> Any:
    """An entry of U, the sum of the images of N visits."""
    return Sum(image(n, place), (n, 1, N))


def made(vector: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What W makes of a vector."""
    return lambda place: Sum(W(place, j) * vector(j), (j, 1, d))


def size(vector: Callable[[Any], Any]) -> Any:
    """‖vector‖/√d."""
    return norm(vector) / sqrt(d)


MEANS, SQUARES = (given.replace(positive_sums.u, image) for given in (positive_sums.MEANS, positive_sums.SQUARES))
GAIN, MOST = norm(made(total)) - c_w * norm(total), C_w * norm(total) - norm(made(total))
SIZES = {N: (1, 3), d: (1, 3), loops: (0, 3), eps: (0, 1), low: (0, 1), high: (1, 40), c_w: (0, 1), C_w: (1, 12)}
SIZES |= {bound: (1, 400)}
FROM_BELOW, FROM_ABOVE = (MEANS, GAIN), (SQUARES, MOST)
CHANGE, BEFORE, AFTER = size(made(total)), size(stream(0)), size(stream(N))


def expanded() -> Step:
    """h_k = h_0 + ε W (u_0 + … + u_{k−1})."""
    summed = Sum(W(i, j) * Sum(image(n, j), (n, 1, loops)), (j, 1, d))
    return Step(
        "One matrix, one sum",
        h(loops, i, d, eps),
        h(0, i, d, eps) + eps * summed,
        "h_{n+1} = h_n + ε W u_n with u_n = φ(h_n), so the changes r_n = W u_n add up; W is the same at every visit, "
        "and Σ r_n = W U. This is where sharing enters. (At numbers: a ReLU layer, computed exactly.)",
        proof=unrolled(lambda before: before(i) + eps * Sum(W(i, j) * u(loops, j, d, eps), (j, 1, d)), i, loops),
        domain=SIZES,
    )


def coherent(lower: Step, upper: Step) -> tuple[Step, Step]:
    """‖Σ r_n‖²/d = Θ(N²): assumption (3) applied to U, which lies in the positive cone."""
    at = {positive_sums.u: image}
    least = Step(
        "The coherent term from below",
        CHANGE,
        c_w * low * N,
        "U is nonnegative, so (3) gives ‖WU‖ ≥ c_W‖U‖, and Lemma 4 the size of U (hypotheses 1 and 2).",
        ">=",
        by_sums(spare / sqrt(d) + c_w * gap, {spare: GAIN, gap: (lower, at)}),
        SIZES,
        FROM_BELOW,
    )
    most = Step(
        "and from above",
        CHANGE,
        C_w * sqrt(high) * N,
        "Likewise: ‖Σ r_n‖²/d is of order N².",
        "<=",
        by_sums(spare / sqrt(d) + C_w * gap, {spare: MOST, gap: (upper, at)}),
        SIZES,
        FROM_ABOVE,
    )
    return least, most


def bounds(gathered: Step, triangles: tuple[Step, Step], least: Step, most: Step) -> tuple[Step, ...]:
    """R_N from both sides."""
    summands = {vectors.x: stream(0), vectors.y: lambda place: eps * made(total)(place)}
    above = Step(
        "R_N from above",
        AFTER,
        BEFORE + eps * most.rhs,
        "‖h_N‖ ≤ ‖h_0‖ + ε‖WU‖: C = C_W √q_+.",
        "<=",
        by_sums(
            gap / sqrt(d) + eps * more, {gap: (triangles[0], summands), more: most}, (((gathered, {loops: N}), i),)
        ),
        SIZES,
        FROM_ABOVE,
    )
    below = Step(
        "R_N from below",
        AFTER,
        eps * c_w * low * N - BEFORE,
        "‖h_N‖ ≥ ε‖WU‖ − ‖h_0‖: c = c_W m_-.",
        ">=",
        by_sums(
            gap / sqrt(d) + eps * more, {gap: (triangles[1], summands), more: least}, (((gathered, {loops: N}), i),)
        ),
        SIZES,
        FROM_BELOW,
    )

    def positive_part(step: Step) -> None:
        if step.relation != ">=" or step.lhs != below.lhs or below.relation != ">=" or step.given != below.given:
            raise DerivationError("this is not the earlier lower bound")
        if step.rhs != Max(below.rhs, 0) or not step.lhs.is_nonnegative:
            raise DerivationError("this is not the positive part of the earlier bound")

    return (
        above,
        below,
        Step(
            "and its positive part",
            AFTER,
            Max(eps * c_w * low * N - BEFORE, 0),
            "A size is not negative.",
            ">=",
            Proof("an earlier bound, and the sign", positive_part, (below,)),
            SIZES,
            FROM_BELOW,
        ),
        Step(
            "Bounded only if εN is",
            eps * N,
            (bound + BEFORE) / (c_w * low),
            "If R_N ≤ B (hypothesis 3) then εN ≤ (B + R_0)/c: over all N, a bounded stream needs εN = O(1).",
            "<=",
            by_sums((gap + more) / (c_w * low), {gap: below, more: bound - AFTER}),
            SIZES,
            (*FROM_BELOW, bound - AFTER),
        ),
    )


def one_by_one() -> Any:
    """Σ ‖r_n‖²/d, which the coherent term would be if the updates were orthogonal."""
    return Sum(made(lambda place: image(n, place))(i) ** 2, (i, 1, d), (n, 1, N)) / d


def square(gathered: Step, root: Step, most: Step, third: Any) -> tuple[Step, ...]:
    """The expansion of §3.2: R_N² = R_0² + B_N + C_N."""
    cross = 2 * eps / d * Sum(stream(0)(i) * made(total)(i), (i, 1, d))

    def bounded(sign: int, title: str, because: str) -> Step:
        vectors_at = {vectors.x: stream(0), vectors.y: lambda place: sign * made(total)(place)}
        return Step(
            title,
            sign * cross,
            2 * eps * BEFORE * most.rhs,
            because,
            "<=",
            by_sums(2 * eps * (gap / d + BEFORE * more), {gap: (root, vectors_at), more: most}),
            SIZES,
            FROM_ABOVE,
        )

    return (
        Step(
            "R_N² in three parts",
            AFTER**2,
            BEFORE**2 + cross + eps**2 * third,
            "R_0², the cross term B_N = (2ε/d) Σ⟨h_0, r_n⟩, and C_N = (ε²/d)‖Σ r_n‖², of order (εN)².",
            proof=by_sums(through=(((gathered, {loops: N}), i),)),
            domain=SIZES,
        ),
        bounded(1, "The cross term is of order εN", "Cauchy–Schwarz: |⟨h_0, Σ r_n⟩| ≤ ‖h_0‖‖WU‖."),
        bounded(-1, "also from below", "The same with −WU."),
    )


def derive(third: Any = CHANGE**2) -> Derivation:
    """The derivation, with `third` the claimed ‖Σ r_n‖²/d in R_N²."""
    below, above = positive_sums.from_below(), positive_sums.from_above(lambda loops: loops)
    root = above[1]
    triangles = vectors.triangle(root)
    sums = expanded()
    terms = coherent(below[-1], above[-1])
    size_n = sympy.Symbol("R_N")
    return Derivation(
        id="paper-theorem-1",
        title="Theorem 1, by the paper's own proof",
        statement=(
            "One layer looped N times, whose images φ(h_n) have means of at least m_- > 0 and mean squares of at most "
            "q_+ on average, and whose matrix has a gain between c_W and C_W on the positive cone: ‖Σ r_n‖²/d is of "
            "order N², and (εcN − R_0)_+ ≤ R_N ≤ R_0 + CεN with c = c_W m_- and C = C_W √q_+. If the constants do not "
            "depend on N, the stream is bounded only if εN is."
        ),
        formula=sympy.And(
            Max(eps * c_w * low * N - sympy.Symbol("R_0"), 0) <= size_n,
            size_n <= sympy.Symbol("R_0") + C_w * sqrt(high) * eps * N,
        ),
        assumptions=(
            "h_{n+1} = h_n + ε W φ(h_n), φ(h_n) ≥ 0.",
            "(1) and (2): (1/N) Σ m(φ(h_n)) ≥ m_- > 0 and (1/N) Σ q(φ(h_n)) ≤ q_+, both independent of N.",
            "(3): c_W‖x‖ ≤ ‖Wx‖ ≤ C_W‖x‖ for nonnegative x. The proof uses it for x = U only.",
        ),
        steps=(
            *below,
            *above,
            *triangles,
            sums,
            *terms,
            *bounds(sums, triangles, *terms),
            *square(sums, root, terms[1], third),
        ),
        not_proved=(
            "(1), (2) and (3) themselves. (3) holds for Gaussian W with high probability (derivation paper-lemma-5).",
            "(2) is a bound on the stream: it is the size of φ(h_n). At ε = 1 the raw ReLU stack has no such q_+ "
            "independent of N.",
        ),
        source="arXiv:2606.18524, Theorem 1, §3.2 and App. A.2",
        paper=("Theorem 1", "§3.2"),
        verdict="derived as written",
        needed=(
            "Nothing: c = c_W m_- and C = C_W √q_+, and (3) is used for x = U only. (2) is itself a bound on the "
            "stream."
        ),
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(one_by_one()),
    statement="the updates of N loops are orthogonal, so that their squares add up, as those of independent ones do",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
