"""Steps about Σ_k C(N, k)² x^(2k), the second moment of a tied linear stack: recursion, critical scale, rate."""

from collections.abc import Callable
from typing import Any

from sympy import Integer, Sum, Symbol, besseli, binomial, factorial, oo, symbols

from residual_theory.errors import DerivationError
from residual_theory.proofs import ways as by
from residual_theory.proofs.algebra import must_vanish
from residual_theory.proofs.steps import Proof, Step

a, b, i, j, k, n, m = symbols("a b i j k n m", integer=True, nonnegative=True)
N = symbols("N", integer=True, positive=True)
x, y = symbols("x y", positive=True)
_older, _first, _total = symbols("h v S", nonnegative=True)  # slacks of earlier steps, and a sum


Coefficient = Callable[[Any, Any, Any], Any]


def tied(one: Any, other: Any, power: Any) -> Any:
    """The coefficient of x^(2·power) in the covariance of two visits when all visits share one matrix.

    >>> tied(3, 2, 1)
    6
    """
    return binomial(one, power) * binomial(other, power)


def moment(one: Any, other: Any, coefficient: Coefficient = tied) -> Any:
    """Σ_k C(one, k) C(other, k) x^(2k): the covariance of two visits, q0 = 1 and x = εσ_w.

    >>> moment(2, 3).subs(x, 2).doit()
    73
    """
    return Sum(coefficient(one, other, k) * x ** (2 * k), (k, 0, one))


def recursion(
    coefficient: Coefficient = tied,
    titles: tuple[str, str] = ("One power of x²", "The tied linear stack"),
    because: str = "Its covariance recursion has this solution",
) -> tuple[Step, Step]:
    """The covariance recursion K(a, b) = 1 + x² Σ_{i<a} Σ_{j<b} K(i, j) has this solution.

    Arguments:
      coefficient: the claimed coefficients of the solution.  titles: of the two steps.
      because: what the second says, to which its proof is added.
    """
    power = Step(
        titles[0],
        Sum(coefficient(i, j, k), (j, 0, b - 1), (i, 0, a - 1)),
        coefficient(a, b, k + 1),
        "Summing over all earlier visits raises the power by one; Pascal's rule in a and in b.",
        proof=by.induction(a, b),
        domain={a: (3, 6), b: (3, 6), k: (0, 2)},
    )
    earlier, later = moment(i, j, coefficient), moment(a, b, coefficient)

    def run(step: Step) -> None:
        if step.lhs != later or step.rhs != 1 + x**2 * Sum(earlier, *power.lhs.limits):
            raise DerivationError("this is about the linear stack")
        must_vanish(earlier.function - power.lhs.function * x ** (2 * k), "that the last step sums coefficients")
        must_vanish(later.function.subs(k, k + 1) - power.rhs * x ** (2 * k + 2), "that it gives the next ones")
        must_vanish(later.function.subs(k, 0) - 1, "the constant term")
        must_vanish(coefficient(i, j, i + 1 + m), "that the inner sum may be continued beyond i")
        must_vanish(coefficient(a, b, a + 1), "that the series ends")

    series = Step(
        titles[1],
        later,
        1 + x**2 * Sum(earlier, *power.lhs.limits),
        f"{because}: the coefficient of x⁰ is 1, that of x^(2k+2) is given by the last step.",
        proof=Proof("equal coefficients of every power of x²", run, (power,)),
        domain={a: (1, 5), b: (1, 5)},
    )
    return power, series


