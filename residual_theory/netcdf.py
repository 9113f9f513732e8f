"""Datasets as netCDF files, in the simplest format that restores them exactly."""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from residual_theory.errors import InputError


def read_dataset(path: Path, *, argument: str) -> xr.Dataset:
    """The Dataset in a netCDF file. Raises: InputError naming `argument` when it holds none."""
    try:
        return xr.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(argument, str(path), f"holds no readable result ({reason}); name another file") from None


def encode(result: xr.Dataset) -> tuple[bytes, dict[str, Any]]:
    """A result as a netCDF file, and its integers' dtypes and values, of which netCDF 3 holds 32 bits only.

    netCDF 3 is read and written some ten times as fast as HDF5. HDF5 is used for what it does not restore exactly.
    """
    attributes = {str(name): int(value) for name, value in result.attrs.items() if isinstance(value, int | np.integer)}
    integers: dict[str, dict[str, Any]] = {
        "dtypes": {str(name): str(one.dtype) for name, one in result.variables.items() if one.dtype.kind in "iu"},
        "attributes": attributes,
    }
    in_file = result.assign_attrs({name: str(value) for name, value in attributes.items() if abs(value) >= 2**31})
    if all(result.sizes.values()):  # in netCDF 3 a dimension of length 0 is one that grows
        with contextlib.suppress(ValueError, TypeError):
            content = bytes(in_file.to_netcdf(engine="scipy", format="NETCDF3_64BIT"))
            if decode(content, integers).identical(result):
                return content, integers
    return bytes(result.to_netcdf(engine="h5netcdf")), {"dtypes": {}, "attributes": {}}


def decode(content: bytes, integers: Mapping[str, Mapping[str, Any]]) -> xr.Dataset:
    """The result that `encode` made a file of."""
    result = xr.load_dataset(io.BytesIO(content), engine="scipy" if content.startswith(b"CDF") else "h5netcdf")
    variables = {name: result.variables[name].astype(dtype) for name, dtype in integers["dtypes"].items()}
    return result.assign(variables).assign_attrs(integers["attributes"])
