"""The command that measures a user's model: probe."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from residual_theory.commands.options import AsJson, whole_numbers
from residual_theory.console import as_document, note_attributes, say, show, some_of
from residual_theory.errors import InputError
from residual_theory.loading import loaded, named
from residual_theory.store import require_writable, write_atomically

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor, nn

_DTYPES = ("float32", "float64", "bfloat16", "float16")
_PICTURES = (".png", ".pdf", ".svg")
_ALL = 17  # so many rows are all shown
_SOURCES = "--inputs, --shape, --tokens or --text"


def probe(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[FILE.py:NAME]", help="A function there that makes a model, or a model."),
    ] = None,
    block: Annotated[
        list[str] | None,
        typer.Option(
            help='Names of the blocks visited, or patterns such as "layers.*" and "**.layers.*".',
            show_default="what is called more than once",
        ),
    ] = None,
    hf: Annotated[str | None, typer.Option(help="A Hugging Face model by name or folder, not a file's.")] = None,
    inputs: Annotated[
        str | None, typer.Option(metavar="FILE.py:NAME", help="A function that makes what the model is called with.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Random normal inputs, samples first: 8,16,64.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Random token ids, so many a sample; of --text, 128.")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Below this number.", show_default="the model's own")] = None,
    text: Annotated[Path | None, typer.Option(help="A file or folder to read, as bytes or by the tokenizer.")] = None,
    stream: Annotated[
        str | None,
        typer.Option(metavar="ARG[,OUT]", help="The block's argument that is the stream, and its output."),
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="INPUT|FILE.py:NAME", help="Which positions count, 1 or 0: samples first.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples of --tokens or --text.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the weights, inputs and projections drawn.")] = 0,
    gradients: Annotated[bool, typer.Option(help="Also the gradient of a random readout.")] = False,
    increments: Annotated[str, typer.Option(help="Cosines between the changes of whole loops, or visits.")] = "loop",
    loop_map: Annotated[
        bool, typer.Option("--loop-map", help="Also by how much a small disturbance grows in a loop.")
    ] = False,
    training: Annotated[bool, typer.Option(help="In training mode, with dropout.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help=f"{', '.join(_DTYPES)}.", show_default="the model's own")] = None,
    memory: Annotated[int, typer.Option(help="MiB for the streams; beyond it, sketches of them.")] = 1024,
    out: Annotated[Path | None, typer.Option(help="Write the measurement to this netCDF file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it there: a .png, .pdf or .svg file.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also every visit, number and assumption.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the residual stream of a model of yours: what it does with more loops, why, and what to do."""
    import torch

    from residual_theory.measure.probe import probe as probed

    _check_files(out, figure)
    _check_device(device)
    if not 0 <= seed < 2**63:
        raise InputError("seed", seed, "must be a whole number from 0 to 2^63 - 1")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _model(model, hf).train(training).to(device)
        given = _inputs(inputs, shape, tokens, vocabulary, text, samples, network, hf)
        if dtype is not None:
            network, given = _in_dtype(network, given, dtype)
        chosen = block[0] if block and len(block) == 1 else block or None
        counted = _mask(mask, given)
        with named("model", model or hf):
            result = probed(
                network, block=chosen, inputs=_moved(given, device), stream=_stream(stream), mask=counted, seed=seed,
                with_gradients=gradients, increments=increments, loop_map=loop_map, memory=memory * 2**20,  # type: ignore[arg-type]
            )  # fmt: skip
    result.attrs |= {"model_source": model or hf, "input_source": inputs or shape or str(text or f"{tokens} tokens")}
    if out is not None:
        write_atomically(out, bytes(result.to_netcdf(engine="h5netcdf")), argument="out")
    answer = _diagnosis(result)
    if figure is not None:
        _draw(result, answer, figure)
    if as_json:
        say(_document(result, answer))
    else:
        _show(result, answer, verbose)


def _check_files(out: Path | None, figure: Path | None) -> None:
    for name, file in (("out", out), ("figure", figure)):
        if file is not None:
            require_writable(file, argument=name)
    if figure is not None and figure.suffix not in _PICTURES:
        raise InputError("figure", str(figure), f"name a file that ends in {', '.join(_PICTURES)}")


