"""The command that trains one looped Transformer."""

import inspect
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table

from residual_theory.commands.options import AsJson, Text, number
from residual_theory.console import finite, progress, say, show
from residual_theory.errors import InputError
from residual_theory.store import require_writable, write_atomically

if TYPE_CHECKING:
    import xarray as xr

    from residual_theory.transformer.data import Corpus


class Option(NamedTuple):
    """An option that sets a field: its type (int | float | str for a number or a rule), default and help."""

    field: str
    kind: Any
    default: Any
    words: str


# Written out, because reading them off the configs would load torch before --help can be shown.
MODEL_OPTIONS = {
    "loops": Option("loops", int, 1, "N, the loops."),
    "layers": Option("unique_layers", int, 1, "L, the unique layers."),
    "scale": Option("residual_scale", str, "1/(N*sqrt(L))", 'ε: a number or a rule in N and L, such as "1/N".'),
    "width": Option("width", int, 64, "d, the width."),
    "heads": Option("heads", int, 4, "Attention heads."),
    "mlp_width": Option("mlp_width", int | None, None, "The MLP's hidden width; 8/3 of the width when not given."),
    "context": Option("context", int, 64, "Tokens a sequence."),
    "vocabulary": Option("vocabulary", int | None, None, "Token ids; as many as the text has when not given."),
    "init_std": Option("init_std", float, 0.02, "Standard deviation of initial weights."),
    "initial_distribution": Option("initial_distribution", str, "truncated-normal", "Their law; or normal."),
    "norm_epsilon": Option("norm_epsilon", float, 1e-6, "RMSNorm's constant."),
    "rope_base": Option("rope_base", float, 10_000.0, "Base of the rotary frequencies."),
    "normalization": Option("normalization", str, "rms", "rms (pre-norm), post, rms-post (both), sandwich or none."),
    "loop_normalization": Option("loop_normalization", bool, False, "Normalise the stream after every loop."),
    "skip": Option("skip", str, "1.0", "α: factor of the stream at every addition, a number or a rule."),
    "carry": Option("carry", str, "1.0", "a: factor of the stream once a loop, a number or a rule."),
    "injection": Option("injection", str, "0.0", "b: factor of the first loop's input, added once a loop."),
    "prelude": Option("prelude", int, 0, "Blocks of their own before the loops."),
    "coda": Option("coda", int, 0, "Blocks of their own after the loops."),
    "outer_scale": Option("outer_scale", str, "1.0", "ε of prelude and coda, a number or a rule."),
    "branch_gain": Option("branch_gain", str, "1.0", "β: factor of each branch's last initial matrix."),
    "tied": Option("tied", bool, True, "Loops share weights, or each visit has its own."),
    "biases": Option("biases", bool, False, "Matrices have biases."),
}
TRAINING_OPTIONS = {
    "steps": Option("steps", int, 300, "Optimizer steps."),
    "batch_size": Option("batch_size", int, 8, "Sequences a step, over all processes."),
    "accumulation": Option("accumulation", int, 1, "Parts that a batch is computed in, to save memory."),
    "learning_rate": Option("learning_rate", float, 3e-3, "η, between warm-up and decay."),
    "rule": Option("block_rule", str, "none", "Of the blocks' rate and Adam ε: paper, completep, rate/sqrt(N), none."),
    "tuned_layers": Option("tuned_layers", int, 1, "L₀ of that rule: η is the rate of a model of L₀ layers."),
    "block_rate": Option("block_rate", str, "1.0", "Further factor of the blocks' rate, a number or a rule."),
    "warmup": Option("warmup", str, "0.1", "Steps (500) or share of the steps (0.1) over which the rate rises."),
    "decay": Option("decay", str, "0.2", "Steps or share over which it falls to 0."),
    "weight_decay": Option("weight_decay", float, 0.1, "AdamW's, on matrices."),
    "beta1": Option("beta1", float, 0.9, "AdamW's."),
    "beta2": Option("beta2", float, 0.95, "AdamW's."),
    "adam_epsilon": Option("adam_epsilon", float, 1e-8, "AdamW's."),
    "grad_clip": Option("grad_clip", float, 1.0, "The largest gradient norm; 0 for no limit."),
    "evaluation_sequences": Option("evaluation_sequences", int, 64, "Windows of text a validation loss is of."),
    "validate_every": Option("validate_every", int | None, None, "Steps between validations; at the end alone."),
    "stop_above": Option("stop_above", float | None, None, "Nats of training loss to give up at; 1.5 ln(vocabulary)."),
    "diverged_above": Option("diverged_above", float | None, None, "Nats of final loss that count as diverged; same."),
    "dtype": Option("dtype", str, "float32", "Of matrix products: float32 or bfloat16."),
    "device": Option("device", str, "cpu", "cpu, cuda, cuda:1 or mps."),
    "compile": Option("compile", bool, False, "Through torch.compile."),
    "recompute": Option("recompute", bool, False, "Recompute activations rather than keep them."),
    "seed": Option("seed", int, 0, "Of initial weights and data order."),
}
_RULES = {"residual_scale", "skip", "carry", "injection", "outer_scale", "branch_gain", "block_rate"}


def takes_configs(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a model and its training in place of its first two parameters."""
    described = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[option.kind, typer.Option(help=option.words)],
            default=option.default,
        )
        for name, option in {**MODEL_OPTIONS, **TRAINING_OPTIONS}.items()
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(inspect.signature(command).parameters.values())[2:]
    ]

    def wrapped(**values: Any) -> None:
        model, training = (
            {option.field: values.pop(name) for name, option in table.items()}
            for table in (MODEL_OPTIONS, TRAINING_OPTIONS)
        )
        command(model, training, **values)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature([*described, *own])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in (*described, *own)}
    return wrapped


@takes_configs
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
    from residual_theory.transformer.config import ModelConfig, TrainConfig
    from residual_theory.transformer.train import train as trained

    schedule = TrainConfig(**_parsed(training))
    watched = Stopwatch(schedule.steps, progress() if _first() else None)
    result = trained(
        ModelConfig(**_completed(_parsed(model), corpus.vocabulary)),
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
    """Whether this is the process that speaks and writes, of those that torchrun started."""
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


def _parsed(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a config from what the options hold: numbers where rules are numbers, 0 for no clipping."""
    read = {name: number(value) if name in _RULES else value for name, value in fields.items()}
    for name in {"warmup", "decay"} & set(fields):
        words = fields[name]
        read[name] = int(words) if words.isdecimal() else number(words)
        if isinstance(read[name], str):
            raise InputError(name, words, "write steps, such as 500, or a share of all steps, such as 0.1")
    if "grad_clip" in read:
        read["grad_clip"] = read["grad_clip"] or None
    return read


def _completed(fields: dict[str, Any], vocabulary: int) -> dict[str, Any]:
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
    for words, value in {
        "parameters": f"{attrs['parameters']:,}",
        "steps": f"{reached.sizes['step']} of {result.sizes['step']}",
        "largest learning rate": f"{float(result.learning_rate.max()):.4g}",
        f"training loss, first step ({units})": f"{first:.4f}",
        f"training loss, last {min(20, len(reached))} steps": f"{float(reached[-20:].mean()):.4f}",
        "validation loss": f"{float(result.validation_loss):.4f}",
        "diverged": "yes" if result.diverged else "no",
        "tokens a second": "–" if speed != speed else f"{speed:,.0f}",
    }.items():
        table.add_row(words, value)
    show(table)
