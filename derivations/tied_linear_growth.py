"""Growth of a tied linear stack: one matrix, N visits, infinite width."""

from dataclasses import replace
from typing import Any

import sympy
from sympy import Eq, Integral, Limit, Rational, Sum, Symbol, binomial, exp, factorial, log, oo, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.lemmas import squared_binomials
from residual_theory.lemmas.squared_binomials import Coefficient, N, k, moment, n, x, y
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by
from residual_theory.theory.finite_width import power_overlap

d = symbols("d", integer=True, positive=True)
q_0, s, eps, t = symbols("q_0 sigma_w epsilon t", positive=True)
w = Symbol("w", real=True)
older, first, second = symbols("h u v", nonnegative=True)  # slacks of earlier inequalities
TITLES = ("One power of ε²σ_w²", "The covariance of two visits")
REASON = (
    "In units of q_0 and with x = εσ_w, K(a, b) = 1 + x² Σ_{i<a} Σ_{j<b} K(i, j), as the updates εWh_i and εWh_j have "
    "covariance x² K(i, j). A recursion over earlier visits has one solution, and this is one"
)


def orthogonal_powers() -> tuple[Step, ...]:
    """The known fact behind the recursion, looked at for small powers."""
    density = exp(-(w**2) / (2 * s**2)) / (s * sqrt(2 * sympy.pi))

    def in_the_limit(left: int, right: int, value: Any, because: str) -> Step:
        title = f"Powers {left} and {right} of one Gaussian matrix"
        return Step(title, Limit(power_overlap(left, right), d, oo), value, because, proof=by.limit())

    return (
        Step(
            "Wick pairings at width 1",
            Integral(w**6 * density, (w, -oo, oo)),
            power_overlap(3, 3).subs(d, 1),
            "A check of the count: at d = 1 the overlap of two third powers is the sixth moment of one Gaussian.",
        ),
        in_the_limit(2, 2, s**4, "E⟨W²h, W²h⟩/d for h with second moment 1; the rest is of order 1/d²."),
        in_the_limit(3, 3, s**6, "Of the fifteen pairings only that of each factor with its transpose survives."),
        in_the_limit(3, 1, 0 * d, "Different powers become orthogonal."),
    )


def hypergeometric() -> tuple[Step, ...]:
    """The same sum under its usual name."""
    term = Step(
        "As a hypergeometric term",
        sympy.RisingFactorial(-N, k) ** 2 / factorial(k) ** 2,
        binomial(N, k) ** 2,
        "The coefficient of t^k in ₂F₁(−N, −N; 1; t), so that R_N²/q_0 is this function of t = x² = ε²σ_w².",
        proof=by.ratio(k),
        domain={k: (0, 6)},
    )

    def run(step: Step) -> None:
        (top, bottom, argument), sum_ = step.lhs.args, step.rhs
        over, under = [sympy.RisingFactorial(c, k) for c in top], sympy.RisingFactorial(bottom[0], k)
        must_vanish(over[0] * over[1] / under / factorial(k) - term.lhs, "that this is the series of the function")
        must_vanish(sum_.function - term.rhs * argument**k, "the summand")

    return (
        term,
        Step(
            "The second moment after N visits",
            sympy.hyper((-N, -N), (1,), t),
            Sum(binomial(N, k) ** 2 * t**k, (k, 0, N)),
            "a = b = N in the covariance; the series stops at k = N.",
            proof=Proof("the series of the function, term by term", run, (term,)),
        ),
    )


def critical_scale() -> tuple[Step, ...]:
    """ε = λ/N, through two-sided bounds with y = λσ_w."""
    share = binomial(N, k) * factorial(k) / N**k
    shrink = Step(
        "Each factor loses a little",
        share.subs(k, k + 1),
        share * (1 - k / N),
        "The share of k-fold products without repetition, C(N, k) k!/N^k.",
        domain={k: (0, 6)},
    )
    at_most, at_least, lower, below = squared_binomials.critical_scale()
    part = y ** (2 * k) / factorial(k) ** 2
    upper = Step(
        "The same sum from above",
        lower.lhs,
        Sum(part, (k, 0, oo)),
        "The share is at most 1, for every N.",
        relation="<=",
        proof=by.termwise(at_most, part),
    )
    above = Step("The series above", upper.rhs, sympy.besseli(0, 2 * y), "The modified Bessel function.")
    limit = Step(
        "The limit at the critical scale",
        Limit(lower.lhs, N, oo),
        sympy.besseli(0, 2 * y),
        "At ε = λ/N, y = λσ_w: both bounds converge to I_0(2λσ_w).",
        proof=by.squeeze(lower, upper),
        along=(4, 16, 64, 200),
        domain={y: (Rational(1, 4), Rational(3, 2))},
    )
    return shrink, at_most, at_least, lower, below, upper, above, limit


