"""Independent tasks over the machine's cores."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from residual_theory.errors import ResidualTheoryError

Item = TypeVar("Item")
Result = TypeVar("Result")
_IDLE = 300  # seconds that processes without work are kept
_START, _MOVE = 10.0, 0.1  # seconds of work that are worth processes to be started, or those that are kept
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | dict.fromkeys(
    ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**28)
)  # glibc keeps what a task frees, up to so many bytes, for the next one; the system would have to clear it anew
_kept = {"until": 0.0}  # the processes, on the clock time.monotonic


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[[Item], Result], items: Sequence[Item], jobs: int, *, threads: int = 1) -> Iterator[Result]:
    """function(item) for every item, in whatever order they finish, `jobs` at once, each on as many threads of torch.

    Raises: ResidualTheoryError when a process is killed from outside.
    """
    import joblib

    workers = max(1, min(jobs, cores(), len(items)))
    engine = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
    with _explain_killing():
        yield from engine(joblib.delayed(_call_threaded)(function, item, os.getpid(), threads) for item in items)


def worth_starting(seconds: float) -> bool:
    """Whether work that would take threads so many seconds is worth processes, which take seconds to start."""
    if multiprocessing.current_process().daemon:  # may have no children
        return False
    return seconds > (_MOVE if time.monotonic() < _kept["until"] else _START)


@contextlib.contextmanager
def processes(count: int, begin: Callable[[], None]) -> Iterator[concurrent.futures.Executor]:
    """Processes of one thread each that take tasks, each after `begin()`; kept for others for five minutes.

    Raises: ResidualTheoryError when one is killed from outside.
    """
    from joblib.externals.loky import get_reusable_executor

    with _explain_killing():
        settings = {
            "timeout": _IDLE,
            "initializer": _enter,
            "initargs": (begin, os.getpid()),
            "env": _ENVIRONMENT,
        }
        yield get_reusable_executor(count, **settings)
        _kept["until"] = time.monotonic() + _IDLE


def _enter(begin: Callable[[], None], owner: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner handles Ctrl-C
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    begin()


def _end_with(owner: int) -> None:
    """End this process when its owner has ended."""
    while os.getppid() == owner:
        time.sleep(1)
    os._exit(1)


@contextlib.contextmanager
def _explain_killing() -> Iterator[None]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        yield
    except TerminatedWorkerError:
        mend = "a process was ended from outside, perhaps for want of memory; run again, with fewer jobs"
        raise ResidualTheoryError(mend) from None


def _call_threaded(function: Callable[[Item], Result], item: Item, owner: int, threads: int) -> Result:
    """So many threads in torch whatever the number of jobs, so that the number of jobs changes no result.

    A process whose owner has ended exits.
    """
    if owner not in (os.getpid(), os.getppid()):
        os._exit(1)
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return function(item)
    finally:
        torch.set_num_threads(before)
