"""Sweeps over rule, N, L, learning rate and seed: every cell trained once, stored, and found again when interrupted."""

import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from residual_theory.devices import device_named
from residual_theory.errors import InputError
from residual_theory.fingerprint import fingerprint
from residual_theory.parallel import each
from residual_theory.store import Specification, Store, digest, provenance
from residual_theory.sweeps.grid import Cell, SweepConfig, change
from residual_theory.transformer.data import Corpus
from residual_theory.transformer.ensemble import common, obstacle, train_together
from residual_theory.transformer.train import train

Way = Literal["auto", "apart", "together"]
Progress = Callable[[int, int], None]  # runs done, of how many; 0 of 0 ends the report
MEMBERS = 8  # of an ensemble, at most
LAST = 0.1  # share of the steps that the final training loss is averaged over
_AXES = ("rule", "loops", "unique_layers", "learning_rate", "seed")
_TRIAL_STEPS = 5
_TRIAL_RATE = 1e-12  # at which nothing diverges


def specification(cell: Cell, corpus: Corpus) -> Specification:
    """What names a cell's result. Rules that give the same ε, as all do at N = 1, have one run in common."""
    model = {**cell.model.model_dump(mode="json"), "residual_scale": cell.model.epsilon}
    training = cell.training.model_dump(mode="json")
    arguments = {"model": model, "training": training, "corpus": corpus.digest}
    return {"instrument": "sweep", **arguments, "code": _code()}


@functools.cache
def _code() -> str:
    """The fingerprint of the code that trains: results of another are not used."""
    return fingerprint("residual_theory.transformer.train:train", "residual_theory.transformer.ensemble:train_together")


def sweep(
    config: SweepConfig,
    corpus: Corpus,
    store: Store,
    *,
    way: Way = "auto",
    members: int = MEMBERS,
    jobs: int = 1,
    every: int = 1000,
    progress: Progress = lambda *_: None,
) -> xr.Dataset:
    """Train every cell that the store does not hold yet, and gather all of them.

    Each run is stored as it ends, and leaves a checkpoint every `every` steps, so an interrupted sweep goes on where it
    stopped; a corrupt result is computed again.

    Arguments:
      corpus: text to train and validate on. store: of the runs.
      way: "apart", one run a task; "together", up to `members` runs of one shape in a task, as an ensemble; or "auto",
        whichever has the shorter step for that shape in a short trial here. They give the same up to rounding.
      jobs: tasks at a time, each in a process of its own with one thread. progress: called with runs done, of how many.
    Returns: validation_loss, nats a token, NaN where diverged; diverged; train_loss, mean over the last tenth of the
      steps; seconds, of an ensemble its share; members, the runs in it; all (rule, loops, unique_layers,
      learning_rate, seed).
    Raises: InputError as `train` does.
    """
    if way not in ("auto", "apart", "together"):
        raise InputError("way", way, "choose 'auto', 'apart' or 'together'")
    if members < 1:
        raise InputError("members", members, "must be at least 1")
    device_named(config.training.device)
    cells = config.cells()
    corpus.must_hold(config.model.context)
    unique = {digest(spec): (cell, spec) for cell, spec in ((cell, specification(cell, corpus)) for cell in cells)}
    results = {key: found for key, (_, spec) in unique.items() if (found := store.load(spec)) is not None}
    missing = [cell for key, (cell, _) in unique.items() if key not in results]
    progress(len(results), len(unique))
    trial = _Trial(corpus, members)
    tasks = [task for group in _groups(missing) for task in _tasks(group, way, trial)]
    try:
        done = len(results)
        for count in each(_TrainAndStore(corpus, store, every), tasks, jobs):
            done += count
            progress(done, len(unique))
    except BaseException:
        progress(0, 0)  # removes the progress bar
        raise
    results |= {key: store.require(spec) for key, (_, spec) in unique.items() if key not in results}
    return _gather(config, [results[digest(specification(cell, corpus))] for cell in cells]).assign_attrs(
        sweep=config.model_dump_json(),
        corpus=corpus.name,
        corpus_digest=corpus.digest,
        ways=json.dumps(trial.seconds),
        provenance=json.dumps(provenance()),
    )


def _groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells of one shape, each group in order, the costliest first so that no long task starts last."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(common(cell.model, cell.training), []).append(cell)
    return sorted(groups.values(), key=lambda group: -group[0].model.loops * group[0].model.unique_layers)


def _tasks(group: Sequence[Cell], way: Way, trial: "_Trial") -> list[Sequence[Cell]]:
    if way == "auto" and obstacle(group[0].training):
        way = "apart"
    size = {"apart": 1, "together": trial.members}.get(way) or trial.best_size(group)
    return [group[start : start + size] for start in range(0, len(group), size)]


