"""Machine checks of derivations, as results."""

from pathlib import Path

import numpy as np
import xarray as xr

from residual_theory.errors import DerivationError, FalseStepError, InputError
from residual_theory.fingerprint import fingerprint
from residual_theory.loading import load_module
from residual_theory.proofs.checking import check


def check_file(path: Path, name: str, source: str) -> xr.Dataset:
    """How each step of the derivation `name` in a file was checked; see `Proof`, whose fields these are."""
    if source != fingerprint(str(path)):
        raise InputError("root", str(path), "has changed since the run began; run again")
    try:
        records = check(getattr(load_module(path), name))
    except DerivationError as error:
        return xr.Dataset(attrs={"failure": str(error), "disproved": int(isinstance(error, FalseStepError))})
    return xr.Dataset(
        {
            "title": ("step", np.array([record.title for record in records], dtype=object)),
            "checked": ("step", np.array([record.labelled for record in records], dtype=object)),
            "seconds": ("step", np.array([record.seconds for record in records])),
        },
        attrs={"failure": "", "disproved": 0},
    )
