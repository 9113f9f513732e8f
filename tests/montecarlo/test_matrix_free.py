"""Products with matrices never formed: one matrix explains them all to rounding, and its law is exactly Gaussian.

Every check of the law allows a false alarm in 10⁵ (Bonferroni within it), 4·10⁻⁴ for all; seeds are fixed. The same
checks are run on planted errors, and fail.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from residual_theory.montecarlo import matrix_free
from residual_theory.montecarlo.dense import Dense
from residual_theory.montecarlo.matrix_free import MatrixFree, _Side
from residual_theory.montecarlo.randomness import PIECE, Normals, Rows
from residual_theory.montecarlo.simulate import simulate
from residual_theory.montecarlo.streams import ForwardPass, Weights
from residual_theory.stack import Stack
from residual_theory.theory.finite_width import second_moment_at_width

F64 = torch.float64
CPU = torch.device("cpu")
FALSE_ALARM = 1e-5
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda x: x}
Exact = NDArray[np.longdouble]
Pairs = list[tuple[torch.Tensor, torch.Tensor]]  # what a matrix was multiplied with, and the product


class Gaussians(Normals):
    """Many trials at once from one generator."""

    def __init__(self, seed: int) -> None:
        self._generator_of_all = np.random.default_rng([seed, 1])  # not that of the inputs
        self.earlier: Any = None  # for a planted error

    def numbers(self, shape: torch.Size) -> torch.Tensor:
        return normal(self._generator_of_all, *shape)

    def fill(self, out: torch.Tensor) -> None:
        out.copy_(self.numbers(out.shape))


class Unplanted(Gaussians):
    """For the matrices in full that MatrixFree is compared with."""

    numbers = Gaussians.numbers  # kept when an error is planted in the other


def normal(random: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape))


def drawn(shape: tuple[int, int], products: int, trials: int, seed: int, kind: torch.dtype = F64) -> MatrixFree:
    return MatrixFree(shape, products, Gaussians(seed), Rows(CPU), torch.empty(trials, dtype=kind), transposed=True)


def exact(x: torch.Tensor) -> Exact:
    return x.numpy().astype(np.longdouble)


def norm(x: Exact) -> Exact:
    return np.asarray(np.sqrt((x**2).sum(axis=-1)))


def last(estimate: xr.Dataset) -> tuple[float, float]:
    return float(estimate.second_moment[-1]), float(estimate.second_moment_stderr[-1])


def plausible(p_values: Any) -> None:
    p = np.concatenate([np.ravel(part) for part in p_values])
    assert p.min() * len(p) > FALSE_ALARM, p.argmin()  # false for NaN too


# To rounding


def check_basis(
    weights: MatrixFree, inputs: list[torch.Tensor], cotangents: list[torch.Tensor], tolerance: float = 0.0
) -> None:
    """Directions are orthonormal, and every vector is the combination of them that was noted, to 45ε = 10⁻¹⁴."""
    for side, given_vectors in ((weights._right, inputs), (weights._left, cotangents)):
        rounding, smallest = torch.finfo(side.vectors.dtype).eps, torch.finfo(side.vectors.dtype).tiny ** 0.5
        with np.errstate(invalid="ignore"):
            q = exact(side.inverse[:, : side.count, : side.count]) @ exact(side.vectors[:, : side.count])
        assert np.isfinite(q).all()
        gram = q @ q.swapaxes(1, 2)
        kept = np.diagonal(gram, axis1=1, axis2=2) > 0.5  # a trial may have fewer than the others of its block
        np.testing.assert_allclose(gram, kept[:, :, None] * np.eye(side.count), rtol=0, atol=45 * rounding)
        if given_vectors:
            x = exact(torch.cat(given_vectors, dim=1))
            assert side.inputs == x.shape[1]
            rest = x - exact(side.coordinates[:, : side.inputs, : side.count]) @ q
            assert (norm(rest) <= (45 * rounding + tolerance) * norm(x) + smallest).all()


def check_history(
    kinds: list[tuple[bool, list[str]]], shape: tuple[int, int], inputs: int, dtype: torch.dtype, seed: int
) -> None:
    """One matrix explains all products, which makes them linear and adjoint to each other.

    Arguments: kinds: for each product, whether with W rather than Wᵀ, and what each trial's inputs are.
    """
    random, trials = np.random.default_rng(seed), len(kinds[0][1])
    weights = drawn(shape, inputs * (len(kinds) + max(shape)), trials, seed, dtype)  # more products than dimensions
    forward: Pairs = []
    backward: Pairs = []
    for onward, kind in kinds:
        pairs, size = (forward, shape[1]) if onward else (backward, shape[0])
        past = torch.cat([x for x, _ in pairs], dim=1) if pairs else normal(random, trials, inputs, size).to(dtype)
        every = [_input(kind[t], past[t], i - inputs, random) for t in range(trials) for i in range(inputs)]
        x = torch.stack(every).reshape(trials, inputs, size)
        pairs.append((x, weights.multiply(x) if onward else weights.multiply_transposed(x, len(backward))))
    units = torch.eye(shape[1], dtype=dtype).expand(trials, -1, -1)
    known = [(x, weights.multiply(x)) for x in (units[:, i : i + 1].repeat(1, inputs, 1) for i in range(shape[1]))]
    check_basis(weights, [x for x, _ in forward + known], [u for u, _ in backward])
    W = exact(torch.stack([product[:, 0] for _, product in known], dim=2))
    scale, limits = norm(W.reshape(trials, -1))[:, None], torch.finfo(dtype)
    for pairs, matrix in ((forward, W), (backward, W.swapaxes(1, 2))):
        for x, product in pairs:
            gap = exact(product) - np.einsum("brc,bic->bir", matrix, exact(x))
            assert (norm(gap) <= scale * (45 * limits.eps * norm(exact(x)) + limits.tiny**0.5)).all()


def _input(kind: str, past: torch.Tensor, last: int, random: np.random.Generator) -> torch.Tensor:
    """An input (size,) after those of the past (input, size), of which number `last` is its own predecessor."""
    large = {F64: 1e150, torch.float32: 1e15}[past.dtype]
    new = normal(random, past.shape[1]).to(past.dtype)
    one = past[int(random.integers(len(past)))]
    return {
        "new": new,
        "huge": new * large,
        "tiny": new / large,
        "zero": torch.zeros_like(new),
        "unit": torch.eye(len(new), dtype=new.dtype)[0],
        "repeated": one,
        "last": past[last],
        "half": past[last] * (0.5 + 1e-12 * new),
        "smaller": past[last] * 1e-11 * new,
        "combined": 0.3 * one - 0.6 * past[last],
        "close": one * (1 + 45 * torch.finfo(new.dtype).eps * new),
        "closer": past[last] * (1 + 1e-3 * new),
    }[kind]


KINDS = ["new", "huge", "tiny", "zero", "unit", "repeated", "last", "half", "smaller", "combined", "close", "closer"]


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
@settings(max_examples=150)
@given(
    kinds=st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(KINDS), min_size=3, max_size=3)), min_size=1),
    shape=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    inputs=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@example(kinds=[(True, [kind] * 3) for kind in ("new", "half", "smaller")], shape=(6, 7), inputs=1, seed=0)
def test_one_matrix_explains_every_product(
    dtype: torch.dtype, kinds: list[tuple[bool, list[str]]], shape: tuple[int, int], inputs: int, seed: int
) -> None:
    check_history(kinds, shape, inputs, dtype, seed)


def check_chain(
    inputs: int = 1, width: int = 96, dtype: torch.dtype = F64, tolerance: float | None = None, **fields: Any
) -> int:
    """The streams of a stack of one matrix and its backward pass, as they come; the number of directions stored."""
    random, made = np.random.default_rng(3), []
    start = (normal(random, 2, 1, width) + 1e-3 * normal(random, 2, inputs, width)).to(dtype)
    seen: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])

    class Watched(MatrixFree):
        def multiply(self, x: torch.Tensor) -> torch.Tensor:
            seen[0].append(x.detach().clone())
            return super().multiply(x)

        def multiply_transposed(self, u: torch.Tensor, call: int) -> torch.Tensor:
            seen[1].append(u.clone())
            return super().multiply_transposed(u, call)

    def draw(shape: tuple[int, int], products: int) -> Weights:
        made.append(Watched(shape, products, Gaussians(4), Rows(CPU), start, transposed=True, tolerance=tolerance))
        return made[-1]

    run = ForwardPass(Stack(**fields), start, draw, with_gradients=True)
    run.backward(normal(random, 2, 1, width).to(dtype))
    check_basis(made[0], *seen, tolerance or 0.0)
    return made[0]._right.count


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
@pytest.mark.parametrize("rule", ["1/N", "1/sqrt(N)", "1"])
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_the_basis_of_a_stack_is_orthonormal(activation: str, rule: str, dtype: torch.dtype) -> None:
    """Linear loops at ε = 1/N are the most ill-conditioned: the N inputs span a few directions up to rounding."""
    check_chain(loops=40, residual_scale=rule, activation=activation, dtype=dtype)
    check_chain(loops=12, residual_scale=rule, activation=activation, dtype=dtype, inputs=4)


def test_the_basis_of_rough_and_long_paths_and_of_long_vectors_is_orthonormal() -> None:
    check_chain(loops=64, residual_scale=1.0, carry=0.0, weight_variance=9.0, activation="tanh")
    check_chain(loops=256, residual_scale=0.01, width=300)
    check_chain(loops=192, residual_scale="1/N", width=300, activation="tanh")
    check_chain(loops=6, residual_scale=0.3, width=2 * PIECE + 77)


def test_smooth_chains_store_few_directions() -> None:
    """By default what rounding leaves is dropped; with a tolerance, no more than that share of any vector."""
    smooth: Any = {"loops": 64, "residual_scale": "1/N", "activation": "linear"}
    assert check_chain(loops=64, residual_scale="1") == 64
    counts = [check_chain(**smooth, tolerance=tolerance) for tolerance in (None, 1e-9, 1e-6, 1e-3)]
    assert 1 < counts[3] < counts[2] < counts[1] < 32 < counts[0] < 64
    assert check_chain(**smooth, dtype=torch.float32) < 32


# In law


def program(weights: Weights, x: torch.Tensor, activation: str) -> NDArray[np.float64]:
    """Products with W and Wᵀ whose inputs depend on those before, and what is known of their joint law (trial, …)."""
    phi, columns = ACTIVATIONS[activation], x.shape[2]
    y = weights.multiply(x)
    rows, u = y.shape[2], phi(y)
    b = weights.multiply_transposed(u, 0)
    x2 = phi(x + b / rows**0.5)
    y2 = weights.multiply(x2)
    u2 = y2 / columns**0.5 - phi(y)
    b2 = weights.multiply_transposed(u2, 1)
    x3 = phi(x2 + b2 / rows**0.5)
    y3 = weights.multiply(x3)
    found = [y3[:, 0, 0], b2[:, -1, -1], y[:, 0, -1] * y3[:, -1, -1], b[:, 0, 0] * x3[:, -1, 0]]
    for group in ((y, u2, y2, y3), (x, b, x2, b2, x3)):
        vectors = torch.stack(group, dim=2)  # (trial, input, vector, n)
        gram = (vectors @ vectors.mT).mean(dim=1)
        found += [gram[:, i, j] for i in range(len(group)) for j in range(i + 1)]
    return torch.stack(found, dim=1).numpy()


def check_two_samples(width: int, activation: str, inputs: int = 1) -> None:
    """The joint law of adaptive products is that of matrices held in full: Kolmogorov–Smirnov and Mann–Whitney."""
    trials = max(2000, min(12_000, 600_000 // width**2))
    random, shape = np.random.default_rng(width), (width, width)
    x, other = (normal(random, trials, inputs, width) for _ in range(2))
    ours = program(drawn(shape, 3 * inputs, trials, seed=width), x, activation)
    theirs = program(Dense(shape, Unplanted(width), other, transposed=True), other, activation)
    pairs = list(zip(ours.T, theirs.T, strict=True))
    shapes = [stats.ks_2samp(a, b, method="asymp").pvalue for a, b in pairs]
    plausible([shapes, [stats.mannwhitneyu(a, b).pvalue for a, b in pairs]])


def check_recovered_law(rows: int, columns: int, activation: str | None) -> None:
    """W itself, recovered after a history of adaptive products or none, has independent standard normal entries."""
    random, trials = np.random.default_rng(rows + 100 * columns), max(1500, 5000 - 20 * rows * columns)
    weights, x = drawn((rows, columns), 3 + columns, trials, seed=rows), normal(random, trials, 1, columns)
    if activation is not None:
        program(weights, x, activation)
    turned = torch.linalg.qr(normal(random, columns, columns)).Q  # any orthonormal inputs
    images = [weights.multiply(unit.expand(trials, 1, -1)) for unit in turned]
    W = (torch.cat(images, dim=1).mT @ turned).numpy()
    entries = W.reshape(trials, -1)
    product = np.einsum("brc,bc->br", W, x[:, 0].numpy()) / np.linalg.norm(x, axis=2)
    picked = entries[:, random.permutation(rows * columns)[:16]]
    bits = np.sign(np.concatenate([picked, np.abs(picked) - stats.norm.isf(0.25)], axis=1))  # fair and independent
    pairs = (bits.T @ bits)[np.triu_indices(bits.shape[1], k=1)]
    z = np.concatenate([bits.sum(axis=0), (bits[1:] * bits[:-1]).sum(axis=0), pairs]) / math.sqrt(trials)
    size = (entries**2).sum()
    matrices = W[:1000], random.standard_normal((1000, rows, columns))
    singular, others = (np.linalg.svd(part, compute_uv=False) for part in matrices)
    laws = [stats.kstest(part, "norm").pvalue for part in (entries.ravel()[:20_000], product[:, 0])]
    sizes = [stats.chi2.cdf(size, entries.size), stats.chi2.sf(size, entries.size)]
    spectra = [stats.ks_2samp(singular[:, i], others[:, i]).pvalue for i in (0, -1)]
    plausible([laws, sizes, spectra, 2 * stats.norm.sf(np.abs(z))])


def check_polynomials(trials: int = 10_000) -> None:
    """E R² of linear stacks of few entries, against Wick's theorem: 12 values, 5 standard errors."""
    for number, (fields, width) in enumerate(WICK):
        stack = Stack(**LINEAR, **fields)
        start = normal(np.random.default_rng(number), trials, 1, width) * 0.7**0.5
        normals = Gaussians(number)

        def draw(shape: tuple[int, int], products: int, n: Normals = normals, x: torch.Tensor = start) -> Weights:
            return MatrixFree(shape, products, n, Rows(CPU), x)

        squares = ForwardPass(stack, start, draw).streams[-1].square().mean(dim=(1, 2)).numpy()
        stderr = squares.std(ddof=1) / math.sqrt(trials)
        assert abs(squares.mean() - second_moment_at_width(stack, width)) < 5 * stderr, (fields, width)


