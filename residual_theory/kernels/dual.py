"""Dual kernels of elementwise activations: E[φ(u)φ(v)] and E[φ'(u)φ'(v)] for a centred Gaussian pair (u, v).

With Φ the normal distribution function, sigmoids 2Φ(x/σ) − 1 have an arcsine for a kernel (erf: σ² = 1/2), and gates
x Φ(x/σ) an arcsine and a root (relu: σ = 0, gelu: σ = 1). The logistic distribution is a scale mixture of normals, so
tanh is a mixture of sigmoids and silu one of gates, good at every variance; where the variance is small their Hermite
series is quicker. Any other function has the series alone, with its error measured.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit, ndtr

from residual_theory.activation import refusal, values_at
from residual_theory.arrays import Array
from residual_theory.branches.law import Activation, DualKernel
from residual_theory.errors import InputError
from residual_theory.kernels.closed import Gates, Relu, Sigmoids, logistic_mixture
from residual_theory.kernels.hermite import Own, Series
from residual_theory.kernels.pairs import TINY, Kernel

_NEGATIVE_SLOPE = 0.01  # of leaky relu: torch's default
_MIXTURE, _FINER_MIXTURE = 10, 20  # spreads of a mixture, and of the one its error is measured by
_NAMED_TERMS = 256  # a mixture is quicker than more


class Dual(DualKernel, Protocol):
    """F(k, q, q') = E[φ(u)φ(v)] of one activation, for T positions of a left variable and U of each of m right ones.

    `state` is what is needed of one variable, (...) to (..., S); the variance itself comes first. `value` is F and
    `slope` ∂F/∂k = E[φ'(u)φ'(v)] (Price's theorem), both (m, T, U), at covariances (m, T, U), left states (T, S) and
    right states (m, U, S). `error` is a measured bound on |error of F| / √(E φ(u)² E φ(v)²), 0 for closed forms.
    """

    def error(self, variance: float) -> float: ...


def function_of(activation: Activation) -> Callable[[Array], Array]:
    """The numpy function φ itself.

    Arguments: activation: a name of ACTIVATIONS, or a vectorised numpy function of one real variable.
    Returns: φ, elementwise, float64 to float64.
    Raises: InputError for an unknown name, or a function that does not map arrays of floats to reals elementwise.

    >>> function_of("leaky-relu")(np.array([-2.0, 3.0])).tolist()
    [-0.02, 3.0]
    """
    function = _FUNCTIONS.get(activation) if isinstance(activation, str) else activation
    if not callable(function):
        raise InputError("activation", activation, f"give one of {', '.join(ACTIVATIONS)}, or a vectorised function")
    points = np.linspace(-3.0, 3.0, 62).reshape(2, 31)
    if not np.allclose(
        values_at(function, points[:, 7::5]), values_at(function, points)[:, 7::5], rtol=1e-6, atol=1e-9
    ):
        raise refusal(function, "must act on each element alone, always alike, and return no NaN")
    return function


def dual_of(activation: Activation) -> Dual:
    """The dual kernel of an activation.

    F = Σ_k a_k(q) a_k(q') c^k with a_k(q) = E[φ(√q x) h_k(x)], h_k the normalised Hermite polynomials and c = k/√(q q')
    clipped to [−1, 1], for a centred Gaussian pair. The names of ACTIVATIONS have closed forms or mixtures of them. Of
    other functions, what 1024 terms leave out stands in as one more term of each parity, so that F is exact at c = ±1
    when q = q'. Where φ has a kink the slope converges more slowly than F, by a factor of the number of terms.

    Arguments: activation: a name of ACTIVATIONS, or a vectorised numpy function of one real variable.
    Returns: a Dual; for a function of one's own, its `state` refuses a variance at which `error` is above 1e-6.
    Raises: InputError for an unknown name, and for a function that returns the wrong shape, complex numbers or NaN or
      is not square-integrable under the standard Gaussian.
    Source: derivations/relu_kernel.py, derivations/erf_kernel.py (Williams, NIPS 1996), derivations/gelu_kernel.py; the
      logistic mixture: Andrews and Mallows, J. R. Stat. Soc. B 36 (1974) 99.

    >>> dual = dual_of("erf")
    >>> left, right = dual.state(np.array([0.5])), dual.state(np.array([[1.5]]))
    >>> dual.value(np.array([[[0.7]]]), left, right).item()  # (2/π) arcsin(2k/√((1 + 2q)(1 + 2q')))
    0.3296...
    >>> dual.slope(np.array([[[0.7]]]), left, right).item()
    0.5180...
    """
    function = function_of(activation)
    return _make_dual(activation) if isinstance(activation, str) else Own(function)


@cache
def _make_dual(activation: str) -> Dual:
    if activation in ("tanh", "silu"):
        return _Blend(activation)
    if activation == "relu":
        return Relu()
    if activation == "erf":
        return Sigmoids(np.array([0.5]), np.ones(1))
    negative_slope = {"leaky-relu": _NEGATIVE_SLOPE, "linear": 1.0}.get(activation, 0.0)
    return Gates(np.array([float(activation == "gelu")]), np.ones(1), negative_slope)


class _Blend(Series):
    """tanh or silu: the series where both states have a short one, the mixture elsewhere."""

    def __init__(self, activation: str) -> None:
        super().__init__(_FUNCTIONS[activation], _NAMED_TERMS)
        kind, factor = (Sigmoids, 1) if activation == "tanh" else (Gates, 4)  # silu is x (1 + tanh(x/2))/2
        rules = [logistic_mixture(count) for count in (_MIXTURE, _FINER_MIXTURE)]
        self.mixture, self.finer = (kind(factor * spreads, weights) for spreads, weights in rules)

    def short(self, state: Array) -> NDArray[np.bool_]:
        return np.isfinite(state[..., 3]) & (state[..., 1:3] < self.count - 2).all(-1)

    def error(self, variance: float) -> float:
        q = np.array([[np.clip(float(variance), TINY, 1 / TINY)]])
        cosines = np.cos(np.pi / 2 * np.linspace(0, 1, 33) ** 3)  # dense near c = ±1
        covariance = q * np.concatenate([cosines, -cosines])[None, :, None]
        found, exact = (dual.value(covariance, q.repeat(66, 0), q[None]) for dual in (self.mixture, self.finer))
        series = super().error(q.item()) if self.short(self.state(q)).all() else 0.0
        return max(series, float(np.max(np.abs(found - exact)) / exact[0, 0, 0]))

    def value(self, covariance: Array, left: Array, right: Array) -> Array:
        return self._either(super().value, self.mixture.value, covariance, left, right)

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:
        return self._either(super().slope, self.mixture.slope, covariance, left, right)

    def _either(self, series: Kernel, mixture: Kernel, covariance: Array, left: Array, right: Array) -> Array:
        short = self.short(right).all(-1) & self.short(left).all()
        result = np.empty(covariance.shape)
        for kernel, some in ((series, short), (mixture, ~short)):
            where = slice(None) if some.all() else some  # no copies
            result[where] = kernel(covariance[where], left, right[where])
        return result


_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "leaky-relu": lambda x: np.where(x > 0, x, _NEGATIVE_SLOPE * x),
    "linear": np.positive,
    "erf": erf,
    "tanh": np.tanh,
    "gelu": lambda x: x * ndtr(x),
    "silu": lambda x: x * expit(x),
}
ACTIVATIONS: tuple[str, ...] = tuple(_FUNCTIONS)
