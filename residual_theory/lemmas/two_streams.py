"""One stack before and after a step of training: how far its streams come apart, from their two recursions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from sympy import exp

from residual_theory.errors import DerivationError
from residual_theory.proofs import ways as by
from residual_theory.proofs.algebra import must_vanish, nonnegative
from residual_theory.proofs.exact_recursion import recursive
from residual_theory.proofs.sign_proof import by_sign, gap
from residual_theory.proofs.steps import Proof, Step

W, D, h, delta = sympy.symbols("W D h delta", commutative=False)  # D = ΔW, δ = Δh
before, after, chi = sympy.symbols("phi phi_+ chi", commutative=False)  # φ(h), φ(h⁺), and their difference
eps, w, s, psi = sympy.symbols("epsilon w s psi", positive=True)
n = sympy.Symbol("n", integer=True, nonnegative=True)
N = sympy.Symbol("N", integer=True, positive=True)
_spare, _one, _two = sympy.symbols("a u v", nonnegative=True)  # slacks of earlier steps


def visit(stream: Any, weights: Any, image: Any, scale: Any) -> Any:
    """The next stream, h + ε W φ(h): of symbols, and of matrices when the recursion runs.

    >>> visit(h, W, before, eps)
    epsilon*W*phi + h
    """
    return stream + scale * weights * image


@lru_cache(maxsize=64)
def _run(count: int, scale: Any, size: Any, step: Any, turn: Any, _: int) -> tuple[Any, Any, Any]:
    """‖Δh‖ after `count` visits, and the largest ‖φ(h)‖ and ‖φ(h⁺)‖ at them, all over √d: ReLU and width 2, W a
    rotation by `turn` times `size`, ΔW the identity times `step`, and h_0 = (1, 1)."""

    def norm(vector: Any) -> Any:
        return mpmath.norm(vector) / mpmath.sqrt(2)

    def relu(vector: Any) -> Any:
        return vector.apply(lambda entry: max(entry, 0))

    sine, cosine = mpmath.sin(turn), mpmath.cos(turn)
    weights = size * mpmath.matrix([[cosine, -sine], [sine, cosine]])
    changed_weights = weights + step * mpmath.eye(2)
    stream = changed = mpmath.matrix([1, 1])
    largest, largest_changed = mpmath.mpf(0), mpmath.mpf(0)
    for _visit in range(count):
        image, changed_image = relu(stream), relu(changed)
        largest, largest_changed = max(largest, norm(image)), max(largest_changed, norm(changed_image))
        stream, changed = visit(stream, weights, image, scale), visit(changed, changed_weights, changed_image, scale)
    return norm(changed - stream), largest, largest_changed


def _part(place: int) -> Any:
    return lambda count, *stack: _run(int(count), *stack, mpmath.mp.prec)[place]


A = recursive("A", _part(0), "nonnegative", start=0)  # ‖Δh_n‖/√d after n visits; both streams start at h_0
P, Q = (recursive(name, _part(place), "nonnegative") for name, place in (("P", 1), ("Q", 2)))
STACK = (eps, w, s, psi)
SMALL: dict[Any, Any] = {N: (3, 6), n: (0, 5), eps: (0, sympy.Rational(1, 2)), w: (0, 1), s: (0, 2), psi: (0, 1)}


def norm_of(expression: Any, norms: Mapping[Any, Any]) -> Any:
    """A bound on the norm of a sum of products: triangle inequality and ‖A B‖ ≤ ‖A‖ ‖B‖, factors having these `norms`.

    >>> norm_of(eps * (W + D) * chi, {W: w, D: s, chi: psi})
    epsilon*psi*(s + w)
    """
    if expression in norms:
        return norms[expression]
    if expression.is_commutative and nonnegative(expression):
        return expression
    if expression.is_Add or expression.is_Mul:
        return expression.func(*(norm_of(part, norms) for part in expression.args))
    raise DerivationError(f"the norm of {expression} is not known")


def in_norms(identity: Step, norms: Mapping[Any, Any]) -> Proof:
    """The norm of an identity's left side is at most the sum over its right side's terms of the products of norms."""

    def run(step: Step) -> None:
        if (step.relation, identity.relation) != ("<=", "=") or step.lhs != norms[identity.lhs]:
            raise DerivationError("this is not the norm of the identity's left side, bounded from above")
        must_vanish(step.rhs - norm_of(identity.rhs, norms), "that the norms of all terms are counted")

    return Proof("triangle inequality, term by term", run, (identity,))


def next_norm(identity: Step, part: Any, norms: Mapping[Any, Any], size: Any, count: Any) -> Proof:
    """The norm of one `part` of an identity's right side is at most `size` at one visit more than `count`.

    The step says what norms add up to, which is `size` at count + 1; at one visit it is the norm of what is left.
    """

    def run(step: Step) -> None:
        if not set(sympy.Add.make_args(part)) <= set(sympy.Add.make_args(identity.rhs)):
            raise DerivationError("the identity has no such part")
        must_vanish(step.lhs - norm_of(part, norms), "that the norms of all terms are counted")
        must_vanish(step.rhs - size.subs(count, count + 1), "that the right side is the next bound")
        must_vanish(step.lhs - step.rhs, f"the step from {count} to {count} + 1")

    return Proof("induction, by the triangle inequality", run, (identity,))


def subtracted() -> tuple[Step, Step]:
    """The two recursions subtracted, with the step's image of the changed stream and of the stream before it.

    >>> [str(step.rhs) for step in subtracted()]
    ['epsilon*D*phi_+ + epsilon*W*chi + delta', 'epsilon*D*phi + epsilon*(D + W)*chi + delta']
    """
    return (
        Step(
            "The two recursions subtracted",
            visit(h + delta, W + D, after, eps) - visit(h, W, after - chi, eps),
            delta + eps * D * after + eps * W * chi,
            "δ = Δh, D = ΔW, φ = φ(h), φ₊ = φ(h⁺) for the stream h⁺ = h + δ of the changed stack, χ = φ₊ − φ. Left: "
            "the next h⁺ less the next h. Right: what ΔW makes of the changed stream, and W of the difference so far.",
        ),
        Step(
            "or with ΔW in the feedback",
            visit(h + delta, W + D, before + chi, eps) - visit(h, W, before, eps),
            delta + eps * D * before + eps * (W + D) * chi,
            "The same in terms of φ(h), which is known before the step. ΔW now acts on the difference as well.",
        ),
    )


def one_more_visit(by_changed: Step, by_old: Step) -> tuple[Step, Step]:
    """What one more visit does to the distance A, by the largest image P of the old or Q of the changed stream.

    >>> one_more_visit(*subtracted())[0].lhs
    A(n + 1, epsilon, w, s, psi)
    """
    distance, following = A(n, *STACK), A(n + 1, *STACK)
    known = {W: w, D: s, delta: distance, chi: distance}

    def step(title: str, identity: Step, image: Any, size: Any, gain: Any, because: str) -> Step:
        norms = {**known, image: size, identity.lhs: following}
        proof = in_norms(identity, norms)
        rhs = (1 + eps * gain) * distance + eps * s * size
        return Step(title, following, rhs, because, "<=", proof, SMALL, (N - 1 - n,))

    return (
        step(
            "Distance of the changed stack, visit by visit",
            by_changed,
            after,
            Q(N, *STACK),
            w,
            "A(n) = d^(−1/2)‖Δh_n‖, ‖W‖ ≤ w, ‖ΔW‖ ≤ s; Q(N) is the largest d^(−1/2)‖φ(h⁺_n)‖ of the first N visits; "
            "‖χ‖ ≤ ‖δ‖, as |φ(x) − φ(y)| ≤ |x − y|. (At numbers: a ReLU stack of width 2, W turning by ψ.)",
        ),
        step(
            "or by the stream before the step",
            by_old,
            before,
            P(N, *STACK),
            w + s,
            "P(N) is the largest d^(−1/2)‖φ(h_n)‖ of the first N visits. Leaving ΔW out of the feedback would be "
            "false: at d = 1, εN = 1, w = 0.1, s = 1 the change is 1.90 and the bound would be 1.22.",
        ),
    )


def gronwall(growth: Step, title: str, because: str, bound: Any) -> Step:
    """A(n) is at most `bound` from its start at 0, as it grows by `growth` at most: a discrete Gronwall inequality.

    >>> grows, _ = one_more_visit(*subtracted())
    >>> gronwall(grows, "Title", "Reason.", s / w * Q(N, *STACK) * ((1 + eps * w) ** n - 1)).relation
    '<='
    """
    distance, following = A(n, *STACK), A(n + 1, *STACK)

    def run(step: Step) -> None:
        if (step.relation, growth.relation) != ("<=", "<=") or (step.lhs, growth.lhs) != (distance, following):
            raise DerivationError("these are not bounds on the distance from above")
        free = sympy.Dummy("a", nonnegative=True)
        form = growth.rhs.subs(distance, free)
        if form.has(distance.func) or not nonnegative(sympy.diff(form, free)):
            raise DerivationError("the growth is not visibly increasing in the distance so far")
        if any(given.subs(n, n + 1) != needed for given, needed in zip(step.given, growth.given, strict=True)):
            raise DerivationError("a hypothesis may fail on the way")
        must_vanish(step.rhs.subs(n, 0) - distance.subs(n, 0), "the case n = 0")
        must_vanish(form.subs(free, step.rhs) - step.rhs.subs(n, n + 1), "the step from n to n + 1")

    return Step(title, distance, bound, because, "<=", Proof("induction on n", run, (growth,)), SMALL, (N - n,))


def _monotone(most: Any, exponent: Any) -> tuple[Step, Step]:
    """exp is increasing: its values at an `exponent` and at a symbol that is at least that."""
    z = sympy.Symbol("z", nonnegative=True)
    tangent = Step("The exponential lies above its tangent", 1 + z, exp(z), "It is convex.", "<=", by.taylor(z, 2))
    room = most - exponent
    proof = by_sign(exp(exponent) * (gap + _spare), {gap: (tangent, {z: room}), _spare: room})
    larger = Step(
        "A larger exponent",
        exp(exponent),
        exp(most),
        "The quotient of both is at least 1 + M − εNw, by the last step.",
        "<=",
        proof,
        {most: (4, 9), **SMALL},
        (room,),
    )
    return tangent, larger


@dataclass(frozen=True)
class Route:
    """The steps from the two recursions to a closed bound on the distance of the streams.

    Fields: the recursions subtracted; the distance visit by visit, and after n visits; helpers, which need not be
    repeated for another route; the closed bound.
    """

    subtracted: Step
    visit: Step
    apart: Step
    helpers: tuple[Step, ...]
    closed: Step

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, in order."""
        return (self.subtracted, self.visit, self.apart, *self.helpers, self.closed)


