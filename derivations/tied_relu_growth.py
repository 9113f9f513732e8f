"""Growth of a tied ReLU stack: one matrix, N visits, infinite width; Theorem 1 of the paper with its constants."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sympy import (
    Contains,
    Integer,
    Interval,
    Limit,
    Rational,
    Sum,
    Symbol,
    cosh,
    exp,
    log,
    oo,
    sinh,
    sqrt,
    symbols,
)

from residual_theory.errors import DerivationError
from residual_theory.lemmas import squared_binomials
from residual_theory.lemmas.squared_binomials import N, a, b, i, j, moment, n, x, y
from residual_theory.proofs import Derivation, Proof, Step, main
from residual_theory.proofs import ways as by
from residual_theory.proofs.exact_recursion import Covariance
from residual_theory.proofs.induction_proof import over_earlier_visits, pair_by_pair
from residual_theory.proofs.pair_recursion import r, s
from residual_theory.proofs.relu_angle import kernel_bounds, sine
from residual_theory.proofs.sign_proof import by_sign, gap, squeeze

sigma, alpha, delta = symbols("sigma_w alpha delta", positive=True)
z, h = symbols("z h", nonnegative=True)
older, first, second = symbols("h v w", nonnegative=True)  # slacks of earlier steps, and what is nonnegative
ratio = Symbol("R_N", positive=True) ** 2 / Symbol("q_0", positive=True)
VISITS = {a: (0, 6), b: (0, 6), n: (0, 7)}


def cov(one: Any, other: Any, scale: Any = x) -> Any:
    """The covariance of two visits, one layer."""
    return Covariance(one, other, 1, scale)


def below(half: Step) -> tuple[Step, ...]:
    """K dominates the covariance of the linear stack."""
    power, series = squared_binomials.recursion()
    at_least = Step(
        "Every pair of earlier visits counts at least half",
        cov(a, b),
        1 + x**2 * Sum(cov(i, j), (j, 0, b - 1), (i, 0, a - 1)),
        "The recursion K(a, b)/q_0 = 1 + 2x² ΣΣ r_i r_j κ(θ_ij), with r_i r_j cos θ_ij = K(i, j)/q_0 and κ ≥ cos θ/2.",
        ">=",
        pair_by_pair(2 * x**2 * r * s * gap, {gap: half}),
        domain=VISITS,
    )
    dominated = Step(
        "Below, for every pair of visits",
        cov(a, b),
        moment(a, b),
        "The right side is the covariance of the linear stack of weight variance σ_w²/2. K(i, j) is at least that at "
        "all earlier visits, hence so is K(a, b).",
        ">=",
        over_earlier_visits(at_least, series),
        domain=VISITS,
    )
    return at_least, power, series, dominated


def above(most: Step, size: Callable[[Any], Any], total: Callable[[Any], Any]) -> tuple[Step, ...]:
    """r_n² ≤ q0 + x² (Σ r_j)², and what solves it: sizes r_j ≤ √q0 cosh(jx), whose sum is at most √q0 sinh(nx)/x."""
    at_most = Step(
        "Every pair counts at most half the product of its sizes",
        cov(n, n),
        1 + x**2 * Sum(sqrt(cov(j, j)), (j, 0, n - 1)) ** 2,
        "The recursion again, with κ ≤ 1/2; r_j² = K(j, j).",
        "<=",
        pair_by_pair(2 * x**2 * r * s * gap, {gap: most}),
        domain=VISITS,
    )
    convex = Step(
        "The hyperbolic sine is convex",
        sinh(z + h),
        sinh(z) + h * cosh(z),
        "Both sides agree at h = 0 with their first derivatives, and sinh(z + h) ≥ 0 is the second.",
        ">=",
        by_sign(sinh(z + h), {}, h, 2),
    )
    partial = x * Sum(size(j), (j, 0, n - 1))
    summed = Step(
        "The sizes of all earlier visits",
        partial,
        total(n),
        "One more visit adds x cosh(nx), and sinh((n + 1)x) − sinh(nx) is no less: the last step at z = nx, h = x.",
        "<=",
        by.induction(n, hypothesis=older, certificate=older + first, known={first: (convex, {z: n * x, h: x})}),
        domain=VISITS,
    )
    closed = Step(
        "The recursion for the sizes is met with room to spare",
        size(n) ** 2,
        1 + partial**2,
        "cosh² = 1 + sinh².",
        ">=",
        by.certificate(first * (first + 2 * second), {first: summed, second: partial}),
        domain=VISITS,
    )
    bounded = Step(
        "Above, for every visit",
        cov(n, n),
        size(n) ** 2,
        "r_j² ≤ q_0 cosh²(jx) at all earlier visits, hence at the next.",
        "<=",
        over_earlier_visits(at_most, closed),
        domain=VISITS,
    )
    return at_most, convex, summed, closed, bounded


def coherence(dominated: Step, bounded: Step) -> tuple[Step, ...]:
    """1 + (Nx)² ≤ R_N²/q0 ≤ cosh²(Nx), and what it says of the sum of updates."""
    beginning = Step(
        "The first two terms",
        moment(N, N),
        1 + (N * x) ** 2,
        "The rest of the series is positive.",
        ">=",
        by.first_terms(2),
    )
    least = Step(
        "Below, in the simplest form",
        cov(N, N),
        1 + (N * x) ** 2,
        "With the bound from above: R_N² is bounded over a family of stacks exactly when Nx is, that is, when εN is.",
        ">=",
        by.certificate(first + second, {first: (dominated, {a: N, b: N}), second: beginning}),
    )
    most = (bounded, {n: N})
    sum_of_updates = (cov(N, N) - 1) / (2 * x**2 * N**2)
    return (
        beginning,
        least,
        Step(
            "The updates are coherent",
            sum_of_updates,
            Rational(1, 2),
            "The left side is ‖Σ relu(h_n)‖²/(d q_0 N²). The paper bounds it below by m_-², assuming that the stream "
            "stays large enough on the positive cone; it is at least 1/2 without any assumption.",
            ">=",
            by.certificate(first / (2 * x**2 * N**2), {first: least}),
        ),
        Step(
            "and no more than coherent",
            sum_of_updates,
            sinh(N * x) ** 2 / (2 * x**2 * N**2),
            "The paper’s q_+/q_0. It depends on Nx alone, so it is a constant where ε is proportional to 1/N.",
            "<=",
            by.certificate(first / (2 * x**2 * N**2), {first: most}),
        ),
    )


def theorem_one(least: Step, bounded: Step) -> tuple[Step, ...]:
    """The three cases of ε = λ N^−α."""
    larger, smaller = y * N ** (-1 - delta), y * N ** (-1 + delta)
    return (
        Step(
            "α = 1: bounded",
            cov(N, N, y / N),
            cosh(y) ** 2,
            "At ε = λ/N, with y = λσ_w/√2, for every N.",
            "<=",
            by.certificate(first, {first: (bounded, {n: N, x: y / N})}),
        ),
        Step(
            "α = 1 + δ: the updates vanish",
            Limit(cov(N, N, larger), N, oo),
            Integer(1),
            "Both bounds at ε = λN^(−1−δ), δ > 0, converge to 1.",
            proof=by.squeeze((least, {x: larger}), (bounded, {n: N, x: larger})),
            domain={delta: (Rational(1, 2), 1), y: (Rational(1, 2), 2)},
            along=(4, 16, 80, 400),
        ),
        Step(
            "α = 1 − δ: the stream blows up",
            Limit(cov(N, N, smaller), N, oo),
            oo,
            "The lower bound at ε = λN^(−1+δ), δ > 0, diverges; at δ = 1/2 this is the scale that is enough for untied "
            "weights.",
            proof=by.squeeze((least, {x: smaller})),
            domain={delta: (Rational(1, 5), Rational(1, 2)), y: (Rational(1, 2), 2)},
            along=(4, 16, 80, 400),
        ),
    )


def critical_scale(dominated: Step) -> tuple[Step, ...]:
    """At ε = λ/N the lower bound is a Bessel function, up to a correction of order 1/N."""
    *shares, series, bessel = squared_binomials.critical_scale()
    return (
        *(*shares, series, bessel),
        Step(
            "Below, at ε = λ/N",
            cov(N, N, y / N),
            series.rhs,
            "With y = λσ_w/√2: R_N²/q_0 is at least I_0(√2 λσ_w) less a correction of order 1/N, and at most "
            "cosh²(λσ_w/√2).",
            ">=",
            by.certificate(first + second, {first: (dominated, {a: N, b: N, x: y / N}), second: series}),
        ),
    )


def exponential_bounds(dominated: Step, bounded: Step) -> tuple[Step, ...]:
    """log(R_N²/q0) is close to 2Nx wherever x is small and Nx large."""
    cauchy, theorem, squares = squared_binomials.exponential_bound()
    whole = Step(
        "The ReLU stack dominates it",
        (1 + x) ** (2 * N),
        (N + 1) * cov(N, N),
        "At half the weight variance.",
        "<=",
        by.certificate(first + (N + 1) * second, {first: squares, second: (dominated, {a: N, b: N})}),
    )
    tangent = Step(
        "The logarithm and its parabola",
        log(1 + x),
        x - x**2 / 2,
        "Both vanish at 0; the difference has derivative x²/(1 + x).",
        ">=",
        by.taylor(x, 1),
    )
    lower = Step(
        "The lower bound in logarithms",
        log(cov(N, N)),
        2 * N * log(1 + x) - log(N + 1),
        "The logarithm is increasing.",
        ">=",
        by.logarithms(whole),
    )
    simpler = Step(
        "and without the logarithm of ε",
        log(cov(N, N)),
        2 * N * x - N * x**2 - log(N + 1),
        "By the parabola.",
        ">=",
        by.certificate(first + 2 * N * second, {first: lower, second: tangent}),
    )
    upper = Step(
        "Above, by an exponential",
        cov(N, N),
        exp(2 * N * x),
        "exp(2z) = (cosh z + sinh z)², at z = Nx.",
        "<=",
        by.certificate(first + sinh(2 * N * x) + sinh(N * x) ** 2, {first: (bounded, {n: N})}),
    )
    upper_log = Step(
        "The upper bound in logarithms",
        log(cov(N, N)),
        2 * N * x,
        "The logarithm is increasing.",
        "<=",
        by.logarithms(upper),
    )
    return cauchy, theorem, squares, whole, tangent, lower, simpler, upper, upper_log


def rate(lower: Step, upper: Step) -> Step:
    """The exponent between 0 and 1."""
    at = {x: sigma * N ** (-alpha) / sqrt(2)}
    scale = 1 / (sqrt(2) * sigma * N ** (1 - alpha))
    return Step(
        "The rate of growth at ε = N^−α",
        Limit(log(cov(N, N, at[x])) * scale, N, oo),
        Integer(1),
        "log R_N² grows like √2 σ_w N^(1−α) for every 0 < α < 1: here 2Nx = √2 σ_w N^(1−α), and both bounds of the "
        "logarithm divided by it converge to 1.",
        proof=squeeze(alpha, (lower, at), (upper, at), scale),
        domain={alpha: (Rational(9, 20), Rational(11, 20)), sigma: (Rational(3, 2), Rational(5, 2))},
        along=(16, 160, 1600),
        given=(1 - alpha,),
    )


def example(loops: int) -> tuple[Step, Step]:
    """The two bounds as numbers, at ε = N^(−1/2) and σ_w = 1."""
    scale = 1 / sqrt(Integer(2 * loops))
    value = float(cov(loops, loops, scale))
    between = f"at N = {loops}, ε = N^(−1/2) and σ_w = 1, where the recursion itself gives {value:.0f}"
    low, high = moment(loops, loops).subs(x, scale), cosh(loops * scale) ** 2

    def run(step: Step) -> None:
        value = step.lhs.doit()
        if not (value > step.rhs if step.relation == ">=" else value < step.rhs):
            raise DerivationError("the numbers are ordered the other way")

    exact = Proof("numbers compared", run)
    below_it, above_it = Integer(int(low.doit())), Integer(int(high.n()) + 1)
    return (
        Step("The lower bound as a number", low, below_it, f"R_N²/q_0 {between}.", ">=", exact),
        Step("The upper bound as a number", high, above_it, f"The same stack, from above, {between}.", "<=", exact),
    )


def derive(
    size: Callable[[Any], Any] = lambda visits: cosh(visits * x),
    total_size: Callable[[Any], Any] = lambda visits: sinh(visits * x),
) -> Derivation:
    """The derivation, with `size` the claimed bound of r_n/√q0 and `total_size` that of x Σ_{j<n} r_j/√q0."""
    wave = sine()
    half, most, _ = kernel_bounds(wave)
    lower = below(half)
    upper = above(most, size, total_size)
    simple, logs = coherence(lower[-1], upper[-1]), exponential_bounds(lower[-1], upper[-1])
    return Derivation(
        id="looped-growth",
        title="Growth of a tied ReLU stack",
        statement=(
            "One Gaussian matrix visited N times through ReLU at infinite width: with x = εσ_w/√2, R_N²/q_0 lies "
            "between Σ_k C(N, k)² x^(2k) and cosh²(Nx), for every N and ε. So it is bounded exactly when εN is: for "
            "ε = λN^(−α), if and only if α ≥ 1. At α = 1 it lies between I_0(√2 λσ_w), less a correction of order 1/N, "
            "and cosh²(λσ_w/√2); for 0 < α < 1 its logarithm grows like √2 λσ_w N^(1−α)."
        ),
        formula=Contains(ratio, Interval(moment(N, N), cosh(N * x) ** 2), evaluate=False),
        assumptions=(
            "h ← h + ε W relu(h), the same W at every visit, its entries independent of law N(0, σ_w²/d).",
            "h_0 is independent of W and has second moment q_0; d → ∞ with N fixed.",
            "The Gaussian limit (derivations/gaussian_limit.py): products of one W with vectors that depend on "
            "earlier products are jointly Gaussian, with covariance σ_w² times that of the vectors. Hence K(a, b)/q_0 "
            "= 1 + 2x² Σ_{i<a} Σ_{j<b} r_i r_j κ(θ_ij) for the covariance K of visits a, b, with r_i² = K(i, i)/q_0, "
            "r_i r_j cos θ_ij = K(i, j)/q_0, and κ the dual kernel of derivations/relu_kernel.py. Below, K is in "
            "units of q_0.",
            "Not assumed: that the stream stays above some level on the positive cone (m_- in the paper), or that its "
            "updates are coherent. Both are consequences.",
        ),
        steps=(
            *(wave, half, most, *lower, *upper, *simple, *theorem_one(simple[1], upper[-1])),
            *(*critical_scale(lower[-1]), *logs, rate(logs[-3], logs[-1]), *example(64)),
        ),
        not_proved=(
            "The Gaussian limit for N that grows with d, and that d → ∞ and N → ∞ may be exchanged; d → ∞ comes first.",
            "That R_N² converges at ε = λ/N, and to what; the bounds leave a gap.",
            "The correction at finite width, and fluctuations about the mean.",
        ),
        source="arXiv:2606.18524, Theorem 1 and Lemma 4, there with unspecified constants and at finite width",
        paper="Theorem 1",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda visits: (1 + x**2) ** (visits / 2), lambda visits: sqrt((1 + x**2) ** visits - 1)),
    statement="the stream grows no faster than with a new matrix at each visit, so that ε = N^(−1/2) is enough",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
