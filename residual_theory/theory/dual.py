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

from residual_theory.errors import InputError

Array = NDArray[np.float64]
Activation = str | Callable[[Array], Array]
_Kernel = Callable[[Array, Array, Array], Array]  # covariance, left, right

_NEGATIVE_SLOPE = 0.01  # of leaky relu: torch's default
_BLOCK = 2**15  # entries evaluated together: a few arrays of them stay in cache
_TINY = 1e-300  # stands in for a variance of zero where that would divide
_MIXTURE, _FINER_MIXTURE = 10, 20  # spreads of a mixture, and of the one its error is measured by
_REACH, _FINE, _COARSE = 20, 32, 24  # unit panels of 32 Gauss–Legendre nodes each, and of 24 to measure the error by
_NAMED_TERMS, _OWN_TERMS = 256, 1024  # a mixture is quicker than more than 256 terms; a kinked function has none
_NEGLIGIBLE, _NOISE = 3e-9, 1e-15  # of the norm: two such make less than 1e-17; rounding leaves so much of nothing
_SMALL = 1e-11  # the variance at which φ'(0) is read off beside φ(0): rounding and curvature both cost about 1e-11
_LARGEST_ERROR = 1e-6


class Dual(Protocol):
    """F(k, q, q') = E[φ(u)φ(v)] of one activation, for T positions of a left variable and U of each of m right ones.

    `state` is what is needed of one variable, (...) to (..., S); the variance itself comes first. `value` is F and
    `slope` ∂F/∂k = E[φ'(u)φ'(v)] (Price's theorem), both (m, T, U), at covariances (m, T, U), left states (T, S) and
    right states (m, U, S). `error` is a measured bound on |error of F| / √(E φ(u)² E φ(v)²), 0 for closed forms.
    """

    def state(self, variance: Array) -> Array: ...
    def value(self, covariance: Array, left: Array, right: Array) -> Array: ...
    def slope(self, covariance: Array, left: Array, right: Array) -> Array: ...
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
    if not np.allclose(_values(function, points[:, 7::5]), _values(function, points)[:, 7::5], rtol=1e-6, atol=1e-9):
        raise _refusal(function, "must act on each element alone, always alike, and return no NaN")
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
    return _named(activation) if isinstance(activation, str) else _Own(function)


@cache
def _named(activation: str) -> Dual:
    if activation in ("tanh", "silu"):
        return _Blend(activation)
    if activation == "erf":
        return _Closed(np.array([0.5]), np.ones(1))
    negative_slope = {"leaky-relu": _NEGATIVE_SLOPE, "linear": 1.0}.get(activation, 0.0)
    return _Gates(np.array([float(activation == "gelu")]), np.ones(1), negative_slope)


