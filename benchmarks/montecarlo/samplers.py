"""The samplers that speed.py times, each in a process of its own so that its peak memory is its own.

  python samplers.py NAME SETTINGS        SETTINGS as JSON: width, loops, dtype, device, matrix_bytes

One sample is one random stack: h_0 and W of independent N(0, 1) and N(0, 1/d) entries drawn afresh, then N visits
h ← h + W relu(h)/N. A line "FIRST COUNT" on standard input draws COUNT of them, the first being trial FIRST; the
answer is a line of JSON. The last sampler runs where neural-tangents is, so nothing else is imported at the top.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

COPIED = 2**29  # bytes, far beyond a cache
WIDEST = 10**6  # from here on a call draws one sample, whose rows threads share
Moments = tuple[float, float]  # mean and variance over samples of ‖h_N‖²/d; the variance is NaN where unknown


class Settings(NamedTuple):
    """What is sampled, and the bytes that the matrices of one batch may take."""

    width: int
    loops: int
    dtype: str = "float64"
    device: str = "cpu"
    matrix_bytes: int = 2**31

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return {"float64": 8, "float32": 4}[self.dtype]

    @property
    def at_once(self) -> int:
        """Matrices of a batch."""
        return max(1, self.matrix_bytes // (self.itemsize * self.width**2))


class Sampler(NamedTuple):
    """draw(first, count), the count it works best with, and the threads it uses."""

    draw: Callable[[int, int], Moments]
    least: int
    threads: int


def _moments(values: Sequence[float]) -> Moments:
    return statistics.fmean(values), statistics.variance(values) if len(values) > 1 else math.nan


def _library(settings: Settings, method: str) -> Sampler:
    """This library's `simulate`; besides ‖h_k‖²/d it returns every covariance and cosine with standard errors."""
    import torch

    from residual_theory import parallel
    from residual_theory.montecarlo.machine import as_worker
    from residual_theory.montecarlo.simulate import simulate
    from residual_theory.stack import Stack

    stack = Stack(loops=settings.loops, residual_scale="1/N")
    threads = torch.get_num_threads()
    shared = settings.device == "cpu" and threads > 1 and settings.width < WIDEST
    if shared:
        with parallel.processes(threads, as_worker) as pool:  # kept; else ten seconds of work would start them
            list(pool.map(abs, range(threads)))

    def draw(first: int, count: int) -> Moments:
        found = simulate(
            stack,
            width=settings.width,
            samples=count,
            method=method,
            device=settings.device,
            dtype=settings.dtype,
            first_trial=first,
        )
        return float(found.second_moment[-1]), count * float(found.second_moment_stderr[-1]) ** 2

    return Sampler(draw, _block(stack, settings, method) * (threads if shared else 1), threads)


def _block(stack: Any, settings: Settings, method: str) -> int:
    """How many trials the library draws together."""
    from residual_theory.montecarlo.machine import trials_in_block
    from residual_theory.montecarlo.plan import make_plan

    others = dict.fromkeys(("memory_budget", "inputs", "control", "tolerance")) | {"seed": 0, "antithetic": False}
    names = {"method": method, "device": settings.device, "dtype": settings.dtype}
    plan = make_plan(stack, settings.width, with_gradients=False, **names, **others)
    return trials_in_block(plan.weights_of_trial, plan.one_trial, plan.device)


def matrix_free(settings: Settings) -> Sampler:
    """This library without matrices."""
    return _library(settings, "matrix-free")


def library_dense(settings: Settings) -> Sampler:
    """This library with matrices, in batches near the cache's size."""
    return _library(settings, "dense")


def torch_dense(settings: Settings) -> Sampler:
    """Batches of dense matrices in torch, as one would write it with care: memory taken once, nothing copied."""
    import torch

    width, loops, batch = settings.width, settings.loops, settings.at_once
    options = {"dtype": getattr(torch, settings.dtype), "device": settings.device}
    generator = torch.Generator(settings.device).manual_seed(0)
    matrices = torch.empty(batch, width, width, **options)

    def draw(first: int, count: int) -> Moments:
        values: list[float] = []
        while len(values) < count:
            size = min(batch, count - len(values))
            W = matrices[:size].normal_(generator=generator)
            h = torch.randn(size, width, 1, generator=generator, **options)
            moments = [h.square().mean(dim=(1, 2))]
            for _ in range(loops):
                h = torch.baddbmm(h, W, torch.relu(h), alpha=1 / (loops * width**0.5))
                moments.append(h.square().mean(dim=(1, 2)))
            values += torch.stack(moments)[-1].tolist()
        return _moments(values)

    return Sampler(draw, batch, torch.get_num_threads())


