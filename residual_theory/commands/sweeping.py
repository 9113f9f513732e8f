"""Commands about many training runs: sweep, plan."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from residual_theory.commands.fields import leave_open, number, options, takes
from residual_theory.commands.options import AsJson, Folder, Jobs, Root, Text, whole_numbers
from residual_theory.console import finite, progress, say, show
from residual_theory.console import number as digits
from residual_theory.errors import InputError
from residual_theory.parallel import cores
from residual_theory.store import Store, require_writable, write_atomically
from residual_theory.sweeps.grid import SweepConfig, read_sweep, sweep_of
from residual_theory.transformer.config import ModelConfig, TrainConfig

if TYPE_CHECKING:
    from residual_theory.sweeps.cost import Cost

_SWEEPS = ("simulations", "presets", "sweeps")
_PEAKS = {("cuda", "bfloat16"): 989e12, ("cuda", "float32"): 67e12}  # an H100's data sheet, dense, in operations/s
_UTILIZATION = 0.4
File = Annotated[
    str | None, typer.Argument(metavar="[FILE.toml | PRESET]", help="A sweep: a TOML file, laptop, gpu or paper.")
]


def _numbers(name: str, kind: type, text: str | None) -> tuple[Any, ...] | None:
    if text is None:
        return None
    if kind is int:
        return tuple(whole_numbers(name, text))
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(name, text, "must be a number, or several such as 1e-3,2e-3") from None


def _rules(text: str | None) -> tuple[float | str, ...] | None:
    return None if text is None else tuple(number(rule.strip()) for rule in text.split(","))


_LISTS = options(
    SweepConfig,
    loops={"read": partial(_numbers, "loops", int)},
    unique_layers={"read": partial(_numbers, "layers", int)},
    rules={"read": _rules},
    learning_rates={"read": partial(_numbers, "rates", float)},
    seeds={"read": partial(_numbers, "seeds", int)},
)


@takes(
    leave_open(_LISTS, "loops", "layers", "rules", "rates", "seeds"),
    leave_open(options(ModelConfig), "width", "heads", "mlp_width", "context"),
    leave_open(options(TrainConfig), "steps", "batch_size", "device"),
)
def sweep(
    lists: dict[str, Any],
    model: dict[str, Any],
    training: dict[str, Any],
    file: File = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.nc", help="Write the losses there.")] = None,
    text: Text = None,
    way: Annotated[str, typer.Option(help="apart, together (as ensembles), or auto: the faster, by a trial.")] = "auto",
    members: Annotated[int, typer.Option(help="Runs in an ensemble, at most.")] = 8,
    results: Folder = Path("results"),
    jobs: Jobs = 0,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Train a grid of looped Transformers: does the best learning rate move with N? Resumes where it was stopped."""
    from residual_theory.sweeps.sweep import sweep as swept
    from residual_theory.sweeps.transfer import summary

    tables = {"model": model, "training": training, "data": {"text": None if text is None else str(text)}}
    config = _read(file, root, {**lists, **{name: _drop_unset(table) for name, table in tables.items()}})
    if out is not None:
        require_writable(out, argument="out")
    _check_jobs(jobs)
    folder = results / "sweeps"
    write_atomically(folder / ".gitignore", "*\n")
    corpus = config.data.read()
    here = {"jobs": 1 if config.training.device != "cpu" else jobs or cores(), "progress": progress()}
    result = swept(config, corpus, Store(folder), way=way, members=members, **here)  # type: ignore[arg-type]
    if out is not None:
        write_atomically(out, bytes(result.to_netcdf(engine="h5netcdf")), argument="out")
    rows = summary(result)
    if as_json:
        attrs = {name: json.loads(result.attrs[name]) for name in ("sweep", "ways", "provenance")}
        document = {"rows": rows, **attrs, "corpus": result.attrs["corpus"], "digest": result.attrs["corpus_digest"]}
        say(json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return
    show(_summary_table(rows))
    for shape, seconds in json.loads(result.attrs["ways"]).items():
        fits = math.isfinite(seconds["together"])
        together = f"{seconds['together']:.3g} s as one of an ensemble" if fits else "does not fit as an ensemble"
        say(f"{shape}: {seconds['apart']:.3g} s a step apart, {together}")


def _summary_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The best rate and the regret for each rule, L and N, intervals of 95 %."""
    table = Table(
        *("rule", "L", "N", "best rate", "interval", "loss there", "rate of least N", "loss given up", "interval"),
        "diverged",
        title="Best learning rate, and the loss given up at the rate that is best for the least N (nats a token)",
        caption="≤ and ≥: the best is at the edge of the rates that every seed survived; 0 to ∞: the seeds cannot tell",
    )
    for row in rows:
        mark = {"low": "≤ ", "high": "≥ "}.get(row["edge"], "")
        numbers = (row["validation_loss"], row["transferred_rate"], row["regret"])
        loss, transferred, lost = (_digits(value) for value in numbers)
        table.add_row(
            row["rule"], str(row["unique_layers"]), str(row["loops"]), mark + _digits(row["best_rate"]),
            _interval(row["interval"]), loss, transferred, lost, _interval(row["regret_interval"]),
            f"{row['diverged']} of {row['runs']}",
        )  # fmt: skip
    return table


def _digits(value: float) -> str:
    return "∞" if value == math.inf else digits(value if math.isfinite(value) else None)


def _interval(ends: Sequence[float]) -> str:
    low, high = map(_digits, ends)
    return f"{low} to {high}"


def plan(
    file: File = None,
    preset: Annotated[str | None, typer.Option(help="quick, laptop (claims and sweep), gpu or paper.")] = None,
    peak: Annotated[float | None, typer.Option(help="Operations/s of the hardware, in place of a trial here.")] = None,
    utilization: Annotated[float, typer.Option(help="The share of the peak that training reaches.")] = _UTILIZATION,
    jobs: Jobs = 0,
    results: Folder = Path("results"),
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Say what a preset or sweep costs before it starts: operations, memory, time, GPU-hours."""
    if (file is None) == (preset is None):
        raise InputError("preset", preset, "name a preset, or a sweep file, and not both")
    if not 0 < utilization <= 1:
        raise InputError("utilization", utilization, "must lie above 0 and be at most 1")
    _check_jobs(jobs)
    known = _names_of_sweeps(root)
    document: dict[str, Any] = {}
    if preset is not None and (preset not in known or (_sweeps(root).parent / f"{preset}.toml").exists()):
        document["claims"] = _seconds_of_claims(preset, results, root)
    if file is not None or preset in known:
        config = _read(preset if file is None else file, root, {})
        document["sweep"] = _sweep_cost(config, peak, utilization, jobs or cores())
    if as_json:
        say(json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return
    if "claims" in document:
        _show_claims(document["claims"], preset or "", results)
    if "sweep" in document:
        _show_sweep(document["sweep"])


def _sweep_cost(config: SweepConfig, peak: float | None, utilization: float, jobs: int) -> dict[str, Any]:
    """Rows and totals of a sweep's cost, and where its times come from."""
    from dataclasses import asdict

    from residual_theory.sweeps.cost import assume_rate, costs, measure_rate

    device, dtype = config.training.device.partition(":")[0], config.training.dtype
    if peak is None and not _is_here(config.training.device):
        peak = _PEAKS.get((device, dtype))
    if peak is not None:
        rate, source = assume_rate(peak, utilization), f"assumed: {utilization:g} of {peak:.4g} operations/s"
    else:
        rate, source = measure_rate(config), "measured here, in a few steps of the smallest and the largest model"
    rows: list[Cost] = costs(config, rate)
    at_once = jobs if device == "cpu" and peak is None else 1
    seconds = sum(row.seconds for row in rows)
    return {
        "rows": [asdict(row) for row in rows],
        "runs": sum(row.runs for row in rows),
        "operations": sum(row.operations for row in rows),
        "memory": max(row.memory for row in rows) * at_once,
        "seconds": seconds / at_once,
        "gpu_hours": None if device == "cpu" else seconds / 3600,
        "processes": at_once,
        "device": config.training.device,
        "times": source,
    }


def _is_here(device: str) -> bool:
    from residual_theory.devices import device_named

    try:
        device_named(device)
    except InputError:  # unknown, or not here
        return False
    return True


def _show_sweep(cost: Mapping[str, Any]) -> None:
    table = Table("L", "N", "runs", "operations", "memory of one", "time of one", title=f"Sweep on {cost['device']}")
    for row in cost["rows"]:
        cells = (str(row[name]) for name in ("unique_layers", "loops", "runs"))
        each = _duration(row["seconds"] / row["runs"])
        table.add_row(*cells, f"{row['operations']:.3g}", f"{row['memory'] / 2**30:.3g} GiB", each)
    show(table)
    at_once = f", {cost['processes']} at a time" if cost["processes"] > 1 else ""
    say(f"{cost['runs']} runs{at_once}: {cost['operations']:.3g} operations, {cost['memory'] / 2**30:.3g} GiB")
    hours = "" if cost["gpu_hours"] is None else f" ({cost['gpu_hours']:.3g} GPU-hours)"
    say(f"time: {_duration(cost['seconds'])}{hours}; {cost['times']}")


def _duration(seconds: float) -> str:
    for unit, size in (("days", 2 * 86400), ("h", 2 * 3600), ("min", 120)):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds:.3g} s"


def _seconds_of_claims(preset: str, results: Path, root: Path | None) -> dict[str, float | None]:
    """Seconds that each claim's measurements took when last verified here; None where none are recorded."""
    from residual_theory.claims.presets import load_preset
    from residual_theory.claims.registry import claims_in
    from residual_theory.loading import find_root
    from residual_theory.store import read_listing

    checkout = find_root(root)
    claims = claims_in(checkout)
    folder = results / load_preset(checkout, preset, claims).name
    listed, store = read_listing(folder / "measurements.json"), Store(folder / "data")
    found: dict[str, float | None] = {}
    for claim in claims:
        try:
            found[claim.key] = sum(store.seconds(spec) for spec in listed[claim.key])
        except (KeyError, OSError, ValueError):
            found[claim.key] = None
    return found


def _show_claims(recorded: Mapping[str, float | None], preset: str, results: Path) -> None:
    known = {claim: seconds for claim, seconds in recorded.items() if seconds is not None}
    if known:
        table = Table(
            "claim", "time on one core", title=f"Claims at the preset {preset}, as {results} has recorded them"
        )
        for claim, seconds in known.items():
            table.add_row(claim, _duration(seconds))
        show(table)
        say(f"{len(known)} of {len(recorded)} claims: {_duration(sum(known.values()))} on one core")
    else:
        say(f"claims at the preset {preset}: {len(recorded)}, of which no time is recorded in {results}")


def _read(file: str | None, root: Path | None, changes: Mapping[str, Any]) -> SweepConfig:
    given = _drop_unset(changes)
    if file is None:
        return sweep_of({}, **given)
    if not file.endswith(".toml"):
        if file not in _names_of_sweeps(root):
            known = f"choose from {', '.join(_names_of_sweeps(root))}, or name" if _names_of_sweeps(root) else "name"
            raise InputError("sweep", file, f"{known} a TOML file")
        return read_sweep(_sweeps(root) / f"{file}.toml", **given)
    return read_sweep(Path(file), **given)


def _drop_unset(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None and value != {}}


def _sweeps(root: Path | None) -> Path:
    from residual_theory.loading import find_root

    return find_root(root).joinpath(*_SWEEPS)


def _names_of_sweeps(root: Path | None) -> list[str]:
    return sorted(path.stem for path in _sweeps(root).glob("*.toml"))


def _check_jobs(jobs: int) -> None:
    if jobs < 0:
        raise InputError("jobs", jobs, "must be at least 1, or 0 for all cores")
