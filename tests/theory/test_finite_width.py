"""Wick's theorem at finite width against moments of single entries, the scalar stack, the sampler and the limit."""

from math import comb, factorial, prod

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from residual_theory.errors import InputError
from residual_theory.montecarlo.simulate import simulate
from residual_theory.stack import Stack
from residual_theory.theory import finite_width
from residual_theory.theory.finite_width import (
    d,
    epsilon,
    overlap_counts,
    pairings,
    power_overlap,
    second_moment_at_width,
    sigma_w,
    tied_linear_second_moment,
)
from residual_theory.theory.forward import predict

LAW = {"activation": "linear", "residual_scale": 0.7, "weight_variance": 1.3, "initial_variance": 0.6}


def linear(loops: int, unique_layers: int = 1, **law: object) -> Stack:
    return Stack.model_validate({"loops": loops, "unique_layers": unique_layers, **LAW, **law})


def multiplied_out(stack: Stack, width: int) -> float:
    """E‖Π(I + εW)‖²/d, every monomial in the entries averaged by E w^(2m) = (2m − 1)!! (σ_w²/d)^m: no pairings."""
    entries: list[sympy.Symbol] = []
    matrices: dict[int, sympy.Matrix] = {}
    product = sympy.eye(width)
    for visit in stack.visits:
        if visit.weights not in matrices:
            own = sympy.symbols(f"w{visit.weights}_:{width**2}")
            entries += own
            matrices[visit.weights] = sympy.Matrix(width, width, own)
        product = (product + sympy.nsimplify(visit.scale) * matrices[visit.weights] * product).expand()
    monomials = sympy.Poly(sum(entry**2 for entry in product), *entries).terms()
    variance = sympy.nsimplify(stack.weight_variance) / width
    mean = sum(
        factor * prod(sympy.factorial2(power - 1) * variance ** (power // 2) for power in powers)
        for powers, factor in monomials
        if not any(power % 2 for power in powers)
    )
    return stack.initial_variance * float(mean) / width


# Counting


@pytest.mark.parametrize("places", [0, 2, 4, 6, 8])
def test_equal_letters_have_all_pairings(places: int) -> None:
    found = list(pairings((3,) * places))
    assert len(found) == len(set(found)) == prod(range(1, places, 2))
    for pairing in found:
        assert sorted(place for pair in pairing for place in pair) == list(range(places))


@given(st.lists(st.integers(0, 2), max_size=7))
def test_only_equal_letters_are_paired(letters: list[int]) -> None:
    found = list(pairings(letters))
    counts = [letters.count(letter) for letter in set(letters)]
    assert len(found) == (0 if any(c % 2 for c in counts) else prod(prod(range(1, c, 2)) for c in counts))
    assert all(letters[one] == letters[other] for pairing in found for one, other in pairing)


@given(st.lists(st.integers(0, 1), max_size=4), st.lists(st.integers(0, 1), max_size=4))
def test_overlaps_are_symmetric_under_exchange_reversal_and_renaming(left: list[int], right: list[int]) -> None:
    found = overlap_counts(tuple(left), tuple(right))
    assert found == overlap_counts(tuple(right), tuple(left))
    assert found == overlap_counts(tuple(left[::-1]), tuple(right[::-1]))  # W and Wᵀ have the same law
    assert found == overlap_counts(tuple(1 - n for n in left), tuple(1 - n for n in right))
    assert all(power >= 0 and count > 0 for power, count in found.items())


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 4), (1, 5), (3, 3), (2, 6), (5, 5), (6, 6)])
def test_width_one_has_the_moments_of_one_gaussian(left: int, right: int) -> None:
    assert power_overlap(left, right).subs(d, 1) == prod(range(1, left + right, 2)) * sigma_w ** (left + right)


def test_known_overlaps() -> None:
    assert power_overlap(0, 2) == sigma_w**2 / d
    assert power_overlap(2, 2) == sympy.expand(sigma_w**4 * (1 + 2 / d**2))
    assert power_overlap(1, 2) == 0
    assert overlap_counts((0, 1), (0, 1)) == {0: 1}  # E‖W₁W₀‖²/d: independent matrices, every width
    assert overlap_counts((0, 1), (1, 0)) == {2: 1}  # E tr(W₀ᵀW₁ᵀW₀W₁)/d
    assert overlap_counts((0, 1), (0, 0)) == {}