def numpy_dense(settings: Settings) -> Sampler:
    """Dense matrices in NumPy, one sample at a time."""
    import numpy as np

    width, loops = settings.width, settings.loops
    numbers = np.random.default_rng(0)
    dtype = np.dtype(settings.dtype).type

    def one() -> float:
        W = numbers.standard_normal((width, width), dtype=dtype)
        h = numbers.standard_normal(width, dtype=dtype)
        moments = [np.mean(h**2)]
        for _ in range(loops):
            h = h + W @ np.maximum(h, 0) / dtype(loops * width**0.5)
            moments.append(np.mean(h**2))
        return float(moments[-1])

    return Sampler(lambda first, count: _moments([one() for _ in range(count)]), 1, os.cpu_count() or 1)


def neural_tangents(settings: Settings) -> Sampler:
    """The Monte Carlo kernel of neural-tangents, of a network made of its own layers.

    Its residual networks have weights of their own at every visit; here one branch's parameters are handed to every
    visit, which is the tied stack. It gives means without standard errors: samples are told from the running mean.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import jax

    jax.config.update("jax_enable_x64", settings.dtype == "float64")
    import neural_tangents as nt
    from neural_tangents import stax

    loops = settings.loops
    init_input, apply_input, _ = stax.Dense(settings.width)  # makes a Gaussian h_0 of the constant 1
    init_branch, apply_branch, _ = stax.serial(stax.Relu(), stax.Dense(settings.width, W_std=1 / loops))

    def init(key: Any, shape: Any) -> Any:
        keys = jax.random.split(key)
        shape, outer = init_input(keys[0], shape)
        shape, branch = init_branch(keys[1], shape)
        return shape, (outer, branch)

    def apply(parameters: Any, x: Any, **_: Any) -> Any:
        h = apply_input(parameters[0], x)
        return jax.lax.fori_loop(0, loops, lambda _, h: h + apply_branch(parameters[1], h), h)

    kernel = nt.monte_carlo_kernel_fn(init, jax.jit(apply), jax.random.PRNGKey(0), n_samples=range(1, 10**6))
    running = kernel(jax.numpy.ones((1, 1), settings.dtype), None, get="nngp")
    taken, total = 0, 0.0

    def one() -> float:
        nonlocal taken, total
        taken, before = taken + 1, total
        total = taken * float(next(running)[0, 0])
        return total - before

    return Sampler(lambda first, count: _moments([one() for _ in range(count)]), 1, os.cpu_count() or 1)


def copy(settings: Settings) -> Sampler:
    """No sampler: a "sample" is a copy of COPIED bytes in torch, with all cores."""
    import torch

    source = torch.ones(COPIED, dtype=torch.uint8, device=settings.device)
    target = torch.zeros_like(source)

    def draw(first: int, count: int) -> Moments:
        for _ in range(count):
            target.copy_(source)
        if settings.device != "cpu":
            torch.cuda.synchronize(settings.device)
        return math.nan, math.nan

    return Sampler(draw, 1, torch.get_num_threads())


SAMPLERS = {
    "matrix-free": matrix_free,
    "library dense": library_dense,
    "torch dense": torch_dense,
    "numpy dense": numpy_dense,
    "neural-tangents": neural_tangents,
    "copy": copy,
}


def peak_gib() -> float:
    """The most memory that this process and those it started ever held, Python and libraries included."""
    if Path("/proc/self/status").exists():  # getrusage would count what the process that started this one held
        held = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # it has ended
                said = dict(line.split(":", 1) for line in status.read_text().splitlines())
                if str(os.getpid()) in (said["Pid"].strip(), said["PPid"].strip()):
                    held += int(said.get("VmHWM", "0 kB").split()[0])
        return held / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS


def versions() -> dict[str, str]:
    """Of the libraries that did the work here."""
    names = ("numpy", "torch", "jax", "neural-tangents")
    return {name: importlib.metadata.version(name) for name in names if name.replace("-", "_") in sys.modules}


def serve(name: str, settings: Settings) -> None:
    """Answer the lines of standard input, one after the other."""
    replies = sys.stdout

    def reply(**values: object) -> None:
        replies.write(json.dumps(values) + "\n")
        replies.flush()

    try:
        sampler = SAMPLERS[name](settings)
        reply(least=sampler.least, threads=sampler.threads, base_gib=peak_gib(), versions=versions())
        for line in sys.stdin:
            first, count = map(int, line.split())
            began = time.perf_counter()
            mean, variance = sampler.draw(first, count)
            seconds = time.perf_counter() - began
            reply(seconds=seconds, count=count, mean=mean, variance=variance, peak_gib=peak_gib(), **_device(settings))
    except (ImportError, MemoryError, RuntimeError, ValueError) as error:
        reply(error=f"{type(error).__name__}: {error}".splitlines()[0][:200])


def _device(settings: Settings) -> dict[str, float]:
    if settings.device == "cpu":
        return {}
    import torch

    return {"device_peak_gib": torch.cuda.max_memory_allocated(settings.device) / 2**30}


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))
    serve(sys.argv[1], Settings(**json.loads(sys.argv[2])))
