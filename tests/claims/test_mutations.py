"""Errors planted in the theory, one at a time: some claim's verdict has to notice each, on the data as they were."""

import ast
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from residual_theory.calibration.calibrate import Memory
from residual_theory.claims.outcome import Outcome
from residual_theory.claims.session import Selection, Session
from residual_theory.errors import InputError
from tests.mutants import DERIVATIONS, MUTANTS, TRANSFORMERS, Mutant, Rewrite

ROOT = Path(__file__).parents[2]
SIZES: dict[str, dict[str, Any]] = {  # small, and all drawn in one round
    "correlated-updates": {"visits": 8, "layers": (1, 2, 4), "width": 8192, "samples": 24},
    "completep": {},
    "deeploop": {"loops": (4,), "samples": 16},
    "factored-scaling": {"factored": ((4, 2),), "unfactored": ((4, 2),), "width": 16384, "samples": 24},
    "finite-width": {"widths": (3, 5), "samples": 14_000},
    "gradient-growth": {"factored": ((4, 1), (4, 4)), "root": (4,), "width": 2048, "width_grown": 8192, "samples": 64},
    "growth-constant": {"loops": (64,), "variances": (2.0,), "width": 16384},
    "increment-cosine": {"loops": 6, "width": 2048},
    "learning-rate": {"width": 128, "samples": 32},
    "loop-limit": {"sizes": ((24, 1),), "width": 16384, "samples": 64},
    "looped-growth": {"loops": (4,), "loops_raw_sqrt": (4,), "width": 4096, "width_root": 16384, "samples": 24},
    "matrix-branches": {"width": 8192, "samples": 48},
    "norm-at-init": {"visits": 12, "width": 4096, "drawn_width": 32, "drawn_samples": 2},
    "parcae": {"loops": (4,), "samples": 32},
    "positivity": {"loops": (4,), "loops_root": (4,), "width": 4096, "width_root": 16384, "samples": 24},
    "several-inputs": {"sizes": ((4, 2),), "width": 8192, "samples": 48},
}


def noticed(run: Session, mutant: Mutant) -> str:
    """Which claim of the run notices the error, and how; empty when none does.

    The predictions among its measurements are made anew; what was simulated depends on no theory.
    """
    assert isinstance(run.store, Memory)
    predicted = "infinite-width recursion"
    simulated = {key: found for key, found in run.store.held.items() if found[0].attrs.get("method") != predicted}
    with mutant.planted():
        try:
            outcomes = Session(run.selection, store=Memory(run.selection.folder, simulated)).judge()
        except InputError as error:  # the theory found itself at fault
            return f"refused: {error}"
    return next((str(outcome) for outcome in outcomes if wrong(outcome)), "")


def wrong(outcome: Outcome) -> bool:
    """Whether the claim is contradicted, or its check has lost its power."""
    return outcome.verdict not in (outcome.claim.recorded, "inconclusive") or outcome.power == "powerless"


def rate(killed: Mapping[str, str]) -> str:
    """How many of the errors were noticed, and the names of the others."""
    survivors = [name for name, how in killed.items() if not how]
    return f"{len(killed) - len(survivors)} of {len(killed)} noticed; survivors: {survivors or 'none'}"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    """One small claim a run, a family by itself, measured and as recorded."""
    whole = Selection.prepare("quick", tmp_path_factory.mktemp("results"), ids=list(SIZES), root=ROOT)
    runs = {}
    for claim in whole.claims:
        if claim.level == "simulation":
            chosen = replace(whole.only(claim, rounds=1, **SIZES[claim.id]), budgets={})
            runs[claim.id] = Session(chosen, store=Memory(whole.folder))
    undecided = [str(outcome) for run in runs.values() for outcome in run.judge() if not outcome.as_recorded]
    assert undecided == []
    return runs


