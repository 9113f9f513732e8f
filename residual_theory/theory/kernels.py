"""Dual kernels: covariances of a branch's outputs at infinite width, given the covariance of its inputs.

Every kernel maps stacked covariances to stacked covariances: `covariance[i]` (T, T') holds ⟨h_t, h'_t'⟩/d between the
T positions of one visit and the T' positions of visit i; `left` (T) and `right[i]` (T') hold the mean squares.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from residual_theory.stack import LlamaStack, Stack

Array = NDArray[np.float64]
Kernel = Callable[[Array, Array, Array], Array]

_HERMITE_DEGREE = 40  # for silu(√v ·) what is left out of E[φφ'] is below 1e-12 of it for v ≤ 1, 2e-8 for v ≤ 4
_QUADRATURE_NODES = 160


def relu_dual(covariance: Array, left: Array, right: Array) -> Array:
    """E[relu(u) relu(v)] for a centred Gaussian pair of the given covariance and variances.

    F = √(q q') κ(c) with κ(c) = (sin θ + (π − θ) cos θ)/(2π) and θ = arccos c. Source: derivations/relu_kernel.py.

    >>> float(relu_dual(np.array([[[1.5]]]), np.array([3.0]), np.array([[3.0]]))[0, 0, 0]) / 3.0  # κ(1/2)
    0.30449889052211...
    """
    size = np.sqrt(left)[None, :, None] * np.sqrt(right)[:, None, :]  # the product of the two may overflow
    cosine = np.clip(np.divide(covariance, size, out=np.zeros_like(covariance), where=size > 0), -1.0, 1.0)
    theta = np.arccos(cosine)
    return np.asarray(size * (np.sin(theta) + (np.pi - theta) * cosine) / (2 * np.pi))


def linear_dual(covariance: Array, left: Array, right: Array) -> Array:
    """E[u v], the covariance itself."""
    return covariance


def normalised(covariance: Array, left: Array, right: Array, epsilon: float = 0.0) -> tuple[Array, Array, Array]:
    """The same three after each input is divided by its root mean square, √(q + epsilon)."""
    rms_left, rms_right = np.sqrt(left + epsilon), np.sqrt(right + epsilon)
    return (
        covariance / (rms_left[None, :, None] * rms_right[:, None, :]),
        (left / rms_left**2),
        (right / rms_right**2),
    )


def kernels_of(stack: Stack | LlamaStack) -> Mapping[str, Kernel]:
    """The kernel of every branch that the stack's visits name, weight variances included."""
    if isinstance(stack, LlamaStack):
        return _llama_kernels(stack)
    dual = {"relu": relu_dual, "linear": linear_dual}[stack.activation]

    def branch(covariance: Array, left: Array, right: Array) -> Array:
        if stack.normalization == "rms":
            covariance, left, right = normalised(covariance, left, right)
        return stack.weight_variance * dual(covariance, left, right)

    return {stack.activation: branch}


def _llama_kernels(stack: LlamaStack) -> Mapping[str, Kernel]:
    """Attention with uniform weights, v² U C Uᵀ, and SwiGLU, d_ff σ0² · v c · E[silu(√v x) silu(√v y)]; v = σ0² d.

    The attention logits have variance v² at most; their effect on the weights is left out, so the prediction is
    exact only as v → 0 (see docs/theory.md, "A Llama-like block").
    """
    tokens = len(stack.token_ids)
    averaging = np.tril(np.ones((tokens, tokens))) / np.arange(1, tokens + 1)[:, None]  # (query, key)
    variance = stack.init_std**2 * stack.width
    coefficients = hermite_coefficients(_silu, variance)

    def attention(covariance: Array, left: Array, right: Array) -> Array:
        cosine, _, _ = normalised(covariance, left, right, stack.norm_epsilon)
        return variance**2 * (averaging @ cosine @ averaging.T)

    def swiglu(covariance: Array, left: Array, right: Array) -> Array:
        cosine, _, _ = normalised(covariance, left, right, stack.norm_epsilon)
        gate = np.polynomial.polynomial.polyval(cosine, coefficients**2)
        return stack.mlp_width * stack.init_std**2 * variance * cosine * gate

    return {"attention": attention, "swiglu": swiglu}


def _silu(x: Array) -> Array:
    return x * expit(x)


@lru_cache(maxsize=32)
def hermite_coefficients(activation: Callable[[Array], Array], variance: float) -> Array:
    """Coefficients a_k of activation(√variance x) in normalised Hermite polynomials, so E[φφ'] = Σ a_k² c^k.

    Gauss–Hermite quadrature; returns a_0 … a_40.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE_NODES)
    weights = weights / np.sqrt(2 * np.pi)
    values = activation(np.sqrt(variance) * nodes)
    basis = np.empty((_HERMITE_DEGREE + 1, len(nodes)))  # normalised Hermite polynomials by their recurrence
    basis[0], basis[1] = 1.0, nodes
    for k in range(1, _HERMITE_DEGREE):
        basis[k + 1] = (nodes * basis[k] - np.sqrt(k) * basis[k - 1]) / np.sqrt(k + 1)
    return np.asarray(basis @ (weights * values))
