"""Commands about how best learning rates move: from a table of losses, and how often such intervals are right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from residual_theory.commands.options import Jobs
from residual_theory.console import progress, say, show
from residual_theory.errors import InputError
from residual_theory.parallel import cores
from residual_theory.store import require_writable, write_atomically

Markdown = Annotated[bool, typer.Option("--markdown", help="As the documentation shows it.")]


def best_rates(
    file: Annotated[Path, typer.Argument(help="A CSV such as figures write beside rate-transfer.", show_default=False)],
    in_markdown: Markdown = False,
) -> None:
    """How the best rate moves with size in a table of losses: exponents, their errors, and those between sizes."""
    from residual_theory.sweeps.recorded import read_curves, rows

    _show(rows(read_curves(file)), "Exponent of the best rate, ± over seeds ± between fits", in_markdown=in_markdown)


def rate_coverage(
    runs: Annotated[int, typer.Option(help="Draws of every world and grid of rates.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table there, as CSV.")] = None,
    jobs: Jobs = 0,
    in_markdown: Markdown = False,
) -> None:
    """Count how often 95 % intervals of a best rate's exponent miss the truth, on curves with known optima.

    Exit status: 0 nowhere significantly more often than in 5 % of runs (exact binomial tests, Holm over all at 5 %),
    1 somewhere, 2 misuse.
    """
    from residual_theory.calibration.rates import measure

    if jobs < 0:
        raise InputError("jobs", jobs, "must be at least 1, or 0 for all cores")
    if out is not None:
        require_writable(out, argument="out")
    found = measure(runs, seed=seed, jobs=jobs or cores(), progress=progress())
    _show(found.rows(), "How often 95 % intervals miss the true exponent, %", in_markdown=in_markdown)
    for name, words in (("missed", "with the systematic error"), ("alone", "without it"), ("parabola", "by parabolas")):
        off = found.off(name)
        say(f"{words}: intervals miss significantly too often in {len(off)} of {len(found.points)} cases")
    if out is not None:
        write_atomically(out, found.csv(), argument="out")
    raise typer.Exit(int(bool(found.off())))


def _show(rows: Sequence[Mapping[str, str]], title: str, *, in_markdown: bool) -> None:
    if in_markdown:
        say(markdown(rows))
        return
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*map(escape, row.values()))
    show(table)


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with the same keys as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
