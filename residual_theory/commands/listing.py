"""What `residual-theory list` prints: claims by id, by their place in the paper, and the pages made of them."""

import re
import tomllib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from residual_theory.claims.headers import LEVELS, FigureHeader, Header, told
from residual_theory.claims.paper import PAPER, PLACES, places_of

if TYPE_CHECKING:
    from residual_theory.claims.claim import Claim
    from residual_theory.proofs import Derivation

_NONE = "–"
_THEOREMS = f"""# The paper's theorems by the paper's own proofs

`make paper` writes this page from the derivations. Each follows the proof of {PAPER} under its own
assumptions, step by step; SymPy checks every step for all sizes at once, and tries it at random points. What the paper
cites is cited here as well, among the assumptions. Results of this project on the same place are named beside it."""
_MARKS = {"confirmed": "✓", "refuted": "**refuted**", "not reproduced": "**not reproduced**"}
_HEADS = ("proved (`symbolic`)", "random stacks (`simulation`)", "real Transformer (`model`)")


def by_id(claims: Sequence[Header], figures: Sequence[FigureHeader]) -> tuple[Table, Table]:
    """A row for each claim with the verdicts on record, and one for each figure."""
    first = Table("claim", *LEVELS, "statement", title="Claims: the verdict on record")
    for name, stated in _group_by_id(claims).items():
        recorded = {claim.level: escape(told(claim.recorded, claim.regime)) for claim in stated}
        statements = escape("\n".join(claim.statement for claim in stated))
        first.add_row(name, *(recorded.get(level, _NONE) for level in LEVELS), statements)
    second = Table("figure", "title", title="Figures")
    for figure in figures:
        second.add_row(figure.id, escape(figure.title))
    return first, second


def by_place(claims: Sequence[Header], figures: Sequence[FigureHeader]) -> tuple[Table]:
    """A row for each place in the paper, and a last one for what goes beyond it: claims by level, figures."""
    table = Table("place", "about", *LEVELS, "figures", title=f"{PAPER}: what stands where", show_lines=True)
    for place, about in {**PLACES, "": "beyond the paper"}.items():
        here = [claim for claim in claims if place in (claim.paper or ("",))]
        drawn = [figure.id for figure in figures if place in (figure.paper or ("",))]
        cells = ([_id_and_verdict(claim) for claim in here if claim.level == level] for level in LEVELS)
        table.add_row(place, about, *("\n".join(cell) or _NONE for cell in (*cells, drawn)))
    return (table,)


def markdown(claims: Sequence[Header], laptop: Collection[str]) -> str:
    """README's table, by the paper's order, a row for each claim; `laptop`: the keys that only that preset runs."""
    order = [*PLACES, ""]
    rows = sorted(_group_by_id(claims).items(), key=lambda row: order.index(_places(row[1])[0]))
    table: list[tuple[str, ...]] = [("claim", "in the paper", *_HEADS), ("---",) * 5]
    for name, stated in rows:
        cells = {claim.level: _mark(claim, claim.key in laptop) for claim in stated}
        said = f"{name}: {_brief(stated)}".replace("|", "\\|")
        table.append((said, ", ".join(_places(stated)), *(cells.get(level, "") for level in LEVELS)))
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in cells) + "|" for cells in table)


def theorems(derivations: "Sequence[Derivation]", claims: Sequence[Header]) -> str:
    """docs/paper.md: how the paper's own proofs fare, by the paper's order, and what stands beside them."""
    own = [one for one in derivations if one.verdict]
    own.sort(key=lambda one: [place in places_of(one.paper) for place in PLACES].index(True))
    followed = {one.id for one in own}
    parts = [_THEOREMS]
    for one in own:
        places = places_of(one.paper)
        beside = (c for c in claims if set(c.paper) & set(places) and c.id not in followed)
        ours = ", ".join(f"{name} ({level})" for name, level in _levels(beside).items())
        parts += [
            f"## {', '.join(places)}",
            one.statement,
            f"- **Verdict**: {one.verdict}.\n- **Needed**: {one.needed}\n- **Derivation**: `residual-theory derive "
            f"{one.id}`, {len(one.steps)} steps.\n- **Ours beside it**: {ours or 'nothing yet'}.",
        ]
    return "\n\n".join(parts)


def _levels(claims: Iterable[Header]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for claim in claims:
        found.setdefault(claim.id, []).append("proved" if claim.level == "symbolic" else claim.level)
    return {name: ", ".join(levels) for name, levels in found.items()}


def histories(claims: Sequence["Claim"]) -> str:
    """A table in Markdown of what claims said when, oldest first; those without a history are left out."""
    table: list[tuple[str, ...]] = [("claim", "when", "verdict", "on", "why"), ("---",) * 5]
    for claim in claims:
        table += [(claim.id, one.date, one.verdict, one.data, one.why) for one in claim.history]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def left_out_of_quick(root: Path) -> set[str]:
    """The keys of the claims that the preset quick leaves out."""
    quick = tomllib.loads((root / "simulations/presets/quick.toml").read_text(encoding="utf-8"))
    return {name.replace(".", "/") for name in quick.get("run", {}).get("leave_out", ())}


def _group_by_id(claims: Sequence[Header]) -> dict[str, list[Header]]:
    grouped: dict[str, list[Header]] = {}
    for claim in claims:
        grouped.setdefault(claim.id, []).append(claim)
    return grouped


def _places(claims: Sequence[Header]) -> tuple[str, ...]:
    """The places of claims of one id, in the paper's order; one empty place where there is none."""
    return tuple(place for place in PLACES if any(place in claim.paper for claim in claims)) or ("",)


def _brief(claims: Sequence[Header]) -> str:
    """What they state, in one sentence: that of an experiment, else the first of a derivation's."""
    experiments = [claim.statement for claim in claims if claim.level != "symbolic"]
    return experiments[0] if experiments else re.split(r"\.(?: (?=[A-Z])|$)", claims[0].statement)[0]


def _id_and_verdict(claim: Header) -> str:
    word = told(claim.recorded, claim.regime)
    return claim.id if word == "confirmed" else escape(f"{claim.id} ({word})")


def _mark(claim: Header, laptop: bool) -> str:
    word = told(claim.recorded, claim.regime)
    for said, mark in _MARKS.items():
        word = word.replace(said, mark)
    return word + " (laptop)" * laptop
