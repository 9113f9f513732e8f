"""What a Dataset of streams says of itself: which rows are loops, what lies between them, what more of them means."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from residual_theory.diagnosis.trajectory import Array
from residual_theory.errors import InputError
from residual_theory.scaling import rule_value

FEWEST = 5  # steps: three points and two parameters tell nothing


@dataclass(frozen=True)
class Reading:
    """A looped stream.

    covariances: (member, row, row) over h_0 … h_V of the loops alone. loops, layers: N and L, N·L = V.
    fixed: the visits before and after the loops, which more loops leave as they are.
    moves_alone: what moves the stream whatever the residual scale is, in words; "" where nothing is known to.
    no_more: why more loops are not more of the same; "" where they are.
    shared: whether more loops use the same weights again, as far as is known.
    """

    covariances: Array
    loops: int
    layers: int
    fixed: int = 0
    moves_alone: str = ""
    no_more: str = ""
    shared: bool = True

    @property
    def repeats(self) -> bool:
        """Whether more loops may use weights again of which each was seen at work once only."""
        return self.shared and self.loops == 1

    @property
    def stride(self) -> int:
        """Visits in a step: a loop where there are enough, else one."""
        return self.layers if self.loops >= FEWEST else 1


def read(probed: object, loops: int | None, layers: int | None) -> Reading:
    """The loops of a Dataset of predict, simulate or probe. Raises: InputError as `diagnose`."""
    values = _covariances(probed)
    assert isinstance(probed, xr.Dataset)
    description = probed.attrs.get("description")
    stack: dict[str, Any] = json.loads(description) if isinstance(description, str) else {}
    if stack.get("kind") in ("Stack", "LlamaStack"):
        return _of_stack(values, stack, loops, layers)
    found = _of_probe(values, probed, loops, layers)
    if between := probed.attrs.get("changed_between_visits"):
        found = replace(found, moves_alone=f"what the model does between visits (at {between} of them)")
    return found


def _of_probe(values: Array, probed: xr.Dataset, loops: int | None, layers: int | None) -> Reading:
    """All visits where they are whole loops, else the longest stretch that is, else all without a forecast."""
    order = str(probed.attrs.get("order", "")).split()
    if not order or loops is not None or layers is not None:
        return Reading(values, *_counts(probed, values.shape[1] - 1, loops, layers))
    start, stop, period = _core(order)
    if not stop:
        return Reading(values, 1, len(order), no_more="the visits are not whole loops of one pattern")
    core = values[:, start : stop + 1, start : stop + 1]
    return Reading(core, (stop - start) // period, period, fixed=values.shape[1] - core.shape[1])


def _of_stack(values: Array, stack: dict[str, Any], loops: int | None, layers: int | None) -> Reading:
    """The loops of a stack, whose prelude and coda stand outside of them."""
    N, L = stack["loops"], stack["unique_layers"]
    before = stack.get("prelude", 0)
    core = values[:, before : before + N * L + 1, before : before + N * L + 1]
    if loops is not None or layers is not None:
        N, L = _divided(N * L, loops, layers)
    carry, skip, injection = (
        rule_value(name, stack.get(name, neutral), stack["loops"], stack["unique_layers"])
        for name, neutral in (("carry", 1.0), ("skip", 1.0), ("injection", 0.0))
    )
    moves = "what is injected in every loop" if injection else "the factor on the stream itself"
    sharing = stack.get("sharing", "cyclic")
    irregular = isinstance(sharing, list) or (sharing == "consecutive" and stack["unique_layers"] > 1)
    return Reading(
        core, N, L, fixed=values.shape[1] - core.shape[1],
        moves_alone="" if (carry * skip, injection) == (1.0, 0.0) else moves,
        no_more="the layers do not take turns, so that more loops change the order of all visits" if irregular else "",
        shared=stack["tied"],
    )  # fmt: skip


def _core(calls: Sequence[str]) -> tuple[int, int, int]:
    """Start, stop and period of the longest stretch of at least FEWEST whole loops; zeros where there is none.

    >>> _core("abcdcdcdcdcdef"), _core("abcabd")
    ((2, 12, 2), (0, 0, 0))
    """
    best = (0, 0, 0)
    for period in range(1, len(calls) // FEWEST + 1):
        alike = [one == other for one, other in zip(calls, calls[period:], strict=False)]
        start = 0
        for same, run in itertools.groupby(alike):
            count = len(list(run))
            whole = (count + period) // period * period
            if same and whole >= FEWEST * period and whole > best[1] - best[0]:
                best = (start, start + whole, period)
            start += count
    return best


def _covariances(probed: object) -> Array:
    """(member, visit, visit_other); one member unless covariance has a dimension more."""
    if not isinstance(probed, xr.Dataset):
        raise InputError("probed", probed, "give a Dataset of probe or simulate")
    if "covariance" not in probed:
        raise InputError("probed", sorted(map(str, probed.data_vars)), "lacks covariance (visit, visit_other)")
    covariance = probed.covariance
    if covariance.ndim not in (2, 3) or not {"visit", "visit_other"} <= set(covariance.dims):
        raise InputError(
            "probed", covariance.dims, "needs covariance (visit, visit_other), and one dimension more at most"
        )
    values = covariance.transpose(..., "visit", "visit_other").values.astype(np.float64)
    values = values.reshape(-1, *values.shape[-2:])
    if values.shape[1] < 3:
        visits = values.shape[1] - 1
        raise InputError("probed", f"{visits} visit", "has no growth to diagnose; probe a block that is visited again")
    bad = np.flatnonzero(~np.isfinite(np.diagonal(values, axis1=1, axis2=2)).all(0))
    if len(bad) or not np.isfinite(values).all():
        visit = int(bad[0]) if len(bad) else "some"
        mend = "holds an infinity or a NaN from here on; probe fewer loops, smaller weights or a wider dtype"
        raise InputError("probed", f"the stream after visit {visit}", mend)
    return np.asarray(values)


def _counts(probed: xr.Dataset, visits: int, loops: int | None, layers: int | None) -> tuple[int, int]:
    """N and L, from the arguments, else the attributes, else the loops counted by increment_cosine."""
    if loops is None and layers is None:
        loops = int(probed.attrs.get("loops", probed.sizes.get("loop", visits)))
    return _divided(visits, loops, layers)


def _divided(visits: int, loops: int | None, layers: int | None) -> tuple[int, int]:
    """N and L from one of them, or both, that make the visits."""
    for name, count in (("loops", loops), ("unique_layers", layers)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= visits):
            raise InputError(name, count, f"must be an integer from 1 to the {visits} visits")
    given_loops = loops if loops is not None else visits // (layers or 1)
    given_layers = layers if layers is not None else visits // given_loops
    if given_loops * given_layers != visits:
        raise InputError("loops", given_loops, f"times unique_layers = {given_layers} is not the {visits} visits")
    return given_loops, given_layers
