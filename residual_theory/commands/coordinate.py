"""The command coordinate-check."""

import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from residual_theory.commands.options import AsJson, whole_numbers
from residual_theory.console import finite, progress, say
from residual_theory.errors import InputError
from residual_theory.loading import loaded, named
from residual_theory.store import require_writable, write_atomically

_STATUS = {"confirmed": 0, "refuted": 1, "inconclusive": 3}


def coordinate_check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.py",
            help="Defines make, block, inputs, optimizer, and targets or loss, as coordinate_check takes them.",
        ),
    ],
    loops: Annotated[str, typer.Option(help="N, at least five unless --layers has as many.")] = "2,4,8,16,32",
    layers: Annotated[str, typer.Option(help="L, one or several.")] = "1",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 4,
    seeds: Annotated[int, typer.Option(help="How many, from 0 on.")] = 8,
    margin: Annotated[float, typer.Option(help="The largest |slope| that counts as transfer.")] = 0.25,
    alpha: Annotated[float, typer.Option(help="The chance that any verdict is wrong, at most.")] = 0.01,
    out: Annotated[Path | None, typer.Option(help="Write every visit of every run to this netCDF file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it there: .png, .pdf or .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model of yours a few steps at several loops and layers: do the stream and its updates keep their size?

    Exit status: 0 confirmed, 1 refuted, 2 misuse, 3 inconclusive.
    """
    from residual_theory.coordinate.check import coordinate_check as check
    from residual_theory.report.coordinate_figure import draw

    for argument, path in (("out", out), ("figure", figure)):
        if path is not None:
            require_writable(path, argument=argument)
    if figure is not None and figure.suffix not in (".png", ".pdf", ".svg"):
        raise InputError("figure", str(figure), "name a file that ends in .png, .pdf or .svg")
    if not file.is_file():
        raise InputError("file", str(file), "is not a file; name a Python file")
    names = ("make", "block", "inputs", "optimizer", "targets", "loss")
    with loaded(file, "file") as module, named("file", str(file)):
        given: dict[str, Any] = {name: getattr(module, name) for name in names if hasattr(module, name)}
        for name in names[:4]:
            if name not in given:
                raise InputError("file", str(file), f"must define {name}, an argument of coordinate_check")
        found = check(
            **given, loops=whole_numbers("loops", loops), unique_layers=whole_numbers("layers", layers), steps=steps,
            seeds=range(seeds), margin=margin, alpha=alpha, progress=progress(),
        )  # fmt: skip
    if out is not None:
        write_atomically(out, bytes(found.dataset.to_netcdf(engine="h5netcdf")), argument="out")
    if figure is not None:
        buffer = io.BytesIO()
        draw(found).savefig(buffer, format=figure.suffix[1:])
        write_atomically(figure, buffer.getvalue(), argument="figure")
    if as_json:
        document: dict[str, Any] = {"verdict": found.verdict, "margin": found.margin, "alpha": found.alpha}
        document |= {"diverged": found.diverged, "zeros": [str(zero) for zero in found.zeros]}
        document |= {"slopes": found.table.to_dict("records")}
        say(json.dumps(finite(document), indent=1, ensure_ascii=False))
    else:
        say(str(found))
    raise typer.Exit(_STATUS[found.verdict])
