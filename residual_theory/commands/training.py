"""The command that trains one looped Transformer."""

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from residual_theory.commands.fields import number, options, takes
from residual_theory.commands.options import AsJson, Text
from residual_theory.console import finite, progress, say, show
from residual_theory.errors import InputError
from residual_theory.store import require_writable, write_atomically
from residual_theory.transformer.config import ModelConfig, TrainConfig

if TYPE_CHECKING:
    import xarray as xr

    from residual_theory.transformer.data import Corpus


def _steps_or_share(name: str, text: str) -> float:
    """Steps from an integer, a share of all steps from a fraction."""
    found = int(text) if text.isdecimal() else number(text)
    if isinstance(found, str):
        raise InputError(name, text, "write steps, such as 500, or a share of all steps, such as 0.1")
    return found


MODEL_OPTIONS = options(
    ModelConfig,
    vocabulary={"default": None, "help": "Token ids; as many as the text has when not given."},
    mlp_width={"default": None, "help": "The MLP's hidden width; 8/3 of the width when not given."},
)
TRAINING_OPTIONS = options(
    TrainConfig,
    warmup={"read": functools.partial(_steps_or_share, "warmup")},
    decay={"read": functools.partial(_steps_or_share, "decay")},
    grad_clip={"help": "The largest gradient norm; 0 for no limit.", "read": lambda most: most or None},
)


@takes(MODEL_OPTIONS, TRAINING_OPTIONS)
def train(
    model: dict[str, Any],
    training: dict[str, Any],
    text: Text = None,
    dataset: Annotated[
        str | None, typer.Option(help="A Hugging Face data set, streamed, or a local folder or file of one.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="For it: one on the hub, a folder, a tokenizer.json.")] = None,
    split: Annotated[str, typer.Option(help="Of the data set.")] = "train",
    text_column: Annotated[str, typer.Option(help="Of the data set.")] = "text",
    configuration: Annotated[str | None, typer.Option(help="Of the data set, such as sample-10BT.")] = None,
    limit: Annotated[int | None, typer.Option(help="Tokens to read of the data set; all of it.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.nc", help="Keep the losses there, and the state in FILE.pt beside.")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between states kept; the same command goes on.")] = 500,
    as_json: AsJson = False,
) -> None:
    """Train one looped Transformer on real text, by default Python's own source. Under torchrun, on several devices."""
    if out is not None:
        require_writable(out, argument="out")
        if out.suffix == ".pt":
            raise InputError("out", str(out), "the state is kept in the .pt file beside; name a file that ends in .nc")
    corpus = _corpus(text, dataset, tokenizer, split=split, text_column=text_column, configuration=configuration,
                     limit=limit)  # fmt: skip
    from residual_theory.transformer.train import train as trained

    schedule = TrainConfig(**training)
    watched = Stopwatch(schedule.steps, progress() if _first() else None)
    result = trained(
        ModelConfig(**_complete(model, corpus.vocabulary)),
        schedule,
        corpus,
        watched.tick,
        checkpoint=out.with_suffix(".pt") if out is not None else None,
        every=checkpoint_every,
    )
    if not _first():
        return
    if out is not None:
        write_atomically(out, bytes(result.to_netcdf(engine="h5netcdf")), argument="out")
    speed = watched.rate * schedule.batch_size * json.loads(result.attrs["model"])["context"]
    _tell(result, speed, as_json=as_json)
    if out is not None and not as_json:
        say(f"losses: {out}; weights and state: {out.with_suffix('.pt')}")


def _first() -> bool:
    """Whether this is the process that prints and writes files, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _corpus(text: Path | None, dataset: str | None, tokenizer: str | None, **options: Any) -> "Corpus":
    if dataset is None:
        if tokenizer is not None:
            raise InputError("tokenizer", tokenizer, "goes with --dataset; --text is read as bytes")
        usual = {"split": "train", "text_column": "text"}
        for name, value in options.items():
            if value != usual.get(name):
                raise InputError(name, value, "goes with --dataset")
        from residual_theory.transformer.data import load_corpus

        return load_corpus(text)
    if text is not None:
        raise InputError("text", str(text), "choose --text or --dataset")
    if tokenizer is None:
        raise InputError("tokenizer", None, "name one with --tokenizer, such as gpt2 or a tokenizer.json")
    from residual_theory.transformer.tokenized import load_dataset

    return load_dataset(dataset, tokenizer, **options)


def _complete(fields: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """The fields that have no value of their own by default."""
    usual = {"vocabulary": vocabulary, "mlp_width": 8 * -(-fields["width"] // 3)}
    return {name: usual[name] if value is None else value for name, value in fields.items()}


class Stopwatch:
    """Passes progress on, and times the steps after the first, which may compile."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self.total, self.report, self.rate = total, report, float("nan")
        self._first: tuple[int, float] | None = None

    def tick(self, done: int) -> None:
        """One more step is done."""
        now = time.perf_counter()
        if self._first is None:
            self._first = (done, now)
        elif now > self._first[1]:
            self.rate = (done - self._first[0]) / (now - self._first[1])
        if self.report is not None:
            self.report(done, self.total)


def _tell(result: "xr.Dataset", speed: float, *, as_json: bool) -> None:
    """Print the outcome; `speed` in tokens a second."""
    attrs = {**result.attrs, **{name: json.loads(result.attrs[name]) for name in ("model", "training")}}
    if as_json:
        values = {str(name): array.values.tolist() for name, array in result.data_vars.items()}
        document = finite({**attrs, "tokens_per_second": speed, **values})
        say(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return
    units = result.validation_loss.attrs["units"].replace("nat", "nats")
    reached = result.train_loss.dropna("step")
    first = float(reached[0]) if len(reached) else float("nan")
    table = Table("quantity", "value", title=f"Trained on {attrs['corpus']}")
    for label, value in {
        "parameters": f"{attrs['parameters']:,}",
        "steps": f"{reached.sizes['step']} of {result.sizes['step']}",
        "largest learning rate": f"{float(result.learning_rate.max()):.4g}",
        f"training loss, first step ({units})": f"{first:.4f}",
        f"training loss, last {min(20, len(reached))} steps": f"{float(reached[-20:].mean()):.4f}",
        "validation loss": f"{float(result.validation_loss):.4f}",
        "diverged": "yes" if result.diverged else "no",
        "tokens a second": "–" if speed != speed else f"{speed:,.0f}",
    }.items():
        table.add_row(label, value)
    show(table)
