"""What a simulation is of and how it is drawn, checked once."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import xarray as xr

from residual_theory.branches.law import Matrix
from residual_theory.devices import device_named
from residual_theory.errors import InputError
from residual_theory.inputs import input_correlations
from residual_theory.montecarlo import machine
from residual_theory.montecarlo.randomness import PIECE
from residual_theory.montecarlo.streams import law_of, most_products
from residual_theory.stack import Stack, described

_READ_AT_MOST = 4e10  # bytes a second by one core from its cache, where everything else is left out


@dataclass(frozen=True)
class Plan:
    """Everything that the law of a trial depends on, and how it is drawn."""

    stack: Stack
    width: int
    seed: int
    dense: bool
    fallback: str
    device: torch.device
    dtype: str
    memory_budget: int | None
    with_gradients: bool
    correlations: np.ndarray | None
    antithetic: bool
    control: tuple[Stack, float] | None
    tolerance: float | None

    @property
    def inputs(self) -> int:
        return 1 if self.correlations is None else len(self.correlations)

    @cached_property
    def weights_of_trial(self) -> int:
        """Bytes of the weights of a trial, or of what is stored in their place, that are held at once."""
        uses = Counter(visit.weights for visit in self.stack.visits)
        laws = {visit.weights: law_of(visit) for visit in self.stack.visits}
        stored = [
            self._numbers_held(law.matrices(self.width), self.inputs * uses[weights]) for weights, law in laws.items()
        ]
        reused = self.with_gradients or max(uses.values()) > 1
        return self._itemsize * (sum(stored) if reused else max(stored))

    def _numbers_held(self, matrices: Sequence[Matrix], products: int) -> int:
        """Numbers that stand for the matrices of one layer, each multiplied so many times."""
        if self.dense:
            return sum(matrix.rows * matrix.columns for matrix in matrices)
        sides = 2 if self.with_gradients else 1
        return sides * products * sum(matrix.rows + matrix.columns + 2 * products for matrix in matrices)

    @cached_property
    def one_trial(self) -> int:
        """Bytes that a trial takes in all, its streams and the changes between them included."""
        rows = len(self.stack.visits) + 1
        kept = max(law_of(visit).kept for visit in self.stack.visits)
        streams = rows * self.inputs * self.width * (5 + kept if self.with_gradients else 1)
        changes = 8 * rows * self.inputs * (2 * min(self.width, PIECE) + 5 * rows)
        return self.weights_of_trial + self._itemsize * streams + changes

    @property
    def least_seconds(self) -> float:
        """Seconds that a trial takes a core at the least: products read half of what is stored in the end, or more."""
        return self.weights_of_trial * most_products(self.stack, self.inputs) / 2 / _READ_AT_MOST

    @property
    def _itemsize(self) -> int:
        return machine.DTYPES[self.dtype].itemsize

    def attrs(self) -> dict[str, Any]:
        """What the samples are of: two Datasets with equal ones (but for the trials) may be pooled."""
        attrs: dict[str, Any] = {
            "method": f"Monte Carlo, {'dense' if self.dense else 'matrix-free'}",
            "description": json.dumps(described(self.stack), sort_keys=True),
            "width": self.width,
            "seed": self.seed,
            "dtype": self.dtype,
            "device": machine.described_device(self.device),
            "torch": str(torch.__version__),
        }
        if self.fallback:
            attrs["fallback"] = self.fallback
        if self.correlations is not None:
            attrs["inputs"] = json.dumps(self.correlations.tolist())
        if self.antithetic:
            attrs["antithetic"] = 1
        if self.control is not None:
            attrs["control"] = json.dumps([described(self.control[0]), self.control[1]], sort_keys=True)
        if self.tolerance is not None:
            attrs["tolerance"] = float(self.tolerance)
        return attrs


def make_plan(
    stack: Stack,
    width: Any,
    *,
    seed: Any,
    method: Any,
    device: Any,
    dtype: Any,
    memory_budget: Any,
    with_gradients: Any,
    inputs: Any,
    antithetic: Any,
    control: Any,
    tolerance: Any,
) -> Plan:
    """The plan that these arguments of simulate make.

    Raises: InputError naming the argument that cannot be used.
    """
    if isinstance(width, bool) or not isinstance(width, Integral) or width < 1:
        raise InputError("width", width, "must be an integer of at least 1, or several")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise InputError("seed", seed, "must be an integer from 0 to 2^63 - 1")
    if not isinstance(method, str) or method not in ("matrix-free", "dense"):
        raise InputError("method", method, "choose 'matrix-free' or 'dense'")
    if not isinstance(dtype, str) or dtype not in machine.DTYPES:
        raise InputError("dtype", dtype, "choose 'float64' or 'float32'")
    for name, flag in (("with_gradients", with_gradients), ("antithetic", antithetic)):
        if not isinstance(flag, bool | np.bool_):
            raise InputError(name, flag, "must be True or False")
    if tolerance is not None:
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 < float(tolerance) < 1:
            raise InputError("tolerance", tolerance, "must lie between 0 and 1; leave it out to drop rounding only")
        if method == "dense":
            raise InputError("tolerance", tolerance, "belongs to method = 'matrix-free'; 'dense' drops nothing")
        tolerance = float(tolerance)
    correlations = None if inputs is None else input_correlations(inputs)
    covariances = 8 * 5 * (stack.blocks + 1) ** 2
    if covariances > machine.memory_of(torch.device("cpu")):
        needs = f"covariances between its {stack.blocks} visits need {covariances / 2**30:.3g} GiB"
        raise InputError("loops", stack.loops, f"{needs}, more than this machine has; take fewer")
    products = most_products(stack, 1 if correlations is None else len(correlations))
    dense, fallback = method == "dense", ""
    if not dense and width <= products:
        dense, tolerance = True, None
        fallback = f"dense, for a width of {width} is not above the {products} products with one matrix"
    return Plan(
        stack=stack,
        width=int(width),
        seed=int(seed),
        dense=dense,
        fallback=fallback,
        device=device_named(device, dtype=dtype, choices="'cpu', 'cuda' or 'mps'"),
        dtype=dtype,
        memory_budget=memory_budget,
        with_gradients=bool(with_gradients),
        correlations=correlations,
        antithetic=bool(antithetic),
        control=_control(stack, control),
        tolerance=tolerance,
    )


def _control(stack: Stack, control: Any) -> tuple[Stack, float] | None:
    if control is None:
        return None
    mend = "give (Stack, its exactly known mean R² after the last visit)"
    if not isinstance(control, tuple | list) or len(control) != 2 or not isinstance(control[0], Stack):
        raise InputError("control", control, mend)
    other, mean = control
    if isinstance(mean, bool) or not isinstance(mean, Real) or not abs(mean) < 10**300:  # type: ignore[operator]
        raise InputError("control", mean, mend)
    if _layers(other) != _layers(stack):
        raise InputError("control", other, "must use the same weights at the same visits as the stack")
    return other, float(mean)


def _layers(stack: Stack) -> list[tuple[int, list[tuple[int, int]]]]:
    """Which weights each visit uses, and the shapes of their matrices at width 1."""
    return [
        (visit.weights, [(matrix.rows, matrix.columns) for matrix in law_of(visit).matrices(1)])
        for visit in stack.visits
    ]


def next_trial(plan: Plan, earlier: Any) -> int:
    """The first trial after those of an earlier Dataset of simulate.

    Raises: InputError unless its samples are of the same law.
    """
    mend = "give a whole Dataset of simulate, of the same settings"
    if not isinstance(earlier, xr.Dataset):
        raise InputError("earlier", type(earlier).__name__, mend)
    if not all(isinstance(law_of(visit).activation, str) for visit in plan.stack.visits):
        raise InputError("earlier", "a Dataset", "cannot be told to be of this activation, a function; start anew")
    if plan.control is not None:
        raise InputError("earlier", "a Dataset", "is not extended beside a control; start anew")
    wanted = plan.attrs()
    for name, value in wanted.items():
        if name not in ("torch", "fallback") and earlier.attrs.get(name) != value:
            raise InputError("earlier", _difference(name, earlier.attrs.get(name), value), mend)
    rows = len(plan.stack.visits) + 1
    shapes_known = {"second_moment": (rows,), "log_second_moment": (rows,), "covariance": (rows, rows), "samples": ()}
    shapes_known |= {"increment_cosine": (plan.stack.loops, plan.stack.loops)}
    shapes_known |= {"gradient_second_moment": (rows,), "tangent_kernel": ()} if plan.with_gradients else {}
    shapes_known |= {"input_covariance": (rows, plan.inputs, plan.inputs)} if plan.correlations is not None else {}
    for name in [name for name in shapes_known if name != "samples"]:
        shapes_known[f"{name}_stderr"] = shapes_known[name]
    if {str(name): array.shape for name, array in earlier.data_vars.items()} != shapes_known:
        raise InputError("earlier", sorted(map(str, earlier.data_vars)), f"has other observables; {mend}")
    extra = set(earlier.attrs) & {"inputs", "antithetic", "control", "tolerance"} - set(wanted)
    first, samples = earlier.attrs.get("first_trial"), earlier.samples.values[()]
    whole = all(isinstance(number, Integral) and int(number) >= 0 for number in (first, samples))
    if extra or not whole or samples < 1:
        raise InputError("earlier", f"first_trial {first}, samples {samples}", mend)
    return int(first) + int(samples)  # type: ignore[arg-type]


def _difference(name: str, had: Any, wanted: Any) -> str:
    """What differs, in a few words."""
    try:
        mine, theirs = json.loads(wanted), json.loads(had)
        name = next(field for field in mine if mine[field] != theirs[field])
        had, wanted = theirs[name], mine[name]
    except (TypeError, ValueError, KeyError, StopIteration):
        pass
    return f"{name} {had}, not {wanted}"
