"""What a sample without matrices must cost: bytes, operations and random numbers, and the machine's rates of each.

Visit n = 0 … N − 1 of one tied matrix multiplies an input x by what n earlier products fixed: n orthonormal input
directions and their n images, of d numbers each.
"""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

ELEMENTWISE = 10  # numbers read or written per entry of the stream and visit: activation, remainder, update, moment


class Rates(NamedTuple):
    """What this machine does in a second: bytes of a copy, operations in the cache, normal numbers."""

    copy: float
    operations: float
    normals: float
    covariances: float  # operations of a product of a matrix with its own transpose


def bytes_per_sample(N: int, d: int, itemsize: int) -> int:
    """Bytes read and written for N visits at width d.

    Visit n reads n directions and n images once, writes one of each, and moves ELEMENTWISE · d numbers besides:
    itemsize · d · (2 · N(N − 1)/2 + 2N + 10N).

    >>> bytes_per_sample(3, 5, 8)
    1680
    """
    return itemsize * d * (N * (N - 1) + 2 * N + ELEMENTWISE * N)


def operations_per_sample(N: int, d: int) -> int:
    """Multiplications and additions of the products for N visits at width d.

    Visit n multiplies and adds twice per entry, for n products ⟨z_i, z⟩ and the image Σ c_i W q_i: 4 d N(N − 1)/2.

    >>> operations_per_sample(3, 5)
    60
    """
    return 2 * d * N * (N - 1)


def covariance_operations(N: int, d: int) -> int:
    """Multiplications and additions of the Gram matrix of N + 1 streams, which every result holds.

    >>> covariance_operations(3, 5)
    160
    """
    return 2 * d * (N + 1) ** 2


def normals_per_sample(N: int, d: int) -> int:
    """Random numbers drawn: the input and one new image a visit, against d + d² with the matrix."""
    return (N + 1) * d


def predicted_seconds(N: int, d: int, itemsize: int, rates: Rates) -> float:
    """Seconds a sample: the slower of memory and arithmetic, then the random numbers and the covariances.

    >>> round(predicted_seconds(3, 5, 8, Rates(copy=1e3, operations=100.0, normals=10.0, covariances=200.0)), 12)
    4.48
    """
    moving, computing = bytes_per_sample(N, d, itemsize) / rates.copy, operations_per_sample(N, d) / rates.operations
    drawing = normals_per_sample(N, d) / rates.normals
    return max(moving, computing) + drawing + covariance_operations(N, d) / rates.covariances


def measure_rates(device: str, dtype: str, copied: int = 2**29) -> Rates:
    """The best of a few: a copy far beyond the cache, a product within it, normal numbers.

    On a CPU, product and numbers are measured on one core and multiplied by the threads; numbers are SFC64's in float64
    and torch's in float32.
    """
    kind: torch.dtype = getattr(torch, dtype)
    source = torch.ones(copied // kind.itemsize, dtype=kind, device=device)
    target = torch.zeros_like(source)
    copy = 2 * copied / _seconds(lambda: target.copy_(source), device)
    on_cpu = device == "cpu"
    threads = torch.get_num_threads()
    if on_cpu:
        torch.set_num_threads(1)
    cores = threads if on_cpu else 1
    columns, repeats = (512, 200) if on_cpu else (2**15, 50)
    matrix = torch.ones(64, columns, dtype=kind, device=device)
    vector = torch.ones(columns, dtype=kind, device=device)
    product = _seconds(lambda: [torch.mv(matrix, vector) for _ in range(repeats)], device) / repeats
    streams = torch.ones(64, 2**13, dtype=torch.float64, device=device)
    gram = _seconds(lambda: streams @ streams.mT, device)
    numbers = source[: 2**20] if on_cpu else source
    normals = numbers.numel() / _seconds(_filler(numbers), device)
    torch.set_num_threads(threads)
    products = cores * 2 * matrix.numel() / product
    return Rates(copy, products, cores * normals, cores * 2 * 64 * streams.numel() / gram)


def _filler(numbers: torch.Tensor) -> Callable[[], object]:
    if numbers.device.type != "cpu" or numbers.dtype == torch.float32:
        return numbers.normal_
    import numpy as np

    array, generator = numbers.numpy(), np.random.Generator(np.random.SFC64(0))
    return lambda: generator.standard_normal(out=array, dtype=array.dtype.type)


def _seconds(call: Callable[[], object], device: str, repeats: int = 7) -> float:
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    on_gpu = {} if device == "cpu" else {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        **on_gpu,
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
