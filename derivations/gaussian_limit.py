"""The Gaussian limit of wide raw stacks, with its rate: E R² is within C/d of its limit, and Var R² at most C/d."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from sympy import Derivative, Dummy, Integer, Integral, Sum, Symbol, exp, log, oo, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.lemmas.gaussian_pair import BOX, PLANE, joint, k, normal, p, q, u, v
from residual_theory.lemmas.narrow_stack import F, T, an_entry_moves_the_stream, beta, by_parts
from residual_theory.lemmas.two_streams import W, before, h, norm_of, visit
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish, nonnegative
from residual_theory.proofs import ways as by
from residual_theory.proofs.exact_recursion import recursive, shared
from residual_theory.proofs.induction_proof import partners

N, L, d, power = symbols("N L d k", integer=True, positive=True)
n, i, j, m = symbols("n i j N", integer=True, nonnegative=True)
e, w, t, x, y, z, A, g, r, delta, gamma = symbols("e w t x y z A g r delta gamma", positive=True)
a, b, psi = symbols("a b psi", positive=True)
c = Symbol("c", nonnegative=True)
mean, limit, second = symbols("m K s", real=True)
first = Symbol("f", nonnegative=True)  # the slack of an earlier step
FEW = {N: (1, 4), L: (1, 4), n: (0, 5), e: (0, 1), w: (0, 3), psi: (0, 1), c: (0, 1), d: (1, 9), power: (1, 6)}


@lru_cache(maxsize=64)
def _sizes(count: int, scale: Any, size: Any, turn: Any, offset: Any, _: int) -> Any:
    """‖h_n‖/√2 at width 2: W a rotation by `turn` times `size`, φ(x) = max(x, 0) + offset, h_0 = (1, 1)."""
    sine, cosine = mpmath.sin(turn), mpmath.cos(turn)
    weights, stream = size * mpmath.matrix([[cosine, -sine], [sine, cosine]]), mpmath.matrix([1, 1])
    for _visit in range(count):
        stream = visit(stream, weights, stream.apply(lambda entry: max(entry, 0) + offset), scale)
    return mpmath.norm(stream) / mpmath.sqrt(2)


R = recursive("R", lambda count, *stack: _sizes(int(count), *stack, mpmath.mp.prec), "positive")
STACK = (e, w, psi, c)


def integration_by_parts(corrections: Any) -> tuple[Step, ...]:
    """The exact law of products of streams at finite width."""
    moves = an_entry_moves_the_stream()
    gaussian = Step(
        "Gaussian integration by parts",
        w * normal(w, z),
        -z * Derivative(normal(w, z), w),
        "Of the density of an entry w of variance z: integrated against f(w), E[w f(w)] = z E f'(w).",
        domain={w: (0, 3)},
    )
    return gaussian, moves, by_parts(moves, corrections)


def growth() -> tuple[Step, Step]:
    """Streams and Jacobians are bounded by products of norms."""

    def triangle(step: Step) -> None:
        known = {h: R(n, *STACK), W: w, before: R(n, *STACK) + c}
        if (step.lhs, step.relation) != (R(n + 1, *STACK), "<="):
            raise DerivationError("this is not the norm of the next stream, bounded from above")
        must_vanish(step.rhs - norm_of(visit(h, W, before, e), known), "that the norms of all terms are counted")

    one_more = Step(
        "One more visit",
        R(n + 1, *STACK),
        R(n, *STACK) + e * w * (R(n, *STACK) + c),
        "R(n) = ‖h_n‖/√d, w = ‖W‖ and c = |φ(0)|: as |φ(x)| ≤ |x| + c, triangle inequality. (At numbers: ReLU plus c "
        "at width 2, W turning by ψ.)",
        "<=",
        Proof("triangle inequality, term by term", triangle),
        FEW,
    )

    def run(step: Step) -> None:
        so_far, size = R(n, *STACK), Dummy("R", nonnegative=True)
        if (step.relation, one_more.relation) != ("<=", "<=") or one_more.lhs != R(n + 1, *STACK):
            raise DerivationError("these are not bounds from above")
        must_vanish(step.lhs - so_far - c, "that the left side is R + c")
        form = one_more.rhs.subs(so_far, size)
        if form.has(R) or not nonnegative(sympy.expand(sympy.diff(form, size))):
            raise DerivationError("the growth is not visibly increasing in the size so far")
        must_vanish(step.rhs.subs(n, 0) - step.lhs.subs(n, 0), "the case n = 0")
        must_vanish(form.subs(size, step.rhs - c) + c - step.rhs.subs(n, n + 1), "the step from n to n + 1")

    whole = Step(
        "The stream after n visits",
        R(n, *STACK) + c,
        (1 + e * w) ** n * (R(0, *STACK) + c),
        "Induction. So with A = Π (1 + e‖W‖) over all visits and x = R(0) + c, streams and images are at most A x; "
        "Jacobians are at most A in the same way; and one times the image before it at most A x, as each visit is "
        "counted once.",
        "<=",
        Proof("induction on n", run, (one_more,)),
        FEW,
    )
    return one_more, whole


def moments() -> tuple[Step, ...]:
    """Of A and x: the norm of W is nearly Gaussian about at most 2."""

    def lowest_at_one(step: Step) -> None:
        slack = step.slack
        if step.relation != "<=" or not y.is_positive:
            raise DerivationError("this is no upper bound for positive y")
        must_vanish(slack.subs(y, 1), "that both sides meet at y = 1")
        must_vanish(sympy.diff(slack, y).subs(y, 1), "that they touch there")
        if not nonnegative(sympy.diff(slack, y, 2)):
            raise DerivationError("the difference is not visibly convex")

    tangent = Step(
        "The logarithm lies below its tangent",
        log(y),
        y - 1,
        "The difference is convex, and vanishes at y = 1 with its slope.",
        "<=",
        Proof("convexity, and a double zero", lowest_at_one),
    )
    at_two = Step(
        "Expanded about ‖W‖ = 2",
        log(1 + e * w),
        log(1 + 2 * e) + e * (w - 2) / (1 + 2 * e),
        "At y = (1 + ew)/(1 + 2e); and ‖W‖ ≤ 2 exp((‖W‖ − 2)/2) at y = ‖W‖/2, where ‖W‖ stands alone.",
        "<=",
        by.certificate(first, {first: (tangent, {y: (1 + e * w) / (1 + 2 * e)})}),
        FEW,
    )
    factors = Step(
        "Powers of 1 + e‖W‖",
        (1 + e * w) ** power,
        (1 + 2 * e) ** power * exp(power * e * (w - 2) / (1 + 2 * e)),
        "k times the logarithm.",
        "<=",
        by.certificate(power * first, {first: at_two}, logarithm=True),
        FEW,
    )
    slope = power * e / (1 + 2 * e)

    rest = power**2 * e**2 / (2 * d) * (4 * e + 4 * e**2) / (1 + 2 * e) ** 2
    logarithms = by.certificate(power * first + rest, {first: (tangent, {y: 1 + 2 * e})}, logarithm=True)

    def run(step: Step) -> None:
        if factors.relation != "<=" or factors.lhs != (1 + e * w) ** power:
            raise DerivationError("this does not bound powers of 1 + e‖W‖")
        must_vanish(sympy.diff(log(factors.rhs).expand(force=True), w) - slope, "the exponent's slope in ‖W‖")
        must_vanish(step.lhs - factors.rhs.subs(w, 2 + slope / (2 * d)), "that the mean is taken of that bound")
        logarithms.run(step)

    averaged = Step(
        "and their mean",
        factors.rhs.subs(w, 2 + slope / (2 * d)),
        exp(2 * power * e + power**2 * e**2 / (2 * d)),
        "‖W‖ is a Lipschitz function of the entries with constant 1 in units of d^(−1/2), and its mean is at most 2, "
        "so E exp(s‖W‖) ≤ exp(2s + s²/(2d)) for s ≥ 0: as if ‖W‖ were 2 + s/(2d). Matrices being independent, E A^k "
        "is at most the product of these. The left side is what theory/concentration.py takes.",
        "<=",
        Proof("the earlier bound at the mean's exponent, and its logarithm", run, (factors, tangent)),
        FEW,
    )
    start = Step(
        "Fourth moment of the start",
        (d * Integral(u**4 * normal(u), (u, -oo, oo)) + d * (d - 1)) / d**2,
        1 + 2 / d,
        "E R(0)⁴ at q_0 = 1, R(0)² being the mean of d independent squares; E R(0)² = 1. Odd powers by the next even "
        "one.",
        domain={d: (1, 9)},
    )
    return tangent, at_two, factors, averaged, start


def counts(count: Callable[[Any], Any]) -> tuple[Step, ...]:
    """Pairs of visits that share weights, and how far apart they are."""
    share = partners(count, FEW)

    def run(step: Step) -> None:
        inner, outer = (j, 0, N * L - 1), (i, 0, N * L - 1)
        if share.lhs != Sum(shared(i, j, L), inner) or step.lhs != Sum(shared(i, j, L), inner, outer):
            raise DerivationError("the sums are others")
        must_vanish(step.rhs - Sum(share.rhs, outer).doit(), "the outer sum")

    pairs = Step(
        "Pairs of visits that share a layer",
        Sum(Sum(shared(i, j, L), (j, 0, N * L - 1)), (i, 0, N * L - 1)),
        N**2 * L,
        "P = N²L.",
        proof=Proof("the inner sum by an earlier step, the outer carried out", run, (share,)),
        domain=FEW,
    )
    apart = Step(
        "How far apart they are",
        Sum(Sum(j - i, (i, 0, j - 1)), (j, 0, m - 1)),
        m * (m**2 - 1) / 6,
        "In loops, for one layer. Two visits l loops apart are lL visits apart, so L layers make L² times that in "
        "all; less one for each pair are the visits between.",
        proof=by.induction(m),
        domain={m: (1, 9)},
    )
    return share, pairs, apart


def variance(pairs: Step) -> Step:
    """The Gaussian Poincaré inequality, with the norm of the gradient."""
    rho = A * x
    of_weights, of_start = 4 * e**2 * rho**4 * pairs.lhs, 4 * A**2 * rho**2
    return Step(
        "Squared norm of the gradient of R²",
        (of_weights + of_start) / d,
        4 * A**4 * (1 + e**2 * N**2 * L * x**2) * x**2 / d,
        "Times the entries' variance 1/d. ∇R² in W is 2(e/d) Σ J(V, m + 1)ᵀh_V φ(h_m)ᵀ over the visits of W, of norm "
        "at most 2e (Ax)² N; squared and summed over L matrices. In h_0 it is 2 J(V, 0)ᵀh_V/d. The Gaussian Poincaré "
        "inequality, Var f ≤ E‖∇f‖² times the entries' variance, makes the mean of this a bound on Var R².",
        proof=by.substitution(pairs),
        domain=FEW,
    )


def what_is_added(identity: Step, averaged: Step) -> Step:
    """The bound on traces and feedback, at the one stack whose exact averages are at hand and whose φ is Lipschitz."""
    visits, pairs, earlier, width = 2, 4, 1, 2

    def of(k_: int) -> Any:
        return averaged.rhs.subs(power, k_ * visits).subs(d, width)

    def total(k_: int) -> Any:  # of A^k for one matrix at all visits
        return exp(2 * k_ * visits * e + (k_ * visits) ** 2 * e**2 / (2 * width))

    grams = e**2 * pairs * earlier + 2 * e**2 * pairs**2 / sqrt(Integer(width))
    bound = e**2 / width * (earlier * total(1) + grams * total(3) + earlier * total(2))

    def run(step: Step) -> None:
        images = identity.rhs.atoms(T, F)
        if step.relation != "<=":
            raise DerivationError("this is no bound from above")
        if identity.relation != "=" or {type(one) for one in images} != {T, F} or len(images) != 2:
            raise DerivationError("the identity has other corrections")
        by_name = dict(zip(symbols("a b", integer=True, nonnegative=True), (2, 2), strict=True))
        at = sum(one.subs(by_name) for one in images).subs({symbols("e", real=True): e, beta: 0})
        must_vanish(step.lhs - at, "that the left side is what the identity adds")
        for k_ in (1, 2, 3):
            must_vanish(of(k_) - total(k_), "that these are the moments")
        must_vanish(step.rhs - bound, "that all terms are counted")

    return Step(
        "What Jacobians and feedback add",
        T(2, 2, e, 0) + F(2, 2, e, 0),
        bound,
        "J(b, a) − I = e Σ W D J, and once more by parts in W: one derivative each falls on W in J, on the slopes in J "
        "and on ĝ. With norms as above, T ≤ (e²/d) E[A(1 + e²PA²x²)(P' + κ(P' + e‖W‖Δ)A x) + 2e²P²A³x²/√d] and "
        "F ≤ (e²/d) P' E A²x²: P' pairs m < i of one layer, Δ the visits between them, κ the largest |φ''|. Shown: "
        "N = 2, φ linear.",
        "<=",
        Proof("norms, term by term", run, (identity, averaged), argued=True),
        domain={e: (0, 1)},
    )


def images() -> tuple[Step, ...]:
    """Mean products of images against those of Gaussian variables."""
    variance_at = t * p + (1 - t) * q
    heat = Step(
        "From one Gaussian law to another",
        Derivative(normal(u, variance_at), t),
        (p - q) / 2 * Derivative(normal(u, variance_at), u, 2),
        "Along √t h + √(1 − t) Z only second derivatives of what is averaged enter, times the difference of the "
        "covariances. For streams h the identity above adds to that what Jacobians and feedback do.",
        domain={t: (0, 1), u: (-2, 2)},
    )
    trade = Step(
        "A second derivative for a Gaussian factor",
        u * joint(),
        -(q * Derivative(joint(), u) + k * Derivative(joint(), v)),
        "By parts E[Z_i φ'φ] = √(1 − t)(K_ii E φ''φ + K_ij E φ'φ'): φ'' never stands alone, so slopes are enough. "
        "K_ii ≥ q_0 > 0 as every stream contains h_0, however close to singular K is.",
        domain=BOX | PLANE,
    )
    factor = Step(
        "The Gaussian factor's size",
        Integral(v**4 * normal(v), (v, -oo, oo)) * k**2 / q + p - k**2 / q,
        p + 2 * k**2 / q,
        "E v²Z_j² at variances q = K_ii, q' = K_jj and covariance k: Z_j is (k/√q)v and an independent rest.",
        domain=BOX,
    )
    most = Step(
        "and its bound",
        factor.rhs,
        3 * p,
        "Cauchy–Schwarz.",
        "<=",
        by.certificate(2 * first / q, {first: q * p - k**2}),
        domain=BOX,
        given=(q * p - k**2,),
    )
    along = Step(
        "Along the way",
        Derivative(sqrt(t) - sqrt(1 - t), t),
        1 / (2 * sqrt(t)) + 1 / (2 * sqrt(1 - t)),
        "So the factor 1/√(1 − t) of the trade and the feedback's 1/√t can be integrated: half of each to 1.",
        domain={t: (0, 1)},
    )
    summed = Step(
        "Errors of all pairs before",
        r + gamma * Sum(r * (1 + gamma) ** i, (i, 0, n - 1)),
        r * (1 + gamma) ** n,
        "b(i, j) ≤ r + e² Σ b over earlier pairs, times the slopes: at most 2N pairs have their later visit in one "
        "place, so with γ = 2Ne²(1 + 2c_max) discrete Gronwall gives b ≤ r(1 + γ)^(NL), r of order 1/d.",
        proof=by.induction(n),
        domain={n: (0, 5)},
    )
    return heat, trade, factor, most, along, summed


def kinks() -> tuple[Step, ...]:
    """φ with kinks is averaged over a window, and the limit is in mean square."""
    return (
        Step(
            "An average over a window",
            Integral(delta * y / 2, (y, 0, 1)),
            delta / 4,
            "φ averaged over ± δ is off φ by at most this times the largest change of φ'; its second derivative is at "
            "most that change over 2δ.",
        ),
        Step(
            "The best window",
            a * delta + b / (d * delta),
            2 * sqrt(a * b / d) + a * (delta - sqrt(b / (a * d))) ** 2 / delta,
            "Error aδ of the window and b/(δd) of the mean: at δ = √(b/(ad)) of order 1/√d, for every Lipschitz φ.",
            domain={d: (1, 9)},
        ),
        Step(
            "Bias and variance",
            second - 2 * limit * mean + limit**2,
            (second - mean**2) + (mean - limit) ** 2,
            "E(R² − K)² = Var R² + (E R² − K)²: both vanish, and Chebyshev's inequality bounds the probability of any "
            "distance.",
        ),
    )


def derive(corrections: Any = 1, count: Callable[[Any], Any] = lambda loops: loops) -> Derivation:
    """The derivation, with so many times the `corrections` of integration by parts, and `count` partners of a visit."""
    identity, means, numbers = integration_by_parts(corrections), moments(), counts(count)
    return Derivation(
        id="gaussian-limit",
        title="The Gaussian limit, with its rate",
        statement=(
            "For Lipschitz φ and fixed N and L the second moment R² of a raw stack of width d tends in mean square to "
            "the limit K of the Gaussian recursion: Var R² ≤ C/d, |E R² − K| ≤ C/√d, and |E R² − K| ≤ C/d if φ'' is "
            "bounded. The constants depend on N, L, e = εσ_wℓ, φ and q_0 only; theory/concentration.py evaluates them."
        ),
        formula=r"E(R^2 - K)^2 \le \frac{C}{d}",
        assumptions=(
            "h ← h + ε W_l φ(h), L layers in turn or shared in any way, no norms; |φ(x) − φ(y)| ≤ ℓ|x − y|. Entries of "
            "the W_l are independent of law N(0, σ_w²/d), those of h_0 of law N(0, q_0). Units: σ_w = ℓ = q_0 = 1.",
            "K(a, b) = 1 + e² Σ E φ(Z_i) φ(Z_j) over i < a, j < b of one layer, Z Gaussian of covariance K.",
            "Cited: the Gaussian Poincaré inequality and concentration of Lipschitz functions (Boucheron, Lugosi, "
            "Massart, Concentration Inequalities, 2013, Theorems 3.20 and 5.6); E‖W‖ ≤ 2 (Davidson and Szarek, 2001).",
            "Known without a rate: Bolthausen (Commun. Math. Phys. 325, 2014), Bayati and Montanari (IEEE Trans. Inf. "
            "Theory 57, 2011), both by conditioning on past products; Yang, Tensor Programs I (arXiv:1910.12478). No "
            "Wᵀ acts in the forward pass, so there is no Onsager term.",
        ),
        steps=(
            *identity,
            *growth(),
            *means,
            *numbers,
            variance(numbers[1]),
            what_is_added(identity[-1], means[3]),
            *images(),
            *kinks(),
        ),
        not_proved=(
            "The step “What Jacobians and feedback add” is argued in words; so is, in docs/theory.md, that the same "
            "norms bound the mean products of images.",
            "That C/d holds for φ with kinks, such as ReLU: measured, and exact for few loops "
            "(derivations/finite_width.py).",
            "Norms, gated branches, MLPs and attention; gradients, where W and Wᵀ both act.",
            "Uniformity: at ε = λ/N the constants are bounded for one layer, but grow with L under ε = λ/(N√L), since "
            "a product of norms does not see that layers are independent.",
        ),
        source="this project",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(Integer(0)),
    statement="products of one matrix are Gaussian at finite width, so that integration by parts leaves nothing of 1/d",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