LINEAR: Any = {"residual_scale": 0.6, "activation": "linear", "weight_variance": 1.3, "initial_variance": 0.7}
WICK: list[tuple[dict[str, Any], int]] = [
    *(({"loops": 2}, width) for width in (3, 4, 16)),
    *(({"loops": 3}, width) for width in (4, 5, 8, 64)),
    ({"loops": 2, "unique_layers": 2}, 3),
    ({"loops": 2, "unique_layers": 2, "sharing": "consecutive"}, 6),
    ({"loops": 3, "sharing": (0, 1, 0)}, 3),
    ({"loops": 4, "sharing": (1, 0, 0, 1)}, 5),
    ({"loops": 3, "tied": False}, 4),
]


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize(("width", "inputs"), [(2, 1), (3, 1), (8, 1), (9, 3), (24, 1), (64, 1)])
def test_adaptive_products_have_the_law_of_dense_ones(width: int, inputs: int, activation: str) -> None:
    check_two_samples(width, activation, inputs)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("shape", [(2, 2), (3, 7), (7, 3), (16, 16)], ids=str)
def test_the_recovered_matrix_is_gaussian(shape: tuple[int, int], activation: str | None) -> None:
    check_recovered_law(*shape, activation)


def test_second_moments_obey_their_polynomials() -> None:
    check_polynomials(trials=50_000)


