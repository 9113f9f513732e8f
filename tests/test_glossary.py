"""The glossary: each term once, names that exist, and found from where words are first met."""

import re
from collections import Counter
from pathlib import Path

import pytest

import residual_theory as rt
from residual_theory import claims

ROOT = Path(__file__).parent.parent
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
TERMS = re.findall(r"\*\*(.*?)\*\*", GLOSSARY)
OWN = (
    "branch, branch law, block, claim, evidence, finding, fingerprint, group of visits, kernel, law, level, look, "
    "loop, measurement, observation, preset, record, round, selection, session, stream, twin, verdict, visit"
)


def test_every_term_is_defined_once() -> None:
    counts = Counter(term.lower() for term in TERMS)
    assert set(OWN.split(", ")) <= set(counts)
    assert max(counts.values()) == 1


def test_the_names_it_gives_exist() -> None:
    for path in re.findall(r"`(residual_theory/[\w./]+)`", GLOSSARY):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`([A-Z]\w+)`", GLOSSARY):
        assert name in {*rt.__all__, *claims.__all__}, name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/your-claims.md"])
def test_it_is_found(page: str) -> None:
    assert re.search(r"\]\((docs/)?glossary\.md\)", (ROOT / page).read_text())
