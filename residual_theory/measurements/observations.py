"""Reading observations: those of one kind, the results of successive rounds pooled."""

from collections.abc import Sequence
from typing import Any, TypeVar

import xarray as xr

from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.measurements.measurement import Measurement, Observation, Observations
from residual_theory.montecarlo import estimate

Kind = TypeVar("Kind", bound=Measurement)


def pooled(kind: type[Kind], observations: Observations) -> list[Observation[Kind]]:
    """The observations of one kind, or of the kinds that derive from it, in order of appearance.

    Those that differ only in the fields that `kind.varies` names become one, whose measurement is the first of them.

    Arguments: kind: such as Simulation or Training. observations: as a check gets them.
    Returns: observations whose results have the means, standard errors and `samples` of all rounds together.

    >>> from pathlib import Path
    >>> from residual_theory import Stack
    >>> from residual_theory.measurements.kinds import Prediction, Simulation
    >>> from residual_theory.measurements.measurement import Context
    >>> context, stack = Context(Path()), Stack(loops=2, residual_scale=0.5)
    >>> first = Simulation(stack=stack, width=8, samples=2, seed=1)
    >>> more = first.model_copy(update={"samples": 3, "first_trial": 2})
    >>> made = [Observation(item, item.measure(context)) for item in (first, Prediction(stack=stack), more)]
    >>> [(found.measurement.width, int(found.result.samples)) for found in pooled(Simulation, made)]
    [(8, 5)]
    """
    groups: dict[str, list[Observation[Kind]]] = {}
    for measurement, result in observations:
        if isinstance(measurement, kind):
            groups.setdefault(measurement.pool, []).append(Observation(measurement, result))
    return [Observation(group[0].measurement, _merge([item.result for item in group])) for group in groups.values()]


def has(description: Description, **wanted: Any) -> bool:
    """Whether a stack, a model or another description has all the wanted fields.

    Arguments: description: such as `measurement.stack`. wanted: values of its fields.
    Raises: InputError for a field that such descriptions do not have.

    >>> from residual_theory import Stack
    >>> has(Stack(loops=2), loops=2, tied=False)
    False
    """
    for name, value in wanted.items():
        if name not in type(description).model_fields:
            raise InputError(name, value, f"{type(description).__name__} has no such field")
    return all(getattr(description, name) == value for name, value in wanted.items())


def _merge(results: Sequence[xr.Dataset]) -> xr.Dataset:
    """The results pooled; what is no mean over samples, such as the tokens read, is that of the first."""
    if len(results) == 1:
        return results[0]
    merged = estimate.pool(results)
    for name in (str(name) for name in results[0].data_vars if name not in merged and f"{name}_stderr" in results[0]):
        moments = estimate.Moments()
        for result in results:
            count = int(result.samples)
            moments.merge(count, result[name].values, result[f"{name}_stderr"].values ** 2 * count * (count - 1))
        dims = results[0][name].dims
        merged = merged.assign({name: (dims, moments.mean), f"{name}_stderr": (dims, moments.stderr)})
    return merged.assign({name: array for name, array in results[0].data_vars.items() if name not in merged})
