"""Monte Carlo on random stacks at finite width: trials drawn without their matrices or with them, and their means."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from residual_theory.errors import InputError
from residual_theory.montecarlo.estimate import ControlledMoments, Moments, at_infinite_width, heavy_tailed, pool
from residual_theory.montecarlo.plan import Plan, checked_plan
from residual_theory.montecarlo.statistics import first_nonfinite
from residual_theory.montecarlo.target import Target, shortfall, targets
from residual_theory.montecarlo.trials import drawn
from residual_theory.observables import dataset
from residual_theory.stack import Stack

MOST_SAMPLES = 10**6


def simulate(
    stack: Stack,
    *,
    width: int | Sequence[int],
    samples: int,
    seed: int = 0,
    method: str = "matrix-free",
    device: str = "cpu",
    dtype: str = "float64",
    memory_budget: int | None = None,
    first_trial: int = 0,
    with_gradients: bool = False,
    inputs: int | ArrayLike | None = None,
    target_stderr: float | str | Mapping[str, float | str] | None = None,
    max_samples: int = MOST_SAMPLES,
    earlier: xr.Dataset | None = None,
    antithetic: bool = False,
    control: tuple[Stack, float] | None = None,
    tolerance: float | None = None,
) -> xr.Dataset:
    """Monte Carlo estimates of a random stack's second moments, covariances, cosines and gradients at finite width.

    Each trial draws h_0 and the matrices afresh from the law that `Stack` states and runs its visits. Both methods are
    exact in law at every width: "dense" forms the matrices, "matrix-free" decides them only where they are looked at
    (O(N²d) operations and O(Nd) numbers for N products with a d × d matrix), and goes over to dense where the width is
    not above the number of products with one matrix. Trial t of a (seed, width, method) has generators of its own and
    trials are drawn in blocks of a fixed size, so that neither the memory, the number of threads or processes nor the
    order of drawing changes a bit of what one device gives; halving a block that a GPU cannot hold may, by rounding.

    Arguments:
      stack: a Stack.
      width: d ≥ 1; or several widths, for the d → ∞ estimate by least squares in 1/d (see estimate.at_infinite_width).
      samples: independent trials ≥ 1 (at each width); the standard error of a single one is NaN.
      seed: 0 ≤ seed < 2⁶³.  device: "cpu", "cuda[:i]" or "mps".  dtype: "float64" or "float32", of weights and
        streams; estimates are float64.
      memory_budget: bytes that the trials in hand may take; by default half of the machine's.
      first_trial: trials first_trial … first_trial + samples − 1 are drawn.
      with_gradients: also gradient_second_moment and tangent_kernel, from products with the transposed weights, at
        about five times the cost. For several inputs f = ⟨v, h_V⟩/‖v‖ has one v, and means over inputs are given.
      inputs: several inputs through the same weights: their number, or the matrix of their correlations. Observables
        are means over inputs, and input_covariance is added.
      target_stderr: draw on, doubling at most, until every standard error is reached or `max_samples` are drawn: a
        number (absolute) or "1%" (relative) for second_moment, or a mapping of observables to such.
      earlier: a Dataset of the same stack, width, seed and method: `samples` counts its trials, and only what is
        missing is drawn, after them.
      antithetic: a sample is the mean of two trials of one input whose matrices' numbers differ in sign.
      control: a Stack with an exactly known mean R² after its last visit at this width, and that mean: its trials on
        the same numbers serve as control variate, unbiased at every number of samples. A linear stack and
        finite_width.second_moment_at_width; or, beside antithetic, the stack at residual_scale = 0 and its q0.
      tolerance: matrix-free only: parts of an input below this share of it are dropped; by default only rounding is.
    Returns: a Dataset of second_moment and log_second_moment (visit), covariance (visit, visit_other),
      increment_cosine (loop, loop_other) and what was asked for, each with *_stderr, and samples; all dimensionless.
      Cosines and logarithms are means over trials. The attribute heavy_tailed is 1 where the mean of R² rests on a few
      large trials: then log_second_moment or a larger width says more. If a stream overflows, everything from that
      visit on is NaN and the attribute first_nonfinite_visit names it; `fallback` says why dense was chosen.
    Raises: InputError naming the argument that cannot be used.
    Source: docs/theory.md, "Sampling".

    >>> stack = Stack(loops=2, residual_scale=0.5, activation="linear", weight_variance=1.0)
    >>> exact = 1 + 4 * 0.5**2 + 0.5**4 + 2 * 0.5**2 / 3 + 2 * 0.5**4 / 3**2
    >>> drawn = simulate(stack, width=3, samples=4000, seed=1)
    >>> bool(abs(drawn.second_moment[-1] - exact) < 4 * drawn.second_moment_stderr[-1])
    True
    """
    if not isinstance(stack, Stack):
        raise InputError("stack", stack, "give a Stack; a Transformer is built and measured with probe")
    counts: dict[str, tuple[Any, int]] = {
        "samples": (samples, 1),
        "first_trial": (first_trial, 0),
        "max_samples": (max_samples, 1),
    }
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InputError(name, value, f"must be an integer of at least {least}")
    wanted = None if target_stderr is None else targets(target_stderr)
    several = isinstance(width, list | tuple | range | np.ndarray)
    widths: list[Any] = list(width) if several else [width]  # type: ignore[arg-type]
    plans = [
        checked_plan(
            stack,
            one,
            seed=seed,
            method=method,
            device=device,
            dtype=dtype,
            memory_budget=memory_budget,
            with_gradients=with_gradients,
            inputs=inputs,
            antithetic=antithetic,
            control=control,
            tolerance=tolerance,
        )
        for one in widths
    ]
    if not several:
        return _estimated(plans[0], samples, first_trial, wanted, max_samples, earlier)
    if earlier is not None or control is not None:
        name = "control" if control is not None else "earlier"
        raise InputError(name, "given", "belongs to one width; give a single one")
    if len(set(widths)) < 2:
        raise InputError("width", width, "needs two different widths or more, to be extrapolated")
    return at_infinite_width([_estimated(plan, samples, first_trial, wanted, max_samples, None) for plan in plans])


def _estimated(
    plan: Plan,
    samples: int,
    first_trial: int,
    wanted: Mapping[str, Target] | None,
    max_samples: int,
    earlier: xr.Dataset | None,
) -> xr.Dataset:
    """The estimate after as many rounds as the target asks for."""
    known = 0
    if earlier is not None:
        first_trial, known = _following(plan, earlier), int(earlier.samples)
    estimate, total = _Estimate(plan, first_trial), max(int(samples), known)
    while True:
        estimate.draw(total - known - estimate.samples)
        result = pool([part for part in (earlier, estimate.dataset()) if part is not None])
        if wanted is None:
            return result
        factor = shortfall(wanted, result)
        if factor <= 1 or total >= max_samples:
            return result.assign_attrs(target_reached=int(factor <= 1))
        total = min(max_samples, math.ceil(total * min(max(1.05 * factor, 1.1), 2.0)))


def _following(plan: Plan, earlier: xr.Dataset) -> int:
    """The first trial after those of an earlier Dataset of the same law."""
    if not isinstance(earlier, xr.Dataset) or "samples" not in earlier or "first_trial" not in earlier.attrs:
        raise InputError("earlier", type(earlier).__name__, "give a Dataset of simulate")
    for name, value in plan.attrs().items():
        if name not in ("torch", "fallback") and earlier.attrs.get(name) != value:
            raise InputError("earlier", f"{name} {earlier.attrs.get(name)}", f"is not the {value} asked for")
    extra = set(earlier.attrs) & {"inputs", "antithetic", "control", "tolerance"} - set(plan.attrs())
    missing = plan.with_gradients != ("tangent_kernel" in earlier)
    if extra or missing or int(earlier.samples) < 2:
        what = f"has {', '.join(sorted(extra))}" if extra else "has other observables or a single sample"
        raise InputError("earlier", "a Dataset", f"{what}; ask for the same, or start anew")
    return int(earlier.attrs["first_trial"]) + int(earlier.samples)


class _Estimate:
    """Running means over the trials from `first` on."""

    def __init__(self, plan: Plan, first: int) -> None:
        self._plan, self._first = plan, first
        self.samples = 0
        self._moments: dict[str, Moments | ControlledMoments] = {}
        self._largest, self._nonfinite = -math.inf, len(plan.stack.visits) + 1

    def draw(self, count: int) -> None:
        """Take in `count` more trials."""
        if count <= 0:
            return
        start = self._first + self.samples
        for found in drawn(self._plan, range(start, start + count)):
            control = found.pop("control", None)
            for name, value in found.items():
                if control is None:
                    moments = self._moments.setdefault(name, Moments())
                    assert isinstance(moments, Moments)
                    moments.add(value)
                else:
                    mean = self._plan.control[1] if self._plan.control else 0.0
                    controlled = self._moments.setdefault(name, ControlledMoments(mean))
                    assert isinstance(controlled, ControlledMoments)
                    controlled.add(value, control)
            self._largest = float(np.fmax(self._largest, found["second_moment"][:, -1].max()))
            self._nonfinite = min(self._nonfinite, int(first_nonfinite(found["second_moment"]).min()))
        self.samples += count

    def dataset(self) -> xr.Dataset | None:
        """The estimate so far; None without a sample."""
        if not self.samples:
            return None
        attrs = self._plan.attrs() | {"first_trial": self._first}
        last = self._moments["second_moment"]
        if self._nonfinite <= len(self._plan.stack.visits):
            attrs["first_nonfinite_visit"] = self._nonfinite
        elif self.samples > 1:
            attrs["largest_second_moment"] = self._largest
            if self._plan.control is None:
                mean, stderr = float(last.mean[-1]), float(last.stderr[-1])
                attrs["heavy_tailed"] = int(heavy_tailed(mean, stderr, self.samples, self._largest))
        return dataset(
            {name: moments.mean for name, moments in self._moments.items()},
            stderr={name: moments.stderr for name, moments in self._moments.items()},
            samples=self.samples,
            attrs=attrs,
        )