@dataclass(frozen=True)
class _TrainAndStore:
    """Trains the cells of a task, stores each, and says how many they were."""

    corpus: Corpus
    store: Store
    every: int

    def __call__(self, cells: Sequence[Cell]) -> int:
        start = time.perf_counter()
        specs = [specification(cell, self.corpus) for cell in cells]
        checkpoints = [self.store.path(spec).with_suffix(".checkpoint") for spec in specs]
        made = _train(cells, self.corpus, checkpoints, self.every)
        seconds = (time.perf_counter() - start) / len(cells)
        for spec, checkpoint, result in zip(specs, checkpoints, made, strict=True):
            self.store.save(spec, result.assign_attrs(seconds=seconds, members=len(cells)), seconds)
            checkpoint.unlink(missing_ok=True)
        return len(cells)


def _train(
    cells: Sequence[Cell],
    corpus: Corpus,
    checkpoints: Sequence[Path] = (),
    every: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[xr.Dataset]:
    kept = checkpoints if every < cells[0].training.steps else ()  # a short run leaves none
    if len(cells) == 1:
        (cell,), file = cells, kept[0] if kept else None
        return [train(cell.model, cell.training, corpus, progress, checkpoint=file, every=every)]
    models, trainings = zip(*((cell.model, cell.training) for cell in cells), strict=True)
    return train_together(models, trainings, corpus, progress, checkpoints=kept, every=every)


class _Trial:
    """Measures, once a shape, whether a step of an ensemble takes less time than as many steps of single models.

    Attributes: seconds: of one member's step, by shape, "apart" and "together".
    """

    def __init__(self, corpus: Corpus, members: int) -> None:
        self.corpus, self.members = corpus, members
        self.seconds: dict[str, dict[str, float]] = {}

    def best_size(self, group: Sequence[Cell]) -> int:
        """How many of these cells to train in one task."""
        size = min(self.members, len(group))
        if size == 1:
            return 1
        shape = f"N={group[0].model.loops}, L={group[0].model.unique_layers}"
        (measured,) = each(self._measure, [group[:size]], 1)
        self.seconds[shape] = measured
        return size if measured["together"] < measured["apart"] else 1

    def _measure(self, group: Sequence[Cell]) -> dict[str, float]:
        apart = seconds_a_step(group[:1], self.corpus)
        try:
            together = seconds_a_step(group, self.corpus) / len(group)
        except InputError as error:
            if error.argument != "members":
                raise
            together = math.inf  # they do not fit
        return {"apart": apart, "together": together}


def seconds_a_step(cells: Sequence[Cell], corpus: Corpus) -> float:
    """The median time of a few steps of these cells, together if they are several, after a first one."""
    ends: list[float] = []
    short = {"steps": 2 + _TRIAL_STEPS, "evaluation_sequences": 1, "validate_every": None}
    trial = [Cell(cell.model, change(cell.training, **short, learning_rate=_TRIAL_RATE)) for cell in cells]
    _train(trial, corpus, progress=lambda _: ends.append(time.perf_counter()))
    return float(np.median(np.diff(ends)))


def _gather(config: SweepConfig, results: Sequence[xr.Dataset]) -> xr.Dataset:
    coordinates = (config.rules, config.loops, config.unique_layers, config.learning_rates, config.seeds)
    shape = tuple(map(len, coordinates))
    last = max(1, round(LAST * config.training.steps))
    columns: dict[str, tuple[list[Any], dict[str, str]]] = {
        "validation_loss": (
            [float(result.validation_loss) for result in results],
            {"long_name": "validation loss at the end", "units": "nat per token"},
        ),
        "diverged": ([bool(result.diverged) for result in results], {"long_name": "the run diverged"}),
        "train_loss": (
            [float(result.train_loss[-last:].mean(skipna=False)) for result in results],
            {"long_name": f"training loss, mean of the last {last} steps", "units": "nat per token"},
        ),
        "seconds": (
            [float(result.attrs["seconds"]) for result in results],
            {"long_name": "time of the run", "units": "s"},
        ),
        "members": (
            [int(result.attrs["members"]) for result in results],
            {"long_name": "runs trained together with it, itself included"},
        ),
    }
    return xr.Dataset(
        {name: (_AXES, np.array(values).reshape(shape), attrs) for name, (values, attrs) in columns.items()},
        coords={
            "rule": [str(rule) for rule in config.rules],
            **dict(zip(_AXES[1:], map(list, coordinates[1:]), strict=True)),
        },
    )
