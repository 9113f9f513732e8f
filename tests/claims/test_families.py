"""Families: budgets add up and come from what is stated; a claim gets the same verdict alone and among others."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from residual_theory.calibration.calibrate import Memory
from residual_theory.claims.families import FAMILIES, budgets_of, family_of
from residual_theory.claims.outcome import Outcome
from residual_theory.claims.paper import PLACES
from residual_theory.claims.registry import headers_in
from residual_theory.claims.session import Selection, Session

ROOT = Path(__file__).parents[2]
Make = Callable[..., Path]


def test_budgets_add_up_to_alpha_and_every_place_has_one_family() -> None:
    headers = headers_in(ROOT)
    budgets = budgets_of(headers)
    spent: dict[str, float] = defaultdict(float)
    for header in headers:
        if header.level != "symbolic":
            spent[budgets[header.key].family] += 2 * budgets[header.key].level(0.01)
    assert spent == pytest.approx({family.name: 0.01 * float(family.share) for family in FAMILIES})
    assert sum(spent.values()) == pytest.approx(0.01)
    assert sorted(place for family in FAMILIES for place in family.places) == sorted(PLACES)
    assert family_of(("Theorem 2", "Proposition 7")).name == "§3.3"


def test_the_families_are_those_that_the_theory_page_lists() -> None:
    page = (ROOT / "docs/theory.md").read_text(encoding="utf-8")
    for family in FAMILIES:
        assert f"| {family.name} | {family.about} | {float(family.share):g} α |" in page


def with_neighbours(root: Path, number: int) -> Path:
    """As many more claims beside "tiny", undecided: beside such Holm's procedure would judge it otherwise."""
    (root / "derivations/relu_kernel.py").unlink()  # to check it again and again takes long
    stated = (root / "simulations/tiny.py").read_text()
    for place in range(number):
        other = stated.replace('id="tiny"', f'id="other{place}"').replace("law=EXACT + 0.17,", "law=EXACT + 0.5,")
        (root / f"simulations/other{place}.py").write_text(other)
    return root


def judged(root: Path, folder: Path, *ids: str) -> dict[str, Outcome]:
    selection = Selection.prepare("quick", folder, ids=ids, root=root)
    return {outcome.claim.id: outcome for outcome in Session(selection, store=Memory(folder)).judge()}


def test_a_claim_alone_gets_its_verdict_of_the_full_run(make_root: Make, tmp_path: Path) -> None:
    """Among four claims; its p-value lies where Holm and a budget by what is verified would say different words."""
    sizes = "[tiny.simulation]\nsamples = 200\nmargin = 1.0\n"
    root = with_neighbours(make_root("EXACT + 0.17", "EXACT + 4", preset=sizes), 3)
    alone, among = judged(root, tmp_path, "tiny")["tiny"], judged(root, tmp_path)["tiny"]
    p_value = alone.evidence.confirm_p
    assert 0.2 / 4 * 0.01 / 2 < p_value < 0.2 * 0.01 / 2  # not at its share, but as if it were its family's only claim
    assert (alone.verdict, alone.twin_verdict) == (among.verdict, among.twin_verdict) == ("inconclusive", "refuted")
    assert alone.row() | {"seconds": 0} == among.row() | {"seconds": 0}


def test_a_file_of_ones_own_is_a_family_whatever_is_chosen_of_it(make_root: Make, tmp_path: Path) -> None:
    root = with_neighbours(make_root(), 1)
    file = tmp_path / "mine.py"
    text = (root / "simulations/tiny.py").read_text()
    file.write_text(text + text[text.index("CLAIMS") :].replace("CLAIMS =", "CLAIMS +=").replace('"tiny"', '"twice"'))
    for ids in ([], ["tiny"]):
        found = judged(root, tmp_path, str(file), *ids)["tiny"]
        assert (found.family, found.confidence) == (str(file), 1 - 0.01 / 2 / 2)
    assert judged(root, tmp_path)["tiny"].family == "beyond"
