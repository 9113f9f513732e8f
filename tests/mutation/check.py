"""Every planted error against the unit tests of what it is planted in, and against claims of the quick preset.

    python -m tests.mutation.check --out docs/mutants.csv        all of them; about 15 minutes on one core
    python -m tests.mutation.check --only "no Holm" "no carry"

Each runs in a process of its own, forked from one that has imported everything: the error is planted there, and the
tests run until the first fails. Claims are measured anew at the sizes of tests/claims/test_mutations.py.
"""

import argparse
import contextlib
import csv
import gc
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.mutation.in_measure import MEASURE
from tests.mutation.in_montecarlo import MONTECARLO
from tests.mutation.in_statistics import STACK, STATISTICS
from tests.mutation.in_transformer import TRANSFORMER
from tests.mutation.unit_mutant import UnitMutant

ROOT = Path(__file__).parents[2]
MUTANTS = (*MONTECARLO, *STATISTICS, *STACK, *TRANSFORMER, *MEASURE)
FIRST = {  # files or folders of tests, in order, where they are not the one of the mirrored name
    "montecarlo.dense": ("montecarlo/test_trials.py", "montecarlo/test_streams.py", "montecarlo/test_steps.py"),
    "montecarlo.streams": ("independent", "montecarlo/test_streams.py", "montecarlo/test_simulate.py"),
    "montecarlo.values": ("independent", "montecarlo/test_simulate.py", "montecarlo/test_trials.py"),
    "montecarlo.randomness": ("montecarlo/test_trials.py", "montecarlo/test_matrix_free.py"),
    "montecarlo.plan": ("montecarlo/test_trials.py", "montecarlo/test_simulate.py"),
    "montecarlo.simulate": ("montecarlo/test_simulate.py", "montecarlo/test_trials.py"),
    "montecarlo.trials": ("montecarlo/test_trials.py", "montecarlo/test_simulate.py", "independent"),
    "montecarlo.matrix_free": (
        "montecarlo/test_matrix_free.py",
        "montecarlo/test_streams.py",
        "montecarlo/test_trials.py",
    ),
    "stack": ("test_stack.py", "independent"),
    "transformer.model": ("transformer/test_transformer.py", "transformer/test_model_options.py"),
    "transformer.config": ("transformer/test_transformer.py", "transformer/test_train.py"),
    "transformer.train": ("transformer/test_transformer.py", "transformer/test_train.py", "transformer/test_groups.py"),
    "transformer.data": ("transformer/test_data.py", "transformer/test_transformer.py"),
    "transformer.memory": ("transformer/test_train.py",),
    "transformer.processes": ("transformer/test_train_processes.py",),
    "claims.stacks": ("claims/test_stacks.py",),
    "measure.changes": ("coordinate/test_check.py",),
    "measure.sharing": ("measure", "cases"),
    "measure.updates": ("measure", "cases"),
    "measure.recorder": ("measure", "cases"),
    "measure.mask": ("cases/test_cases_updates.py", "measure"),
    "measure.running": ("measure", "cases"),
    "measure.repeated": ("measure", "cases"),
    "measure.moments": ("measure", "cases/test_cases_updates.py"),
    "measure.sketch": ("measure/test_probe_memory.py",),
    "measure.probe": ("measure", "cases"),
    "measure.visits": ("measure", "cases"),
    "measure.blocks": ("measure/test_blocks.py", "measure/test_probe_visits.py", "measure/test_probe_refusals.py"),
}
OPTIONS = (
    "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov",
    f"--rootdir={ROOT}", "-c", f"{ROOT}/pyproject.toml",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
SECONDS = 240.0  # of a process, beyond which an error counts as noticed: it has made something endless


class Noticed(NamedTuple):
    """Who noticed an error: a test or claim; nobody where it is empty. seconds: until then, of wall time."""

    by: str
    seconds: float


def files_of(mutant: UnitMutant) -> list[str]:
    """The test files of what an error is planted in."""
    parts = mutant.where.split(".")
    module = ".".join(parts[:2]) if (ROOT / "residual_theory" / parts[0]).is_dir() else parts[0]
    named = FIRST.get(module) or (f"{parts[0]}/test_{parts[1]}.py",)
    return [str(ROOT / "tests" / name) for name in named]


def forked(work: Callable[[], str], most: float = SECONDS) -> Noticed:
    """What `work` returns in a process of its own, whose output is lost.

    Raises: RuntimeError where it does not return: then nothing was noticed, and something is wrong here.
    """
    sys.stdout.flush()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        child = os.fork()
        if not child:
            _be_child(work, told)
        code = _awaited(child, started + most)
        seconds = time.perf_counter() - started
        if code is None:
            return Noticed(f"did not end in {most:.0f} s", seconds)
        if code:
            raise RuntimeError(f"the process ended with {code}: {told.read_text() if told.exists() else 'no reason'}")
        return Noticed(told.read_text(), seconds)


def _be_child(work: Callable[[], str], told: Path) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        told.write_text(work())
        status = 0
    except BaseException as error:  # noqa: BLE001  (nothing may return into the parent's code)
        told.write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _awaited(child: int, until: float) -> int | None:
    """The child's exit status; None, the child and what it started being ended, after the time given."""
    while time.perf_counter() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class _Tests:
    """The first test that fails, or file that cannot be read; and how long each took. Quick ones are run first."""

    def __init__(self, known: Mapping[str, float]) -> None:
        self.failed, self.known, self.seconds = "", known, dict[str, float]()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self.known.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def run_tests(files: Sequence[str], known: Mapping[str, float]) -> _Tests:
    """The tests of these files until one fails, the quickest first by the seconds `known`."""
    ran = _Tests(known)
    code = pytest.main([*OPTIONS, "-x", *files], plugins=[ran])
    assert bool(ran.failed) == (code != 0), f"pytest ended with {code}"
    return ran


def by_tests(mutant: UnitMutant, known: dict[str, float]) -> Noticed:
    """The unit test that notices an error. `known`, the seconds of tests, is added to."""

    def work() -> str:
        with mutant.planted():
            ran = run_tests(files_of(mutant), known)
        return json.dumps([ran.failed, ran.seconds])

    found = forked(work)
    if not found.by.startswith("["):
        return found
    failed, seconds = json.loads(found.by)
    known |= seconds
    return Noticed(failed, found.seconds)


def by_claims(mutant: UnitMutant | None, claims: Sequence[str]) -> Noticed:
    """The verdict that notices an error, all measured with it; without one, any that is not on record."""

    def work() -> str:
        with contextlib.nullcontext() if mutant is None else mutant.planted():
            return next(filter(None, _verdicts(claims)), "")

    return forked(work)


def _verdicts(ids: Sequence[str]) -> Iterator[str]:
    """Of every claim with such an id, what is wrong with its verdict; empty where nothing is."""
    from residual_theory.calibration.calibrate import Memory
    from residual_theory.claims.session import Selection, Session
    from residual_theory.errors import InputError
    from tests.claims.test_mutations import SIZES, wrong

    with tempfile.TemporaryDirectory() as folder:
        whole = Selection.prepare("quick", Path(folder), ids=list(ids), root=ROOT)
        for claim in whole.claims:
            if claim.level == "symbolic":
                continue
            sizes = SIZES[claim.id] if claim.level == "simulation" else {"models": 60, "loops": MODELS[claim.id]}
            try:
                outcomes = Session(whole.only(claim, rounds=1, **sizes), store=Memory(whole.folder)).judge()
            except InputError as error:
                yield f"{claim.id} refused: {error}"
                continue
            yield next((f"{claim.id} {outcome.verdict}" for outcome in outcomes if wrong(outcome)), "")


MODELS: dict[str, Any] = {"norm-at-init": (1, 4), "increment-cosine": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names of errors, or of packages such as measure")
    parser.add_argument("--no-claims", action="store_true")
    parser.add_argument(
        "--times", type=Path, help="seconds of tests that are known to pass, as JSON, in place of running all first"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true", help="leave out errors that have a row in --out")
    given = parser.parse_args()
    rows = list(csv.DictReader(given.out.read_text().splitlines())) if given.resume and given.out.exists() else []
    done = {row["error"] for row in rows}
    chosen = [
        m
        for m in MUTANTS
        if m.name not in done and (not given.only or m.name in given.only or m.where.split(".")[0] in given.only)
    ]
    _import_everything(dict.fromkeys(file for mutant in chosen for file in files_of(mutant)))
    known: dict[str, float] = json.loads(given.times.read_text()) if given.times else {}
    _check_without_errors(chosen, known, tests=given.times is None, claims=not given.no_claims)
    for mutant in chosen:
        test = by_tests(mutant, known)
        claim = by_claims(mutant, mutant.claims) if mutant.claims and not given.no_claims else Noticed("", 0.0)
        rows.append(
            {
                "error": mutant.name,
                "where": mutant.where,
                "noticed_by_test": test.by.removeprefix("tests/"),
                "claims_asked": "" if given.no_claims else " ".join(mutant.claims),
                "noticed_by_claim": claim.by,
                "survives_because": mutant.survives,
            }
        )
        found = f"{test.by or 'SURVIVES'} {test.seconds:.1f} | {claim.by} {claim.seconds:.1f}"
        print(f"{mutant.name} | {found}", flush=True)  # noqa: T201
        if given.out:
            _write(given.out, rows)
    _summarise(rows)


def _import_everything(files: Iterable[str]) -> None:
    """What every process would have to import by itself."""
    import torch

    import residual_theory.measure.probe
    import residual_theory.transformer.ensemble  # noqa: F401

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        code = pytest.main([*OPTIONS, "--collect-only", *files])
    assert code == 0, f"pytest ended with {code}"
    import tests.claims.test_mutations  # noqa: F401  (after pytest, which has rewritten its assertions)

    gc.freeze()  # so that no process looks through all of it again


def _check_without_errors(chosen: Sequence[UnitMutant], known: dict[str, float], *, tests: bool, claims: bool) -> None:
    """All that is asked has to hold as the code is. Raises: SystemExit where a test or verdict does not."""
    for file in dict.fromkeys(file for mutant in chosen for file in files_of(mutant) if tests):

        def work(file: str = file) -> str:
            ran = run_tests([file], {})
            return json.dumps([ran.failed, ran.seconds])

        failed, seconds = json.loads(forked(work, 10 * SECONDS).by)
        if failed:
            sys.exit(f"{failed} fails without an error")
        known |= seconds
    for claim in dict.fromkeys(claim for mutant in chosen for claim in mutant.claims if claims):
        found = by_claims(None, [claim])
        print(f"{claim}: {found.seconds:.1f} s", flush=True)  # noqa: T201
        if found.by:
            sys.exit(f"{found.by} without an error")


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _summarise(rows: Sequence[dict[str, str]]) -> None:
    noticed = [row for row in rows if row["noticed_by_test"]]
    asked = [row for row in rows if row["claims_asked"]]
    told = [row for row in asked if row["noticed_by_claim"]]
    print(f"{len(noticed)} of {len(rows)} noticed by tests, {len(told)} of {len(asked)} by the claims asked")  # noqa: T201
    for row in rows:
        if not row["noticed_by_test"]:
            print(f"survives: {row['error']}: {row['survives_because'] or 'NOT JUSTIFIED'}")  # noqa: T201


if __name__ == "__main__":
    main()
