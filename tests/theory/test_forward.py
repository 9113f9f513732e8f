"""The infinite-width recursion against recorded values, closed forms and a slow implementation of its own formula."""

import math
from functools import cache

import mpmath
import numpy as np
import pytest
from scipy import integrate
from scipy.special import ndtr

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.kernels.branch import Elementwise, State
from residual_theory.stack import LlamaStack, Stack
from residual_theory.theory import forward
from residual_theory.theory.forward import predict


def last(stack: Stack | LlamaStack) -> float:
    return float(predict(stack).second_moment[-1])


@pytest.mark.parametrize(
    ("loops", "unique_layers", "scale", "raw", "normed"),
    [
        (8, 1, "1/N", "1.55110019", "1.48499319"),
        (8, 1, "1/sqrt(N)", "9.21578993", "4.60106071"),
        (64, 1, "1/N", "1.56567037", "1.48534599"),
        (64, 1, "1/sqrt(N)", "8539.07206", "29.0894197"),
        (4, 12, "1/(N*sqrt(L))", "1.56931286", "1.48616585"),
        (8, 48, "1/(N*sqrt(L))", "1.56868497", "1.48562116"),
        (8, 12, "1/sqrt(N*L)", "11.7022356", None),
        (1, 48, "1/sqrt(L)", "1.64446282", "1.5"),
    ],
)
def test_recorded_values_to_all_their_nine_digits(
    loops: int, unique_layers: int, scale: str, raw: str, normed: str | None
) -> None:
    stack = Stack(loops=loops, unique_layers=unique_layers, residual_scale=scale)
    assert f"{last(stack):.9g}" == raw
    if normed is not None:
        assert f"{last(stack.model_copy(update={'normalization': 'rms'})):.9g}" == normed


# A slow implementation: the double sum as it stands, with the kernel integrated numerically


ROOT_TAU = math.sqrt(math.tau)


def mean_product(activation: str, qu: float, quv: float, qv: float) -> float:
    """E[φ(u) φ(v)] for ReLU by quadrature over u of u · E[relu(v) | u]."""
    if activation == "linear":
        return quv
    left = math.sqrt(qu)
    slope, spread = quv / qu, math.sqrt(max(0.0, qv - quv**2 / qu))

    def integrand(u: float) -> float:
        mean = slope * u
        if spread < 1e-7:  # one variable: relu(v) = relu(slope · u)
            rest = max(mean, 0.0)
        else:
            rest = mean * float(ndtr(mean / spread)) + spread * math.exp(-0.5 * (mean / spread) ** 2) / ROOT_TAU
        return u * rest * math.exp(-0.5 * u * u / qu) / (left * ROOT_TAU)

    value, _ = integrate.quad(integrand, 0.0, 14 * left, epsabs=1e-14, epsrel=1e-13, limit=200)
    return float(value)


