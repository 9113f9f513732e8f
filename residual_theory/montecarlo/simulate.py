"""Monte Carlo on random stacks at finite width: trials drawn without their matrices or with them, and their means."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from residual_theory.errors import InputError
from residual_theory.montecarlo.estimate import (
    FEWEST_FOR_TAILS,
    ControlledMoments,
    Moments,
    is_heavy_tailed,
    pool,
)
from residual_theory.montecarlo.extrapolation import at_infinite_width
from residual_theory.montecarlo.plan import Plan, make_plan, next_trial
from residual_theory.montecarlo.target import Target, shortfall, targets
from residual_theory.montecarlo.trials import draw_trials
from residual_theory.montecarlo.values import Values, first_nonfinite
from residual_theory.observables import dataset
from residual_theory.stack import Stack

MOST_SAMPLES = 10**6
_SURELY = 8.0  # standard errors


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
    exact in law at every width: "dense" forms the matrices, "matrix-free" draws only what products with them need
    (O(N²d) operations and O(Nd) numbers for N products with a d × d matrix), and goes over to dense where the width is
    not above the number of products with one matrix. Trial t of a (seed, width, method) has generators of its own and
    trials are drawn in blocks of a fixed size, so that neither the memory, the number of threads or processes nor the
    order of drawing changes a bit of what one device gives; halving a block that a GPU cannot hold may, by rounding.
    As many threads as torch may use share out the blocks; where more than about ten seconds of work are left after the
    first, as many processes do (a function of one's own as activation keeps to threads).

    Arguments:
      stack: a Stack.
      width: d ≥ 1; or several widths, for the d → ∞ estimate by least squares in 1/d (see montecarlo.extrapolation).
      samples: independent trials ≥ 1 (at each width); the standard error of a single one is NaN.
      seed: 0 ≤ seed < 2⁶³.  device: "cpu", "cuda[:i]" or "mps".  dtype: "float64" or "float32", of weights and
        streams; estimates are float64.
      memory_budget: bytes that the trials being drawn may take; by default half of the machine's.
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
    _check_counts(samples, first_trial, max_samples)
    wanted = None if target_stderr is None else targets(target_stderr)
    several = np.ndim(width) > 0
    widths: list[Any] = list(width) if several else [width]  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "seed": seed, "method": method, "device": device, "dtype": dtype, "memory_budget": memory_budget,
        "with_gradients": with_gradients, "inputs": inputs, "antithetic": antithetic, "control": control,
        "tolerance": tolerance,
    }  # fmt: skip
    plans = [make_plan(stack, one, **settings) for one in widths]
    if several and len({plan.width for plan in plans}) < max(2, len(plans)):
        raise InputError("width", width, "needs two different widths or more, to be extrapolated, each once")
    for name, value in (("earlier", earlier), ("control", control)):
        if several and value is not None:
            raise InputError(name, type(value).__name__, "belongs to one width; give a single one")
    known = 0
    if earlier is not None:
        if first_trial:
            raise InputError("first_trial", first_trial, "follows from earlier; leave it out")
        first_trial, known = next_trial(plans[0], earlier), int(earlier.samples)
    estimates = [_Estimate(plan, int(first_trial)) for plan in plans]
    return _estimate(estimates, earlier, max(int(samples), known), wanted, int(max_samples))


def _check_counts(samples: Any, first_trial: Any, max_samples: Any) -> None:
    counts: dict[str, tuple[Any, int]] = {
        "samples": (samples, 1),
        "first_trial": (first_trial, 0),
        "max_samples": (max_samples, 1),
    }
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InputError(name, value, f"must be an integer of at least {least}")
    if max_samples < samples:
        raise InputError("max_samples", max_samples, f"must be at least samples = {samples}")


def _estimate(
    estimates: Sequence["_Estimate"],
    earlier: xr.Dataset | None,
    total: int,
    wanted: Mapping[str, Target] | None,
    max_samples: int,
) -> xr.Dataset:
    """The estimate from `total` samples, the earlier ones included, or from as many as the target asks for."""
    known = 0 if earlier is None else int(earlier.samples)
    while True:
        parts = [estimate.after(total - known) for estimate in estimates]
        drawn_now = [part for part in (earlier, *parts) if part is not None]
        result = (at_infinite_width(drawn_now) if len(estimates) > 1 else pool(drawn_now)).copy()
        result.attrs.pop("target_reached", None)
        if wanted is None:
            return result
        factor = shortfall(wanted, result)
        if factor <= 1 or total >= max_samples:
            return result.assign_attrs(target_reached=int(factor <= 1))
        total = min(max_samples, math.ceil(total * min(max(1.05 * factor, 1.1), 2.0)))


class _Estimate:
    """Running means over the trials from `first` on."""

    def __init__(self, plan: Plan, first: int) -> None:
        self._plan, self._first = plan, first
        self.samples = 0
        self._moments: dict[str, Moments] = {}
        self._controlled: dict[str, ControlledMoments] = {}
        self._control = Moments()
        self._largest, self._nonfinite, self._still = -math.inf, len(plan.stack.visits) + 1, 0

    def after(self, samples: int) -> xr.Dataset | None:
        """The estimate after so many samples in all; None without any."""
        start, stop = self._first + self.samples, self._first + samples
        for found in draw_trials(self._plan, range(start, stop)) if start < stop else ():
            self._take(found)
        self.samples = samples
        return self._dataset() if samples else None

    def _take(self, found: Values) -> None:
        control = found.pop("control", None)
        for name, value in found.items():
            if control is None:
                self._moments.setdefault(name, Moments()).add(value)
            else:
                mean = self._plan.control[1] if self._plan.control else math.nan
                self._controlled.setdefault(name, ControlledMoments(mean)).add(value, control)
        if control is not None:
            self._control.add(control)
        self._largest = float(np.fmax(self._largest, found["second_moment"][:, -1].max()))
        spoilt, cosines = first_nonfinite(found["second_moment"]), found["increment_cosine"]
        self._nonfinite = min(self._nonfinite, int(spoilt.min()))
        whole = spoilt > len(self._plan.stack.visits)
        self._still += int(np.isnan(cosines[whole]).any(axis=(1, 2)).sum())

    def _dataset(self) -> xr.Dataset:
        moments = self._controlled or self._moments
        attrs = self._plan.attrs() | {"first_trial": self._first}
        last = moments["second_moment"]
        if self._still:
            attrs["trials_without_change"] = self._still
        if self._nonfinite <= len(self._plan.stack.visits):
            attrs["first_nonfinite_visit"] = self._nonfinite
        elif self.samples > 1:
            attrs["largest_second_moment"] = self._largest
            if self._plan.control is not None:
                self._check_control(self._plan.control[1])
            else:
                mean, stderr = float(last.mean[-1]), float(last.stderr[-1])
                attrs["heavy_tailed"] = int(is_heavy_tailed(mean, stderr, self.samples, self._largest))
        return dataset(
            {name: each.mean for name, each in moments.items()},
            stderr={name: each.stderr for name, each in moments.items()},
            samples=self.samples,
            attrs=attrs,
        )

    def _check_control(self, known: float) -> None:
        """Raises: InputError when the control's mean is surely not the one that was given."""
        mean, stderr = float(self._control.mean), float(self._control.stderr)
        if self.samples >= FEWEST_FOR_TAILS and abs(mean - known) > _SURELY * stderr:
            mend = f"is not its stack's mean R², which the trials put at {mean:.4g} ± {stderr:.2g}; give the exact one"
            raise InputError("control", known, mend)