def upper_bound(series: Step, bessel: Step) -> tuple[Step, ...]:
    """R_N²/q_0 ≤ exp(2Nx), with x = εσ_w."""
    term = y**k / factorial(k)
    new, total = symbols("A S", nonnegative=True)
    partial = Sum(term, (k, 0, n))
    known = {new: term.subs(k, n + 1), total: partial}
    squares = Step(
        "A sum of squares is at most the square of the sum",
        Sum(term**2, (k, 0, n)),
        partial**2,
        "One more term A adds A² on the left, A² + 2AS on the right.",
        relation="<=",
        proof=by.induction(n, hypothesis=older, certificate=older + 2 * new * total, known=known),
    )

    def run(step: Step) -> None:
        if step.relation != squares.relation:
            raise DerivationError("the earlier step points the other way")
        for mine, its in zip((step.lhs, step.rhs), (squares.lhs, squares.rhs), strict=True):
            must_vanish(mine - its.subs(n, oo).doit(), "that this is the last step for n → ∞")

    growth = Step(
        "The Bessel function stays below the exponential",
        sympy.besseli(0, 2 * y),
        exp(2 * y),
        "The last step for n → ∞.",
        relation="<=",
        proof=Proof("the series of both sides", run, (squares,)),
    )
    at = {y: N * x}
    return (
        squares,
        growth,
        Step(
            "Above, for every N and ε",
            moment(N, N),
            exp(2 * N * x),
            "The bound by the Bessel series at y = Nx, with x = εσ_w, then by the exponential.",
            relation="<=",
            proof=by.certificate(first + second, {first: (series, at), second: (growth, at)}),
        ),
    )


def lower_bound() -> tuple[Step, ...]:
    """log(R_N²/q_0) ≥ 2N log(1 + x) − log(N + 1), with x = εσ_w."""
    *steps, whole = squared_binomials.exponential_bound()
    in_logarithms = Step(
        "The lower bound in logarithms",
        log(moment(N, N)),
        2 * N * log(1 + x) - log(N + 1),
        "The logarithm is increasing.",
        relation=">=",
        proof=by.logarithms(whole),
    )
    return *steps, whole, in_logarithms


def consequences(upper: Step, lower: Step) -> tuple[Step, ...]:
    """Which scales keep the stream bounded, and how fast it grows at ε = N^(−1/2)."""
    in_logarithms = Step(
        "The upper bound in logarithms",
        log(moment(N, N)),
        2 * N * x,
        "The logarithm is increasing.",
        relation="<=",
        proof=by.logarithms(upper),
    )
    root = {x: s / sqrt(N)}
    return (
        Step(
            "The first two terms",
            moment(N, N),
            1 + N**2 * x**2,
            "So 1 + N²x² ≤ R_N²/q_0 ≤ exp(2Nx) with x = εσ_w: the stream is bounded exactly when εN is. "
            "For ε = λN^(−α) this means α ≥ 1.",
            relation=">=",
            proof=by.first_terms(2),
        ),
        in_logarithms,
        Step(
            "The rate at the untied scale",
            Limit(log(moment(N, N).subs(root)) / (2 * s * sqrt(N)), N, oo),
            1 + 0 * x,
            "At ε = N^(−1/2), x = σ_w/√N: divide both bounds of the logarithm by 2σ_w√N.",
            proof=by.squeeze((lower, root), (in_logarithms, root), scale=1 / (2 * s * sqrt(N))),
            along=(4, 64, 1600),
            domain={s: (1, 2)},
        ),
    )


def derive(coefficient: Coefficient = squared_binomials.tied) -> Derivation:
    """The derivation, with `coefficient` the claimed coefficients of the covariance."""
    scale = critical_scale()
    above, below = upper_bound(*scale[-3:-1]), lower_bound()
    return Derivation(
        id="tied-linear-growth",
        title="Growth of a tied linear stack",
        statement=(
            "One Gaussian matrix visited N times at infinite width gives R_N²/q_0 = Σ_k C(N, k)² (εσ_w)^(2k). At "
            "ε = λ/N this tends to I_0(2λσ_w); it is bounded exactly when εN is; and at ε = N^(−1/2), which is enough "
            "for untied weights, its logarithm grows like 2σ_w√N."
        ),
        formula=Eq(Symbol("R_N") ** 2 / q_0, Sum(binomial(N, k) ** 2 * (eps * s) ** (2 * k), (k, 0, N))),
        assumptions=(
            "h ← h + ε W h, the same W at every visit, its entries independent of law N(0, σ_w²/d).",
            "h_0 is independent of W and has second moment q_0; d → ∞ with N fixed.",
            "The Gaussian limit (derivations/gaussian_limit.py): products of one W with vectors that depend on earlier "
            "products are jointly Gaussian, with covariance σ_w² times that of the vectors. Hence the recursion.",
        ),
        steps=(
            *(*orthogonal_powers(), *squared_binomials.recursion(coefficient, TITLES, REASON), *hypergeometric()),
            *(*scale, *above, *below, *consequences(above[-1], below[-1])),
        ),
        not_proved=(
            "The Gaussian limit. Its consequence, that different powers of W are orthogonal, is proved "
            "here only for the powers shown.",
            "That the limits d → ∞ and N → ∞ may be exchanged; d → ∞ comes first.",
            "The correction at finite width, and fluctuations about the mean.",
        ),
        source="this project; the linear case of arXiv:2606.18524, Theorem 1",
        paper="Theorem 1",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda one, other, power: binomial(sympy.Min(one, other), power)),
    statement="the powers of ε²σ_w² come with C(N, k), as for a new matrix at each visit, not with its square",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
