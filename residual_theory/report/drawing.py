"""Figures: one script each, drawn from results only, saved as PDF and PNG beside the numbers they show."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

from residual_theory.claims.paper import places_of
from residual_theory.loading import modules, part
from residual_theory.report.results import Results
from residual_theory.store import provenance, write_atomically

STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "savefig.dpi": 170,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
}
ENDINGS = ("pdf", "png", "csv")
RULES = {"1": "ε = 1", "1/sqrt(N)": "ε = 1/√N", "1/N": "ε = 1/N"}  # rules of a looped stack, in the colours' order
RULE_COLOURS = ("#b2182b", "#e08214", "#2166ac")  # ε = 1, one over the root, one over the count


@dataclass(frozen=True)
class Figure:
    """One figure: `draw` maps results to a canvas and the table of every number on it.

    `needs` lists the (claim, level) pairs whose results it reads; `paper` names what of the paper it belongs to, as for
    `Claim`. `details` says of the results what the caption cannot know, such as their sizes. A `partial` figure is
    drawn from whatever there is of a run that is not finished.
    """

    id: str
    title: str
    caption: str
    needs: Sequence[tuple[str, str]]
    draw: Callable[[Results], tuple[Canvas, pd.DataFrame]]
    script: Path
    paper: tuple[str, ...] | str = ()
    details: Callable[[Results], str] = lambda _: ""
    partial: bool = False

    def __post_init__(self) -> None:
        """Raises: InputError for a place that the paper does not have."""
        places_of(self.paper)


@dataclass(frozen=True)
class Drawn:
    """A figure on disk."""

    figure: Figure
    folder: Path

    def path(self, ending: str) -> Path:
        """The file with the given ending: pdf, png, csv or json."""
        return self.folder / f"{self.figure.id}.{ending}"

    @property
    def caption(self) -> str:
        """What the figure's caption and the results say."""
        return str(json.loads(self.path("json").read_text())["caption"])


def figures_in(root: Path) -> list[Figure]:
    """The figures of a root folder, in the order of their files."""
    return [part(module, "FIGURE", Figure) for module in modules(root, "figures")]


def draw(figure: Figure, results: Results) -> tuple[Drawn, bool]:
    """Draw a figure into the results' folder unless it is there and its script and data are unchanged.

    Returns: the files, and whether they were drawn now.
    Raises: MissingResultError when a claim it needs has not been verified here.
    """
    drawn = Drawn(figure, results.folder / "figures")
    inputs = {
        "script": _sha256(figure.script),
        "data": results.digest_of(figure.needs),
    }
    if _is_current(drawn, inputs):
        return drawn, False
    with mpl.rc_context(STYLE):
        canvas, table = figure.draw(results)
        for ending, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=ending, metadata=metadata)
            write_atomically(drawn.path(ending), buffer.getvalue())
    write_atomically(drawn.path("csv"), table.to_csv(index=False, float_format="%.10g"))
    outputs = {ending: _sha256(drawn.path(ending)) for ending in ENDINGS}
    sidecar = {
        "inputs": inputs,
        "outputs": outputs,
        "title": figure.title,
        "caption": f"{figure.caption} {figure.details(results)}".strip(),
        "provenance": provenance(),
    }
    write_atomically(drawn.path("json"), json.dumps(sidecar, indent=1, sort_keys=True) + "\n")
    return drawn, True


def _is_current(drawn: Drawn, inputs: dict[str, str]) -> bool:
    try:
        known = json.loads(drawn.path("json").read_text())
        intact = all(_sha256(drawn.path(ending)) == known["outputs"][ending] for ending in ENDINGS)
        return bool(known["inputs"] == inputs and intact)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
