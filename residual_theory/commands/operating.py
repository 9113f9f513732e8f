"""The command operating-curve: how often claims at the edge of their margin are confirmed and refuted."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from residual_theory.commands.options import Jobs
from residual_theory.console import progress, say, show
from residual_theory.errors import InputError
from residual_theory.parallel import cores
from residual_theory.store import require_writable, write_atomically

if TYPE_CHECKING:
    from residual_theory.calibration.calibrate import Rate
    from residual_theory.calibration.operating import Curve

_FIGURES = (".png", ".pdf", ".svg")
SHOWN = {  # in the table: the event, and the standard errors inside
    "at the edge: confirmed": ("confirmed", 0.0),
    "refuted": ("refuted", 0.0),
    "2 inside: confirmed": ("confirmed", 2.0),
    "2 outside: refuted": ("refuted", -2.0),
}


def operating_curve(
    runs: Annotated[int, typer.Option(help="Runs at the edge of the margin; a fifth of them elsewhere.")] = 1000,
    alpha: Annotated[float, typer.Option(help="The chance that any verdict of a run is wrong, at most.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", metavar="FILE", help="Write there: .csv all rates, .md the table, .png … the figure."),
    ] = None,
    jobs: Jobs = 0,
) -> None:
    """Judge claims whose truth lies on, and 1 and 2 standard errors off, the edge of their margin, and count words.

    The claims are synthetic, their samples drawn from a known law, so that it is known how often each word is due; they
    are judged by the code that judges real ones. Exit status: 0 all rates are what is due (exact binomial tests, Holm
    over all of them at 5 %), 1 some is not, 2 misuse.
    """
    from residual_theory.calibration.operating import measure

    if jobs < 0:
        raise InputError("jobs", jobs, "must be at least 1, or 0 for all cores")
    files = out or []
    for file in files:
        if file.suffix not in (".csv", ".md", *_FIGURES):
            raise InputError("out", str(file), "name a file that ends in .csv, .md, .png, .pdf or .svg")
        require_writable(file, argument="out")
    curve = measure(runs, alpha, seed=seed, jobs=jobs or cores(), progress=progress())
    show(_table(curve))
    say(_notes(curve))
    for file in files:
        write_atomically(file, _content(curve, file.suffix), argument="out")
    raise typer.Exit(int(bool(curve.off)))


def _content(curve: "Curve", ending: str) -> str | bytes:
    if ending == ".csv":
        return curve.csv()
    if ending == ".md":
        return markdown(curve)
    from residual_theory.report.operating_figure import draw

    buffer = io.BytesIO()
    draw(curve).savefig(buffer, format=ending[1:])
    return buffer.getvalue()


def _headings() -> list[str]:
    return ["claims", "go through", *(f"{words}, %" for words in SHOWN)]


def _rows(curve: "Curve") -> list[list[str]]:
    found: dict[tuple[str, str], dict[tuple[str, float], Rate]] = {}
    for point, name, rate in curve.tests:
        found.setdefault((point.situation, point.through), {})[name, point.inside] = rate
    return [[*words, *(cell(rates.get(place)) for place in SHOWN.values())] for words, rates in found.items()]


def cell(rate: "Rate | None") -> str:
    """A rate with its interval and what is due, in %, such as 0.3 [0.2, 0.4], due 0.33."""
    if rate is None:
        return ""
    low, high = rate.interval
    least, most = f"{100 * (rate.least or 0.0):.2g}", f"{100 * (rate.most or 0.0):.2g}"
    due = most if least == most else f"≤ {most}" if rate.least is None else f"{least} to {most}"
    return f"{100 * rate.value:.2g} [{100 * low:.2g}, {100 * high:.2g}], due {due}"


def _table(curve: "Curve") -> Table:
    table = Table(title="Rates with 95 % Clopper–Pearson intervals, and what is due")
    for heading in _headings():
        table.add_column(heading)
    for row in _rows(curve):
        table.add_row(*map(escape, row))
    return table


def markdown(curve: "Curve") -> str:
    """The table as README shows it."""
    lines = [_headings(), ["---"] * len(_headings()), *_rows(curve)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _notes(curve: "Curve") -> str:
    worst = max(curve.points, key=lambda point: point.wrong.value)
    wrong = worst.wrong
    found = [
        f"not what is due: {point.situation}, {name} {point.inside:+g} standard errors inside, "
        f"{rate.count} of {rate.runs} runs (p = {rate.p_value:.2g})"
        for point, name, rate in curve.off
    ] or ["no rate is significantly off"]
    return "\n".join(
        [
            f"Wrong words in a run: at most {curve.alpha:.3g} due; most were in {wrong.count} of {wrong.runs} "
            f"({worst.situation}, {worst.inside:+g} standard errors inside).",
            *found,
        ]
    )
