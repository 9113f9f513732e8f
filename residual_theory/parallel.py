"""Independent tasks over the machine's cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from residual_theory.errors import ResidualTheoryError

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """function(item) for every item, in whatever order they finish, each on one core (one thread a task).

    Raises: ResidualTheoryError when a process is killed from outside.
    """
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    workers = max(1, min(jobs, cores(), len(items)))
    engine = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
    try:
        yield from engine(joblib.delayed(_single_threaded)(function, item, os.getpid()) for item in items)
    except TerminatedWorkerError:
        mend = "a process was ended from outside, perhaps for want of memory; run again, with fewer jobs"
        raise ResidualTheoryError(mend) from None


def _single_threaded(function: Callable[[Item], Result], item: Item, owner: int) -> Result:
    """One thread in torch whatever the number of jobs, so that the number of jobs changes no result.

    A process whose owner is gone stops instead of working on for nobody.
    """
    if owner not in (os.getpid(), os.getppid()):
        os._exit(1)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(item)
    finally:
        torch.set_num_threads(threads)
