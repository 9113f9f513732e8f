"""Two processes, as torchrun starts them, train one model together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus
from residual_theory.transformer.train import train

MODEL = ModelConfig(width=24, heads=2, mlp_width=40, unique_layers=2, loops=3, context=16)
ALONE = ({"accumulation": 1}, {"accumulation": 1, "batch_size": 2})
ROUNDING = 1.2e-5  # ten times what one rounding of the embedding makes of these losses (`rounding` in test_train.py)

TWO = """
import sys
from pathlib import Path
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import load_corpus
from residual_theory.transformer.train import train
model, training, text, out = sys.argv[1:]
model, training = ModelConfig.model_validate_json(model), TrainConfig.model_validate_json(training)
result = train(model, training, load_corpus(Path(text)), checkpoint=Path(out + ".pt"), every=3)
import os
result.to_netcdf(out + os.environ["RANK"] + ".nc", engine="h5netcdf")
"""


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path, text: Path, corpus: Corpus) -> None:
    training = TrainConfig(
        steps=8, batch_size=4, accumulation=2, learning_rate=1e-2, evaluation_sequences=1, validate_every=4
    )  # one window, so that a process has none
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    arguments = [MODEL.model_dump_json(), training.model_dump_json(), str(text), str(tmp_path / "out")]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, *arguments],
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    told = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    both = [xr.load_dataset(tmp_path / f"out{rank}.nc", engine="h5netcdf") for rank in (0, 1)]
    assert both[0].equals(both[1])
    alone, half = (train(MODEL, training.model_copy(update=update), corpus) for update in ALONE)
    for name in ("train_loss", "validation_loss", "validation"):
        np.testing.assert_allclose(both[0][name], alone[name], rtol=0, atol=ROUNDING)
    assert abs(half.train_loss - alone.train_loss).max() > 100 * ROUNDING
    with pytest.raises(InputError, match=r"^checkpoint = .*processes was 2 and is 1"):
        train(MODEL, training, corpus, checkpoint=tmp_path / "out.pt")


def test_many_processes_without_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"^WORLD_SIZE = 2: RANK is not set; start with torchrun"):
        train(MODEL, TrainConfig(steps=1), corpus)
