"""How far one step of training moves the output of a looped stack, and which learning rate that allows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sympy
from sympy import Derivative, Limit, Rational, Sum, Symbol, asinh, exp, log, oo, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.lemmas import two_streams
from residual_theory.lemmas.exponential_bounds import logarithm_below_tangent, power_below_exponential
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by

N, L, V, d, n, i, j = symbols("N L V d n i j", integer=True, positive=True)
layer = Symbol("l", integer=True, positive=True)
eps, eta, lam, tau, c, h, w, s, p, J = symbols("epsilon eta lambda tau c h w s p J", positive=True)
a, t, x, y, delta, Delta, rho, xi = symbols("a t x y delta Delta rho xi", positive=True)
a_l, a_n, q_0, kappa = symbols("a_L a_N q_0 k", positive=True)
base = Symbol("y", nonnegative=True)
m = Symbol("N", integer=True, nonnegative=True)  # N, with no loop at all allowed
first, second = symbols("u v", nonnegative=True)  # slacks of earlier inequalities
FACTORED = lam / (N * sqrt(L))


def exact_orders(visits: Callable[[Any], Any]) -> tuple[Step, ...]:
    """The linear stack h ← h + ε(W + ΔW)h: what is of first order in ΔW, and the rest."""
    gain = 1 + eps * (w + Delta)
    A, D, P, S, R = symbols("A D P S R", commutative=False)
    orders = {S: D * P + A * S, R: D * S + (A + D) * R}
    bounds = {P: a**N, S: N * t * a ** (N - 1), R: (a + t) ** N - a**N - N * t * a ** (N - 1)}
    product = Step(
        "Any matrices: what one more visit does",
        (A + D) * (P + S + R),
        A * P + orders[S] + orders[R],
        "A = 1 + εW and D = εΔW need not commute. (A + D)^N = P + S + R with P = A^N, S = Σ A^(N−1−n) D A^n of "
        "first order in D, R the rest. On the right: A P, then the two terms of the next S, then those of the "
        "next R.",
    )

    def part(title: str, lower: Any, order: Any, because: str) -> Step:
        later = {D: t, A: a, lower: bounds[lower], order: bounds[order]}
        proof = two_streams.next_norm(product, orders[order], later, bounds[order], N)
        summed = two_streams.norm_of(orders[order], later)
        return Step(title, summed, bounds[order].subs(N, N + 1), because, proof=proof)

    return (
        Step(
            "Every visit counts alike",
            Derivative(gain**N * h, Delta),
            eps * visits(N) * gain ** (N - 1) * h,
            "In one common eigenvector of W and ΔW, with eigenvalues w and Δ. Each of the N visits adds εΔ times the "
            "stream, and the N − 1 other visits multiply by 1 + ε(w + Δ): ε Σ_n J_n ΔW φ(h_n) has N equal terms.",
        ),
        product,
        part("Bound on the first order", P, S, "With ‖A‖ ≤ a, ‖D‖ ≤ t the two terms of the next S; S = D at N = 1."),
        part("Bound on the rest", S, R, "The two terms of the next R in the same way; R = 0 at N = 1."),
    )


def solvable(visits: Callable[[Any], Any]) -> tuple[Step, ...]:
    """The linear stack h ← h + ε(W + ΔW)h: first order, remainder, and where first order ends."""
    tangent = logarithm_below_tangent(x)
    growth = power_below_exponential(
        tangent,
        "A product lies below the exponential",
        "N times the logarithm of the last step. So one layer has Jacobians of at most e^(εNw), bounded while εN is.",
        N,
    )
    quadratic = Step(
        "The exponential and its first order",
        exp(y) - 1 - y,
        y**2 / 2 * exp(y),
        "Both sides and their slopes vanish at 0, and the second derivative of the difference is nonnegative.",
        relation="<=",
        proof=by.taylor(y, 2),
    )
    return (
        *exact_orders(visits),
        tangent,
        growth,
        quadratic,
        Step(
            "First order is enough when ηεN is small",
            (1 + x) ** N - 1 - N * x,
            (N * x) ** 2 / 2 * exp(N * x),
            "x = t/a: the rest divided by a^N. With y = Nx, of order ηεN as ‖D‖ is of order ηε, second and higher "
            "orders are at most (y/2)e^y times the first-order bound y, for every N.",
            relation="<=",
            proof=by.certificate(first + second, {first: growth, second: (quadratic, {y: N * x})}),
        ),
        Step(
            "and only then",
            Limit(((1 + y / N) ** N - 1) / y, N, oo),
            (exp(y) - 1) / y,
            "The exact change over the first-order one, at fixed y = Nx in one eigenvector: 1 only as y vanishes.",
            proof=by.limit(),
        ),
    )


def any_activation(growth: Step) -> tuple[Step, ...]:
    """Theorem 2 without a first-order approximation: one layer, φ with slope at most 1, finite width."""
    signs = eta / sqrt(d) * xi
    return (
        *two_streams.theorem_two(growth, c * eta),
        Step(
            "A sign step of random signs",
            Sum(Sum(signs**2, (j, 1, d)), (i, 1, d)) / d,
            eta**2 * xi**2,
            "Mean square of ΔWx for ΔW = (η/√d)S and |x_j| = ξ: signs independent of x leave no cross terms. So c = 1 "
            "in a given direction (and c = 2 in all, the norm of a random sign matrix being about 2√d).",
        ),
        Step(
            "A sign step aligned with its input",
            Sum(Sum(signs, (j, 1, d)) ** 2, (i, 1, d)) / d,
            d * eta**2 * xi**2,
            "If S_ij = u_i sign(x_j) instead, ‖S‖ = d and c = √d. The width enters the constant; the powers of N and "
            "L do not change.",
        ),
    )


def rates() -> tuple[Step, ...]:
    """All contributions added, and the rate at which they reach a given size τ."""
    rule = lam * L ** (-a_l) * N ** (-a_n)
    loops, layers = (n, 1, N), (layer, 1, L)
    return (
        Step(
            "Proposition 7",
            Sum(FACTORED * J * c * eta * p, loops, layers),
            J * c * p * lam * eta * sqrt(L),
            "First order, ‖J_n‖ ≤ J: each visit contributes at most ε J cη p. At ε = λ/(N√L) the sum εNL becomes λ√L.",
        ),
        Step(
            "Critical rate, sign-like steps",
            tau / Sum(rule * c, loops, layers),
            tau / (c * lam) * L ** (a_l - 1) * N ** (a_n - 1),
            "The η at which the output moves by τ when all visits contribute εcη in the same direction: η = τ/(cεNL). "
            "At (a_L, a_N) = (1/2, 1) it is τ/(cλ√L).",
        ),
        Step(
            "Critical rate, gradient descent",
            tau / Sum(Sum(rule * c, loops) ** 2, layers),
            tau / (c * lam) ** 2 * L ** (2 * a_l - 1) * N ** (2 * a_n - 2),
            "To first order the output changes by −ηΘ, with Θ the sum of squared gradients: N visits add up before "
            "squaring, layers after. At (1/2, 1) it is τ/(cλ)², the same for every N and L.",
        ),
        Step(
            "Distinct weights, sign-like steps",
            tau / Sum(eps * c, (n, 1, V)),
            tau / (c * eps * V),
            "V = NL matrices, each with a step of its own that lowers the loss: sharing makes no difference to η.",
        ),
        Step(
            "Distinct weights, gradient descent",
            tau / Sum((eps * c) ** 2, (n, 1, V)),
            tau / ((c * eps) ** 2 * V),
            "Here it does: a factor N.",
        ),
    )


def coherence() -> tuple[Step, ...]:
    """What becomes of N equal contributions when they are equal only in part."""
    total = N + rho * N * (N - 1)
    setting: dict[str, Any] = {"domain": {rho: (0, 1)}, "given": (1 - rho,)}
    return (
        Step(
            "Visits that agree in part",
            (N * sqrt(rho)) ** 2 + Sum(1 - rho, (n, 1, N)),
            total,
            "Contributions of variance 1 with a common part of share ρ: the common parts add as amplitudes, the "
            "others as variances. For Gaussian entries the mean of |Σ| is √(2/π) times the root of this.",
            **setting,
        ),
        Step(
            "at least",
            total,
            rho * N**2,
            "Θ is at least ρ times, a sign-like change at least √ρ times the coherent one: a fixed ρ > 0 keeps the "
            "exponents.",
            relation=">=",
            proof=by.certificate(N * first, {first: 1 - rho}),
            **setting,
        ),
        Step(
            "at most",
            total,
            N**2,
            "and at most once. Without any agreement (ρ = 0) only N remains, √N for sign-like steps: the critical "
            "rates would be of order N^(a_N − 1/2) and N^(2a_N − 1).",
            relation="<=",
            proof=by.certificate(N * (N - 1) * first, {first: 1 - rho}),
            **setting,
        ),
    )


def unbounded() -> tuple[Step, ...]:
    """The raw stack at ε = N^(−1/2), where Jacobians are not bounded."""
    loose = 1 + w / sqrt(N)
    return (
        Step(
            "Without bounded Jacobians",
            Limit(log(loose ** (N - 1)) / sqrt(N), N, oo),
            w,
            "The factor (1 + εw)^(N−1) of the first step at ε = N^(−1/2): it grows like e^(w√N), so that the absolute "
            "rate must fall faster than any power of N, not like N^(−1/2). The derivation tied-linear-growth finds "
            "e^(2σ_w√N) for the mean square of a Gaussian stack.",
            proof=by.limit(),
        ),
        Step(
            "Relative to the stream",
            Derivative((1 + eps * (w + Delta)) ** N * h, Delta) / ((1 + eps * (w + Delta)) ** N * h),
            eps * N / (1 + eps * (w + Delta)),
            "The same factor drives the stream. Relative to it the change keeps the power law ηεN.",
        ),
    )


def pre_norm() -> tuple[Step, ...]:
    """Changes relative to the stream of a pre-norm stack, R_n² = q_0 + kε²n²L after n loops; bounded Jacobians."""
    size = sqrt(q_0 + kappa * eps**2 * N**2 * L)
    relative = eps * N * L / size
    gap = L * q_0 / (sqrt(kappa) * size * (sqrt(L) * size + eps * N * L * sqrt(kappa)))
    return (
        Step(
            "Pre-norm: the relative change has a ceiling",
            relative,
            sqrt(L / kappa),
            "Each of NL visits moves the output by at most ε, in units of Jcηp, and the size of the output is R_N. "
            "Whatever ε and N, the relative change is at most √(L/k).",
            relation="<=",
            proof=by.certificate(gap),
        ),
        Step(
            "For a_N below 1 the ceiling is reached",
            Limit(relative.subs(eps, lam * N ** (delta - 1)), N, oo),
            sqrt(L / kappa),
            "when all visits agree. a_N = 1 − δ, for instance ε = λ (δ = 1): the critical rate stops depending on N "
            "and is of order L^(−1/2).",
            proof=by.limit(),
            domain={delta: (Rational(1, 2), 1)},
        ),
        Step(
            "The factored rule: the same for every N",
            Sum(FACTORED, (n, 1, N), (layer, 1, L)) / size.subs(eps, FACTORED),
            lam * sqrt(L) / sqrt(q_0 + kappa * lam**2),
            "ε = λ/(N√L): no dependence on N, and order L^(−1/2), here as well. A best rate that does not move with N "
            "therefore does not show that ε = 1/N is needed.",
        ),
    )


def rescaled(bound: Step, at: dict[Any, Any], factor: Any) -> Proof:
    """An earlier bound on a sum, at the values `at` and times a positive factor, summand by summand."""

    def run(step: Step) -> None:
        if step.relation != bound.relation or step.lhs.limits != bound.lhs.limits or not factor.is_positive:
            raise DerivationError("this is not the earlier bound times a positive factor")
        must_vanish(step.lhs.function - factor * bound.lhs.function.subs(at), "the summand")
        must_vanish(step.rhs - factor * bound.rhs.subs(at), "the right side")

    return Proof("an earlier bound, rescaled", run, (bound,))


def growing_jacobians() -> tuple[Step, ...]:
    """The same when a change keeps its size relative to the stream: J_n = R_N/R_n."""
    slope = Step(
        "The inverse hyperbolic sine is concave",
        t / sqrt(1 + (base + t) ** 2),
        asinh(base + t) - asinh(base),
        "Equal at t = 0; for t > 0 the right side grows faster.",
        relation="<=",
        proof=by.taylor(t, 1),
    )
    total = Step(
        "A sum over loops",
        Sum(x / sqrt(1 + (x * n) ** 2), (n, 1, m)),
        asinh(m * x),
        "Each term is at most the increase of asinh over one more loop.",
        relation="<=",
        proof=by.induction(
            m, hypothesis=first, certificate=first + second, known={second: (slope, {base: m * x, t: x})}
        ),
    )
    at = {x: eps * sqrt(kappa * L / q_0)}
    return (
        slope,
        total,
        Step(
            "Pre-norm with Jacobians that grow with the stream",
            Sum(eps * L / sqrt(q_0 + kappa * eps**2 * n**2 * L), (n, 1, m)),
            sqrt(L / kappa) * asinh(m * eps * sqrt(kappa * L / q_0)),
            "If the change made in loop n keeps its size relative to the stream from the end of that loop on, the L "
            "visits of the loop add εL/R_n to the relative change. Bounded when εN is.",
            relation="<=",
            proof=rescaled(total, at, sqrt(L / kappa)),
        ),
        Step(
            "then the rate falls at most like 1/log N",
            Limit(asinh(a * N**delta) / log(N), N, oo),
            delta,
            "At ε = λN^(δ−1) the bound is √(L/k) asinh(aN^δ), a = λ√(kL/q_0): no power of N even at ε = 1.",
            proof=by.limit(),
            domain={a: (1, 2), delta: (Rational(1, 2), 1)},
        ),
    )


def derive(visits: Callable[[Any], Any] = lambda loops: loops) -> Derivation:
    """The derivation, with `visits` the claimed number of equal contributions of N visits."""
    linear = solvable(visits)
    return Derivation(
        id="learning-rate",
        title="The learning rate of a looped stack",
        statement=(
            "A step ΔW with ‖ΔW‖ ≤ cη moves the output of one layer looped N times by d^(−1/2)‖Δh_N‖ ≤ C ηεN, with C "
            "bounded while εN, η and the norms of weights and inputs are. For L layers with bounded Jacobians the "
            "first order is at most C ηεNL, which is C ηλ√L at ε = λ/(N√L). With ε = λ L^(−a_L) N^(−a_N) and coherent "
            "visits, a given change needs η of order L^(a_L−1) N^(a_N−1) for sign-like steps and L^(2a_L−1) "
            "N^(2a_N−2) for gradient descent. Relative to a pre-norm stream the rate tends to a limit free of N for "
            "every a_N ≤ 1 if Jacobians are bounded, and falls at most like 1/log N if they grow with the stream: "
            "that the best rate does not move with N does not prove ε = 1/N."
        ),
        formula=sympy.Eq(eta, tau / (c * lam) * L ** (a_l - 1) * N ** (a_n - 1)),
        assumptions=(
            "h ← h + ε W_l φ(h), l = 1…L, N times; |φ(x) − φ(y)| ≤ |x − y|. One step changes every W_l at once.",
            "‖ΔW‖ ≤ cη in operator norm, for ΔW = (η/√d)S. Entries of size 1 alone give no better than c = √d.",
            "Proposition 7 and the pre-norm ceiling: the Jacobians J_n of the output in h_n are bounded by J. The raw "
            "stack at ε = N^(−1/2) shows what happens otherwise.",
            "Theorem 2: one layer, L = 1, with P or Q the largest image φ before or after the step. ‖W‖ ≤ w, εNw ≤ M.",
            "Critical rates: the contributions of all visits have the same size and direction (coherent visits).",
            "Pre-norm: R_n² = q_0 + kε²n²L. For ReLU at infinite width R_n² lies between this at k = σ_w²/(2π) and at "
            "k = σ_w²/2.",
        ),
        steps=(
            *(*linear, *any_activation(linear[5]), *rates()),
            *(*coherence(), *unbounded(), *pre_norm(), *growing_jacobians()),
        ),
        not_proved=(
            "That a looped stack's Jacobians are bounded at ε = λ/(N√L) for L > 1; only their mean square is known to "
            "be, at initialisation and infinite width. For one layer, Theorem 2 here needs no such assumption.",
            "Which of the two assumptions about pre-norm Jacobians holds; at ε = 1 they do grow with the stream.",
            "That visits stay coherent in a trained network, and that the best rate is the one at which the output "
            "moves by a given amount: Adam's moments, weight decay and curvature are left out.",
            "Anything about widths other than the size of c.",
        ),
        source="arXiv:2606.18524, Theorem 2 and Proposition 7; remainder, gradient descent and pre-norm: this project",
        paper=("Theorem 2", "Proposition 7"),
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(sqrt),
    statement="the changes made at N visits of shared weights add up like √N, as independent ones would",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
