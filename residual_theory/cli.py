"""The command residual-theory."""

import io
import json
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from residual_theory.console import (
    as_document,
    finite,
    note_attributes,
    powers,
    progress,
    say,
    show,
    simulation_table,
    some_of,
    verdict_table,
)
from residual_theory.errors import DerivationError, InputError, MissingResultError, ResidualTheoryError
from residual_theory.options import by_observable, takes_stack, whole_numbers
from residual_theory.parallel import cores
from residual_theory.stack import Stack
from residual_theory.store import read_dataset, require_writable, write_atomically

if TYPE_CHECKING:
    from residual_theory.verify.run import Run

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
_INTERRUPTED = 130
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

Ids = Annotated[list[str] | None, typer.Argument(help="Only these; all when none is given.", show_default=False)]
Root = Annotated[Path | None, typer.Option(help="A checkout to read claims and figures from.", show_default=False)]
PresetName = Annotated[str, typer.Option("--preset", help="Sizes to run at: quick, laptop, or a TOML file.")]
Folder = Annotated[Path, typer.Option("--results", help="Folder for results; each preset gets its own within.")]
Jobs = Annotated[int, typer.Option(help="Processes, one core each.", show_default="all cores")]
Text = Annotated[Path | None, typer.Option(help="A file or folder to train on, not Python's own library.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_(root: Root = None) -> None:
    """List the claims, with the levels of evidence each has, and the figures."""
    from residual_theory.report.drawing import figures_in
    from residual_theory.verify.claim import LEVELS
    from residual_theory.verify.folders import find_root
    from residual_theory.verify.registry import claims_in

    place = find_root(root)
    levels: dict[str, dict[str, str]] = {}
    statements: dict[str, list[str]] = {}
    for claim in claims_in(place):
        levels.setdefault(claim.id, {})[claim.level] = claim.recorded
        statements.setdefault(claim.id, []).append(claim.statement)
    table = Table("claim", *LEVELS, "statement", title="Claims: the verdict on record")
    for name, cells in levels.items():
        table.add_row(name, *(cells.get(level, "–") for level in LEVELS), escape("\n".join(statements[name])))
    show(table)
    table = Table("figure", "title", title="Figures")
    for figure in figures_in(place):
        table.add_row(figure.id, figure.title)
    show(table)


@app.command()
def derive(
    ids: Ids = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX instead of text.")] = False,
    root: Root = None,
) -> None:
    """Check derivations step by step and print them."""
    from residual_theory.theory.proofs import derivation as engine
    from residual_theory.verify.folders import find_root
    from residual_theory.verify.registry import derivations_in

    known = {derivation.id: derivation for derivation in derivations_in(find_root(root))}
    for name in ids or []:
        if name not in known:
            raise InputError("derivation", name, f"choose from {', '.join(known)}")
    failed = False
    for name in ids or known:
        try:
            records = engine.check(known[name])
        except DerivationError as error:
            failed = True
            sys.stderr.write(f"does not hold: {error}\n")
        else:
            say((engine.latex if latex else engine.text)(known[name], records).rstrip() + "\n")
    raise typer.Exit(int(failed))


@app.command()
@takes_stack
def predict(
    stack: Stack,
    gradients: Annotated[bool, typer.Option(help="Also gradients and the tangent kernel.")] = True,
    as_json: AsJson = False,
) -> None:
    """Predict one stack at infinite width, exactly."""
    from residual_theory.theory.forward import predict as predicted

    result = predicted(stack, with_gradients=gradients)
    if as_json:
        say(as_document(result))
        return
    table = Table(
        *("visit", "R²", "R", *["gradient²"] * gradients),
        title=f"Predicted at infinite width, ε = {stack.epsilon:.6g} (some visits; all with --json)",
    )
    for visit in some_of(result.sizes["visit"]):
        square = float(result.second_moment[visit])
        moments = [f"{float(result.gradient_second_moment[visit]):.6g}"] if gradients else []
        table.add_row(str(visit), f"{square:.9g}", f"{square**0.5:.6g}", *moments)
    show(table)
    if gradients:
        say(f"tangent kernel of the weights: {float(result.tangent_kernel):.6g}")
    note_attributes(result)


@app.command()
def recommend(
    loops: Annotated[int, typer.Option(help="N, the loops.")],
    layers: Annotated[int, typer.Option(help="L, the unique layers.")],
    strength: Annotated[float, typer.Option(help="λ, so that ε = λ/N at the tuned number of layers.")] = 1.0,
    tuned_loops: Annotated[int, typer.Option(help="Loops of the model tuned under this rule.")] = 1,
    tuned_layers: Annotated[
        int | None, typer.Option(help="Its layers, at which ε = λ/N.", show_default="as many")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="adam, sign or gradient-descent.")] = "adam",
    as_json: AsJson = False,
) -> None:
    """Choose a residual scale and learning-rate multipliers for a looped model."""
    from dataclasses import asdict

    from residual_theory.theory.learning_rate import RULES
    from residual_theory.theory.recommend import recommend as recommended

    tuned = {"tuned_loops": tuned_loops, "tuned_layers": tuned_layers}
    advice = recommended(loops, layers, strength=strength, optimizer=optimizer, **tuned)  # type: ignore[arg-type]
    if as_json:
        say(json.dumps(finite(asdict(advice)), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return
    say(str(advice) + "\n")
    table = Table(
        *("rule", "ε ∝", "stream", "rate ∝ Adam", "gradient descent", "Adam, pre-norm"), title="Beside other rules"
    )
    for rule in RULES:
        cells = (powers(-rule.layers, -rule.loops), "bounded" if rule.bounded else "grows")
        rates = (rule.learning_rate("adam"), rule.learning_rate("gradient-descent"))
        raw = [powers(rate.layers, rate.loops) for rate in rates]
        normed = powers(rule.prenorm_learning_rate.layers, rule.prenorm_learning_rate.loops)
        table.add_row(rule.name, *cells, *(raw if rule.bounded else ["no power law"] * 2), normed)
    show(table)


@app.command()
@takes_stack
def simulate(
    stack: Stack,
    width: Annotated[str, typer.Option(help="d, the width; or several, as 256,512,1024, for the limit d → ∞.")],
    samples: Annotated[int, typer.Option(help="Independent random stacks (at each width).")] = 64,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    method: Annotated[str, typer.Option(help="matrix-free, or dense; both exact in law.")] = "matrix-free",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    gradients: Annotated[bool, typer.Option(help="Also gradients and the tangent kernel.")] = False,
    antithetic: Annotated[bool, typer.Option(help="Draw stacks in pairs with opposite weights.")] = False,
    target_stderr: Annotated[
        list[str] | None,
        typer.Option(help="Draw on to this standard error of R²: 0.01, 1%, or of another: increment_cosine=0.01."),
    ] = None,
    max_samples: Annotated[int, typer.Option(help="But no more random stacks than this.")] = 10**6,
    file: Annotated[
        Path | None, typer.Option(help="Keep the estimate in this netCDF file; what it holds already is extended.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw one stack many times at a finite width, beside its prediction."""
    from residual_theory.montecarlo.simulate import simulate as simulated
    from residual_theory.theory.forward import predict as predicted
    from residual_theory.verify.compare import compare

    law = predicted(stack, with_gradients=gradients)
    widths = whole_numbers("width", width)
    earlier = None
    if file is not None and len(widths) > 1:
        raise InputError("file", str(file), "keeps an estimate at one width; give a single --width")
    if file is not None:
        require_writable(file, argument="file")
        earlier = read_dataset(file, argument="file") if file.exists() else None
    try:
        result = simulated(
            stack, width=widths[0] if len(widths) == 1 else widths, samples=samples, seed=seed, method=method,
            device=device, dtype=dtype, with_gradients=gradients, antithetic=antithetic,
            target_stderr=by_observable(target_stderr), max_samples=max_samples, earlier=earlier,
        )  # fmt: skip
    except InputError as error:
        if error.argument != "earlier":
            raise
        raise InputError("file", str(file), f"holds another estimate ({error.value}); name another file") from None
    if file is not None:
        write_atomically(file, bytes(result.to_netcdf(engine="h5netcdf")), argument="file")
    if as_json:
        say(as_document(result))
        return
    show(simulation_table(stack, result, law, widths))
    note_attributes(result)
    if int(result.samples) == 1:
        say("one sample has no standard error, so nothing is compared")
    else:
        say(str(compare(law, result)))


@app.command()
def verify(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CLAIM | FILE.py | FOLDER]...",
            help="Only these claims, or those that a file or folder of yours states; all when none is given.",
            show_default=False,
        ),
    ] = None,
    preset: PresetName = "quick",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the verdicts there.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="And as JUnit XML there.")] = None,
    results: Folder = Path("results"),
    text: Text = None,
    jobs: Jobs = 0,
    root: Root = None,
) -> None:
    """Measure claims and their false twins, and judge them.

    Exit status: 0 every verdict is the one on record, 1 some verdict differs, 2 misuse or a claim of yours that had to
    be refused, 3 inconclusive.
    """
    from residual_theory.verify.junit import junit
    from residual_theory.verify.outcome import document, exit_status

    for argument, file in (("json", json_file), ("junit", junit_file)):
        if file is not None:
            require_writable(file, argument=argument)
    run = _prepare(preset, results, text, jobs, root, ids or [])
    known = _name_refused(run, 0)  # before the measuring, which may take long
    outcomes = run.verify()
    _name_refused(run, known)
    if outcomes:
        show(verdict_table([outcome.row() for outcome in outcomes]))
    if json_file is not None:
        write_atomically(json_file, document(run.preset.name, outcomes, run.refused), argument="json")
    if junit_file is not None:
        write_atomically(junit_file, junit(run.preset.name, outcomes, run.refused), argument="junit")
    raise typer.Exit(exit_status(outcomes, run.refused))


@app.command()
def figures(
    ids: Ids = None, preset: PresetName = "quick", results: Folder = Path("results"), root: Root = None
) -> None:
    """Draw figures from results: PDF, PNG and the numbers on each as CSV."""
    from residual_theory.report.drawing import draw, figures_in
    from residual_theory.report.results import Results
    from residual_theory.verify.folders import find_root
    from residual_theory.verify.presets import preset_path

    place = find_root(root)
    folder = results / preset_path(place, preset).stem
    known = {figure.id: figure for figure in figures_in(place)}
    for name in ids or []:
        if name not in known:
            raise InputError("figure", name, f"choose from {', '.join(known)}")
    missing = []
    for name in ids or known:
        try:
            drawn, now = draw(known[name], Results(folder))
        except MissingResultError as error:
            missing.append(str(error))
        else:
            say(f"{'drew' if now else 'kept'} {drawn.path('png')}")
    if missing:
        raise MissingResultError("; ".join(missing))


@app.command()
def reproduce(
    preset: PresetName = "quick",
    results: Folder = Path("results"),
    text: Text = None,
    jobs: Jobs = 0,
    root: Root = None,
) -> None:
    """Do all of it: measure every claim, judge, draw every figure and write the report. Resumes where it was stopped.

    Exit status: as of verify.
    """
    from residual_theory.report.drawing import draw, figures_in
    from residual_theory.report.page import write_report
    from residual_theory.report.results import Results
    from residual_theory.verify.outcome import document, exit_status
    from residual_theory.verify.registry import derivations_in

    run = _prepare(preset, results, text, jobs, root, [])
    outcomes = run.verify()
    write_atomically(run.folder / "claims.json", document(run.preset.name, outcomes))
    drawn = []
    for figure in figures_in(run.instruments.root):
        files, now = draw(figure, Results(run.folder))
        say(f"{'drew' if now else 'kept'} {files.path('png')}")
        drawn.append(files)
    page = write_report(run.folder, drawn, derivations_in(run.instruments.root))
    show(verdict_table([outcome.row() for outcome in outcomes]))
    say(f"report: {page}")
    raise typer.Exit(exit_status(outcomes))


def _prepare(preset: str, results: Path, text: Path | None, jobs: int, root: Path | None, ids: Sequence[str]) -> "Run":
    from residual_theory.verify.run import Run

    if jobs < 0:
        raise InputError("jobs", jobs, "must be at least 1, or 0 for all cores")
    return Run.prepare(preset, results, text=text, jobs=jobs or cores(), root=root, ids=ids, progress=progress())


def _name_refused(run: "Run", since: int) -> int:
    """One line for each refusal from number `since` on; how many there are."""
    for refusal in run.refused[since:]:
        sys.stderr.write(f"refused: {refusal}\n")
    return len(run.refused)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; every foreseeable error is one line on stderr and exit status 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)  # noqa: T201
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter gets a question mark
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as Ctrl-C does, with the processes started
    try:
        status = int(app(args=arguments, standalone_mode=False, prog_name="residual-theory") or 0)
    except _ClickException as error:
        if message := " ".join(error.format_message().split()):
            given = shlex.join(sys.argv[1:] if arguments is None else arguments)
            sys.stderr.write(f"error: {message} (in: residual-theory {given})\n")
        return 2
    except (ResidualTheoryError, OSError, MemoryError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        sys.stderr.write("interrupted; results that were finished are kept, and the same command goes on from them\n")
    return status
