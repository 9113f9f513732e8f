"""The factored rule ε = λ/(N√L): necessary and sufficient for L ReLU layers looped N times, for all N and L at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sympy import (
    Contains,
    Integer,
    Interval,
    Limit,
    Mod,
    Rational,
    Sum,
    Symbol,
    exp,
    oo,
    sqrt,
    symbols,
)

from residual_theory.errors import DerivationError
from residual_theory.lemmas.exponential_bounds import logarithm_below_tangent, power_below_exponential
from residual_theory.proofs import Derivation, Proof, Step, main, must_vanish
from residual_theory.proofs import ways as by
from residual_theory.proofs.exact_recursion import Covariance, shared
from residual_theory.proofs.induction_proof import over_earlier_visits, pair_by_pair, partners
from residual_theory.proofs.pair_recursion import r, s
from residual_theory.proofs.relu_angle import KAPPA, kernel_bounds, sine, theta
from residual_theory.proofs.sign_proof import gap

N, L = symbols("N L", integer=True, positive=True)
a, b, i, j = symbols("a b i j", integer=True, nonnegative=True)
layer, m, p = symbols("l m p", integer=True, nonnegative=True)
x, y, z = symbols("x y z", positive=True)
first, second = symbols("v w", nonnegative=True)  # slacks of earlier steps
PAIRS = (j, 0, b - 1), (i, 0, a - 1)
VISITS = {a: (0, 8), b: (0, 8), i: (0, 9), L: (1, 4), N: (1, 4), x: (Rational(1, 4), 1)}


def covariance(one: Any, other: Any, scale: Any = x) -> Any:
    """K of two visits, in units of q0."""
    return Covariance(one, other, L, scale)


def below(half: Step, least: Step, share: Step) -> tuple[Step, ...]:
    """Every pair of visits that shares a layer adds at least x²."""
    positive = Step(
        "No correlation is negative",
        covariance(a, b),
        Integer(1),
        "K(a, b)/q_0 = 1 + 2x² ΣΣ r_i r_j κ(θ_ij) over earlier visits of equal layer, and κ ≥ 0.",
        ">=",
        pair_by_pair(2 * x**2 * r * s * gap, {gap: least}),
        domain=VISITS,
    )
    at_least = Step(
        "Every pair that shares a layer counts at least half",
        covariance(a, b),
        1 + x**2 * Sum(shared(i, j, L) * covariance(i, j), *PAIRS),
        "The same recursion with κ ≥ cos θ/2, and r_i r_j cos θ_ij = K(i, j)/q_0.",
        ">=",
        pair_by_pair(2 * x**2 * r * s * gap, {gap: half}),
        domain=VISITS,
    )
    counted = Step(
        "so at least as much as at the start",
        covariance(a, b),
        1 + x**2 * Sum(shared(i, j, L), *PAIRS),
        "K(i, j) ≥ q_0 in every summand. (κ ≥ 1/(2π) with r_i r_j ≥ q_0 would do as well, with x²/π in place of x².)",
        ">=",
        over_earlier_visits(at_least, by=positive),
        domain=VISITS,
    )
    end = {a: N * L, b: N * L}

    def run(step: Step) -> None:
        if step.relation != counted.relation or step.lhs != counted.lhs.subs(end):
            raise DerivationError("this is not what the last step bounds")
        inner = Sum(share.lhs.function, (j, 0, N * L - 1))
        if share.lhs != inner or counted.rhs.subs(end) != 1 + x**2 * Sum(
            inner.function, *inner.limits, (i, 0, N * L - 1)
        ):
            raise DerivationError("the inner sum is another")
        must_vanish(step.rhs - 1 - x**2 * Sum(share.rhs, (i, 0, N * L - 1)).doit(), "the outer sum")

    whole = Step(
        "Below, for every N, L and ε",
        covariance(N * L, N * L),
        1 + x**2 * N**2 * L,
        "Each of the NL visits has N partners: N²L pairs in all.",
        ">=",
        Proof("the inner sum by an earlier step, the outer carried out", run, (counted, share)),
        domain=VISITS,
    )
    return positive, at_least, counted, whole


def partners_add(most: Step, share: Step) -> tuple[Step, Step]:
    """What all pairs of visits add is at most N times what the visits add."""
    squares = Step(
        "Every pair counts at most half the mean of its squares",
        covariance(a, a),
        1 + x**2 / 2 * Sum(shared(i, j, L) * (covariance(i, i) + covariance(j, j)), (j, 0, a - 1), (i, 0, a - 1)),
        "κ ≤ 1/2 and 2 r_i r_j ≤ r_i² + r_j²: Cauchy–Schwarz, pair by pair.",
        "<=",
        pair_by_pair(2 * x**2 * r * s * gap + x**2 / 2 * (r - s) ** 2, {gap: most}),
        domain=VISITS,
    )

    def run(step: Step) -> None:
        (inner, outer), weight = squares.rhs.atoms(Sum).pop().limits, shared(i, j, L)
        if step.relation != "<=" or step.lhs != squares.lhs or N * L - a not in step.given:
            raise DerivationError("this is not what the last step bounds")
        must_vanish(weight - weight.subs({i: j, j: i}, simultaneous=True), "that sharing is mutual")
        pair = weight * (covariance(i, i) + covariance(j, j))
        if squares.rhs != 1 + x**2 / 2 * Sum(pair, inner, outer) or inner[1:] != outer[1:]:
            raise DerivationError("the sums are others")
        if share.lhs != Sum(weight, (j, 0, N * L - 1)) or inner != (j, 0, a - 1):  # more terms, none negative
            raise DerivationError("the partners are counted otherwise")
        must_vanish(step.rhs - 1 - x**2 * share.rhs * Sum(covariance(i, i), outer), "the remaining sum")

    at_most = Step(
        "Every visit has at most N partners",
        covariance(a, a),
        1 + x**2 * N * Sum(covariance(i, i), (i, 0, a - 1)),
        "The last sum is symmetric, so it is twice that of δ r_i²; and among the first a ≤ NL visits at most N share "
        "the layer of visit i.",
        "<=",
        Proof("symmetry, and an earlier step for the inner sum", run, (squares, share)),
        given=(N * L - a,),
        domain=VISITS,
    )
    return squares, at_most


def above(at_most: Step) -> tuple[Step, ...]:
    """A discrete Gronwall inequality."""
    growth = 1 + x**2 * N
    series = Step(
        "A geometric sequence has this growth",
        growth**a,
        1 + x**2 * N * Sum(growth**i, (i, 0, a - 1)),
        "One more visit adds the factor 1 + x²N.",
        proof=by.induction(a),
        domain=VISITS,
    )
    gronwall = Step(
        "Discrete Gronwall inequality",
        covariance(a, a),
        growth**a,
        "At all earlier visits r_i² is at most q_0 times that sequence, hence at the next.",
        "<=",
        over_earlier_visits(at_most, series),
        given=(N * L - a,),
        domain=VISITS,
    )
    tangent = logarithm_below_tangent(z)
    power = power_below_exponential(
        tangent,
        "The power lies below the exponential",
        "NL times the logarithm of the last step, at z = x²N.",
        N * L,
        x**2 * N,
    )
    whole = Step(
        "Above, for every N, L and ε",
        covariance(N * L, N * L),
        exp(x**2 * N**2 * L),
        "After all NL visits.",
        "<=",
        by.certificate(first + second, {first: (gronwall, {a: N * L}), second: power}),
        domain=VISITS,
    )
    return series, gronwall, tangent, power, whole


def untied(series: Step) -> Step:
    """One loop is the untied stack."""

    def run(step: Step) -> None:
        must_vanish(Mod(i, L).subs(L, i + 1 + m) - i, "that no two visits share a layer")
        must_vanish(2 * KAPPA.subs(theta, 0) - 1, "the kernel of a visit with itself")
        if step.lhs != covariance(a, a) or L - a not in step.given:
            raise DerivationError("this is not the first loop")
        must_vanish(series.lhs.subs(N, 1) - step.rhs, "the sequence")
        must_vanish(series.rhs.subs(N, 1) - 1 - x**2 * Sum(step.rhs.subs(a, i), (i, 0, a - 1)), "its recursion")

    return Step(
        "One loop: the untied law",
        covariance(a, a),
        (1 + x**2) ** a,
        "In the first loop no two visits share weights: only i = j counts, with κ(1) = 1/2, and the recursion is that "
        "of the geometric sequence. So N = 1 reaches the bound (1 + x²N)^(NL), and N = L = 1 the lower one.",
        proof=Proof("the recursion of an earlier step at N = 1", run, (series,)),
        given=(L - a,),
        domain=VISITS,
    )


def scales(lower: Step, upper: Step) -> tuple[Step, ...]:
    """Which rule keeps the stream bounded, uniformly in N and L."""
    end, few = covariance(N * L, N * L), {L: (1, 3), N: (1, 3), y: (Rational(1, 2), Rational(3, 2))}

    def at(rule: Any) -> Any:
        return end.subs(x, rule)

    factored, square_root, whole = y / (N * sqrt(L)), y / sqrt(N * L), y / (N * L)
    return (
        Step(
            "The factored rule is sufficient",
            at(factored),
            exp(y**2),
            "At ε = λ/(N√L), with y = λσ_w/√2: a bound for all N and L at once.",
            "<=",
            by.certificate(first, {first: (upper, {x: factored})}),
            domain=few,
        ),
        Step(
            "and its updates do not vanish",
            at(factored),
            1 + y**2,
            "For all N and L the gain R² − q_0 is at least q_0 λ²σ_w²/2. And necessary: were εN√L unbounded, so would "
            "be the lower bound 1 + x²N²L.",
            ">=",
            by.certificate(first, {first: (lower, {x: factored})}),
            domain=few,
        ),
        Step(
            "Both constants are best possible",
            Limit((1 + y**2 / L) ** L, L, oo),
            exp(y**2),
            "One loop of many layers reaches the upper bound, one loop of one layer the lower.",
            proof=by.limit(),
        ),
        Step(
            "The untied rule is too large",
            Limit(at(square_root), N, oo),
            oo,
            "At ε = λ/√(NL) the stream exceeds q_0 (1 + y²N).",
            proof=by.squeeze((lower, {x: square_root})),
            along=(2, 8, 32, 96),
            domain=few,
        ),
        Step(
            "The rule 1/(NL) is smaller than needed",
            Limit(at(whole), L, oo),
            Integer(1),
            "At ε = λ/(NL) the stream is bounded too, by exp(y²/L), but its gain vanishes with the number of layers.",
            proof=by.squeeze((lower, {x: whole}), (upper, {x: whole})),
            along=(2, 8, 32, 96),
            domain=few,
        ),
    )


def derive(count: Callable[[Any], Any] = lambda loops: loops) -> Derivation:
    """The derivation, with `count` the claimed number of visits that share the layer of a given one."""
    wave = sine()
    half, most, least = kernel_bounds(wave)
    share = partners(count, VISITS)
    lower, pairs = below(half, least, share), partners_add(most, share)
    upper = above(pairs[-1])
    gain = Symbol("x", positive=True) ** 2 * N**2 * L
    ratio = Symbol("R", positive=True) ** 2 / Symbol("q_0", positive=True)
    return Derivation(
        id="factored-scaling",
        title="The factored rule for layers used in loops",
        statement=(
            "L ReLU layers looped N times at infinite width, with x = εσ_w/√2: 1 + x²N²L ≤ R²/q_0 ≤ (1 + x²N)^(NL) ≤ "
            "exp(x²N²L), for every N, L and ε. So the stream is bounded, uniformly in N and L, exactly when εN√L is: "
            "the rule ε = λ/(N√L) is sufficient and necessary, and keeps R²/q_0 between 1 + λ²σ_w²/2 and exp(λ²σ_w²/2)."
        ),
        formula=Contains(ratio, Interval(1 + gain, exp(gain)), evaluate=False),
        assumptions=(
            "h ← h + ε W_l relu(h) for l = 1…L in turn, N times over; W_1…W_L are independent, their entries "
            "independent of law N(0, σ_w²/d).",
            "h_0 is independent of the weights and has second moment q_0; d → ∞ with N and L fixed.",
            "The Gaussian limit (derivations/gaussian_limit.py): products of one W with vectors that depend on "
            "earlier products are jointly Gaussian, with covariance σ_w² times that of the vectors. Hence K(a, b)/q_0 "
            "= 1 + 2x² Σ_{i<a} Σ_{j<b} δ r_i r_j κ(θ_ij) for the covariance K of visits a, b, with δ = 1 for visits "
            "of equal layer and 0 for others, r_i² = K(i, i)/q_0, r_i r_j cos θ_ij = K(i, j)/q_0, and κ as in "
            "derivations/relu_kernel.py. Below, K is in units of q_0.",
            "Not assumed: coherence of the updates, or a lower bound of the stream on the positive cone.",
        ),
        steps=(
            *(wave, half, most, least, share, *lower, *pairs, *upper),
            *(untied(upper[0]), *scales(lower[-1], upper[-1])),
        ),
        not_proved=(
            "The Gaussian limit uniformly in N and L; d → ∞ comes first.",
            "Anything but ReLU without norms: for other Lipschitz φ docs/theory.md argues in words, and for gated "
            "branches, norms and attention, which Transformers use, the rule is not proved.",
            "The value of R² between the two bounds, which depends on N and L.",
            "The size of the correction at finite width, and fluctuations about the mean.",
        ),
        source="arXiv:2606.18524, Theorems 3 and 6, there an upper bound under assumptions",
        paper=("Theorem 3", "Theorem 6"),
    )


DERIVATION = derive()
FALSE_TWIN = replace(
    derive(lambda loops: Integer(1)),
    statement="a visit shares its layer with itself only, so that N L pairs count in place of N²L",
)

if __name__ == "__main__":
    raise SystemExit(main(DERIVATION))