def _apart(visit_bound: Step, title: str, because: str, size: Any, gain: Any) -> Step:
    return gronwall(visit_bound, title, because, s * size / gain * ((1 + eps * gain) ** n - 1))


def by_the_changed_stream(growth: Step, step_size: Any) -> Route:
    """Theorem 2 as arXiv:2606.18524 proves it: by the images of the changed stream, of size Q at most.

    Arguments:
      growth: (1 + x)^N ≤ exp(Nx).  step_size: what bounds ‖ΔW‖.

    >>> x, eta = sympy.symbols("x eta", positive=True)
    >>> from residual_theory.lemmas.exponential_bounds import logarithm_below_tangent, power_below_exponential
    >>> lemma = power_below_exponential(logarithm_below_tangent(x), "Title", "Reason.", N)
    >>> str(by_the_changed_stream(lemma, 2 * eta).closed.rhs)
    '2*N*epsilon*eta*Q(N, epsilon, w, 2*eta, psi)*exp(M)'
    """
    subtractions, loops, y = subtracted(), eps * N, sympy.Symbol("y", positive=True)
    visit_bound, x = one_more_visit(*subtractions)[0], growth.rhs.args[0] / N
    apart = _apart(
        visit_bound,
        "Distance after n visits",
        "From A(0) = 0: a geometric sum, met visit by visit.",
        Q(N, *STACK),
        w,
    )
    less_one = Step(
        "The exponential less one",
        exp(y) - 1,
        y * exp(y),
        "Both vanish at 0, and the derivative of the difference is y e^y.",
        "<=",
        by.taylor(y, 1),
    )
    most = sympy.Symbol("M", positive=True)
    tangent, larger = _monotone(most, loops * w)
    of, size = step_size, Q(N, eps, w, step_size, psi)
    certificate = _spare + of * size / w * (_one + _two) + of * size * loops * gap
    slacks = {_one: (growth, {x: eps * w}), _two: (less_one, {y: loops * w}), gap: larger}
    closed = Step(
        "Theorem 2, with constants",
        A(N, eps, w, of, psi),
        of * size * exp(most) * loops,
        "‖ΔW‖ ≤ cη, ‖W‖ ≤ w, εNw ≤ M: d^(−1/2)‖Δh_N‖ ≤ c Q e^M ηεN, with Q the size of the images of the changed "
        "stream. At ε = λ/N, M = λw, which does not depend on N.",
        "<=",
        by.certificate(certificate, {_spare: (apart, {n: N, s: of}), **slacks}),
        {most: (4, 9), **SMALL},
        (most - loops * w,),
    )
    return Route(subtractions[0], visit_bound, apart, (less_one, tangent, larger), closed)