def _diagnosis(result: "xr.Dataset") -> Any:
    """The law that the stream follows, or why none can be told."""
    from residual_theory.diagnosis.diagnose import diagnose

    try:
        return diagnose(result)
    except InputError as refusal:
        return refusal


def _draw(result: "xr.Dataset", answer: Any, file: Path) -> None:
    from residual_theory.report.diagnosis_figure import draw

    if isinstance(answer, InputError):
        raise InputError("figure", str(file), f"there is no diagnosis to draw: {answer}")
    drawn = BytesIO()
    draw(result, answer).savefig(drawn, format=file.suffix[1:])
    write_atomically(file, drawn.getvalue(), argument="figure")


def _show(result: "xr.Dataset", answer: Any, verbose: bool) -> None:
    if verbose:
        show(_table(result))
    note_attributes(result)
    if "sketch_dimension" in result.attrs:
        say(f"covariances and cosines are of sketches in {result.attrs['sketch_dimension']} numbers; raise --memory")
    if isinstance(answer, InputError):
        say(f"no diagnosis: {answer}")
    else:
        say(str(answer) + ("\n" + answer.explain() if verbose else ""))


def _document(result: "xr.Dataset", answer: Any) -> str:
    diagnosis = {"refused": str(answer)} if isinstance(answer, InputError) else answer.row()
    document = json.loads(as_document(result)) | {"layer": result.layer.values.tolist(), "diagnosis": diagnosis}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _table(result: "xr.Dataset") -> Table:
    """Some visits: the block, R, its growth over the visit, the loop's change against the first loop's."""
    attrs = result.attrs
    title = f"{attrs['model']}, {int(result.samples)} samples in {attrs['mode']} mode (some visits; all with --json)"
    gradients = "gradient_second_moment" in result
    updated = "updated" in result
    more = ["gradient²"] * gradients + ["updated", "R of these"] * updated
    table = Table("visit", "block", "R", "growth", "cosine with the first", *more, title=title)
    norms = result.second_moment.values**0.5
    visits = attrs["visits"]
    each = visits // result.sizes["loop"]  # visits in a loop, whose change is known at its end
    for visit in range(visits + 1) if visits < _ALL else some_of(visits + 1):
        grows = visit > 0 and 0 < norms[visit - 1] < float("inf")
        growth = f"{norms[visit] / norms[visit - 1]:#.5g}" if grows else "–"
        ends = visit > 0 and visit % each == 0
        cosine = f"{float(result.increment_cosine[visit // each - 1, 0]):.4f}" if ends else "–"
        moments = [f"{float(result.gradient_second_moment[visit]):.6g}"] if gradients else []
        if updated:
            share, square = float(result.updated[visit]), float(result.second_moment_updated[visit])
            moments += [f"{share:.1%}", f"{square**0.5:.6g}"] if visit else ["–", "–"]
        name = escape(str(result.layer.values[visit])) if visit else "(input)"
        table.add_row(str(visit), name, f"{norms[visit]:.6g}", growth, cosine, *moments)
    return table


def _model(file: str | None, hf: str | None) -> "nn.Module":
    from torch import nn

    if (file is None) == (hf is None):
        raise InputError("model", file, "give either a file and a name in it, as FILE.py:make_model, or --hf")
    made = _pretrained(str(hf), "AutoModel") if file is None else _from_file(file, "model")
    if not isinstance(made, nn.Module):
        raise InputError("model", file, f"makes {type(made).__name__}, not a torch.nn.Module")
    return made


def _inputs(
    file: str | None, shape: str | None, tokens: int | None, vocabulary: int | None, text: Path | None, samples: int,
    network: "nn.Module", hf: str | None,
) -> Any:  # fmt: skip
    """What the model is called with, from the one source that was named."""
    import torch

    if sum(given is not None for given in (file, shape, tokens if text is None else None, text)) != 1:
        raise InputError("inputs", file, f"give one of {_SOURCES}")
    if vocabulary is not None and (tokens is None or text is not None):
        raise InputError("vocabulary", vocabulary, "goes with --tokens alone")
    for name, count in (("samples", samples), ("tokens", tokens), ("vocabulary", vocabulary)):
        if count is not None and count < 1:
            raise InputError(name, count, "must be at least 1")
    if file is not None:
        return _from_file(file, "inputs")
    if shape is not None:
        sizes = whole_numbers("shape", shape)
        if len(sizes) < 2 or min(sizes) < 1:
            raise InputError("shape", shape, "give samples and entries, all at least 1, such as 8,16,64")
        with named("shape", shape):
            return torch.randn(sizes)
    if text is not None:
        return _read(text, samples, tokens or 128, hf)
    assert tokens is not None
    vocabulary = vocabulary or getattr(getattr(network, "config", None), "vocab_size", None)
    if vocabulary is None:
        raise InputError("vocabulary", None, "say how many token ids the model knows")
    with named("tokens", tokens):
        return torch.randint(vocabulary, (samples, tokens))


