"""Commands about claims: list, derive, verify, figures, reproduce."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual_theory.commands.options import Folder, Ids, Jobs, PresetName, Root, Text
from residual_theory.console import progress, say, show, verdict_table
from residual_theory.errors import DerivationError, InputError, MissingResultError
from residual_theory.parallel import cores
from residual_theory.store import require_writable, write_atomically

if TYPE_CHECKING:
    from residual_theory.claims.session import Session


def list_(
    paper: Annotated[bool, typer.Option("--paper", help="By the order of the paper: what stands where.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="README's table of claims.")] = False,
    theorems: Annotated[bool, typer.Option("--theorems", help="docs/paper.md: how the paper's proofs fare.")] = False,
    history: Annotated[bool, typer.Option("--history", help="What claims said when, where it followed data.")] = False,
    root: Root = None,
) -> None:
    """List the claims, with the levels of evidence each has, and the figures."""
    from residual_theory.claims.registry import derivations_in, figure_headers_in, headers_in
    from residual_theory.commands import listing
    from residual_theory.loading import find_root

    place = find_root(root)
    if history:
        from residual_theory.claims.registry import claims_in

        say(listing.histories(claims_in(place)))
        return
    claims = headers_in(place)
    if markdown:
        say(listing.markdown(claims, listing.left_out_of_quick(place)))
        return
    if theorems:
        say(listing.theorems(derivations_in(place), claims))
        return
    drawn = figure_headers_in(place)
    for table in listing.by_place(claims, drawn) if paper else listing.by_id(claims, drawn):
        show(table)


def derive(
    ids: Ids = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX instead of text.")] = False,
    root: Root = None,
) -> None:
    """Check derivations step by step and print them."""
    from residual_theory.claims.registry import derivations_in, derivations_of
    from residual_theory.loading import find_root
    from residual_theory.proofs import rendering
    from residual_theory.proofs.checking import check

    place = find_root(root)
    failed = False
    for derivation in derivations_of(place, ids) if ids else derivations_in(place):
        try:
            records = check(derivation)
        except DerivationError as error:
            failed = True
            sys.stderr.write(f"does not hold: {error}\n")
        else:
            say((rendering.latex if latex else rendering.text)(derivation, records).rstrip() + "\n")
    raise typer.Exit(int(failed))


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
    from residual_theory.claims.junit import junit
    from residual_theory.claims.outcome import document, exit_status

    for argument, file in (("json", json_file), ("junit", junit_file)):
        if file is not None:
            require_writable(file, argument=argument)
    session = _session(preset, results, text, jobs, root, ids or [])
    known = _name_refused(session, 0)  # before the measuring, which may take long
    outcomes = session.verify()
    _name_refused(session, known)
    name, refused = session.selection.preset.name, session.refused
    if outcomes:
        show(verdict_table([outcome.row() for outcome in outcomes]))
    if json_file is not None:
        write_atomically(json_file, document(name, outcomes, refused), argument="json")
    if junit_file is not None:
        write_atomically(junit_file, junit(name, outcomes, refused), argument="junit")
    raise typer.Exit(exit_status(outcomes, refused))


def figures(
    ids: Ids = None, preset: PresetName = "quick", results: Folder = Path("results"), root: Root = None
) -> None:
    """Draw figures from results: PDF, PNG and the numbers on each as CSV."""
    from residual_theory.claims.presets import preset_path
    from residual_theory.loading import find_root
    from residual_theory.report.drawing import draw, figures_in
    from residual_theory.report.results import Results

    place = find_root(root)
    folder = results / preset_path(place, preset).stem
    known = {figure.id: figure for figure in figures_in(place)}
    for name in ids or []:
        if name not in known:
            raise InputError("figure", name, f"choose from {', '.join(known)}")
    found, missing = Results(folder), []
    for figure in (known[name] for name in ids or known):
        if lacking := found.missing(figure.needs, partial=figure.partial):
            missing += lacking
            continue
        drawn, now = draw(figure, found)
        say(f"{'drew' if now else 'kept'} {drawn.path('png')}")
    if missing:
        sizes = "" if preset == "quick" else f" --preset {preset}"
        verify = f"residual-theory verify {' '.join(dict.fromkeys(missing))}{sizes}"
        raise MissingResultError(f"{folder} lacks results for other figures: run {verify} first")


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
    from residual_theory.claims.outcome import document, exit_status
    from residual_theory.claims.registry import derivations_in
    from residual_theory.report.drawing import draw, figures_in
    from residual_theory.report.page import write_report
    from residual_theory.report.results import Results

    session = _session(preset, results, text, jobs, root, [])
    outcomes = session.verify()
    chosen = session.selection
    write_atomically(chosen.folder / "claims.json", document(chosen.preset.name, outcomes))
    drawn = []
    verified = {(claim.id, claim.level) for claim in chosen.claims}
    for figure in figures_in(chosen.context.root):
        if not verified.issuperset(figure.needs):
            say(f"left out {figure.id}, as the preset leaves out its claims")
            continue
        files, now = draw(figure, Results(chosen.folder))
        say(f"{'drew' if now else 'kept'} {files.path('png')}")
        drawn.append(files)
    page = write_report(chosen.folder, drawn, derivations_in(chosen.context.root))
    show(verdict_table([outcome.row() for outcome in outcomes]))
    say(f"report: {page}")
    raise typer.Exit(exit_status(outcomes))


def _session(
    preset: str, results: Path, text: Path | None, jobs: int, root: Path | None, ids: Sequence[str]
) -> "Session":
    from residual_theory.claims.session import Selection, Session

    if jobs < 0:
        raise InputError("jobs", jobs, "must be at least 1, or 0 for all cores")
    selection = Selection.prepare(preset, results, text=text, root=root, ids=ids)
    return Session(selection, jobs=jobs or cores(), progress=progress())


def _name_refused(session: "Session", since: int) -> int:
    """One line for each refusal from number `since` on; how many there are."""
    for refusal in session.refused[since:]:
        sys.stderr.write(f"refused: {refusal}\n")
    return len(session.refused)
