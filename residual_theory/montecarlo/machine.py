"""What draws the trials: the device, how many trials it takes at once, and the threads or processes that share them."""

import collections
import concurrent.futures
import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, TypeVar

import torch

from residual_theory import parallel
from residual_theory.errors import InputError
from residual_theory.montecarlo.randomness import Rows

DTYPES = {"float64": torch.float64, "float32": torch.float32}
_WEIGHTS = {"cpu": 40 * 2**20, "cuda": 2**30, "mps": 2**28}  # bytes of a block: near the cache, or many on a GPU
_MOST_BYTES = {"cpu": 2**28, "cuda": 2**32, "mps": 2**30}
_MOST_TRIALS = {"cpu": 64, "cuda": 1024, "mps": 256}
Result = TypeVar("Result")


def described_device(device: torch.device) -> str:
    """Its name for a record."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_of(device: torch.device) -> int:
    """Bytes that the device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def trials_in_block(weights: int, one_trial: int, device: torch.device) -> int:
    """How many trials are drawn together, from the bytes of the weights of one and of all it takes.

    A power of two that depends on nothing but these and the kind of device, so that a trial's bits do neither.
    """
    kind = device.type
    most = min(_MOST_TRIALS[kind], _WEIGHTS[kind] // weights, _MOST_BYTES[kind] // one_trial)
    return 1 << (max(most, 1).bit_length() - 1)


def blocks_at_once(block: int, one_trial: int, device: torch.device, width: int, budget: Any) -> int:
    """How many blocks of so many bytes may be held at once.

    Raises: InputError naming memory_budget when one is given that cannot hold a block, or width when the machine
      cannot hold a trial.
    """
    machine = memory_of(device)
    if one_trial > machine:
        needs = f"a trial needs {one_trial / 2**30:.1f} GiB and {device} has {machine / 2**30:.1f}"
        raise InputError("width", width, f"{needs}; choose a smaller one")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, Integral) or budget < block):
        raise InputError("memory_budget", budget, f"must be an integer of at least {block}, the bytes drawn at once")
    return max(1, int(budget or machine // 2) // block)


@contextlib.contextmanager
def workers(
    blocks: int, at_once: int, device: torch.device, *, movable: bool = False, least: float = 0.0
) -> Iterator[tuple[Callable[..., Iterator[Result]], Rows]]:
    """(map, rows): a map over blocks, in order, and how to divide long vectors; all threads that torch may use.

    Threads share out blocks where there are enough of them, and the rows of one block where there are not. Torch
    itself keeps to one thread meanwhile, so that no sum depends on how many there are. Blocks that are `movable`, that
    is, whose work can be pickled, go over to as many processes where parallel.worth_starting says so: Python's lock
    lets threads have little more than one core each while they hand small products to torch. They begin there if
    `least`, the seconds that a block surely takes, says so already.
    """
    threads = torch.get_num_threads()
    with _undisturbed(device):
        if device.type != "cpu" or threads == 1:
            yield map, Rows(device)
            return
        pool = concurrent.futures.ThreadPoolExecutor(threads, initializer=as_worker)
        try:
            torch.set_num_threads(1)
            if min(blocks, at_once) >= threads:
                whole, most = least * blocks / threads, min(at_once, 2 * threads)
                yield functools.partial(_in_turn, pool, threads, most, movable, whole), Rows(device)
            else:
                yield map, Rows(device, pool)
        finally:
            try:
                pool.shutdown(cancel_futures=True)
            finally:
                torch.set_num_threads(threads)


@contextlib.contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Full precision, and gradients possible, whatever the caller has set."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _in_turn(
    pool: concurrent.futures.Executor,
    workers: int,
    most: int,
    movable: bool,
    least: float,
    work: Callable[[int], Result],
    items: Sequence[int],
) -> Iterator[Result]:
    """work(item) for every item, in order, at most so many begun and not yet taken.

    Processes begin with it where the `least` seconds that it takes are worth them. Otherwise the time until the first
    result tells how long the rest will take, and so whether processes go on.
    """
    begun: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    started = time.perf_counter()
    with contextlib.ExitStack() as entered:
        entered.callback(lambda: [future.cancel() for future in begun])
        moved = False
        for place, item in enumerate(items):
            if movable and not moved and place in (0, most):
                left = (time.perf_counter() - started) * (len(items) / workers - 1) if place else least
                moved = parallel.worth_starting(left)
                if moved:
                    pool = entered.enter_context(parallel.processes(workers, as_worker))
            begun.append(pool.submit(work, item))
            if len(begun) >= most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def as_worker() -> None:
    """Make a thread or process draw blocks with one thread of torch's, whose sums thus depend on no number of them."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)  # a thread of its own would start with gradients on; who wants them turns them on


def halved_when_full(
    work: Callable[[Sequence[int]], Result], trials: Sequence[int], join: Callable[[list[Result]], Result]
) -> Result:
    """work(trials), in halves of halves where the device's memory does not suffice.

    Raises: torch.cuda.OutOfMemoryError when a single trial does not fit.
    """
    try:
        return work(trials)
    except torch.cuda.OutOfMemoryError:
        if len(trials) == 1:
            raise
    torch.cuda.empty_cache()
    middle = len(trials) // 2
    return join([halved_when_full(work, part, join) for part in (trials[:middle], trials[middle:])])
