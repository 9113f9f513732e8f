"""docs/rates.md, findings and README quote best rates as the code finds them in the stored tables."""

import csv
import re
from pathlib import Path

import pytest

from residual_theory.commands.rates import markdown
from residual_theory.sweeps.movement import Movement
from residual_theory.sweeps.recorded import read_curves, rows

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "rates.md").read_text()
FINDINGS = (DOCS / "findings.md").read_text()
README = (DOCS.parent / "README.md").read_text()
TABLES = [DOCS / f"{name}.csv" for name in ("rate-transfer", "layer-transfer", "registered-losses")]


def moved(table: str) -> dict[str, Movement]:
    return {title: curves.movement() for title, curves in read_curves(DOCS / table).items()}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_exponents_on_the_page_are_those_of_the_table(table: Path) -> None:
    assert markdown(rows(read_curves(table))) in PAGE


def test_the_coverage_on_the_page_is_that_of_the_file() -> None:
    assert markdown(list(csv.DictReader((DOCS / "rate-coverage.csv").read_text().splitlines()))) in PAGE


@pytest.mark.parametrize("table", TABLES[:2], ids=lambda table: table.stem)
def test_findings_quote_every_exponent_and_those_between_neighbours(table: Path) -> None:
    for found in moved(table.name).values():
        local = ", ".join(f"{one.value:.2f}".replace("-", "−") for one in found.local)
        assert f"| {found.over_all} | {local} |" in FINDINGS


def test_readme_quotes_four_of_them() -> None:
    loops, layers = moved("rate-transfer.csv"), moved("layer-transfer.csv")
    quoted = [loops["ε = 1/N"], loops["ε = 1/√N"], layers["ε = 1/√L, rate η/√L in blocks"], layers["ε = 1/√L, rate η"]]
    assert re.findall(r"[NL]\^\(([^)]* ± [^)]* ± [^)]*)\)", README) == [str(one.over_all) for one in quoted]