def theorem_two(growth: Step, step_size: Any) -> tuple[Step, ...]:
    """That bound, and one by the images of the stream before the step, which are known beforehand.

    >>> x, eta = sympy.symbols("x eta", positive=True)
    >>> from residual_theory.lemmas.exponential_bounds import logarithm_below_tangent, power_below_exponential
    >>> lemma = power_below_exponential(logarithm_below_tangent(x), "Title", "Reason.", N)
    >>> str(theorem_two(lemma, 2 * eta)[-1].rhs)
    'N*epsilon*s*P(N, epsilon, w, s, psi)*exp(N*epsilon*(s + w))'
    """
    changed, x, y = by_the_changed_stream(growth, step_size), growth.rhs.args[0] / N, sympy.Symbol("y", positive=True)
    by_old, loops, gain, size = subtracted()[1], eps * N, w + s, P(N, *STACK)
    visit_bound = one_more_visit(changed.subtracted, by_old)[1]
    apart = _apart(visit_bound, "or, by the stream before the step", "The same with w + s in place of w.", size, gain)
    less_one = changed.helpers[0]
    known = {_spare: (apart, {n: N}), _one: (growth, {x: eps * gain}), _two: (less_one, {y: loops * gain})}
    return (
        *(changed.subtracted, by_old, changed.visit, visit_bound, changed.apart, apart, *changed.helpers),
        changed.closed,
        Step(
            "and from what is known before the step",
            A(N, *STACK),
            s * size * exp(loops * gain) * loops,
            "With s = cη: d^(−1/2)‖Δh_N‖ ≤ C ηεN, and C stays bounded while εN, w, η and P do, P the size of the "
            "images of the stream before the step.",
            "<=",
            by.certificate(_spare + s * size / gain * (_one + _two), known),
            SMALL,
        ),
    )