def _mask(words: str | None, given: Any) -> "Tensor | None":
    """One of the inputs by its name, or what a file makes."""
    from collections.abc import Mapping

    from torch import Tensor

    if words is None:
        return None
    found = given[words] if isinstance(given, Mapping) and words in given else _from_file(words, "mask")
    if not isinstance(found, Tensor):
        raise InputError("mask", words, "must be a tensor of 1 and 0")
    return found


def _stream(words: str | None) -> Any:
    """ARG or ARG,OUT, each a name, a position or nothing."""
    if words is None:
        return None
    parts = [int(part) if part.isdigit() else part.strip() or None for part in words.split(",")]
    return parts[0] if len(parts) == 1 else tuple(parts)


def _read(path: Path, samples: int, tokens: int, hf: str | None) -> "Tensor":
    """Windows of text, (sample, token): bytes, or what a pretrained model's own tokenizer makes of them."""
    import torch

    from residual_theory.transformer.data import evaluation_windows, load_corpus

    split = load_corpus(path).validation
    if hf is not None:
        tokenizer = _pretrained(hf, "AutoTokenizer")
        words = bytes(split.tolist()).decode(errors="replace")
        split = torch.tensor(tokenizer(words, add_special_tokens=False)["input_ids"])
        if set(split.tolist()) <= {tokenizer.unk_token_id}:
            raise InputError("hf", hf, "has a tokenizer that knows no word of the text; give --tokens instead")
    return evaluation_windows(split, samples, tokens)[0]


def _from_file(words: str, argument: str) -> Any:
    """What the name in FILE.py:NAME stands for: an object, or what it returns when it can be called for it."""
    from torch import Tensor, nn

    path, _, name = words.rpartition(":")
    if not path.endswith(".py") or not name:
        raise InputError(argument, words, f"write FILE.py:make_{argument}")
    if not Path(path).is_file():
        raise InputError(argument, words, "there is no such file")
    with loaded(Path(path), argument) as module:
        if not hasattr(module, name):
            raise InputError(argument, words, f"the file defines no {name}")
        found = getattr(module, name)
        if isinstance(found, nn.Module | Tensor) or not callable(found):
            return found
        with named(argument, words):
            return found()


def _pretrained(name: str, kind: str) -> Any:
    """A model or tokenizer of the transformers package. Raises: InputError when it cannot be had."""
    try:
        import transformers
    except ImportError:
        raise InputError("hf", name, "needs transformers: pip install 'residual-theory[models]'") from None
    try:
        return getattr(transformers, kind).from_pretrained(name)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError("hf", name, f"holds no {kind.removeprefix('Auto').lower()} ({reason})") from None


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError("device", device, "is not available here; choose cpu") from None


def _in_dtype(network: "nn.Module", given: Any, words: str) -> "tuple[nn.Module, Any]":
    import torch

    if words not in _DTYPES:
        raise InputError("dtype", words, f"choose from {', '.join(_DTYPES)}")
    dtype = getattr(torch, words)
    return network.to(dtype), _mapped(given, lambda each: each.to(dtype) if each.is_floating_point() else each)


def _moved(given: Any, device: str) -> Any:
    return _mapped(given, lambda each: each.to(device))


def _mapped(given: Any, change: "Callable[[Tensor], Tensor]") -> Any:
    """The tensors that a model is called with, changed; a structure of another kind is the probe's to refuse."""
    from collections.abc import Mapping

    from torch import Tensor

    if isinstance(given, Tensor):
        return change(given)
    if isinstance(given, tuple):
        return tuple(_mapped(each, change) for each in given)
    if isinstance(given, Mapping):
        return {name: _mapped(each, change) for name, each in given.items()}
    return given
