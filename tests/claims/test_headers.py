"""Headers read from the text of files: what the claims say when they run, or nothing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from residual_theory.claims.headers import FigureHeader, Header, read_claims, read_derivation, read_figure
from residual_theory.claims.paper import PLACES, places_of
from residual_theory.claims.registry import (
    claims_in,
    claims_of,
    derivations_in,
    derivations_of,
    figure_headers_in,
    headers_in,
)
from residual_theory.cli import main
from residual_theory.errors import InputError
from residual_theory.report.drawing import figures_in

ROOT = Path(__file__).parents[2]
Make = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
LITERAL = """
from residual_theory.claims.claim import Claim
WHY = "by hand"
CLAIMS = (
    Claim(id="one", statement="it " "holds", source="s", paper="Fig. 4", level="model", recorded="refuted", reason=WHY,
          law=len),
    Claim(id="two", statement="so", source="s", level="simulation", recorded="confirmed", reason="r"),
)
"""


@pytest.mark.parametrize(
    ("folder", "read"),
    [("derivations", read_derivation), ("simulations", read_claims), ("figures", read_figure)],
    ids=["derivations", "simulations", "figures"],
)
def test_no_file_of_the_project_has_to_be_imported(folder: str, read: Callable[[Path], object]) -> None:
    files = sorted((ROOT / folder).glob("*.py"))
    assert files
    assert [file.name for file in files if read(file) is None] == []


def test_headers_are_what_the_claims_say() -> None:
    claims = claims_in(ROOT)
    headers = headers_in(ROOT)
    assert len(claims) == len(headers) > 50
    for header, claim in zip(headers, claims, strict=True):
        said = (claim.id, claim.statement, claim.source, claim.level, claim.recorded, claim.reason)
        assert (header.id, header.statement, header.source, header.level, header.recorded, header.reason) == said
        assert (header.key, header.paper) == (claim.key, places_of(claim.paper))
    for header, derivation in zip(headers, derivations_in(ROOT), strict=False):
        assert (header.id, header.statement, header.level) == (derivation.id, derivation.statement, "symbolic")
        assert header.paper == places_of(derivation.paper)


def test_headers_of_figures_are_what_the_figures_say() -> None:
    expected = [
        FigureHeader(figure.id, figure.title, places_of(figure.paper), figure.script) for figure in figures_in(ROOT)
    ]
    assert list(figure_headers_in(ROOT)) == expected


def test_literals_are_read_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "claims.py"
    file.write_text(LITERAL)
    assert read_claims(file) == [
        Header("one", "it holds", "s", ("Fig. 4",), "model", "refuted", "by hand", file),
        Header("two", "so", "s", (), "simulation", "confirmed", "r", file),
    ]


UNCLEAR = {
    "an expression": ('"so"', '"so".upper()'),
    "a number": ('"so"', "3"),
    "a level that is none": ('"simulation"', '"guess"'),
    "no place at all": ('"Fig. 4"', '["Fig. 4"]'),
    "an empty reason": ('reason="r"', 'reason=" "'),
    "a place that is none": ('"Fig. 4"', '"Fig. 44"'),
    "fields from elsewhere": ('reason="r"', '**{"reason": "r"}'),
    "a field left out": ('reason="r"', "law=None"),
    "claims made in a loop": ("CLAIMS = (", "CLAIMS = tuple(Claim() for _ in range(2)) or ("),
    "claims added": ('reason="r"),\n)', 'reason="r"),\n)\nCLAIMS += CLAIMS'),
    "claims changed under a condition": ('reason="r"),\n)', 'reason="r"),\n)\nif WHY:\n    CLAIMS = ()'),
    "a constant said twice": ('WHY = "by hand"', 'WHY = "by hand"\nWHY = "by heart"'),
    "a constant in a loop": ('WHY = "by hand"', 'WHY = "by hand"\nfor WHY in "ab":\n    pass'),
    "a constant unpacked": ('WHY = "by hand"', 'WHY, OTHER = "by hand", 3'),
    "a constant that a function changes": (
        'WHY = "by hand"',
        'WHY = "by hand"\ndef f():\n    global WHY\n    WHY = ""',
    ),
    "a Claim of its own": ("WHY =", "def Claim(**fields):\n    return 3\nWHY ="),
    "another Claim": ("import Claim", "import Claim as Other"),
    "no Python": ("CLAIMS = (", "CLAIMS = (("),
    "no claims": ("CLAIMS = (", "OTHER = ("),
}


@pytest.mark.parametrize(("old", "new"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_the_text_does_not_say_is_not_guessed(old: str, new: str, tmp_path: Path) -> None:
    file = tmp_path / "claims.py"
    assert old in LITERAL
    file.write_text(LITERAL.replace(old, new))
    assert read_claims(file) is None


FUNCTION = """
from residual_theory.proofs import Derivation
def derive(x=1):
    {before}
    return Derivation(id="a", statement={statement}, source="s", steps=())
