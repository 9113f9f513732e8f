"""Dual kernels in closed form: of sigmoids, of gates, and of mixtures of them such as tanh and silu."""

from collections.abc import Callable
from functools import cache

import numpy as np

from residual_theory.arrays import Array
from residual_theory.kernels.pairs import TINY, blockwise, cosines, size_of


class Sigmoids:
    """φ = Σ w (2Φ(x/σ) − 1), for which F = (2/π) Σ Σ w w' arcsin s.

    With α = q/(q + σ²), β = q'/(q' + σ'²) and x, y independent standard normal, s = c √(αβ) is the correlation of
    u + σx and v + σ'y. The kernels are functions of α, β, r = √(1 − s²) and t = s/r, and arcsin s = arctan t.
    """

    def __init__(self, spreads: Array, weights: Array) -> None:
        self.spreads, self.weights = spreads, weights

    def state(self, variance: Array) -> Array:
        return np.asarray(variance, dtype=np.float64)[..., None]

    def error(self, variance: float) -> float:
        return 0.0

    def value(self, covariance: Array, left: Array, right: Array) -> Array:
        total = self.total(covariance, left, right, lambda c, a, b, g, r, t: np.arctan(t))
        shares = (np.minimum(state[..., 0], TINY) / TINY for state in (left, right))  # F is linear below TINY
        return (2 / np.pi) * total * size_of(*shares)

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:  # √(αβ/(qq')) = 1/√((q + σ²)(q' + σ'²))
        terms = self.total(covariance, left, right, lambda c, a, b, g, r, t: g / r)
        return (2 / np.pi) * terms / size_of(np.maximum(left[..., 0], TINY), np.maximum(right[..., 0], TINY))

    def total(self, covariance: Array, left: Array, right: Array, terms: Callable[..., Array]) -> Array:
        """Σ Σ w w' terms(c, a, b, g, r, t) with a = 1 − α, b = 1 − β, g = √(αβ); σ' runs along a leading axis."""
        others = self.spreads[:, None, None, None]

        def kernel(k: Array, q: Array, other_q: Array) -> Array:
            c, square = cosines(k, q, other_q)
            q, other_q = np.maximum(q, TINY)[:, None], np.maximum(other_q, TINY)[:, None, :]
            b, root = 1 / (1 + other_q / others), np.sqrt(1 / (1 + others / other_q))
            total = np.zeros(k.shape)
            for weight, spread in zip(self.weights, self.spreads, strict=True):
                a, alpha = 1 / (1 + q / spread), 1 / (1 + spread / q)
                r = np.sqrt((square * alpha) * b + ((1 - square) + square * a))  # loses no digits near c = ±1
                r = np.maximum(r, TINY**0.5)
                t = (c * np.sqrt(alpha)) * root / r
                total += np.tensordot(weight * self.weights, terms(c, a, b, np.sqrt(alpha) * root, r, t), 1)
            return total

        return blockwise(kernel, covariance, left[..., 0], right[..., 0], len(self.spreads))


class Gates(Sigmoids):
    """φ = n x + (1 − n) Σ w x Φ(x/σ), n the negative slope: (1 + n) x/2 and an even part.

    F = ((1 + n)/2)² k + (1 − n)² √(q q')/(2π) Σ Σ w w' [c (arcsin s + ab t) + √(αβ) r], and
    ∂F/∂k = ((1 + n)/2)² + (1 − n)²/(2π) Σ Σ w w' [arcsin s + t (a + b + ab (1 + t²))].
    """

    def __init__(self, spreads: Array, weights: Array, negative_slope: float = 0.0) -> None:
        super().__init__(spreads, weights)
        self.odd, self.even = (1 + negative_slope) ** 2 / 4, (1 - negative_slope) ** 2 / (2 * np.pi)

    def value(self, covariance: Array, left: Array, right: Array) -> Array:
        if not self.even:  # a multiple of the covariance, whatever the variances
            return self.odd * covariance
        even = self.total(covariance, left, right, lambda c, a, b, g, r, t: c * (np.arctan(t) + a * b * t) + g * r)
        size = size_of(left[..., 0], right[..., 0])
        with np.errstate(all="ignore"):
            return self.odd * np.clip(covariance, -size, size) + self.even * size * even

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:
        return self.odd + self.even * self.total(
            covariance, left, right, lambda c, a, b, g, r, t: np.arctan(t) + t * (a + b + a * b * (1 + t**2))
        )


class Relu(Sigmoids):
    """max(x, 0), the gate of spread 0: F = √(q q')/(2π) [c (π/2 + arcsin c) + r] with r = √(1 − c²), for speed."""

    def __init__(self) -> None:
        super().__init__(np.zeros(1), np.ones(1))

    def value(self, covariance: Array, left: Array, right: Array) -> Array:
        def kernel(k: Array, q: Array, other_q: Array) -> Array:
            c, r, angle = _angles(k, q, other_q)
            return size_of(q, other_q) * (c * angle + r) / (2 * np.pi)

        return blockwise(kernel, covariance, left[..., 0], right[..., 0])

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:
        def kernel(k: Array, q: Array, other_q: Array) -> Array:
            return _angles(k, q, other_q)[2] / (2 * np.pi)

        return blockwise(kernel, covariance, left[..., 0], right[..., 0])


def _angles(k: Array, q: Array, other_q: Array) -> tuple[Array, Array, Array]:
    """c, r and π/2 + arcsin c; the angle from r, with which alone it cancels near c = ±1."""
    c, square = cosines(k, q, other_q)
    r = np.sqrt(1 - square)
    return c, r, np.pi / 2 + np.arctan(c / np.maximum(r, TINY**0.5))


@cache
def logistic_mixture(count: int) -> tuple[Array, Array]:
    """Spreads σ² and weights with tanh(x) ≈ Σ w (2Φ(x/σ) − 1): a Gauss rule in log σ for σ of Kolmogorov's law."""
    logs = np.arange(np.log(0.15), np.log(5.0), 0.02)
    k, sigma = np.arange(1, 41)[:, None], np.exp(logs)
    density = 8 * sigma * np.sum((-1.0) ** (k + 1) * k**2 * np.exp(-2 * (k * sigma) ** 2), axis=0)
    root = np.sqrt(np.maximum(density * sigma, 0.0))
    root /= np.linalg.norm(root)
    scaled = np.interp(logs, (logs[0], logs[-1]), (-1.0, 1.0))
    basis, _ = np.linalg.qr(root[:, None] * np.polynomial.legendre.legvander(scaled, count - 1))
    nodes, vectors = np.linalg.eigh(basis.T * logs @ basis)  # multiplication by log σ, on polynomials
    return np.exp(2 * nodes), (vectors.T @ (basis.T @ root)) ** 2