def _cosines(covariance: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """c and c², clipped. The quotients make c exactly 1 where the covariance is the variance, and do not overflow."""
    left, right = left[:, None], right[:, None, :]
    square = np.minimum((covariance / left) * (covariance / right), 1.0)
    square = np.where((left > 0) & np.isfinite(left) & ((right > 0) & np.isfinite(right)), square, 0.0)
    return np.copysign(np.sqrt(square), covariance), square


def _size(left: Array, right: Array) -> Array:
    """√(q q'), without overflow."""
    return np.sqrt(left)[:, None] * np.sqrt(right)[:, None, :]


def _blockwise(kernel: _Kernel, covariance: Array, left: Array, right: Array, block: int = _BLOCK) -> Array:
    """The kernel on runs of right variables short enough to stay in cache."""
    result = np.empty(covariance.shape)
    step = max(1, block // max(1, covariance[:1].size))
    with np.errstate(all="ignore"):
        for i in range(0, len(covariance), step):
            result[i : i + step] = kernel(covariance[i : i + step], left, right[i : i + step])
    return result


class _Closed:
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
        return (2 / np.pi) * self.total(covariance, left, right, lambda c, a, b, g, r, t: np.arctan(t))

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:  # √(αβ/(qq')) = 1/√((q + σ²)(q' + σ'²))
        terms = self.total(covariance, left, right, lambda c, a, b, g, r, t: g / r)
        return (2 / np.pi) * terms / _size(np.maximum(left[..., 0], _TINY), np.maximum(right[..., 0], _TINY))

    def total(self, covariance: Array, left: Array, right: Array, terms: Callable[..., Array]) -> Array:
        """Σ Σ w w' terms(c, a, b, g, r, t) with a = 1 − α, b = 1 − β, g = √(αβ); σ' runs along a leading axis."""
        others = self.spreads[:, None, None, None]

        def kernel(k: Array, q: Array, other_q: Array) -> Array:
            c, square = _cosines(k, q, other_q)
            q, other_q = np.maximum(q, _TINY)[:, None], np.maximum(other_q, _TINY)[:, None, :]
            b, root = 1 / (1 + other_q / others), np.sqrt(1 / (1 + others / other_q))
            total = np.zeros(k.shape)
            for weight, spread in zip(self.weights, self.spreads, strict=True):
                a, alpha = 1 / (1 + q / spread), 1 / (1 + spread / q)
                r = np.sqrt((square * alpha) * b + ((1 - square) + square * a))  # loses no digits near c = ±1
                r = np.maximum(r, _TINY**0.5)
                t = (c * np.sqrt(alpha)) * root / r
                total += np.tensordot(weight * self.weights, terms(c, a, b, np.sqrt(alpha) * root, r, t), 1)
            return total

        return _blockwise(kernel, covariance, left[..., 0], right[..., 0], _BLOCK // len(self.spreads))


class _Gates(_Closed):
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
        size = _size(left[..., 0], right[..., 0])
        with np.errstate(all="ignore"):
            return self.odd * np.clip(covariance, -size, size) + self.even * size * even

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:
        return self.odd + self.even * self.total(
            covariance, left, right, lambda c, a, b, g, r, t: np.arctan(t) + t * (a + b + a * b * (1 + t**2))
        )


@cache
def _logistic_mixture(count: int) -> tuple[Array, Array]:
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


# Of n variances: a_k, then √(E φ² − Σ a_k²), by parity (n, 2, terms/2 + 1); E φ² (n,); its share from |x| > 16 (n,).
_Coefficients = tuple[Array, Array, Array]


class _Quadrature:
    """Hermite coefficients by Gauss–Legendre panels; even and odd part are taken apart, so a kink at 0 does no harm."""

    def __init__(self, nodes: int, terms: int) -> None:
        unit, weights = np.polynomial.legendre.leggauss(nodes)
        self.x = (np.arange(_REACH)[:, None] + (unit + 1) / 2).ravel()
        root = np.exp(-(self.x**2) / 4) / (2 * np.pi) ** 0.25  # of the Gaussian density
        self.weights = np.tile(weights, _REACH) * root**2  # both half-lines together
        basis = np.empty((terms, len(self.x)))  # Hermite functions, whose three-term recurrence is stable
        basis[0], basis[1] = root, self.x * root
        for k in range(1, terms - 1):
            basis[k + 1] = (self.x * basis[k] - np.sqrt(k) * basis[k - 1]) / np.sqrt(k + 1)
        basis *= self.weights / root
        self.bases = basis[::2].T.copy(), basis[1::2].T.copy()

    def __call__(self, function: Callable[[Array], Array], variance: Array) -> _Coefficients:
        with np.errstate(all="ignore"):
            points = np.sqrt(variance)[:, None] * self.x
            above, below = _values(function, points), _values(function, -points)
            parts = (above + below) / 2, (above - below) / 2
            values = np.stack([part @ basis for part, basis in zip(parts, self.bases, strict=True)], 1)
            density = self.weights * (above**2 + below**2) / 2
            square = density.sum(-1)  # inf beyond float64, NaN where φ is
            rest = np.stack([part**2 @ self.weights for part in parts], -1) - np.sum(values**2, -1)
            rest[~(rest > 1e-14 * square[:, None])] = 0.0  # rounding alone could have left as much
            outer = density[:, self.x > 0.8 * _REACH].sum(-1) / square
        return np.concatenate([values, np.sqrt(rest)[..., None]], -1), square, outer


class _Series:
    """F = Σ e_j e'_j c^2j + Σ o_j o'_j c^(2j+1), with e and o the even and the odd Hermite coefficients.

    A state is q, the last e and the last o that matter, all e, all o; e and o end in the norm of what they leave out.
    """

    def __init__(self, function: Callable[[Array], Array], terms: int) -> None:
        self.function, self.count = function, terms // 2 + 1  # of each parity
        self.fine, self.coarse = _Quadrature(_FINE, terms), _Quadrature(_COARSE, terms)
        small = np.array([_SMALL if _values(function, np.zeros(1))[0] else _TINY])
        self.start = self.fine(function, small)[0][0, 1, 0] / np.sqrt(small[0])  # φ'(0)

    def state(self, variance: Array) -> Array:
        q = np.asarray(variance, dtype=np.float64)
        return self.packed(q.ravel(), self.fine(self.function, q.ravel())).reshape(*q.shape, -1)

    def packed(self, q: Array, found: _Coefficients) -> Array:
        values, norm = found[0].copy(), np.sqrt(found[1])
        with np.errstate(all="ignore"):
            values[np.abs(values) < _NOISE * norm[:, None, None]] = 0.0
            lost = (q < _SMALL) & (np.abs(values[:, 1, 0]) <= 1e-4 * norm)  # φ' beside φ(0)
            unit = np.where(q > 0, q, 1.0)  # where q = 0 the slope alone reads this coefficient, as φ'(0)
            values[lost, 1, 0] = self.start * np.sqrt(unit[lost])
            values[~np.isfinite(norm)] = 0.0
            values[~np.isfinite(norm), 0, 0] = np.where(np.isfinite(q), norm, np.nan)[~np.isfinite(norm)]
            varying = np.sqrt(np.sum(values**2, (1, 2)) - values[:, 0, 0] ** 2)
            matters = np.abs(values) > _NEGLIGIBLE * varying[:, None, None]
        matters[:, 0, 0] = True
        last = np.where(matters.any(-1), self.count - 1 - np.argmax(matters[..., ::-1], -1), -1)
        return np.concatenate([q[:, None], last, values[:, 0], values[:, 1]], -1)

    def error(self, variance: float) -> float:
        return float(self.errors(np.array([variance]), self.fine(self.function, np.array([variance])))[0])

    def errors(self, q: Array, found: _Coefficients) -> Array:
        """What other nodes make of coefficients and of E φ², what is left out and what is far out, relative to E φ²."""
        (values, square, outer), (others, other_square, _) = found, self.coarse(self.function, q)
        with np.errstate(all="ignore"):
            moved = np.sqrt(np.sum((values - others)[..., :-1] ** 2, (1, 2)) / square)
            moved += (np.abs(square - other_square) + np.sum(values[..., -1] ** 2, -1)) / square
            errors = np.where(square == 0, 0.0, 2 * moved + outer)  # twice, for a pair of unlike variances
        return np.where(np.isfinite(errors), errors, np.inf)

    def value(self, covariance: Array, left: Array, right: Array) -> Array:
        def kernel(k: Array, left: Array, right: Array) -> Array:
            c, square = _cosines(k, left[:, 0], right[..., 0])
            return self.polynomial(square, left, right, 0) + c * self.polynomial(square, left, right, 1)

        return _blockwise(kernel, covariance, left, right)

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:
        def kernel(k: Array, left: Array, right: Array) -> Array:
            c, square = _cosines(k, left[:, 0], right[..., 0])
            odd, even = (self.polynomial(square, left, right, parity, derivative=True) for parity in (1, 0))
            return (odd + c * even) / _size(*(np.where(q > 0, q, 1.0) for q in (left[:, 0], right[..., 0])))

        return _blockwise(kernel, covariance, left, right)

    def polynomial(self, square: Array, left: Array, right: Array, parity: int, derivative: bool = False) -> Array:
        """Σ_j e_j e'_j c^2j or Σ_j o_j o'_j c^2j as far as it matters; or of k a_k a'_k with k = 2j or 2j + 1."""
        last = int(max(left[:, 1 + parity].max(), right[..., 1 + parity].max()))
        if (left[:, 0] == left[0, 0]).all() and (right[..., 0] == left[0, 0]).all():
            left, right = left[:1], right[:1, :1]  # one variance everywhere, as after a normalisation
        orders = np.arange(int(derivative and not parity), last + 1)  # the constant has no derivative
        first = (left[:, 3 + parity * self.count + orders] * (2 * orders + parity if derivative else 1)).T
        second = np.ascontiguousarray(np.moveaxis(right[..., 3 + parity * self.count + orders], -1, 0))
        total, term = np.zeros(square.shape), np.empty((len(right), len(left), right.shape[1]))
        for u, v in zip(first[::-1], second[::-1], strict=True):  # Horner's rule
            total *= square
            total += np.multiply(u[:, None], v[:, None, :], out=term)
        return total


class _Blend(_Series):
    """tanh or silu: the series where both states have a short one, the mixture elsewhere."""

    def __init__(self, activation: str) -> None:
        super().__init__(_FUNCTIONS[activation], _NAMED_TERMS)
        kind, factor = (_Closed, 1) if activation == "tanh" else (_Gates, 4)  # silu is x (1 + tanh(x/2))/2
        rules = [_logistic_mixture(count) for count in (_MIXTURE, _FINER_MIXTURE)]
        self.mixture, self.finer = (kind(factor * spreads, weights) for spreads, weights in rules)

    def short(self, state: Array) -> NDArray[np.bool_]:
        return np.isfinite(state[..., 3]) & (state[..., 1:3] < self.count - 2).all(-1)

    def error(self, variance: float) -> float:
        q = np.array([[np.clip(float(variance), _TINY, 1 / _TINY)]])
        cosines = np.cos(np.pi / 2 * np.linspace(0, 1, 33) ** 3)  # dense near c = ±1
        covariance = q * np.concatenate([cosines, -cosines])[None, :, None]
        found, exact = (dual.value(covariance, q.repeat(66, 0), q[None]) for dual in (self.mixture, self.finer))
        series = super().error(variance) if self.short(self.state(q)).all() else 0.0
        return max(series, float(np.max(np.abs(found - exact)) / exact[0, 0, 0]))

    def value(self, covariance: Array, left: Array, right: Array) -> Array:
        return self._either(super().value, self.mixture.value, covariance, left, right)

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:
        return self._either(super().slope, self.mixture.slope, covariance, left, right)

    def _either(self, series: _Kernel, mixture: _Kernel, covariance: Array, left: Array, right: Array) -> Array:
        short = self.short(right).all(-1) & self.short(left).all()
        result = np.empty(covariance.shape)
        for kernel, some in ((series, short), (mixture, ~short)):
            where = slice(None) if some.all() else some  # no copies
            result[where] = kernel(covariance[where], left, right[where])
        return result


class _Own(_Series):
    """The series of a user's function, which refuses to be wrong by more than 1e-6."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        super().__init__(function, _OWN_TERMS)
        _, square, outer = self.fine(self.function, np.ones(1))
        if not (np.isfinite(square[0]) and outer[0] <= _LARGEST_ERROR) and square[0] != 0:
            raise _refusal(function, "is not square-integrable under the standard Gaussian; give one that grows slower")

    def packed(self, q: Array, found: _Coefficients) -> Array:
        beyond = np.isposinf(found[1]) | ~np.isfinite(q)  # float64, which is no error
        errors = np.where(beyond, 0.0, self.errors(q, found))
        if errors.max(initial=0.0) > _LARGEST_ERROR:
            worst = int(np.argmax(errors))
            problem = f"its dual kernel has a relative error of {errors[worst]:.1e}, above {_LARGEST_ERROR:.0e}"
            if found[2][worst] > _LARGEST_ERROR:
                problem = "its mean square does not settle as the grid is widened"
            if np.isnan(found[1][worst]):
                problem = "it returns NaN"
            mend = f"give a smoother function, or one of {', '.join(ACTIVATIONS)} by name"
            raise _refusal(self.function, f"at variance {q[worst]:.3g} {problem}; {mend}")
        return super().packed(q, found)


def _refusal(function: Callable[[Array], Array], mend: str) -> InputError:
    return InputError("activation", getattr(function, "__name__", function), mend)


def _values(function: Callable[[Array], Array], points: Array) -> Array:
    """φ at the points; their copy is handed over, since a function may write into its argument."""
    try:
        with np.errstate(all="ignore"):
            values = np.asarray(function(points.copy()))
    except (AttributeError, TypeError, ValueError) as error:
        raise _refusal(function, f"fails on an array ({error}); give a vectorised numpy function") from error
    if values.shape != points.shape or values.dtype.kind not in "biuf":
        got = f"maps float64 {points.shape} to {values.dtype} {values.shape}"
        raise _refusal(function, f"{got}; give a function that maps real numbers to real numbers elementwise")
    return values.astype(np.float64)


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