def critical_scale() -> tuple[Step, Step, Step, Step]:
    """At x = y/N the sum is at least I_0(2y) less a correction of order 1/N."""
    share = binomial(N, k) * factorial(k) / N**k
    part = y ** (2 * k) / factorial(k) ** 2
    room = Symbol("m", nonnegative=True)
    loss = _older + share**2 * (k / N) * (1 + room / N)
    further_loss = _older + (2 * k / N) * _first + share**2 * k**2 / N**2
    at_most = Step(
        "Choices without repetition are at most all choices",
        share**2,
        Integer(1),
        "C(N, k) k!/N^k: from k to k + 1 it is multiplied by 1 − k/N, between 0 and 1.",
        "<=",
        by.induction(k, hypothesis=_older, certificate=loss, known={room: N - k}),
        given=(N - k,),
        domain={k: (0, 6)},
    )
    at_least = Step(
        "and not much fewer",
        share**2,
        1 - k * (k - 1) / N,
        "The same factor again; what is lost adds up to at most k(k − 1)/N.",
        ">=",
        by.induction(k, hypothesis=_older, certificate=further_loss, known={_first: at_most}),
        given=(N - k,),
        domain={k: (0, 6)},
    )
    series = Step(
        "The sum at x = y/N, term by term",
        moment(N, N).subs(x, y / N),
        Sum((1 - k * (k - 1) / N) * part, (k, 0, oo)),
        "C(N, k)² (y/N)^(2k) is the square of that share times y^(2k)/k!²; beyond k = N the right side is negative.",
        ">=",
        by.termwise(at_least, part),
    )
    bessel = Step(
        "The series on the right",
        series.rhs,
        besseli(0, 2 * y) - (y**2 * besseli(0, 2 * y) - y * besseli(1, 2 * y)) / N,
        "The modified Bessel functions.",
    )
    return at_most, at_least, series, bessel


def exponential_bound() -> tuple[Step, Step, Step]:
    """(1 + x)^(2N) ≤ (N + 1) times the sum, by Cauchy–Schwarz."""
    term = binomial(N, k) * x**k
    partial = Sum(term, (k, 0, n))
    known = {_first: term.subs(k, n + 1), _total: partial}
    cauchy = Step(
        "Cauchy–Schwarz",
        partial**2,
        (n + 1) * Sum(term**2, (k, 0, n)),
        "For the n + 1 terms 0…n; a new term A leaves a square (S − (n + 1)A)².",
        "<=",
        by.induction(
            n,
            hypothesis=_older,
            certificate=_older + (_older + (_total - (n + 1) * _first) ** 2) / (n + 1),
            known=known,
        ),
    )

    def run(step: Step) -> None:
        must_vanish(binomial(n + 1, k + 1) - binomial(n, k + 1) - binomial(n, k), "Pascal's rule")
        must_vanish(binomial(n, 0) - 1, "the first coefficient")
        must_vanish(binomial(n, n + 1), "that the coefficients end")
        must_vanish(step.rhs.subs(N, n + 1) - (1 + x) * step.rhs.subs(N, n), "the growth of the right side")
        must_vanish(step.rhs.subs(N, 0) - 1, "the case N = 0")
        if step.lhs != partial.subs(n, N):
            raise DerivationError("the left side is not the binomial sum")

    theorem = Step(
        "Binomial theorem",
        partial.subs(n, N),
        (1 + x) ** N,
        "By Pascal's rule the coefficients of (1 + x) times the sum for N are those for N + 1.",
        proof=Proof("induction on N, coefficient by coefficient", run),
    )

    def combine(step: Step) -> None:
        if step.relation != cauchy.relation:
            raise DerivationError("the earlier step points the other way")
        must_vanish(step.lhs - cauchy.lhs.subs(n, N).subs(theorem.lhs, theorem.rhs), "the left side")
        must_vanish(step.rhs - cauchy.rhs.subs(n, N), "the right side")

    whole = Step(
        "The sum is nearly (1 + x)^(2N)",
        (1 + x) ** (2 * N),
        (N + 1) * moment(N, N),
        "Cauchy–Schwarz for all N + 1 terms, and the binomial theorem.",
        "<=",
        Proof("the two steps before, at n = N", combine, (cauchy, theorem)),
    )
    return cauchy, theorem, whole