@pytest.mark.parametrize("difference", [2, 4])
@pytest.mark.parametrize("smaller", [0, 1, 2, 3, 4])
def test_leading_overlap_of_different_powers(smaller: int, difference: int) -> None:
    leading = sympy.limit(d * power_overlap(smaller, smaller + difference), d, sympy.oo)
    assert leading == (1 + smaller) * sigma_w ** (2 * smaller + difference)
    assert sympy.limit(d * (power_overlap(smaller, smaller) - sigma_w ** (2 * smaller)), d, sympy.oo) == 0


# The second moment


def test_two_loops() -> None:
    e = epsilon
    expected = 1 + 4 * e**2 + e**4 + 2 * e**2 / d + 2 * e**4 / d**2
    assert sympy.expand(tied_linear_second_moment(2).subs(sigma_w, 1) - expected) == 0


@pytest.mark.parametrize("loops", [1, 2, 3, 4, 5, 6])
def test_width_one_is_the_scalar_stack(loops: int) -> None:
    scalar = sum(
        comb(2 * loops, 2 * m) * factorial(2 * m) / (2**m * factorial(m)) * (0.7**2 * 1.3) ** m
        for m in range(loops + 1)
    )
    assert second_moment_at_width(linear(loops), 1) == pytest.approx(0.6 * scalar, rel=1e-13)


@pytest.mark.parametrize(
    ("stack", "width"),
    [
        (linear(3), 2),
        (linear(4), 2),
        (linear(2), 3),
        (linear(2, unique_layers=2), 2),
        (linear(3, unique_layers=2), 1),
        (linear(2, tied=False), 2),
        (linear(1, unique_layers=3, residual_scale=1.6), 2),
    ],
)
def test_entries_multiplied_out_give_the_same(stack: Stack, width: int) -> None:
    assert second_moment_at_width(stack, width) == pytest.approx(multiplied_out(stack, width), rel=1e-12)


@pytest.mark.parametrize("loops", [1, 2, 3, 4, 5, 6])
def test_infinite_width_is_the_sum_of_squared_binomials(loops: int) -> None:
    limit = sum(comb(loops, k) ** 2 * (epsilon * sigma_w) ** (2 * k) for k in range(loops + 1))
    exact = tied_linear_second_moment(loops)
    assert sympy.expand(sympy.limit(exact, d, sympy.oo) - limit) == 0
    assert (sympy.expand(exact - limit) == 0) == (loops == 1)  # one loop has no correction


@pytest.mark.parametrize("stack", [linear(4), linear(2, unique_layers=3), linear(3, unique_layers=2, tied=False)])
def test_wide_stacks_reach_the_recursion(stack: Stack) -> None:
    limit = float(predict(stack).second_moment[-1])
    gaps = [second_moment_at_width(stack, width) / limit - 1 for width in (10**3, 10**6, 10**9)]
    if stack.tied:
        assert gaps[0] == pytest.approx(1e3 * gaps[1], rel=0.05)  # the leading correction is of order 1/width
        assert gaps[0] > 1e-4
    assert gaps[2] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("stack", [linear(3, tied=False), linear(1, unique_layers=5)])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_distinct_matrices_have_no_correction(stack: Stack, width: int) -> None:
    expected = 0.6 * (1 + 0.7**2 * 1.3) ** stack.blocks
    assert second_moment_at_width(stack, width) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize(("loops", "unique_layers"), [(3, 1), (4, 1), (2, 2)])
def test_the_sampler_agrees(loops: int, unique_layers: int, width: int) -> None:
    stack = linear(loops, unique_layers, residual_scale=0.5)
    drawn = simulate(stack, width=width, samples=20_000, seed=11)
    error = float(drawn.second_moment_stderr[-1])
    assert abs(float(drawn.second_moment[-1]) - second_moment_at_width(stack, width)) < 4 * error
    assert abs(float(drawn.second_moment[-1]) - float(predict(stack).second_moment[-1])) > 8 * error


def test_every_field_of_the_law_counts() -> None:
    value = second_moment_at_width(linear(3), 5)
    changes = {"residual_scale": 0.71, "weight_variance": 1.31, "tied": False}
    for name, change in changes.items():
        assert second_moment_at_width(linear(3).model_copy(update={name: change}), 5) != pytest.approx(
            value, rel=1e-4
        ), name
    assert second_moment_at_width(linear(3), 6) != pytest.approx(value, rel=1e-4)
    assert second_moment_at_width(linear(3, initial_variance=1.2), 5) == pytest.approx(2 * value, rel=1e-14)
    assert second_moment_at_width(linear(3, residual_scale=0.0), 5) == 0.6


