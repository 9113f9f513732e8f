"""Devices by their names. Torch is imported once one is asked for."""

from typing import TYPE_CHECKING

from residual_theory.errors import InputError

if TYPE_CHECKING:
    import torch

_KINDS = ("cpu", "cuda", "mps")


def device_named(
    name: object, *, dtype: str = "float32", choices: str = "'cpu', 'cuda', 'cuda:0' or 'mps'"
) -> "torch.device":
    """The device.

    Arguments: name: torch's, such as "cuda:0". dtype: to compute in. choices: the devices that a refusal offers.
    Raises: InputError for a device that is unknown or not here, or that lacks the dtype.
    """
    import torch

    try:
        device: torch.device = torch.device(name)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise InputError("device", name, f"choose {choices}") from None
    if device.type not in _KINDS:
        raise InputError("device", name, f"choose {choices}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError("device", name, f"{count} CUDA devices are here; choose 'cpu' or one of them")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device", name, "no MPS device is here; choose 'cpu'")
    if device.type == "mps" and dtype == "float64":
        raise InputError("dtype", dtype, "MPS has no float64; choose 'float32'")
    return device
