"""Random stacks sampled with their full matrices, batched over trials in torch."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import numpy as np
import torch
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo.estimate import Moments
from residual_theory.observables import dataset
from residual_theory.stack import Stack, Visit, described

DTYPES = {"float64": torch.float64, "float32": torch.float32}
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "leaky-relu": torch.nn.functional.leaky_relu,
    "linear": lambda x: x,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}
_WORKING_SET = {"cpu": 16 * 2**20, "cuda": 2**32}  # bytes of weights at once: near a core's cache, or many on a GPU


def simulate(
    stack: Stack,
    *,
    width: int,
    samples: int,
    seed: int = 0,
    method: str = "dense",
    device: str = "cpu",
    dtype: str = "float64",
    memory_budget: int | None = None,
    first_trial: int = 0,
) -> xr.Dataset:
    """Monte Carlo estimates of a random stack's second moments, covariances and increment cosines at finite width.

    Each trial draws h_0 and the matrices afresh from the law that `Stack` states and runs its visits. Trial t of a
    (seed, width) has a generator of its own, so what is drawn does not depend on how trials are chunked (sums may, by
    rounding), and trials first_trial … first_trial + samples − 1 extend earlier ones.

    Arguments:
      stack: a Stack.
      width: d ≥ 1.  samples: independent trials ≥ 1; the standard error of a single one is NaN.
      seed: 0 ≤ seed < 2⁶³.  device: "cpu" or "cuda[:i]".  dtype: of weights and stream; estimates are float64.
      memory_budget: bytes that the weights and streams of one chunk of trials may take; by default near the
        cache on a CPU, 4 GiB on a GPU. At least one trial must fit.
    Returns: a Dataset of second_moment (visit), covariance (visit, visit_other), increment_cosine (loop, loop_other),
      each with *_stderr, and samples; all dimensionless. The cosine is a mean over trials. If a stream overflows, the
      values from there on are inf or NaN and the attribute first_nonfinite_visit names the first such visit.
    Raises: InputError naming the argument that cannot be used.
    Source: docs/theory.md, "Sampling".

    >>> stack = Stack(loops=2, residual_scale=0.5, activation="linear", weight_variance=1.0)
    >>> exact = 1 + 4 * 0.5**2 + 0.5**4 + 2 * 0.5**2 / 3 + 2 * 0.5**4 / 3**2
    >>> drawn = simulate(stack, width=3, samples=4000, seed=1)
    >>> bool(abs(drawn.second_moment[-1] - exact) < 4 * drawn.second_moment_stderr[-1])
    True
    """
    _check(stack, width, samples, seed, method, dtype, first_trial)
    torch_device = _device(device)
    moments = {name: Moments() for name in ("second_moment", "covariance", "increment_cosine")}
    nonfinite: list[int] = []
    trials = range(first_trial, first_trial + samples)
    for chunk in _chunks(trials, _trials_at_once(stack, width, dtype, torch_device, memory_budget)):
        streams = _streams(stack, width, chunk, seed, torch_device, DTYPES[dtype]).double()  # (trial, visit, width)
        covariance = streams @ streams.mT / width
        finite = torch.isfinite(covariance.diagonal(dim1=1, dim2=2)).all(dim=0)  # (visit,)
        if not finite.all():
            nonfinite.append(int(finite.int().argmin()))
        moments["covariance"].add(covariance.cpu().numpy())
        moments["second_moment"].add(covariance.diagonal(dim1=1, dim2=2).cpu().numpy())
        moments["increment_cosine"].add(_increment_cosines(streams[:, list(stack.loop_ends)]).cpu().numpy())
    attrs = {
        "method": f"Monte Carlo, {method}",
        "description": json.dumps(described(stack), sort_keys=True),
        "width": int(width),
        "seed": int(seed),
        "first_trial": int(first_trial),
        "dtype": dtype,
        "device": torch.cuda.get_device_name(torch_device) if torch_device.type == "cuda" else "cpu",
        "torch": str(torch.__version__),
    }
    if nonfinite:
        attrs["first_nonfinite_visit"] = min(nonfinite)
    return dataset(
        {name: moment.mean for name, moment in moments.items()},
        stderr={name: moment.stderr for name, moment in moments.items()},
        samples=samples,
        attrs=attrs,
    )


def _check(
    stack: object, width: object, samples: object, seed: object, method: str, dtype: str, first_trial: object
) -> None:
    if not isinstance(stack, Stack):
        raise InputError("stack", stack, "give a Stack; a Transformer is built and measured with probe")
    for name, value, least in (("width", width, 1), ("samples", samples, 1), ("first_trial", first_trial, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InputError(name, value, f"must be an integer of at least {least}")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise InputError("seed", seed, "must be an integer from 0 to 2^63 - 1")
    if method != "dense":
        raise InputError("method", method, "choose 'dense'")
    if dtype not in DTYPES:
        raise InputError("dtype", dtype, "choose 'float64' or 'float32'")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError("device", name, "choose 'cpu' or 'cuda'") from None
    if device.type not in _WORKING_SET:
        raise InputError("device", name, "choose 'cpu' or 'cuda'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            "device", name, f"{torch.cuda.device_count()} CUDA devices are here; choose 'cpu' or one of them"
        )
    return device


def _trials_at_once(stack: Stack, width: int, dtype: str, device: torch.device, budget: int | None) -> int:
    visits = stack.visits
    live = stack.unique_layers if stack.tied and stack.loops > 1 else 1
    numbers = live * sum(rows * columns for rows, columns in _shapes(stack, width))
    one_trial = DTYPES[dtype].itemsize * numbers + 16 * (len(visits) + 1) * (width + len(visits) + 1)
    machine = _memory_of(device)
    if one_trial > machine:
        mend = f"a trial needs {one_trial / 2**30:.1f} GiB and {device} has {machine / 2**30:.1f}; choose a smaller one"
        raise InputError("width", width, mend)
    if budget is None:
        return max(1, _WORKING_SET[device.type] // one_trial)
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < one_trial:
        raise InputError("memory_budget", budget, f"must be an integer of at least {one_trial}, one trial's bytes")
    return budget // one_trial


def _memory_of(device: torch.device) -> int:
    """Bytes that the device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _chunks(trials: range, size: int) -> Iterator[range]:
    return (trials[start : start + size] for start in range(0, len(trials), size))