# What cannot be used


def test_too_many_pairings_are_counted_in_the_refusal() -> None:
    with pytest.raises(InputError, match=r"^loops = 7: there are 2390480 pairings to count, more than 200000"):
        tied_linear_second_moment(7)
    with pytest.raises(InputError, match=r"^loops = 3: there are 438976 pairings"):
        second_moment_at_width(linear(3, unique_layers=3), 4)
    with pytest.raises(InputError, match=r"^left = 8: 16 factors have 2027025 pairings; at most 200000"):
        power_overlap(8, 8)
    assert finite_width._involutions(14) == sum(
        comb(14, 2 * m) * factorial(2 * m) // (2**m * factorial(m)) for m in range(8)
    )


@pytest.mark.parametrize("name", ["activation", "normalization"])
def test_other_stacks_are_refused_by_field(name: str) -> None:
    value = {"activation": "relu", "normalization": "rms"}[name]
    with pytest.raises(InputError, match=f"^{name} = '{value}'"):
        second_moment_at_width(linear(2).model_copy(update={name: value}), 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("branch", "mlp"), ("normalization", "post"), ("loop_normalization", True), ("prelude", 1), ("coda", 2)]
    + [(name, bad) for name in ("skip", "carry", "injection") for bad in (0.5, "1/N")],
)
def test_variants_are_refused_by_field(name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        second_moment_at_width(Stack.model_validate({"loops": 2, **LAW, name: value}), 3)
    assert caught.value.argument == name


def test_what_would_take_for_ever_is_refused_at_once() -> None:
    for refused in (
        lambda: tied_linear_second_moment(10**6),
        lambda: second_moment_at_width(linear(10**9), 2),
        lambda: power_overlap(10**6, 10**6),
        lambda: overlap_counts((0,) * 12, (0,) * 12),
        lambda: overlap_counts(range(10**5), range(10**5)),
        lambda: overlap_counts(3, (0,)),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=r"^(loops|left) = "):
            refused()
    assert overlap_counts((0,) * 11, (0,) * 12) == {}


def test_sequences_of_any_kind_are_words() -> None:
    assert overlap_counts([1, 2, 2], [1, 2, 2]) == overlap_counts((1, 2, 2), (1, 2, 2)) == {0: 1, 2: 2}


def test_matrices_that_occur_once_at_the_same_end_cancel() -> None:
    times = [overlap_counts((*a, 0, 1, 0, 1, *b), (*a, 1, 0, 0, 1, *b)) for a in ((), (5,)) for b in ((), (7,))]
    assert times[0]
    assert times == times[:1] * 4
    letters = tuple(range(30))
    assert overlap_counts(letters, letters) == {0: 1}


@pytest.mark.parametrize("sharing", ["consecutive", [0, 1, 1, 0]])
def test_any_sharing_is_multiplied_out(sharing: object) -> None:
    stack = linear(2, unique_layers=2, sharing=sharing)
    assert second_moment_at_width(stack, 1) == pytest.approx(multiplied_out(stack, 1), rel=1e-12)
    assert second_moment_at_width(stack, 10**9) == pytest.approx(float(predict(stack).second_moment[-1]), rel=1e-8)


@pytest.mark.parametrize("width", [0, -1, 2.0, True, "2", None, 10**400])
def test_bad_widths_are_refused(width: int) -> None:
    with pytest.raises(InputError, match=r"^width = .*(integer of at least 1|within float64)"):
        second_moment_at_width(linear(2), width)


@pytest.mark.parametrize("loops", [0, 2.5, True])
def test_bad_counts_are_refused(loops: int) -> None:
    with pytest.raises(InputError, match=r"^loops = "):
        tied_linear_second_moment(loops)
    with pytest.raises(InputError, match=r"^right = "):
        power_overlap(1, loops - 1 if loops == 0 else loops)


def test_not_a_stack_is_refused() -> None:
    with pytest.raises(InputError, match=r"^stack = "):
        second_moment_at_width("linear", 3)  # type: ignore[arg-type]


def test_what_float64_cannot_hold_is_infinite() -> None:
    assert second_moment_at_width(linear(6, residual_scale=1e60), 2) == float("inf")
