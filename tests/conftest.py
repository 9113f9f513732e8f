"""What tests share: one thread, examples that do not change from run to run, and a small root folder with a claim."""

import argparse
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from residual_theory.transformer.data import Corpus, load_corpus

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more to threads waiting for each other than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to train on, which no test changes."""
    path = tmp_path_factory.mktemp("text") / "argparse.txt"
    path.write_text(inspect.getsource(argparse), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus(text: Path) -> Corpus:
    """That file, read."""
    return load_corpus(text)


ROOT = Path(__file__).parent.parent
CLAIM = """
from residual_theory import Stack
from residual_theory.claims import (
    Claim, Evidence, Parameters, Prediction, Simulation, Twin, equivalence, pooled, trials
)

STACK = Stack(loops=2, residual_scale=0.5, activation="linear")
EXACT = 1 + 4 * 0.25 + 0.0625 + 0.5 / 3 + 0.125 / 9  # second moment at width 3, by Wick pairings


class Sizes(Parameters):
    samples: int = 3000
    margin: float = 0.5
    rounds: int = {rounds}


def plan(sizes, current):
    start, count = trials(sizes.samples, current.number)
    return [Simulation(stack=STACK, width=3, samples=count, seed=current.seed, first_trial=start)] + (
        [Prediction(stack=STACK)] if current.number == 0 else [])


def check(sizes, observations, law):
    ((_, found),) = pooled(Simulation, observations)
    value, stderr = float(found.second_moment[-1]), float(found.second_moment_stderr[-1])
    return Evidence((equivalence("R²", value, stderr, predicted=law, margin=sizes.margin, samples=int(found.samples)),))


CLAIMS = (
    Claim(
        id="{id}", statement="two loops at width 3", source="this project", level="simulation", recorded="{recorded}",
        reason="Wick pairings", margin="half", law={law}, twin=Twin("a wrong moment", {twin}), parameters=Sizes,
        plan=plan, check=check,
    ),
)
"""
FIGURE = """
from pathlib import Path
import pandas as pd
from matplotlib.figure import Figure as Canvas
from residual_theory.claims import Prediction
from residual_theory.report.drawing import Figure


def draw(results):
    ((_, found),) = results.of("tiny", "simulation", Prediction)
    canvas = Canvas()
    canvas.subplots().plot(found.second_moment)
    return canvas, pd.DataFrame({"second_moment": found.second_moment.values})


FIGURE = Figure(id="tiny", title="A tiny figure", caption="Nothing <b>much</b>.", needs=(("tiny", "simulation"),),
                draw=draw, script=Path(__file__))
"""
Make = Callable[..., Path]


@pytest.fixture
def make_root(tmp_path: Path) -> Make:
    """A root folder with one derivation, one claim, one figure and a quick preset."""

    def make(
        law: str = "EXACT",
        twin: str = "EXACT + 2",
        recorded: str = "confirmed",
        rounds: int = 1,
        preset: str = "[run]\nseed = 3\n",
    ) -> Path:
        root = tmp_path / "root"
        for folder in ("derivations", "simulations/presets", "figures"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        claim = CLAIM.format(id="tiny", law=law, twin=twin, recorded=recorded, rounds=rounds)
        (root / "simulations/tiny.py").write_text(claim)
        (root / "simulations/presets/quick.toml").write_text(preset)
        (root / "derivations/relu_kernel.py").write_text((ROOT / "derivations/relu_kernel.py").read_text())
        (root / "figures/tiny.py").write_text(FIGURE)
        return root

    return make
