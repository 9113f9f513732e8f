"""What the command prints: tables, plain lines, and progress that suits a terminal or a log."""

import json
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import xarray as xr

_JSON = {"description", "inputs", "control", "widths"}  # attributes that hold JSON
_COLOURS = {"confirmed": "green", "refuted": "red", "inconclusive": "yellow"}
_LOG_WIDTH = 140
_WIDE = 120
_LOG_EVERY = 15.0  # seconds between progress lines in a log


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _LOG_WIDTH)


def show(table: Table) -> None:
    """Print a table."""
    console = _console()
    with console.capture() as captured:
        console.print(table)
    say(captured.get().rstrip("\n"))


def say(text: str) -> None:
    """Print plain text and a line's end. Once the pipe is closed, output is dropped and work goes on."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (for the rest of the process)


def progress() -> Callable[[int, int], None]:
    """A report of measurements done: a bar on a terminal, a line now and then in a log."""
    return _bar() if sys.stderr.isatty() else _lines()


def _bar() -> Callable[[int, int], None]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    running: list[tuple[Progress, Any]] = []

    def report(done: int, total: int) -> None:
        if not running and total > 0:
            bar = Progress(*columns, console=_console(stderr=True), transient=True)
            bar.start()
            running.append((bar, bar.add_task("measuring", total=total)))
        if running:
            bar, task = running[0]
            bar.update(task, completed=done)
            if done == total:
                bar.stop()
                running.clear()

    return report


def _lines() -> Callable[[int, int], None]:
    last = -_LOG_EVERY

    def report(done: int, total: int) -> None:
        nonlocal last
        if total and (done == total or time.monotonic() - last >= _LOG_EVERY):
            last = time.monotonic()
            sys.stderr.write(f"measured {done} of {total}\n")
            sys.stderr.flush()

    return report


def verdict_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The claims of a run, one row each."""
    columns = ["claim", "level", "verdict", "on record", "false twin", "value", "predicted", "interval", "where"]
    if _console().width < _WIDE:  # a narrow terminal shows the verdicts without the numbers
        columns = columns[:5]
    table = Table(title="Claims")
    for column in columns:
        table.add_column(column, no_wrap=column not in ("interval", "where"))
    for row in rows:
        verdicts = (row["verdict"], row["recorded"], row["twin_verdict"])
        interval = "–" if row["interval"] is None else "[{}, {}]".format(*map(number, row["interval"]))
        cells = (number(row["value"]), number(row["predicted"]), interval, row["where"])
        coloured = [f"[{_COLOURS[word]}]{word}" for word in verdicts]
        if row["power"] == "powerless":  # such a verdict is no evidence
            coloured[2] += ", [red]powerless"
        table.add_row(*(escape(row["id"]), row["level"], *coloured, *map(escape, cells))[: len(columns)])
    return table


def number(value: float | None) -> str:
    """Four digits, or a dash for what has no value."""
    return "–" if value is None else f"{value:.4g}"


def powers(layers: float, loops: float) -> str:
    """A product of powers of L and N as text, such as L^-0.5 N^-1."""
    parts = [f"{letter}^{power:g}" for letter, power in (("L", layers), ("N", loops)) if power]
    return " ".join(parts) or "1"


def some_of(visits: int) -> list[int]:
    """At most a dozen visits to print: the first, the last, and geometric steps between."""
    import numpy as np

    return sorted({0, *np.geomspace(1, max(visits - 1, 1), 11).round().astype(int).tolist()} & set(range(visits)))


def finite(value: Any) -> Any:
    """The value with null for every number that is not finite, within lists and dictionaries too."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_document(result: "xr.Dataset") -> str:
    """A Dataset as JSON: its attributes, and nested lists by name; what is not finite is null."""
    attrs = {key: json.loads(value) if key in _JSON else finite(value) for key, value in result.attrs.items()}
    values = {str(name): finite(array.values.tolist()) for name, array in result.data_vars.items()}
    return json.dumps({**attrs, **values}, indent=1, allow_nan=False) + "\n"


def simulation_table(description: Any, result: "xr.Dataset", law: "xr.Dataset", widths: Sequence[int]) -> Table:
    """Simulated beside predicted second moments, and gradients where both have them."""
    of = f"width {widths[0]}" if len(widths) == 1 else f"widths {', '.join(map(str, widths))}, extrapolated"
    title = f"{int(result.samples)} random stacks of {of}, ε = {description.epsilon:.6g} (some visits; all with --json)"
    columns = {"second_moment": "R²", "gradient_second_moment": "gradient²"}
    shown = {name: symbol for name, symbol in columns.items() if name in result and name in law}
    headings = [heading for symbol in shown.values() for heading in (symbol, "standard error", "predicted (d → ∞)")]
    table = Table("visit", *headings, title=title)
    for visit in some_of(result.sizes["visit"]):
        cells = [array[visit] for name in shown for array in (result[name], result[f"{name}_stderr"], law[name])]
        table.add_row(str(visit), *(f"{float(cell):.6g}" for cell in cells))
    if "tangent_kernel" in result and "tangent_kernel" in law:
        kernel = (float(result.tangent_kernel), float(result.tangent_kernel_stderr), float(law.tangent_kernel))
        table.caption = "tangent kernel {:.6g}, standard error {:.2g}, predicted {:.6g}".format(*kernel)
    return table


_MOST_LETTERS = 240
_OF_MODELS = {
    "sharing": "weights: {}",
    "equal_not_shared": "weights: {}",
    "order": "order of the visits, by layer: {}",
    "outside_block": "the model itself makes the stream {}",
}


def note_attributes(result: "xr.Dataset") -> None:
    """Say what a reader of the numbers must know: overflow, heavy tails, a target missed, another method."""
    attrs = result.attrs
    if "first_nonfinite_visit" in attrs:
        say(f"an infinity or a NaN at visit {attrs['first_nonfinite_visit']}; no averages of the stream from there on")
    if "trials_without_change" in attrs:
        say(f"cosines are undefined: in {attrs['trials_without_change']} samples some loop changes nothing")
    if attrs.get("heavy_tailed"):
        say("the mean of R² rests on a few large samples: trust log_second_moment (--json), or take a larger width")
    if attrs.get("target_reached") == 0:
        say("the wanted standard error was not reached; raise --max-samples")
    if "fallback" in attrs:
        say(f"method: {attrs['fallback']}")
    for name, words in _OF_MODELS.items():
        if name in attrs:
            say(words.format(textwrap.shorten(str(attrs[name]), _MOST_LETTERS, placeholder=" …")))
