"""Sweeps: every cell is trained once, kept, found again, and laid out by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.store import CorruptResultWarning, Store
from residual_theory.sweeps import sweep as sweeping
from residual_theory.sweeps.grid import SweepConfig, read_sweep, sweep_of
from residual_theory.sweeps.sweep import sweep
from residual_theory.sweeps.transfer import summary
from residual_theory.transformer import ensemble
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus, load_corpus
from residual_theory.transformer.train import train

MODEL: dict[str, Any] = {"width": 16, "heads": 2, "mlp_width": 24, "context": 16, "init_std": 0.1}
TRAINING: dict[str, Any] = {"steps": 10, "batch_size": 2, "evaluation_sequences": 3}
GRID: dict[str, Any] = {
    "rules": ("1/sqrt(N)", "1/N"),
    "loops": (1, 2),
    "learning_rates": (1e-3, 1e-2, 30.0),
    "seeds": (0, 3),
}


def small(**changes: Any) -> SweepConfig:
    return SweepConfig(**{"model": ModelConfig(**MODEL), "training": TrainConfig(**TRAINING), **GRID, **changes})


@pytest.fixture(scope="module")
def made(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, xr.Dataset]:
    store = Store(tmp_path_factory.mktemp("runs"))
    return store, sweep(small(), corpus, store, way="apart")


def test_every_cell_is_what_train_gives(made: tuple[Store, xr.Dataset], corpus: Corpus) -> None:
    _, result = made
    assert result.sizes == {"rule": 2, "loops": 2, "unique_layers": 1, "learning_rate": 3, "seed": 2}
    cell = result.sel(rule="1/sqrt(N)", loops=2, unique_layers=1, learning_rate=1e-2, seed=3)
    model = ModelConfig(**MODEL, loops=2, residual_scale="1/sqrt(N)")
    single = train(model, TrainConfig(**TRAINING, learning_rate=1e-2, seed=3), corpus)
    assert float(cell.validation_loss) == float(single.validation_loss)
    assert float(cell.train_loss) == float(single.train_loss[-1])
    assert not cell.diverged
    assert cell.seconds > 0
    assert len(np.unique(result.validation_loss.sel(learning_rate=1e-2))) == 6  # of 8: at N = 1 the rules coincide


def test_a_diverged_run_is_recorded(made: tuple[Store, xr.Dataset]) -> None:
    _, result = made
    wild = result.sel(learning_rate=30.0)
    assert wild.diverged.all()
    assert np.isnan(wild.validation_loss).all()
    assert not result.diverged.sel(learning_rate=[1e-3, 1e-2]).any()


def test_rules_that_coincide_have_one_run_in_common(made: tuple[Store, xr.Dataset]) -> None:
    store, result = made
    assert len(list(store.folder.rglob("*.nc"))) == 3 * 3 * 2
    assert result.isel(rule=0, loops=0).drop_vars("rule").equals(result.isel(rule=1, loops=0).drop_vars("rule"))


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[TrainConfig] = []

    def counting(model: ModelConfig, training: TrainConfig, *rest: Any, **options: Any) -> xr.Dataset:
        trained.append(training)
        return train(model, training, *rest, **options)

    def stopping(*arguments: Any, **options: Any) -> xr.Dataset:
        if len(trained) == 4:
            raise KeyboardInterrupt
        return counting(*arguments, **options)

    monkeypatch.setattr(sweeping, "train", stopping)
    config = small(rules=("1/N",), learning_rates=(1e-3, 1e-2))
    reports: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        sweep(config, corpus, Store(tmp_path), way="apart", progress=lambda *done: reports.append(done))
    assert reports == [(0, 8), (1, 8), (2, 8), (3, 8), (4, 8), (0, 0)]
    monkeypatch.setattr(sweeping, "train", counting)
    resumed = sweep(config, corpus, Store(tmp_path), way="apart")
    assert len(trained) == 8
    monkeypatch.setattr(sweeping, "train", None)  # nothing is left to train
    again = sweep(config, corpus, Store(tmp_path))
    assert again.equals(resumed)
    assert resumed.seconds.values.tolist() == again.seconds.values.tolist()


def test_an_ensemble_that_does_not_fit_is_trained_apart(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ensemble._Stack, "backward", full)
    result = sweep(small(rules=("1/N",), loops=(2,)), corpus, Store(tmp_path))
    assert (result.members == 1).all()
    assert json.loads(result.ways)["N=2, L=1"]["together"] == float("inf")


def test_a_run_goes_on_whatever_its_rule_is_called(corpus: Corpus, tmp_path: Path) -> None:
    training = TrainConfig(**TRAINING)
    for rule in ("1/sqrt(N)", "1/N", 1.0):
        model = ModelConfig(**MODEL, loops=1, residual_scale=rule)
        train(model, training, corpus, checkpoint=tmp_path / "state.pt")
    other = ModelConfig(**MODEL, loops=1, residual_scale=0.5)
    with pytest.raises(InputError, match="belongs to another run"):
        train(other, training, corpus, checkpoint=tmp_path / "state.pt")


def test_a_corrupt_run_is_trained_again(made: tuple[Store, xr.Dataset], corpus: Corpus) -> None:
    store, result = made
    victim = sorted(store.folder.rglob("*.nc"))[0]
    intact = victim.read_bytes()
    victim.write_bytes(intact[:-9])
    with pytest.warns(CorruptResultWarning):
        again = sweep(small(), corpus, store, way="apart")
    assert again.drop_vars(["seconds", "members"]).equals(result.drop_vars(["seconds", "members"]))
    assert len(victim.read_bytes()) == len(intact)


def test_ensembles_give_the_same_sweep(made: tuple[Store, xr.Dataset], corpus: Corpus, tmp_path: Path) -> None:
    _, result = made
    together = sweep(small(), corpus, Store(tmp_path), way="together", members=4)
    xr.testing.assert_allclose(
        together.drop_vars(["seconds", "members"]), result.drop_vars(["seconds", "members"]), rtol=1e-4
    )
    assert together.diverged.equals(result.diverged)
    assert set(together.members.values.flat) == {2, 4}  # 6 runs at N = 1, 12 at N = 2


def test_the_faster_way_is_measured_and_recorded(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = sweep(small(loops=(2,)), corpus, Store(tmp_path / "measured"), members=3)
    ways = json.loads(result.attrs["ways"])
    assert set(ways["N=2, L=1"]) == {"apart", "together"}
    assert all(seconds > 0 for seconds in ways["N=2, L=1"].values())
    for cells in (1, 3):
        seconds = {1: 1.0, 3: 3.3 if cells == 1 else 2.7}
        monkeypatch.setattr(sweeping, "seconds_a_step", lambda group, _, seconds=seconds: seconds[len(group)])
        store = Store(tmp_path / str(cells))
        made = sweep(small(loops=(2,), rules=("1/N",)), corpus, store, members=3)
        assert set(made.members.values.flat) == {cells}


@pytest.mark.slow
def test_the_number_of_processes_changes_no_number(
    made: tuple[Store, xr.Dataset], corpus: Corpus, tmp_path: Path
) -> None:
    _, result = made
    again = sweep(small(), corpus, Store(tmp_path), way="apart", jobs=2)
    assert again.drop_vars(["seconds", "members"]).equals(result.drop_vars(["seconds", "members"]))


def test_the_summary_finds_the_best_rate_and_what_the_transferred_one_costs() -> None:
    rates = np.array([1e-3, 2e-3, 4e-3, 8e-3])
    curve = {1: [3.0, 2.9, 3.0, 3.3], 4: [3.7, 2.8, 2.5, 2.8]}
    losses = np.stack([np.stack([curve[n], np.array(curve[n]) + 0.3], axis=-1) for n in (1, 4)])
    axes = ("rule", "loops", "unique_layers", "learning_rate", "seed")
    values = losses[None, :, None]
    result = xr.Dataset(
        {"validation_loss": (axes, values), "diverged": (axes, np.zeros(values.shape, dtype=bool))},
        coords={"rule": ["1/N"], "loops": [1, 4], "unique_layers": [1], "learning_rate": rates, "seed": [0, 1]},
    )
    first, last = summary(result)
    assert (first["loops"], first["transferred_rate"], first["regret"]) == (1, 2e-3, 0.0)
    assert last["transferred_rate"] == 2e-3
    assert last["regret"] == pytest.approx(0.3)
    assert last["best_rate"] == pytest.approx(4e-3, rel=0.05)
    assert (last["diverged"], last["runs"], last["edge"]) == (0, 8, "")


def test_a_file_says_what_a_description_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'rules = ["1/sqrt(N)", "1/N"]\nloops = [1, 2]\nlearning_rates = [1e-3, 1e-2, 30.0]\nseeds = [0, 3]\n'
        "[model]\nwidth = 16\nheads = 2\nmlp_width = 24\ncontext = 16\ninit_std = 0.1\n"
        "[training]\nsteps = 10\nbatch_size = 2\nevaluation_sequences = 3\n"
    )
    assert read_sweep(path) == small()
    assert read_sweep(path, seeds=(5,), training={"steps": 4}).training.batch_size == 2
    assert read_sweep(path, seeds=(5,), training={"steps": 4}).training.steps == 4


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"loops": []}, "loops"),
        ({"loops": [2, 2]}, "loops"),
        ({"rules": [0.5, "0.5"]}, "rules"),
        ({"learning_rates": [2e-3, 1e-3]}, "learning_rates"),
        ({"rules": ["1/M"]}, "residual_scale"),
        ({"seeds": [-1]}, "seeds"),
        ({"rates": [1e-3]}, "rates"),
        ({"model": 3}, "model"),
        ({"model": {"loops": 3}}, "loops"),
        ({"model": {"residual_scale": "1/N"}}, "residual_scale"),
        ({"training": {"learning_rate": 1e-3}}, "learning_rate"),
        ({"training": {"seed": 1}}, "seed"),
        ({"model": {"depth": 3}}, "depth"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named} = "):
        sweep_of(tables)


def test_bad_arguments_of_a_sweep_are_named(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^way = 'fast'"):
        sweep(small(), corpus, Store(tmp_path), way="fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^members = 0"):
        sweep(small(), corpus, Store(tmp_path), members=0)
    with pytest.raises(InputError, match=r"^text = "):
        sweep(small(model=ModelConfig(**{**MODEL, "context": 10**6})), corpus, Store(tmp_path))
    with pytest.raises(InputError, match=r"^sweep = .*cannot be read"):
        read_sweep(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("loops = [")
    with pytest.raises(InputError, match=r"^sweep = .*not valid TOML"):
        read_sweep(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"text": "here", "dataset": "there", "tokenizer": "t"}, "text"),
        ({"dataset": "there"}, "tokenizer"),
        ({"tokenizer": "t"}, "tokenizer"),
        ({"limit": 5}, "limit"),
        ({"name": "there"}, "name"),
    ],
)
def test_a_source_that_cannot_be_is_refused(data: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named} = "):
        sweep_of({"data": data})


def test_a_source_is_read_as_its_loader_reads_it(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("some text " * 9)
    data = sweep_of({"data": {"text": str(tmp_path / "some.txt")}}).data
    assert data.read().digest == load_corpus(tmp_path / "some.txt").digest