DERIVATION = derive()
"""


@pytest.mark.parametrize(
    ("before", "statement", "clear"),
    [
        ("WHY = 3", '"it holds"', True),
        ("WHY = 3", "WHY", False),
        ("if x:\n        return None", '"it holds"', False),
        ("return None", '"it holds"', False),
    ],
)
def test_a_function_is_read_where_it_can_return_one_thing_only(
    before: str, statement: str, clear: bool, tmp_path: Path
) -> None:
    file = tmp_path / "a.py"
    file.write_text('WHY = "from above"\n' + FUNCTION.format(before=before, statement=statement))
    assert [header.statement for header in read_derivation(file) or []] == ["it holds"] * clear


def test_a_file_that_computes_its_words_is_imported(make_root: Make) -> None:
    root = make_root()
    file = root / "simulations/tiny.py"
    before = headers_in(root)
    file.write_text(file.read_text().replace('statement="two', 'statement="t" + "wo'))
    assert read_claims(file) is None
    assert headers_in(root) == before
    figure = root / "figures/tiny.py"
    drawn = figure_headers_in(root)
    figure.write_text(figure.read_text().replace('title="A', 'title="" + "A'))
    assert read_figure(figure) is None
    assert figure_headers_in(root) == drawn


def test_only_the_files_of_the_wanted_claims_are_imported(make_root: Make, capsys: Capture) -> None:
    root = make_root()
    text = (root / "simulations/tiny.py").read_text()
    (root / "simulations/broken.py").write_text(text.replace('"tiny"', '"broken"') + "\nraise RuntimeError('ran')\n")
    (root / "derivations/broken.py").write_text(
        (root / "derivations/relu_kernel.py").read_text().replace('"relu-kernel"', '"unrun"') + "\n1 / 0\n"
    )
    assert [claim.key for claim in claims_of(root, ["relu-kernel", "tiny"])] == [
        "relu-kernel/symbolic",
        "tiny/simulation",
    ]
    assert [derivation.id for derivation in derivations_of(root, ["relu-kernel"])] == ["relu-kernel"]
    for words in (["list"], ["list", "--paper"], ["derive", "relu-kernel"]):
        assert main([*words, "--root", str(root)]) == 0
    assert "broken" in capsys.readouterr().out
    with pytest.raises(InputError, match="division by zero"):
        claims_in(root)
    with pytest.raises(InputError, match="ran"):
        claims_of(root, ["broken"])
    with pytest.raises(InputError, match="claim = 'none': choose from broken, relu-kernel, tiny, unrun"):
        claims_of(root, ["none"])
    with pytest.raises(InputError, match="derivation = 'none': choose from unrun, relu-kernel"):
        derivations_of(root, ["none"])


def test_a_file_that_runs_to_something_else_is_refused(make_root: Make) -> None:
    root = make_root()
    file = root / "simulations/tiny.py"
    change = "\nfrom dataclasses import replace\nglobals()['CLAIMS'] = (replace(CLAIMS[0], recorded='refuted'),)\n"
    file.write_text(file.read_text() + change)
    assert headers_in(root)[1].recorded == "confirmed"
    with pytest.raises(InputError, match=r"tiny\.py.*when it runs"):
        claims_of(root, ["tiny"])
    with pytest.raises(InputError, match=r"tiny\.py.*when it runs"):
        claims_in(root)


def test_places_are_given_in_the_papers_order() -> None:
    assert places_of(("Fig. 9", "Theorem 1", "Fig. 4")) == ("Theorem 1", "Fig. 4", "Fig. 9")
    assert all(places_of(place) == (place,) for place in PLACES)
    with pytest.raises(InputError, match="paper = 'Theorem 99': choose from §3"):
        places_of(("Theorem 1", "Theorem 99"))
    for wrong in (3, ["Fig. 4"], None):
        with pytest.raises(InputError, match="paper = "):
            places_of(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "old"),
    [
        ("simulations/tiny.py", 'source="this project",'),
        ("derivations/relu_kernel.py", 'source="this project",'),
        ("figures/tiny.py", 'caption="Nothing <b>much</b>.",'),
    ],
)
def test_an_unknown_place_is_refused_by_name(file: str, old: str, make_root: Make, capsys: Capture) -> None:
    root = make_root()
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, f'{old} paper="Theorem 99",'))
    assert main(["list", "--root", str(root)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "paper = 'Theorem 99'" in printed
    assert "Theorem 1," in printed


def test_listing_imports_nothing_that_computes() -> None:
    """The package's own __init__ aside, which the program replaces by an empty one."""
    program = (
        "import pathlib, sys, types\n"
        "package = sys.modules['residual_theory'] = types.ModuleType('residual_theory')\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "package.__path__ = [str(root / 'residual_theory')]\n"
        "from residual_theory.claims.registry import figure_headers_in, headers_in\n"
        "from residual_theory.commands import listing\n"
        "claims, figures = headers_in(root), figure_headers_in(root)\n"
        "listing.by_id(claims, figures), listing.by_place(claims, figures)\n"
        "listing.markdown(claims, listing.left_out_of_quick(root))\n"
        "heavy = {'torch', 'sympy', 'numpy', 'scipy', 'pandas', 'xarray', 'pydantic', 'matplotlib', 'joblib'}\n"
        "print(len(claims), sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(headers_in(ROOT))} []\n"
