"""The processes that torchrun started to share a run, and the device of each."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from residual_theory.devices import device_named
from residual_theory.errors import InputError


@dataclass(frozen=True)
class Team:
    """This process's device, its rank, and how many processes train one model together."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def share(self, count: int) -> slice:
        """This process's part of `count` things."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)


@contextlib.contextmanager
def team(device: str) -> Iterator[Team]:
    """Join the processes of torchrun, where WORLD_SIZE says that there are several; otherwise work alone.

    Arguments: device: "cpu", "mps", "cuda" (of several processes each takes the one of its LOCAL_RANK) or "cuda:0".
    Raises: InputError for a device that is unknown or not here, and for WORLD_SIZE without torchrun's other variables.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = device_named(f"cuda:{local}" if device == "cuda" and size > 1 else device)
    if size == 1:
        yield Team(place)
        return
    started = not distributed.is_initialized()
    if started:
        if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise InputError("WORLD_SIZE", size, f"{missing[0]} is not set; start with torchrun, or unset WORLD_SIZE")
        if place.type == "cuda":
            torch.cuda.set_device(place)
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Team(place, distributed.get_rank(), distributed.get_world_size())
    finally:
        if started:
            distributed.destroy_process_group()
