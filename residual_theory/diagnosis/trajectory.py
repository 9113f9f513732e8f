"""One residual stream followed step by step: its alignment, its growth, their intervals, and where more steps lead."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, stats

Array = NDArray[np.float64]
BLOCKS = 10  # of consecutive steps, left out in turn
_DECADE = 10.0
_MOST = 1e120  # times today's displacement: beyond it a forecast is infinite


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def inside(self, low: float, high: float) -> bool:
        """Whether the whole interval lies between two bounds."""
        return low < self.low and self.high < high

    def clipped(self, least: float, most: float) -> "Estimate":
        """The same without what cannot be."""
        return Estimate(self.value, max(self.low, least), min(self.high, most))

    @property
    def told(self) -> bool:
        """Whether the ends lie within a factor of ten: an interval of decades says no more than "cannot tell"."""
        return 0 < self.low <= self.high <= _DECADE * self.low < math.inf

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Trajectory:
    """A stream h_0, h_1 = h_0 + Δ_1, … known by the products of h_0 and its changes, per entry.

    gram: ⟨x_i, x_j⟩/d of x = (h_0, Δ_1, …, Δ_V).
    """

    gram: Array

    @classmethod
    def of(cls, covariance: Array) -> "Trajectory":
        """From ⟨h_i, h_j⟩/d, i, j = 0 … V."""
        differences = np.eye(len(covariance)) - np.eye(len(covariance), k=-1)
        return cls(np.asarray(differences @ covariance @ differences.T))

    @property
    def steps(self) -> int:
        """V, the changes."""
        return len(self.gram) - 1

    @cached_property
    def squares(self) -> Array:
        """R² before the first step and after each."""
        return np.asarray(np.maximum(np.diagonal(self.gram.cumsum(0).cumsum(1)), 0.0))

    @cached_property
    def sizes(self) -> Array:
        """‖Δ_k‖/√d (step)."""
        return np.asarray(np.sqrt(np.maximum(np.diagonal(self.gram)[1:], 0.0)))

    @cached_property
    def displacement(self) -> Array:
        """S_k = ‖h_k − h_0‖²/d (step)."""
        return np.asarray(np.maximum(np.diagonal(self.gram[1:, 1:].cumsum(0).cumsum(1)), np.finfo(np.float64).tiny))

    @cached_property
    def cosines(self) -> Array:
        """Cosines between changes (step, step)."""
        return np.asarray(self.gram[1:, 1:] / np.outer(self.sizes, self.sizes))

    @cached_property
    def alignment(self) -> Array:
        """κ_k = ‖Σ Δ‖²/Σ ‖Δ‖² over the first k steps (step)."""
        return np.asarray(self.displacement / np.cumsum(self.sizes**2))

    @cached_property
    def direction_alignment(self) -> Array:
        """κ_k of the changes' directions, ‖Σ Δ/‖Δ‖‖²/k (step)."""
        total = np.diagonal(self.cosines.cumsum(0).cumsum(1))
        return np.asarray(np.maximum(total, np.finfo(np.float64).tiny) / np.arange(1, self.steps + 1))

    def chance(self, orders: int = 999, seed: int = 0) -> float:
        """Of random orders of h_1, h_2, …, the share whose path is as short, by 1 − 2⟨h_i, h_j⟩/(‖h_i‖² + ‖h_j‖²)."""
        products = 2 * self.gram.cumsum(0).cumsum(1)
        sums = np.add.outer(self.squares, self.squares)
        alike = np.divide(products, sums, out=np.zeros_like(sums), where=sums > 0).clip(-1, 1)
        steps = np.tile(np.arange(1, self.steps + 1), (orders, 1))
        shuffled = np.pad(np.random.default_rng(seed).permuted(steps, axis=1), ((0, 0), (1, 0)))
        others = alike[shuffled[:, :-1], shuffled[:, 1:]].sum(1)
        own = np.diagonal(alike, offset=1).sum()
        return float((1 + (others >= own - 1e-9).sum()) / (orders + 1))

    def across_loops(self, loops: int, level: float) -> Estimate:
        """Mean cosine between a layer's changes in different loops; layers vary independently (Student)."""
        layers = self.steps // loops
        by_layer = self.cosines.reshape(loops, layers, loops, layers)
        same = by_layer.diagonal(axis1=1, axis2=3).sum((0, 1)) - loops  # (layer)
        same = same / (loops * (loops - 1))
        reach = float(same.std(ddof=1) / math.sqrt(layers) * stats.t.ppf(0.5 + level / 2, layers - 1))
        return Estimate(float(same.mean()), float(same.mean()) - reach, float(same.mean()) + reach)

    def without(self, left_out: NDArray[np.intp]) -> "Trajectory":
        """The same stream, had the steps numbered in `left_out` (from 0) changed nothing."""
        kept = np.delete(np.arange(self.steps + 1), left_out + 1)
        return Trajectory(self.gram[np.ix_(kept, kept)])

    @property
    def turning(self) -> float:
        """The mean cosine between a change and the next, over the later half; below 0 the stream goes to and fro."""
        return float(self.cosines.diagonal(1)[(self.steps - 1) // 2 :].mean())

    @property
    def every_second(self) -> "Trajectory":
        """The same stream seen at the last step, the last but two, and so on."""
        total = self.gram.cumsum(0).cumsum(1)
        return Trajectory.of(total[self.steps % 2 :: 2, self.steps % 2 :: 2])

    def first(self, steps: int) -> "Trajectory":
        """Its beginning."""
        return Trajectory(self.gram[: steps + 1, : steps + 1])


def _late(path: Trajectory) -> slice:
    return slice((path.steps - 1) // 2, None)


def _log(values: Array) -> Array:
    return np.asarray(np.log(np.maximum(values, np.finfo(np.float64).tiny)))


def _steps(path: Trajectory) -> Array:
    return np.arange(1.0, path.steps + 1)[_late(path)]


def _slope(points: tuple[Array, Array]) -> float:
    x, y = points
    spread = x - x.mean()
    return float(spread @ y / (spread @ spread)) if (spread**2).sum() > 1e-12 else 0.0


# slopes through points (x, y), whose intervals leave points out
CURVES: dict[str, Callable[[Trajectory], tuple[Array, Array]]] = {
    "exponent": lambda path: (np.log(_steps(path)), _log(path.squares[1:])[_late(path)] / 2),
    "rate": lambda path: (_steps(path), _log(path.squares[1:])[_late(path)] / 2),
    "displacement_exponent": lambda path: (np.log(_steps(path)), _log(path.displacement)[_late(path)]),
    # from h_1 on: h_0 may be of another kind, such as an embedding
    "feedback": lambda path: (_log(path.squares[1:-1]) / 2, _log(path.sizes[1:])),
    "late_feedback": lambda path: (_log(path.squares[1:-1])[_late(path)] / 2, _log(path.sizes[1:])[_late(path)]),
}
# sums over changes, whose intervals leave changes out
SUMS: dict[str, Callable[[Trajectory], float]] = {
    "cosine": lambda path: float((path.cosines.sum() - path.steps) / (path.steps * (path.steps - 1))),
    "alignment": lambda path: float(path.alignment[-1]),
    "alignment_exponent": lambda path: _slope((np.log(_steps(path)), _log(path.alignment)[_late(path)])),
    "late_exponent": lambda path: _slope((np.log(_steps(path)), _log(path.direction_alignment)[_late(path)])),
    "direction_exponent": lambda path: math.log(path.direction_alignment[-1]) / math.log(path.steps),
}
MEASURES = (*CURVES, *SUMS)


def estimates(path: Trajectory, members: Sequence[Trajectory], level: float) -> dict[str, Estimate]:
    """Every measure of the trajectory, which is the members' mean, with the wider of its jackknife intervals.

    They leave out blocks of consecutive steps in turn, at most BLOCKS, and members, if there are several.
    """
    found: dict[str, Estimate] = {}
    total = np.sum([member.gram for member in members], axis=0)
    others = [Trajectory((total - member.gram) / (len(members) - 1)) for member in members] if len(members) > 1 else []
    for name, curve in CURVES.items():
        x, y = curve(path)
        shorter = [_slope((np.delete(x, block), np.delete(y, block))) for block in _blocks(len(x))]
        found[name] = _estimate(_slope((x, y)), [shorter, [_slope(curve(other)) for other in others]], level)
    rest = [path.without(block) for block in _blocks(path.steps)]
    for name, measure in SUMS.items():
        replicates = [[measure(each) for each in several] for several in (rest, others)]
        found[name] = _estimate(measure(path), replicates, level)
    found["cosine"] = found["cosine"].clipped(-1.0, 1.0)
    found["alignment"] = found["alignment"].clipped(0.0, float(path.steps))
    return found


def _blocks(count: int) -> list[NDArray[np.intp]]:
    return np.array_split(np.arange(count), min(count, BLOCKS))


def _estimate(value: float, replicates: list[list[float]], level: float) -> Estimate:
    reach = max(_jackknife(np.asarray(each), level) for each in replicates if each)
    return Estimate(value, value - reach, value + reach)


def _jackknife(replicates: Array, level: float) -> float:
    """Half the Student interval."""
    count = len(replicates)
    stderr = math.sqrt((count - 1) / count * float(((replicates - replicates.mean()) ** 2).sum()))
    return stderr * float(stats.t.ppf(0.5 + level / 2, count - 1))


@dataclass(frozen=True)
class GrowthModel:
    """S = u^(1+γ), du/dk = w R^(2s/(1+γ)), R² = R₀² + 2 x R₀ √S + S, through one observed displacement.

    gamma, feedback: γ and s.
    start, cosine: R₀, and x, the cosine between h_0 and the displacement.
    displacement, steps: S after that many steps, which sets w.
    """

    gamma: float
    feedback: float
    start: float
    cosine: float
    displacement: float
    steps: int

    @classmethod
    def through(cls, path: Trajectory, gamma: float, feedback: float) -> "GrowthModel":
        """The model that ends where the trajectory ends."""
        start, last = math.sqrt(path.squares[0]), float(path.displacement[-1])
        cross = (path.squares[-1] - path.squares[0] - last) / 2
        cosine = float(np.clip(cross / (start * math.sqrt(last)), -1, 1)) if start > 0 else 0.0
        return cls(gamma, feedback, start, cosine, last, path.steps)

    def norm(self, displacement: Array) -> Array:
        """R at a displacement S."""
        root = np.sqrt(displacement)
        square = self.start**2 + root * (root + 2 * self.cosine * self.start)  # inf where S is
        return np.sqrt(np.maximum(square, 1e-30 * self.displacement))

    @cached_property
    def _curve(self) -> tuple[Array, Array]:
        """u in units of its observed end, and w·k to get there, up to a constant factor."""
        u = np.concatenate(([0.0], np.geomspace(1 / _MOST, 1.0, 12000), np.geomspace(1.0, _MOST, 12000)[1:]))
        slowness: Array = (self.norm(self.displacement * u ** (1 + self.gamma)) / self.norm_reached) ** -self._power
        return u, integrate.cumulative_trapezoid(slowness, u, initial=0)

    @property
    def _power(self) -> float:
        return 2 * self.feedback / (1 + self.gamma)

    @property
    def norm_reached(self) -> float:
        """R at the observed end."""
        return float(self.norm(np.asarray(self.displacement)))

    def displaced(self, steps: Array, scale: float = 1.0) -> Array:
        """S after so many steps, at ε times `scale` (S ∝ ε² to first order); infinite where it passes every bound."""
        u, time = self._curve
        reached = float(np.interp(1.0, u, time))
        wanted = np.asarray(steps) / self.steps * reached * scale ** (2 / (1 + self.gamma))
        found = np.interp(wanted, time, u, right=math.inf)
        return np.asarray(self.displacement * found ** (1 + self.gamma))

    @property
    def drive(self) -> float:
        """What S/R₀² would have come to, had the changes kept the size they have at R₀: λ²/2 of a random ReLU loop."""
        if self.start == 0:
            return math.inf
        u, time = self._curve
        relative = float(np.interp(1.0, u, time)) * (self.start / self.norm_reached) ** self._power
        return float(self.displacement * relative ** (1 + self.gamma) / self.start**2)

    def misfit(self, path: Trajectory) -> float:
        """Root mean square of log S seen − log S of the model, over the steps between the second and the last."""
        step = np.arange(2.0, path.steps)
        return float(np.sqrt(np.mean((_log(path.displacement[1:-1]) - _log(self.displaced(step))) ** 2)))