def _streams(
    stack: Stack, width: int, trials: Sequence[int], seed: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """The stream h_0 … h_V of each trial: (trial, visit, width). A matrix lives from its first visit to its last."""
    sources = [_normals(seed, width, trial, device) for trial in trials]

    def normal(*shape: int) -> torch.Tensor:
        drawn = torch.empty(len(trials), *shape, device=device, dtype=dtype)
        for row, fill in zip(drawn, sources, strict=True):
            fill(row)
        return drawn

    visits = stack.visits
    last = {visit.weights: index for index, visit in enumerate(visits)}
    entry = stack.loop_ends[0]
    matrices: dict[int, list[torch.Tensor]] = {}
    streams = [normal(width) * stack.initial_variance**0.5]
    for index, visit in enumerate(visits):
        if visit.weights not in matrices:
            matrices[visit.weights] = [normal(*shape) for shape in _shapes(stack, width)]
        injected = streams[entry] if visit.injection else None
        streams.append(_apply(stack, visit, matrices[visit.weights], streams[-1], injected))
        if last[visit.weights] == index:
            del matrices[visit.weights]
    return torch.stack(streams, dim=1)


def _shapes(stack: Stack, width: int) -> list[tuple[int, int]]:
    """Of the matrices of one layer, the one that writes to the stream last."""
    hidden = stack.expansion * width
    inward = {"single": 0, "mlp": 1, "gated": 2}[stack.branch]
    return [(hidden, width)] * inward + [(width, hidden if inward else width)]


def _apply(
    stack: Stack, visit: Visit, matrices: Sequence[torch.Tensor], stream: torch.Tensor, injected: torch.Tensor | None
) -> torch.Tensor:
    """One visit, the `matrices` (trial, rows, columns) being standard normal; stream (trial, width)."""
    *inward, outward = matrices
    width, hidden = stream.shape[1], outward.shape[2]
    read = _normalised(stream) if stack.normalization.startswith("rms") else stream
    if inward:
        size = (stack.hidden_variance / width) ** 0.5
        first, *gated = [torch.bmm(matrix, read[:, :, None])[:, :, 0] * size for matrix in inward]
        read = _activated(stack, first)
        for factor in gated:
            read = read * factor
    else:
        read = _activated(stack, read)
    kept = stream * visit.carry if visit.carry != 1 else stream
    if injected is not None:
        kept = kept + visit.injection * injected
    scale = visit.scale * (stack.weight_variance / hidden) ** 0.5
    following = torch.baddbmm(kept[:, :, None], outward, read[:, :, None], alpha=scale)[:, :, 0]
    return _normalised(following) if visit.normalized else following


def _normalised(stream: torch.Tensor) -> torch.Tensor:
    return stream.mul(stream.shape[1] ** 0.5 / torch.linalg.vector_norm(stream, dim=1, keepdim=True))


def _activated(stack: Stack, x: torch.Tensor) -> torch.Tensor:
    if isinstance(stack.activation, str):
        return _ACTIVATIONS[stack.activation](x)
    if x.device.type != "cpu":
        raise InputError("activation", stack.activation, "is a function of arrays; simulate it on device='cpu'")
    return torch.from_numpy(np.asarray(stack.activation(x.numpy()))).to(x.dtype)


def _normals(seed: int, width: int, trial: int, device: torch.device) -> Callable[[torch.Tensor], object]:
    """A filler of tensors with standard normal numbers, the same for the same trial.

    On the CPU the numbers are numpy's: its generator takes half of torch's time in float64.
    """
    entropy = np.random.SeedSequence(seed, spawn_key=(width, trial))
    if device.type == "cpu":
        numbers = np.random.Generator(np.random.SFC64(entropy))
        return lambda row: numbers.standard_normal(out=row.numpy(), dtype=row.numpy().dtype.type)
    state = int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator(device=device).manual_seed(state)
    return lambda row: row.normal_(generator=generator)


def _increment_cosines(ends: torch.Tensor) -> torch.Tensor:
    """Cosines (trial, loop, loop) between the changes over each loop; ends (trial, loop + 1, width)."""
    increments = ends.diff(dim=1)
    directions = increments / torch.linalg.vector_norm(increments, dim=2, keepdim=True)
    return torch.matmul(directions, directions.mT)
