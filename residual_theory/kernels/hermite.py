"""Hermite series of an activation, with the error of its coefficients measured."""

from collections.abc import Callable

import numpy as np

from residual_theory.activation import refusal, values_at
from residual_theory.arrays import Array
from residual_theory.kernels.pairs import TINY, blockwise, cosines, size_of

_REACH, _FINE, _COARSE = 20, 32, 24  # unit panels of 32 Gauss–Legendre nodes each, and of 24 to measure the error by
_OWN_TERMS = 1024  # of a function that may have a kink
_NEGLIGIBLE, _NOISE = 3e-9, 1e-15  # of the norm: two such make less than 1e-17; what rounding leaves
_SMALL = 1e-11  # the variance at which φ'(0) is read off beside φ(0): rounding and curvature both cost about 1e-11
LARGEST_ERROR = 1e-6


# Of n variances: a_k, then √(E φ² − Σ a_k²), by parity (n, 2, terms/2 + 1); E φ² (n,); its share from |x| > 16 (n,).
Coefficients = tuple[Array, Array, Array]


class Quadrature:
    """Hermite coefficients by Gauss–Legendre panels; even and odd part apart, as a kink at 0 then costs no digits."""

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

    def __call__(self, function: Callable[[Array], Array], variance: Array) -> Coefficients:
        with np.errstate(all="ignore"):
            points = np.sqrt(variance)[:, None] * self.x
            above, below = values_at(function, points), values_at(function, -points)
            parts = (above + below) / 2, (above - below) / 2
            values = np.stack([part @ basis for part, basis in zip(parts, self.bases, strict=True)], 1)
            density = self.weights * (above**2 + below**2) / 2
            square = density.sum(-1)  # inf beyond float64, NaN where φ is
            rest = np.stack([part**2 @ self.weights for part in parts], -1) - np.sum(values**2, -1)
            rest[~(rest > 1e-14 * square[:, None])] = 0.0  # rounding alone could have left as much
            outer = density[:, self.x > 0.8 * _REACH].sum(-1) / square
        return np.concatenate([values, np.sqrt(rest)[..., None]], -1), square, outer


class Series:
    """F = Σ e_j e'_j c^2j + Σ o_j o'_j c^(2j+1), with e and o the even and the odd Hermite coefficients.

    A state is q, the last e and the last o that matter, all e, all o; e and o end in the norm of what they leave out.
    """

    def __init__(self, function: Callable[[Array], Array], terms: int) -> None:
        self.function, self.count = function, terms // 2 + 1  # of each parity
        self.fine, self.coarse = Quadrature(_FINE, terms), Quadrature(_COARSE, terms)
        small = np.array([_SMALL if values_at(function, np.zeros(1))[0] else TINY])
        self.start = self.fine(function, small)[0][0, 1, 0] / np.sqrt(small[0])  # φ'(0)

    def state(self, variance: Array) -> Array:
        q = np.asarray(variance, dtype=np.float64)
        return self.pack(q.ravel(), self.fine(self.function, q.ravel())).reshape(*q.shape, -1)

    def pack(self, q: Array, found: Coefficients) -> Array:
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

    def errors(self, q: Array, found: Coefficients) -> Array:
        """How far coefficients and E φ² change with other nodes, what is left out and what is far out, over E φ²."""
        (values, square, outer), (others, other_square, _) = found, self.coarse(self.function, q)
        with np.errstate(all="ignore"):
            moved = np.sqrt(np.sum((values - others)[..., :-1] ** 2, (1, 2)) / square)
            moved += (np.abs(square - other_square) + np.sum(values[..., -1] ** 2, -1)) / square
            errors = np.where(square == 0, 0.0, 2 * moved + outer)  # twice, for a pair of unlike variances
        return np.where(np.isfinite(errors), errors, np.inf)

    def value(self, covariance: Array, left: Array, right: Array) -> Array:
        def kernel(k: Array, left: Array, right: Array) -> Array:
            c, square = cosines(k, left[:, 0], right[..., 0])
            return self.polynomial(square, left, right, 0) + c * self.polynomial(square, left, right, 1)

        return blockwise(kernel, covariance, left, right)

    def slope(self, covariance: Array, left: Array, right: Array) -> Array:
        def kernel(k: Array, left: Array, right: Array) -> Array:
            c, square = cosines(k, left[:, 0], right[..., 0])
            odd, even = (self.polynomial(square, left, right, parity, derivative=True) for parity in (1, 0))
            return (odd + c * even) / size_of(*(np.where(q > 0, q, 1.0) for q in (left[:, 0], right[..., 0])))

        return blockwise(kernel, covariance, left, right)

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


class Own(Series):
    """The series of a user's function; InputError where its error is above 1e-6."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        super().__init__(function, _OWN_TERMS)
        _, square, outer = self.fine(self.function, np.ones(1))
        if not (np.isfinite(square[0]) and outer[0] <= LARGEST_ERROR) and square[0] != 0:
            raise refusal(function, "is not square-integrable under the standard Gaussian; give one that grows slower")

    def pack(self, q: Array, found: Coefficients) -> Array:
        beyond = np.isposinf(found[1]) | ~np.isfinite(q)  # float64, which is no error
        errors = np.where(beyond, 0.0, self.errors(q, found))
        if errors.max(initial=0.0) > LARGEST_ERROR:
            worst = int(np.argmax(errors))
            problem = f"its dual kernel has a relative error of {errors[worst]:.1e}, above {LARGEST_ERROR:.0e}"
            if found[2][worst] > LARGEST_ERROR:
                problem = "its mean square does not settle as the grid is widened"
            if np.isnan(found[1][worst]):
                problem = "it returns NaN"
            mend = "give a smoother function, or the name of a known one"
            raise refusal(self.function, f"at variance {q[worst]:.3g} {problem}; {mend}")
        return super().pack(q, found)
