"""The command calibrate: how often verdicts are wrong."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from residual_theory.commands.options import Folder, Jobs, PresetName, Root
from residual_theory.console import progress, say, show
from residual_theory.errors import InputError
from residual_theory.parallel import cores
from residual_theory.store import require_writable, write_atomically

if TYPE_CHECKING:
    from residual_theory.calibration.calibrate import ClaimRates, Rate, Rates

_RATES = {
    "contradicted": "contradicts record",
    "twin_confirmed": "twin confirmed",
    "wrong": "either (wrong)",
    "twin_refuted": "twin refuted",
    "inconclusive": "inconclusive",
}
_OTHERS = ("samples, mean", "samples, max", "seconds")


def calibrate(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CLAIM | FILE.py | FOLDER]...",
            help="Only these claims, or those that a file or folder of yours states; all when none is given.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[int, typer.Option(help="Runs, each under a seed of its own; more later extend them.")] = 200,
    preset: PresetName = "quick",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the rates there.")] = None,
    out: Annotated[
        list[Path] | None, typer.Option("--out", metavar="FILE", help="And the table there, as .csv or .md.")
    ] = None,
    results: Folder = Path("results"),
    jobs: Jobs = 0,
    root: Root = None,
) -> None:
    """Verify the simulation claims many times under fresh seeds, and count wrong verdicts.

    Finished runs are kept, and the same command goes on from them; measurements are not kept. Exit status: 0 no rate is
    significantly worse than nominal (exact binomial tests, Holm over all of them at 5 %), 1 some is, 2 misuse.
    """
    from residual_theory.calibration.calibrate import Calibration, CalibrationRequest, Rates

    if jobs < 0:
        raise InputError("jobs", jobs, "must be at least 1, or 0 for all cores")
    if runs < 1:
        raise InputError("runs", runs, "must be at least 1")
    tables = out or []
    for table in tables:
        if table.suffix not in (".csv", ".md"):
            raise InputError("out", str(table), "name a file that ends in .csv or .md")
        require_writable(table, argument="out")
    if json_file is not None:
        require_writable(json_file, argument="json")
    calibration = Calibration.prepare(CalibrationRequest(preset, results, tuple(ids or ()), root))
    settings = calibration.selection.preset
    rates = Rates.of(calibration.measure(runs, jobs or cores(), progress()), settings.run.alpha)
    show(_table(rates))
    say(_notes(rates))
    if json_file is not None:
        write_atomically(json_file, json.dumps(rates.document(settings.name), indent=1) + "\n", argument="json")
    for table in tables:
        write_atomically(table, _csv(rates) if table.suffix == ".csv" else _markdown(rates), argument="out")
    raise typer.Exit(int(bool(rates.worse)))


def _rows(rates: "Rates") -> list["ClaimRates"]:
    return [*rates.claims, rates.overall]


def _percent(rate: "Rate") -> str:
    """A rate and its interval, in %, such as 0.5 [0.01, 2.8]."""
    low, high = rate.interval
    return f"{100 * rate.value:.3g} [{100 * low:.2g}, {100 * high:.3g}]"


def _cells(row: "ClaimRates") -> list[str]:
    shown = [_percent(getattr(row, name)) for name in _RATES]
    return [row.claim, *shown, f"{row.samples_mean:.4g}", str(row.samples_max), f"{row.seconds_mean:.3g}"]


def _headings() -> list[str]:
    return ["claim", *(f"{words}, %" for words in _RATES.values()), *_OTHERS]


def _table(rates: "Rates") -> Table:
    table = Table(title=f"{rates.runs} runs: rates with 95 % Clopper–Pearson intervals, means a run")
    for number, heading in enumerate(_headings()):
        table.add_column(heading, no_wrap=number == 0)
    for row in _rows(rates):
        table.add_row(*map(escape, _cells(row)))
    return table


def _notes(rates: "Rates") -> str:
    from residual_theory.calibration.calibrate import LEVEL, TWINS_REFUTED

    found = [
        f"significantly worse than nominal: {row.claim}, {_RATES[name]} in {rate.count} of {rate.runs} runs "
        f"(p = {rate.p_value:.2g})"
        for row, name, rate in rates.worse
    ] or ["no rate is significantly worse than nominal"]
    return "\n".join(
        [
            f"Nominal: a wrong verdict in at most {rates.alpha:.3g} of runs, every twin refuted in at least "
            f"{TWINS_REFUTED:g}. Tests: exact binomial, one-sided; Holm over all {len(rates.tests)} at {LEVEL:g}.",
            "Every claim is judged at the level that it has in any run: its share of its family's part of alpha.",
            *found,
        ]
    )


def _csv(rates: "Rates") -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    bounds = [f"{name}{part}" for name in _RATES for part in ("", "_low", "_high")]
    writer.writerow(["claim", "runs", *bounds, "samples_mean", "samples_max", "seconds_mean"])
    for row in _rows(rates):
        values = [value for name in _RATES for value in _with_interval(getattr(row, name))]
        writer.writerow([row.claim, rates.runs, *values, row.samples_mean, row.samples_max, f"{row.seconds_mean:.3g}"])
    return text.getvalue()


def _with_interval(rate: "Rate") -> Sequence[str]:
    low, high = rate.interval
    return f"{rate.value:.6g}", f"{low:.4g}", f"{high:.4g}"


def _markdown(rates: "Rates") -> str:
    lines = [_headings(), ["---"] * len(_headings()), *(_cells(row) for row in _rows(rates))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{rates.runs} runs: rates with 95 % Clopper–Pearson intervals, means a run.\n\n{table}\n\n{_notes(rates)}\n"
