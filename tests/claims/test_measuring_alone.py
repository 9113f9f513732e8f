"""Measurements that take most of the memory are made one by one, with all cores."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import xarray as xr

from residual_theory.claims.session import Selection, Session
from residual_theory.measurements import measurement
from residual_theory.measurements.kinds import Diagnostic, Simulation
from residual_theory.measurements.measurement import Context
from residual_theory.stack import Stack
from residual_theory.transformer.config import ModelConfig


class Greedy(Simulation):
    """One that is made alone."""

    kind: ClassVar[str] = "greedy"

    @property
    def alone(self) -> bool:
        return True

    def measure(self, context: Context) -> xr.Dataset:
        return super().measure(context).assign_attrs(threads=torch.get_num_threads())


def test_what_needs_all_memory_is_made_first_and_with_all_threads(
    make_root: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "_code", lambda _: "the code of this test")
    results, made = tmp_path / "results", []

    def progress(done: int, _: int) -> None:
        made.append(sorted(path.name.partition("-")[0] for path in results.rglob("*.nc")))

    session = Session(Selection.prepare("quick", results, root=make_root()), jobs=2, progress=progress)
    planned = [kind(stack=Stack(loops=2), width=3, samples=2, seed=1) for kind in (Simulation, Greedy)]
    session._specifications |= {one.key: one.specification() for one in planned}
    assert session.measure({one.key: one for one in planned}) == {}
    assert made == [[], ["greedy"], ["greedy", "simulation"]]
    assert session._results[planned[1].key].threads == 2


def test_a_diagnostic_is_made_alone_where_it_is_large() -> None:
    assert not Diagnostic(model=ModelConfig()).alone
    assert Diagnostic(model=ModelConfig(vocabulary=128_256, width=768, heads=12)).alone