def test_every_planted_error_is_noticed(small: Mapping[str, Session], capsys: pytest.CaptureFixture[str]) -> None:
    killed = {
        mutant.name: next((how for name in mutant.claims if (how := noticed(small[name], mutant))), "")
        for mutant in MUTANTS
    }
    with capsys.disabled():
        print(f"\nplanted errors: {rate(killed)}")  # noqa: T201
    assert all(killed.values()), rate(killed)
    contradicted = [name for name, how in killed.items() if not how.startswith("refused")]
    assert len(contradicted) >= 25  # by what was measured


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_a * 5", "_a", "stands there 0 times"),
        ("_a + _b", "_a", "stands there 2 times"),
        ("_a - _a", "0", "stands there 0 times"),
        ("f(_a)", "f(_a)", "nothing changes"),
    ],
)
def test_an_error_that_is_not_planted_once_is_refused(old: str, new: str, message: str) -> None:
    tree = ast.parse("def g(x, y):\n    return f(x + 1) + (x - y)")
    with pytest.raises(AssertionError, match=message):
        Rewrite(old, new).applied(tree, "g")


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("_a / (_b * _c)", "_a / _b", "x[k] = 2 * x[k] / y"),
        ("x[_a] = _b", "x[_a + 1] = _b", "x[k + 1] = 2 * x[k] / (y * z)"),
        ("2 * _a", "_a", "x[k] = x[k] / (y * z)"),
    ],
)
def test_an_error_is_planted_where_its_form_stands(old: str, new: str, changed: str) -> None:
    tree = ast.parse("x[k] = (2 * x[k] /\n    (y * z))")
    assert ast.unparse(Rewrite(old, new).applied(tree, "line")) == changed


def test_no_error_no_notice(small: Mapping[str, Session]) -> None:
    """What is caught is the error, not the planting."""
    same = Mutant("nothing", "kernels.closed.Relu.value", "2 * np.pi", "np.pi * 2")
    assert not any(noticed(run, same) for run in small.values())


def symbolic(tmp_path: Path, changes: Mapping[str, tuple[str, str]]) -> list[Outcome]:
    """The verdicts on derivations, each with one thing said otherwise."""
    for folder in ("derivations", "simulations/presets", "figures"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "simulations/presets/quick.toml").write_text("")
    for name, (old, new) in changes.items():
        tree = ast.parse((ROOT / "derivations" / name).read_text(encoding="utf-8"))
        changed = ast.unparse(Rewrite(old, new).applied(tree, name))
        (tmp_path / "derivations" / name).write_text(changed, encoding="utf-8")
    selection = Selection.prepare("quick", tmp_path / "results", root=tmp_path)
    return Session(selection, store=Memory(tmp_path)).judge()


def check_derivations(tmp_path: Path, names: list[str]) -> None:
    changes = {name: (old, new) for name, old, new in DERIVATIONS if name in names}
    outcomes = symbolic(tmp_path, changes)
    assert len(outcomes) == len(names)
    assert [outcome.claim.id for outcome in outcomes if outcome.verdict == "confirmed"] == []


def test_derivations_with_a_wrong_constant_fail(tmp_path: Path) -> None:
    check_derivations(
        tmp_path, ["correlated_updates.py", "factored_scaling.py", "relu_kernel.py", "tied_relu_growth.py"]
    )


@pytest.mark.slow
def test_every_derivation_with_a_wrong_constant_fails(tmp_path: Path) -> None:
    names = [name for name, _, _ in DERIVATIONS]
    assert names == sorted(path.name for path in (ROOT / "derivations").glob("*.py"))
    check_derivations(tmp_path, names)


@pytest.mark.slow
def test_errors_in_transformers_are_noticed_but_those_known_not_to_be(tmp_path: Path) -> None:
    """The model claims on networks as initialised: whatever the claims of random stacks cannot see."""
    whole = Selection.prepare("quick", tmp_path, ids=["norm-at-init", "increment-cosine"], root=ROOT)
    runs = {}
    for claim in whole.claims:
        if claim.level == "model":
            loops = 4 if claim.id == "increment-cosine" else (1, 4)
            chosen = replace(whole.only(claim, rounds=1, models=60, loops=loops), budgets={})
            runs[claim.id] = Session(chosen, store=Memory(whole.folder))
    assert [str(outcome) for run in runs.values() for outcome in run.judge() if not outcome.as_recorded] == []
    killed = {
        mutant.name: next((how for name in mutant.claims or runs if (how := noticed(runs[name], mutant))), "")
        for mutant in TRANSFORMERS
    }
    assert [name for name, how in killed.items() if not how] == [item.name for item in TRANSFORMERS if item.missing]