def slow_covariance(stack: Stack) -> Array:
    visits = stack.loops * stack.unique_layers

    def same_weights(a: int, b: int) -> bool:
        return a % stack.unique_layers == b % stack.unique_layers if stack.tied else a == b

    @cache
    def branch(a: int, b: int) -> float:
        qa, qab, qb = covariance(a, a), covariance(a, b), covariance(b, b)
        if stack.normalization == "rms":
            qa, qab, qb = 1.0, qab / math.sqrt(qa * qb), 1.0
        return stack.weight_variance * mean_product(str(stack.activation), qa, qab, qb)

    @cache
    def covariance(a: int, b: int) -> float:
        total = 0.0
        for earlier in range(a):
            for other in range(b):
                if same_weights(earlier, other):
                    total += branch(max(earlier, other), min(earlier, other))
        return stack.initial_variance + stack.epsilon**2 * total

    return np.array([[covariance(a, b) for b in range(visits + 1)] for a in range(visits + 1)])


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("normalization", ["none", "rms"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("loops", "unique_layers", "scale"), [(5, 1, 0.5), (3, 2, 0.9), (2, 3, "1/N"), (1, 4, 1.3)])
def test_the_recursion_is_the_double_sum(
    activation: str, normalization: str, tied: bool, loops: int, unique_layers: int, scale: float | str
) -> None:
    stack = Stack.model_validate(
        {
            "loops": loops,
            "unique_layers": unique_layers,
            "residual_scale": scale,
            "activation": activation,
            "normalization": normalization,
            "tied": tied,
            "weight_variance": 1.7,
            "initial_variance": 0.6,
        }
    )
    predicted, expected = predict(stack), slow_covariance(stack)
    np.testing.assert_allclose(predicted.covariance, expected, rtol=1e-10)
    np.testing.assert_allclose(predicted.second_moment, np.diag(expected), rtol=1e-10)
    ends = expected[::unique_layers, ::unique_layers]
    products = np.diff(np.diff(ends, axis=0), axis=1)  # ⟨Δ_n, Δ_m⟩/d, from covariances alone
    size = np.sqrt(np.diag(products))
    np.testing.assert_allclose(predicted.increment_cosine, products / np.outer(size, size), atol=1e-9)


# Closed forms


@pytest.mark.parametrize(("activation", "half"), [("relu", 0.5), ("linear", 1.0)])
@pytest.mark.parametrize(("loops", "unique_layers"), [(1, 7), (7, 1), (3, 5)])
def test_untied_stacks_have_closed_forms(activation: str, half: float, loops: int, unique_layers: int) -> None:
    fields = {
        "loops": loops,
        "unique_layers": unique_layers,
        "residual_scale": 0.6,
        "weight_variance": 1.5,
        "initial_variance": 0.3,
        "activation": activation,
        "tied": False,
    }
    visit, gain = np.arange(loops * unique_layers + 1), 0.6**2 * 1.5 * half
    raw, normed = Stack.model_validate(fields), Stack.model_validate(fields | {"normalization": "rms"})
    np.testing.assert_allclose(predict(raw).second_moment, 0.3 * (1 + gain) ** visit, rtol=1e-13)
    np.testing.assert_allclose(predict(normed).second_moment, 0.3 + gain * visit, rtol=1e-13)
    expected = 0.3 * (1 + gain) ** np.minimum.outer(visit, visit)  # a martingale: K(a, b) = K(min, min)
    np.testing.assert_allclose(predict(raw).covariance, expected, rtol=1e-13)
    np.testing.assert_allclose(predict(raw).increment_cosine, np.eye(loops), atol=1e-14)


@pytest.mark.parametrize("loops", [1, 2, 7, 40])
@pytest.mark.parametrize("scale", ["1/N", "1/sqrt(N)", 1.3])
def test_tied_linear_is_a_hypergeometric_function(loops: int, scale: float | str) -> None:
    stack = Stack(loops=loops, residual_scale=scale, activation="linear", weight_variance=0.7, initial_variance=2.5)
    expected = [2.5 * float(mpmath.hyp2f1(-n, -n, 1, 0.7 * stack.epsilon**2)) for n in range(loops + 1)]
    np.testing.assert_allclose(predict(stack).second_moment, expected, rtol=1e-12)


@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_one_loop_knows_no_tying(normalization: str) -> None:
    fields = {"loops": 1, "unique_layers": 6, "residual_scale": 0.8, "normalization": normalization}
    tied, untied = (predict(Stack.model_validate(fields | {"tied": tied})) for tied in (True, False))
    assert tied.drop_attrs().identical(untied.drop_attrs())
    np.testing.assert_allclose(tied.increment_cosine, [[1.0]], rtol=1e-14)


def test_relu_lies_between_its_two_bounds() -> None:
    loops = 64
    stack = Stack(loops=loops, residual_scale="1/sqrt(N)")
    lower = float(mpmath.hyp2f1(-loops, -loops, 1, stack.epsilon**2 / 2))
    upper = math.cosh(stack.epsilon * loops / math.sqrt(2)) ** 2
    assert (round(lower), round(upper)) == (6646, 20485)
    assert lower < last(stack) < upper


def test_scale_zero_moves_nothing() -> None:
    predicted = predict(Stack(loops=3, residual_scale=0, initial_variance=0.7))
    np.testing.assert_array_equal(predicted.covariance, np.full((4, 4), 0.7))
    assert np.isnan(predicted.increment_cosine).all()  # a change of zero has no direction


@pytest.mark.parametrize("normalization", ["none", "rms"])
@pytest.mark.parametrize(("loops", "unique_layers", "scale"), [(12, 1, "1/sqrt(N)"), (5, 3, 1.0), (4, 2, "1/N")])
def test_covariances_are_symmetric_and_positive(
    normalization: str, loops: int, unique_layers: int, scale: float | str
) -> None:
    stack = Stack.model_validate(
        {
            "loops": loops,
            "unique_layers": unique_layers,
            "residual_scale": scale,
            "normalization": normalization,
            "weight_variance": 1.4,
        }
    )
    predicted = predict(stack)
    for name in ("covariance", "increment_cosine"):
        matrix = predicted[name].values
        np.testing.assert_array_equal(matrix, matrix.T)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues[0] > -1e-12 * eigenvalues[-1]
        assert eigenvalues[-1] > 0
    np.testing.assert_array_equal(predicted.second_moment, np.diag(predicted.covariance))
    np.testing.assert_allclose(np.diag(predicted.increment_cosine), 1.0, rtol=1e-14)


# Cost


def kernel_evaluations(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> int:
    count = 0
    evaluate = Elementwise.forward

    def counted(kernel: Elementwise, covariance: Array, left: State, right: State) -> Array:
        nonlocal count
        count += covariance.size
        return evaluate(kernel, covariance, left, right)

    with monkeypatch.context() as patch:
        patch.setattr(Elementwise, "forward", counted)
        predict(stack)
    return count


@pytest.mark.parametrize(("loops", "unique_layers"), [(1, 1), (9, 1), (18, 1), (9, 4), (1, 6)])
def test_the_number_of_kernel_evaluations(loops: int, unique_layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tied, untied = (Stack(loops=loops, unique_layers=unique_layers, tied=tied) for tied in (True, False))
    assert kernel_evaluations(tied, monkeypatch) == loops * (loops + 1) * unique_layers // 2
    assert kernel_evaluations(untied, monkeypatch) == loops * unique_layers


@pytest.mark.parametrize(
    ("stack", "size"),
    [
        (Stack(loops=10**4, unique_layers=100), "1000000 visits need 14975.8 GiB"),
        (Stack(loops=10**12), "GiB"),
        (LlamaStack(loops=8, width=8, mlp_width=8, heads=1, tokens=10**5), "16 visits at 100000 positions need"),
        (LlamaStack(loops=1, width=8, mlp_width=8, heads=1, tokens=10**12), "GiB"),
    ],
)
def test_too_large_a_stack_is_refused_before_memory_is_taken(stack: Stack | LlamaStack, size: str) -> None:
    with pytest.raises(InputError, match=r"^(loops|tokens) = .*ask for fewer") as caught:
        predict(stack)
    assert size in str(caught.value)


def test_the_largest_stack_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert forward._LARGEST_STATE == 8 * 2**30
    stack = Stack(loops=20, unique_layers=5)
    streams, slopes = 8 * (2 * 101**2 + 8 * 101), 8 * 2 * 5 * 20 * 21 // 2
    monkeypatch.setattr(forward, "_LARGEST_STATE", streams + slopes)
    assert predict(stack).sizes["visit"] == 101
    for larger in (
        Stack(loops=20, unique_layers=5, coda=1),
        Stack(loops=100, sharing=(0,) * 100),
        LlamaStack(loops=26, unique_layers=2, width=8, mlp_width=8, heads=1, tokens=1),
        LlamaStack(loops=40, width=8, mlp_width=8, heads=1, tokens=2),
    ):
        with pytest.raises(InputError, match="GiB"):
            predict(larger)
    monkeypatch.setattr(forward, "_LARGEST_STATE", streams)
    with pytest.raises(InputError, match=r"or for no gradients \(0\.0 GiB\)$"):
        predict(stack)
    assert "tangent_kernel" not in predict(stack, with_gradients=False)


def test_a_kernel_that_breaks_positivity_is_named_with_its_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Elementwise.forward

    def wrong(kernel: Elementwise, covariance: Array, left: State, right: State) -> Array:
        F = evaluate(kernel, covariance, left, right)
        F[:-1] *= 3  # visits against earlier ones, but not against themselves
        return F

    monkeypatch.setattr(Elementwise, "forward", wrong)
    with pytest.raises(InputError, match=r"^activation = .relu.: covariances lose positive definiteness at visit 2;"):
        predict(Stack(loops=9, residual_scale=1.0))


# Overflow


def test_a_value_beyond_float64_is_inf_from_its_visit_on() -> None:
    predicted = predict(Stack(loops=700, residual_scale=1.0))
    first = predicted.attrs["first_nonfinite_visit"]
    moments = predicted.second_moment.values
    np.testing.assert_array_equal(np.isfinite(moments), np.arange(701) < first)
    assert np.isposinf(moments[first:]).all()
    growth = float(moments[first - 1] / moments[first - 2])
    assert float(moments[first - 1]) > np.finfo(np.float64).max / growth  # the next value is truly out of range
    assert np.isfinite(predicted.covariance[:first, :first]).all()
    assert np.isfinite(predicted.increment_cosine[: first - 1, : first - 1]).all()
    assert np.isnan(predicted.increment_cosine[first - 1 :]).all()
    assert "first_nonfinite_visit" not in predict(Stack(loops=700, residual_scale="1/N")).attrs


@pytest.mark.parametrize("loops", [1, 3])
def test_a_scale_whose_square_overflows_is_named_too(loops: int) -> None:
    predicted = predict(Stack(loops=loops, residual_scale=1e200))
    assert predicted.attrs["first_nonfinite_visit"] == 1
    assert np.isposinf(predicted.second_moment[1:]).all()


# The Llama-like block
