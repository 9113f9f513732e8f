"""The report: one HTML file that needs no network, verdicts first."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import latex2mathml.converter
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from residual_theory.claims.headers import told
from residual_theory.console import number
from residual_theory.measurements.kinds import Proof
from residual_theory.proofs.rendering import formula_latex, result_latex
from residual_theory.proofs.steps import Derivation
from residual_theory.report.drawing import Drawn
from residual_theory.report.results import Results
from residual_theory.store import write_atomically

_LEVELS = {"symbolic": "proved", "simulation": "random stacks", "model": "real Transformer"}


def write_report(folder: Path, drawn: Sequence[Drawn], derivations: Sequence[Derivation]) -> Path:
    """Write report.html from a run's claims.json, its figures and the derivations it checked.

    Returns: the file's path. Raises: InputError when the folder cannot be written.
    """
    found = json.loads((folder / "claims.json").read_text())
    environment = Environment(
        loader=PackageLoader("residual_theory.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(number=number, interval=_interval, mathml=_mathml, told=told)
    environment.filters.update(formula=formula_latex, result=result_latex)
    page = environment.get_template("report.html").render(
        preset=found["preset"],
        claims=found["claims"],
        levels=_LEVELS,
        provenance=found["provenance"],
        seconds=sum(claim["seconds"] for claim in found["claims"]),
        figures=[_figure(figure) for figure in drawn],
        derivations=derivations,
        checked={derivation.id: _checks_of(Results(folder), derivation) for derivation in derivations},
    )
    path = folder / "report.html"
    write_atomically(path, page)
    return path


def _checks_of(results: Results, derivation: Derivation) -> list[str]:
    """How each step was checked; empty when one did not go through."""
    (found,) = (
        observation.result
        for observation in results.of(derivation.id, "symbolic", Proof)
        if observation.measurement.name == "DERIVATION"
    )
    return [str(words) for words in found["checked"].values] if "checked" in found else []


def _interval(ends: Sequence[float] | None) -> str:
    return "–" if ends is None else f"[{number(ends[0])}, {number(ends[1])}]"


def _mathml(latex: str) -> Markup:
    return Markup(latex2mathml.converter.convert(latex, display="block"))


def _figure(drawn: Drawn) -> dict[str, Any]:
    picture = base64.b64encode(drawn.path("png").read_bytes()).decode()
    return {
        "id": drawn.figure.id,
        "title": drawn.figure.title,
        "caption": drawn.caption,
        "source": f"data:image/png;base64,{picture}",
        "files": [f"figures/{drawn.path(ending).name}" for ending in ("pdf", "csv")],
    }
