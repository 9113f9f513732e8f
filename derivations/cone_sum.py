"""Sums in the positive cone: N vectors with positive mean entries add up like N, and what happens to others."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sympy
from sympy import Integral, Rational, Sum, Symbol, exp, oo, pi, sqrt, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import Derivation, Proof, Step, left_over, main, must_vanish, nonnegative
from residual_theory.proofs import ways as by

N, d, j, n, b, K = symbols("N d j n b K", integer=True, positive=True)
P, T, s, x, z, first = symbols("P T s x z x_1", real=True)
Q, B, G, entry = symbols("Q B G y", nonnegative=True)
m, q, q_n, a, bound, eps, sigma, alpha = symbols("m_- q_+ q a M epsilon sigma_w a_gamma", positive=True)
size = Symbol("r_N", real=True)
u, v = symbols("u v", nonnegative=True)  # slacks of what is known


def carried(
    start: Mapping[Any, Any], update: Mapping[Any, Any], certificate: Any, known: Mapping[Any, Any], *uses: Step
) -> Proof:
    """Induction over a list: the step's first hypothesis is the claim. It holds at `start` (or is there another
    hypothesis of the step), and the step says that it holds after `update`, proved by a certificate."""
    carry = by.certificate(certificate, known)

    def run(step: Step) -> None:
        claim = step.given[0]
        beginning = left_over(claim.subs(start, simultaneous=True))
        if beginning not in step.given[1:] and not nonnegative(beginning):
            raise DerivationError(f"the claim at the start, {beginning} ≥ 0, is not known")
        must_vanish(step.slack - claim.subs(update, simultaneous=True), "that the step is the claim's next case")
        carry.run(step)

    return Proof("induction, the hypothesis being the case before; certificate of positivity", run, uses)


def concluded(certificate: Any, known: Mapping[Any, Any], *earlier: tuple[Step, Any]) -> Proof:
    """A certificate, some hypotheses being the claims of inductions or the slacks of bounds proved `earlier`."""
    whole = by.certificate(certificate, known)

    def run(step: Step) -> None:
        for source, proved in earlier:
            source.proof.run(source)  # an induction proves its first hypothesis only if it is that of its proof
            if proved not in step.given:
                raise DerivationError(f"“{source.title}” proves {proved} ≥ 0, which is not a hypothesis here")
        whole.run(step)

    return Proof("certificate of positivity from earlier steps", run, tuple(step for step, _ in earlier))


def claim(induction: Step, at: Mapping[Any, Any]) -> Any:
    """What an induction has proved nonnegative, at the values given."""
    return induction.given[0].subs(at, simultaneous=True)


def lower_bound() -> tuple[Step, ...]:
    """d^(-1/2)‖Σ x_n‖ ≥ N m: by the mean of the entries."""
    cauchy = Step(
        "Cauchy–Schwarz, one more entry",
        (P + x) ** 2,
        (j + 1) * (Q + x**2),
        "P is the sum of j entries of a vector, Q the sum of their squares, x the next entry. For one entry P² = Q; "
        "so P² ≤ jQ for every j: the square of the mean of the entries is at most their mean square.",
        relation="<=",
        proof=carried(
            {j: 1, P: first, Q: first**2},
            {j: j + 1, P: P + x, Q: Q + x**2},
            u * (j + 1) / j + (P - j * x) ** 2 / j,
            {u: j * Q - P**2},
        ),
        given=(j * Q - P**2,),
    )
    means = Step(
        "Means of entries add",
        T + P,
        (n + 1) * d * m,
        "T is the sum of all entries of x_1 + … + x_n, P that of x_{n+1}, which is at least d m_- by assumption. "
        "Starting from T = 0 for no vector: T ≥ N d m_- for N of them. Nothing cancels, as all means are positive.",
        relation=">=",
        proof=carried({n: 0, T: 0}, {n: n + 1, T: T + P}, u + v, {u: T - n * d * m, v: P - d * m}),
        given=(T - n * d * m, P - d * m),
        domain={m: (0, Rational(1, 20))},
    )
    lower = Step(
        "The lower bound",
        Q / d,
        (N * m) ** 2,
        "Q/d is the mean square of the entries of x_1 + … + x_N, at least the square of their mean T/d.",
        relation=">=",
        proof=concluded(
            u / d**2 + v * (v + 2 * N * d * m) / d**2,
            {u: d * Q - T**2, v: T - N * d * m},
            (cauchy, claim(cauchy, {j: d, P: T})),
            (means, claim(means, {n: N})),
        ),
        given=(d * Q - T**2, T - N * d * m),
        domain={m: (0, Rational(1, 20)), Q: (0, 60), T: (0, 4)},
    )
    return cauchy, means, lower


def upper_bound(growth: Callable[[Any], Any]) -> tuple[Step, ...]:
    """d^-1‖Σ x_n‖² ≤ growth(N) q, by convexity of the square."""
    convex = Step(
        "One more vector, in every coordinate",
        (s + x) ** 2,
        (1 + 1 / n) * s**2 + (1 + n) * x**2,
        "s is a coordinate of x_1 + … + x_n, x that of x_{n+1}. The difference is (s − nx)²/n.",
        relation="<=",
        proof=by.certificate((s - n * x) ** 2 / n),
    )
    return (
        convex,
        Step(
            "The upper bound",
            (1 + 1 / n) * Q + (1 + n) * B,
            growth(n + 1) * q,
            "Q is the mean square of the entries of x_1 + … + x_n, B that of x_{n+1}, at most q_+. On the left is the "
            "last step averaged over the coordinates, which bounds the mean square of x_1 + … + x_{n+1}. For one "
            "vector the claim is the assumption. So d^(−1/2)‖x_1 + … + x_N‖ ≤ √q_+ N, whatever the signs.",
            relation="<=",
            proof=carried(
                {n: 1, Q: B},
                {n: n + 1, Q: (1 + 1 / n) * Q + (1 + n) * B},
                (1 + 1 / n) * u + (1 + n) * v,
                {u: growth(n) * q - Q, v: q - B},
                convex,
            ),
            given=(growth(n) * q - Q, q - B),
            domain={q: (1, 2), B: (Rational(1, 2), 2), Q: (1, 8)},
        ),
    )


def rectified() -> tuple[Step, ...]:
    """Where the mean comes from, and its size for ReLU of a Gaussian."""
    normal = exp(-(z**2) / (2 * q_n)) / sqrt(2 * pi * q_n)
    mean = Step(
        "Mean entry of ReLU of a Gaussian",
        Integral(z * normal, (z, 0, oo)),
        sqrt(q_n / (2 * pi)),
        "For entries of the stream that are Gaussian with variance q, m_- is this value at the smallest q of all "
        "visits.",
    )
    square = Step(
        "Mean square of ReLU of a Gaussian",
        Integral(z**2 * normal, (z, 0, oo)),
        q_n / 2,
        "and q_+ this one, at the largest q of all visits.",
    )
    return (
        Step(
            "Nonnegative entries have a mean",
            bound * entry,
            entry**2,
            "If 0 ≤ y ≤ M for every entry y, averaging gives: mean ≥ (mean square)/M. Without the sign the mean can "
            "be zero. This is all that the cone is needed for.",
            relation=">=",
            proof=by.certificate(entry * u, {u: bound - entry}),
            given=(bound - entry,),
        ),
        mean,
        square,
        Step(
            "How far apart the two bounds are",
            mean.lhs**2 / square.lhs,
            1 / pi,
            "At equal q the lower bound is 1/√π = 0.56 of the upper one: both are of order N.",
            proof=by.substitution(mean, square),
        ),
    )


def without() -> tuple[Step, ...]:
    """What remains when the mean vanishes with N, or has no sign."""
    one_square, one_mean = Sum(a**2, (j, 1, b)) / (N * b), Sum(a, (j, 1, b)) / (N * b)
    total = Sum(a**2, (j, 1, b), (n, 1, N)) / (N * b)
    return (
        Step(
            "Nonnegative is not enough",
            total,
            N * one_square,
            "The n-th vector has entries a on the n-th of N blocks of b coordinates and 0 elsewhere: nonnegative, yet "
            "orthogonal to the others. The mean square of the sum is N, not N², times that of one.",
        ),
        Step(
            "because the mean entry shrinks",
            total,
            (N * one_mean) ** 2,
            "The mean entry of one of these vectors is a/N, and the lower bound holds with equality: what makes a sum "
            "grow like N is a mean entry that does not shrink as N grows.",
        ),
        Step(
            "Random signs",
            (s + a) ** 2 / 2 + (s - a) ** 2 / 2,
            s**2 + a**2,
            "Averaged over an independent sign of the new vector, the cross term goes in every coordinate, and mean "
            "squares add: √N.",
        ),
        Step(
            "Alternating signs",
            Sum((-1) ** n * a, (n, 1, 2 * K)),
            0 * a,
            "Vectors of any size can cancel altogether when their entries may be negative.",
        ),
    )


def consequence(lower: Step, upper: Step) -> tuple[Step, ...]:
    """The coherent term of Theorem 1, given the gain of the weights on the cone."""
    at_least, at_most = lower.slack.subs(Q, d * B), claim(upper, {n: N, Q: B})
    return (
        Step(
            "The coherent term from below",
            eps**2 * G,
            (alpha * sigma * m * eps * N) ** 2,
            "B is the mean square of x_1 + … + x_N, here at least its lower bound; G that of W(x_1 + … + x_N). The "
            "sum lies in the cone, where W stretches by at least a_γσ_w (derivation cone-gain; first hypothesis).",
            relation=">=",
            proof=concluded(
                eps**2 * (u + alpha**2 * sigma**2 * v),
                {u: G - alpha**2 * sigma**2 * B, v: at_least},
                (lower, at_least),
            ),
            given=(G - alpha**2 * sigma**2 * B, at_least),
            domain={alpha: (0, 1), sigma: (0, 1), m: (0, Rational(1, 5))},
        ),
        Step(
            "and from above",
            eps**2 * G,
            9 * q * (sigma * eps * N) ** 2,
            "with ‖W‖ ≤ 3σ_w (first hypothesis) and the upper bound. With m_- and q_+ fixed, the term C_N of Theorem "
            "1 is bounded exactly when εN is.",
            relation="<=",
            proof=concluded(eps**2 * (u + 9 * sigma**2 * v), {u: 9 * sigma**2 * B - G, v: at_most}, (upper, at_most)),
            given=(9 * sigma**2 * B - G, at_most),
        ),
    )


def derive(growth: Callable[[Any], Any] = lambda vectors: vectors**2) -> Derivation:
    """The derivation, with `growth` the claimed factor between the mean square of a sum and of one vector."""
    below, above = lower_bound(), upper_bound(growth)
    return Derivation(
        id="cone-sum",
        title="Sums in the positive cone",
        statement=(
            "N vectors of R^d whose entries have mean at least m_- > 0 and mean square at most q_+ have a sum of size "
            "r_N = d^(−1/2)‖x_1 + … + x_N‖ between m_- N and √q_+ N, for every N and d. Nonnegative vectors, such as "
            "ReLU outputs, have a positive mean unless they vanish; r_N is of order N when that mean does not shrink "
            "with N. Without such a mean the upper bound stays, but the sum may grow like √N or vanish."
        ),
        formula=sympy.And(N * m <= size, size <= N * sqrt(q)),
        assumptions=(
            "Every x_n has entries of mean at least m_- > 0 and mean square at most q_+; they may be dependent.",
            "The constants for ReLU: the entries of the stream are Gaussian with mean zero.",
            "The last two steps: a_γσ_w‖x‖ ≤ ‖Wx‖ ≤ 3σ_w‖x‖ on the cone (derivation cone-gain).",
        ),
        steps=(*below, *above, *rectified(), *without(), *consequence(below[-1], above[-1])),
        not_proved=(
            "That the mean entries of a given network's ReLU outputs stay above an m_- > 0 independent of N. In the "
            "infinite-width limit of a tied ReLU stack they do: no second moment falls below q_0, as every term added "
            "to it is nonnegative, so m_- = √(q_0/(2π)).",
            "That q_+ stays bounded: it does so only if the stream does, which is what Theorem 1 sets out to show.",
            "That positive means are needed for growth like N. They are not: tied stacks with linear activation obey "
            "the same law (derivation tied-linear-growth).",
        ),
        source="arXiv:2606.18524, Lemma 4",
        paper="Lemma 4",
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda vectors: vectors),
    statement="vectors of mean square q_+ add up to mean square at most q_+ N, as orthogonal ones do",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
