"""Samplers side by side: each in a process of its own, taking turns, so that noise hits them alike."""

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cost import Rates, predicted_seconds
from samplers import Settings

NAN = math.nan


class WorkerError(Exception):
    """The process cannot do what it was started for."""


class Worker:
    """One sampler in its process; it imports and allocates while others start."""

    def __init__(self, name: str, settings: Settings, python: str = sys.executable) -> None:
        words = [python, str(Path(__file__).with_name("samplers.py")), name, json.dumps(settings._asdict())]
        self.name, self.settings = name, settings
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def answer(self) -> dict[str, Any]:
        """The next line that the process writes."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise WorkerError(f"ended with status {self._process.wait()}" + (f": {said[-1]}" if said else ""))
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise WorkerError(found["error"])
        return found

    def draw(self, first: int, count: int) -> dict[str, Any]:
        """Draw `count` samples from trial `first` on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{first} {count}\n")
        self._process.stdin.flush()
        return self.answer()


@dataclass
class SamplerTimes:
    """What one sampler took at one size."""

    sweep: str  # along which sizes vary, "width" or "loops"
    sampler: str
    settings: Settings
    predicted: float = NAN  # seconds a sample
    count: int = 1  # samples a call
    seconds: list[float] = field(default_factory=list)  # a sample, one a call
    means: list[float] = field(default_factory=list)  # of ‖h_N‖²/d over the samples of each call
    variances: list[float] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds a sample."""
        return statistics.median(self.seconds)

    @property
    def samples(self) -> int:
        """Over all timed calls."""
        return self.count * len(self.means)

    @property
    def mean(self) -> float:
        """Of ‖h_N‖²/d over all samples."""
        return statistics.fmean(self.means)

    @property
    def deviation(self) -> float:
        """Standard deviation of ‖h_N‖²/d, from the scatter within calls and between them."""
        within = (self.count - 1) * sum(self.variances) if self.count > 1 else 0.0
        between = self.count * sum((mean - self.mean) ** 2 for mean in self.means)
        return math.sqrt((within + between) / (self.samples - 1)) if self.samples > 1 else NAN

    @property
    def stderr(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(self.samples)

    def take(self, answer: Mapping[str, Any]) -> None:
        """Take in one timed call."""
        self.seconds.append(answer["seconds"] / answer["count"])
        self.means.append(answer["mean"])
        self.variances.append(answer["variance"])
        self.answers |= answer

    def record(self) -> dict[str, Any]:
        """One line of the table."""
        ours = math.isfinite(self.predicted)
        return {
            "sweep": self.sweep,
            "sampler": self.sampler,
            "width": self.settings.width,
            "loops": self.settings.loops,
            "dtype": self.settings.dtype,
            "device": self.settings.device,
            "seconds_median": f"{self.median:.4g}",
            "seconds_min": f"{min(self.seconds):.4g}",
            "seconds_max": f"{max(self.seconds):.4g}",
            "seconds_predicted": f"{self.predicted:.4g}" if ours else "",
            "measured_over_predicted": f"{self.median / self.predicted:.3g}" if ours else "",
            "calls": len(self.seconds),
            "samples_per_call": self.count,
            "peak_gib": f"{self.answers['peak_gib']:.3f}",
            "libraries_gib": f"{self.answers['base_gib']:.3f}",
            "device_peak_gib": f"{self.answers['device_peak_gib']:.3f}" if "device_peak_gib" in self.answers else "",
            "threads": self.answers["threads"],
            "mean": f"{self.mean:.6g}",
            "stderr": f"{self.stderr:.2g}",
        }


@dataclass(frozen=True)
class Race:
    """How long and how often samplers are called."""

    rounds: int
    long: tuple[float, int]  # from so many seconds a call on, only so many rounds
    rates: Mapping[str, Rates]  # of each dtype
    python: Mapping[str, str]  # of samplers that need an environment of their own

    def run(
        self, sweep: str, entrants: Sequence[tuple[str, Settings]], seconds: float
    ) -> tuple[list[SamplerTimes], list[str]]:
        """Time all entrants in turn, each call of so many seconds at the least, and say which could not run."""
        rows, notes = [], []
        with ExitStack() as running:
            workers = [
                running.enter_context(Worker(name, settings, self.python.get(name, sys.executable)))
                for name, settings in entrants
            ]
            ready, rounds = [], self.rounds
            for worker in workers:
                try:
                    row, took = self._warm(sweep, worker, seconds)
                    ready.append((worker, row))
                    rounds = min(rounds, self.long[1]) if took > self.long[0] else rounds
                except WorkerError as error:
                    notes.append(_note(worker, error))
            for turn in range(rounds):
                for worker, row in list(ready):
                    try:
                        row.take(worker.draw((turn + 1) * 10**6, row.count))
                    except WorkerError as error:
                        notes.append(_note(worker, error))
                        ready.remove((worker, row))
            rows = [row for _, row in ready]
        return rows, notes

    def _warm(self, sweep: str, worker: Worker, seconds: float) -> tuple[SamplerTimes, float]:
        """Start a sampler, and find the number of samples that makes a call long enough; the seconds it takes."""
        row = SamplerTimes(sweep, worker.name, worker.settings, answers=worker.answer())
        if worker.name == "matrix-free":
            size = worker.settings
            row.predicted = predicted_seconds(size.loops, size.width, size.itemsize, self.rates[size.dtype])
        row.count = row.answers["least"]
        took = worker.draw(0, row.count)["seconds"]
        if took < 2 * seconds:  # else even a cold call is long enough to tell
            while (took := worker.draw(0, row.count)["seconds"]) < seconds / 2:
                row.count *= min(16, max(2, round(seconds / took)))
        return row, took


def _note(worker: Worker, error: WorkerError) -> str:
    return f"{worker.name}, width {worker.settings.width}, {worker.settings.loops} loops: not measured, {error}"
