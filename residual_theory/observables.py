"""The quantities that predict, simulate and probe all return, under one set of names, dimensions and units.

All are dimensionless. With h_k the stream after visit k (h_0 the input of the first visit), d the width and
Δ_n the change of the stream over loop n:

  second_moment     (visit)              ‖h_k‖²/d
  covariance        (visit, visit_other) ⟨h_k, h_m⟩/d
  increment_cosine  (loop, loop_other)   ⟨Δ_n, Δ_m⟩ / (‖Δ_n‖ ‖Δ_m‖)
  gradient_second_moment  (visit)        ‖∂f/∂h_k‖² for f = ⟨v, h_V⟩/‖v‖, v independent of the weights
  tangent_kernel    ()                   Σ_W ‖∂f/∂W‖²/fan-in, over the branches' weights
  log_second_moment (visit)              log of second_moment; a mean of logs where trials differ
  input_covariance  (visit, input, input_other)  ⟨h_k, h'_k⟩/d of two inputs through the same weights

A measured one has <name>_stderr of the same shape beside it and the number of independent `samples`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "second_moment": ("visit",),
    "covariance": ("visit", "visit_other"),
    "increment_cosine": ("loop", "loop_other"),
    "gradient_second_moment": ("visit",),
    "tangent_kernel": (),
    "log_second_moment": ("visit",),
    "input_covariance": ("visit", "input", "input_other"),
}
MEANING = {
    "second_moment": "mean square of the stream's entries",
    "covariance": "mean product of the stream's entries at two visits",
    "increment_cosine": "cosine between the changes of the stream over two loops",
    "gradient_second_moment": "squared norm of the gradient of a random readout of the last visit",
    "tangent_kernel": "squared norm of the readout's gradient in the weights over their fan-in",
    "log_second_moment": "logarithm of the mean square of the stream's entries",
    "input_covariance": "mean product of two inputs' streams at the same visit",
}


def dataset(
    values: Mapping[str, np.ndarray],
    *,
    stderr: Mapping[str, np.ndarray] | None = None,
    samples: int | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Label observables: `values` and `stderr` map a name to an array of the shape that DIMENSIONS gives it."""
    variables: dict[str, xr.DataArray] = {}
    for suffix, group in (("", values), ("_stderr", stderr or {})):
        for name, array in group.items():
            meaning = MEANING[name] + (", standard error of the mean" if suffix else "")
            variables[name + suffix] = xr.DataArray(
                np.asarray(array), dims=DIMENSIONS[name], attrs={"long_name": meaning, "units": "1"}
            )
    if samples is not None:
        variables["samples"] = xr.DataArray(samples, attrs={"long_name": "independent samples", "units": "1"})
    result = xr.Dataset(variables, attrs=dict(attrs or {}))
    return result.assign_coords({str(dim): np.arange(size) for dim, size in result.sizes.items()})