def test_a_tolerance_changes_the_law_by_no_more() -> None:
    """R² is quadratic in the streams, so that leaving out a share t of a vector changes it by 2t or less."""
    for residual_scale, tolerance in ((0.1, 0.02), (1.0, 0.9)):
        stack = Stack(loops=3, residual_scale=residual_scale, activation="linear", weight_variance=1.3)
        whole, cut = (simulate(stack, width=8, samples=8000, seed=2, tolerance=t) for t in (None, tolerance))
        exactly, (found, stderr) = second_moment_at_width(stack, 8), last(cut)
        small = abs(found - exactly) < 2 * 0.02 * exactly + 5 * stderr
        assert small == (tolerance == 0.02)
        assert found != last(whole)[0]  # something is dropped


def test_numbers_of_trials_and_pieces_are_independent() -> None:
    out = torch.empty(3, 3 * PIECE)
    Normals(5, (7,), range(3), Rows(CPU), CPU).fill(out)
    parts = out.reshape(9, PIECE).double().numpy()
    plausible([[stats.kstest(part, "norm").pvalue for part in parts]])
    plausible([2 * stats.norm.sf(np.abs(parts @ parts.T)[np.triu_indices(9, k=1)] / math.sqrt(PIECE))])


@pytest.mark.parametrize(("fields", "width"), WICK, ids=str)
def test_simulated_second_moments_obey_their_polynomials(fields: dict[str, Any], width: int) -> None:
    stack = Stack(**LINEAR, **fields)
    estimate = simulate(stack, width=width, samples=4000, seed=12)
    assert estimate.attrs["method"] == "Monte Carlo, matrix-free"
    found, stderr = last(estimate)
    assert abs(found - second_moment_at_width(stack, width)) < 5 * stderr


# Planted errors

_numbers, _keep, _resolve = Gaussians.numbers, _Side.keep, _Side.resolve


def _reused(normals: Gaussians, shape: torch.Size) -> torch.Tensor:
    """The numbers of one direction once more for the next."""
    again = normals.earlier is not None and normals.earlier.shape == shape
    numbers: torch.Tensor = normals.earlier if again else _numbers(normals, shape)
    normals.earlier = None if again else numbers
    return numbers


def _whole_norm(side: Any, x: torch.Tensor, *rest: Any) -> Any:
    found = _resolve(side, x, *rest)
    size = side.coordinates[:, side.inputs - 1, side.count]
    size.copy_(torch.linalg.vector_norm(x, dim=1) * (size > 0))
    return found


CHECKS: dict[str, Callable[[], Any]] = {
    "history": lambda: check_history([(i % 3 < 2, [k] * 3) for i, k in enumerate(KINDS * 2)], (6, 7), 1, F64, 5),
    "chain": lambda: check_chain(loops=64, residual_scale="1/N"),
    "two samples": lambda: check_two_samples(8, "tanh"),
    "recovered": lambda: check_recovered_law(5, 5, "tanh"),
    "polynomials": check_polynomials,
}
ROUNDING, LAW = ("history", "chain"), ("two samples", "recovered", "polynomials")
PLANTED: dict[str, tuple[object, str, object, tuple[str, ...]]] = {
    "no second pass": (matrix_free, "_INDEPENDENT", 0.0, ROUNDING),
    "nothing orthogonalised": (_Side, "keep", lambda side, c, *rest: _keep(side, 0 * c, *rest), (*ROUNDING, LAW[0])),
    "whole norm as size": (_Side, "resolve", _whole_norm, ROUNDING + LAW),
    "other side forgotten": (_Side, "add_span", lambda *_: None, ("history", "two samples")),
    "a Gaussian reused": (Gaussians, "numbers", _reused, LAW),
    "variance 1.05": (Gaussians, "numbers", lambda n, shape: _numbers(n, shape) * 1.05**0.5, LAW),
    "trials share a Gaussian": (Gaussians, "numbers", lambda n, shape: _numbers(n, shape)[:1].expand(shape), LAW),
}


@pytest.mark.parametrize("name", list(PLANTED))
def test_planted_errors_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, attribute, replacement, checks = PLANTED[name]
    monkeypatch.setattr(target, attribute, replacement)
    for check in checks:
        with pytest.raises(AssertionError):
            CHECKS[check]()
