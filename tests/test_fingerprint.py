"""Fingerprints of code: what a result cannot depend on leaves it valid, what it may depend on does not."""

import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from residual_theory.fingerprint import PACKAGE, fingerprint
from residual_theory.measurements.kinds import KINDS

Edit = Callable[[str, str, str], None]
CODE = {kind.kind: f"{kind.__module__}:{kind.__qualname__}.measure" for kind in KINDS}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's sources, to be edited."""
    target = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", "_catalog"))
    return target


def codes(package: Path) -> dict[str, str]:
    return {kind: fingerprint(entry, package=package) for kind, entry in CODE.items()}


def changed(package: Path, file: str, old: str, new: str) -> set[str]:
    """The kinds of measurement whose fingerprint an edit changes."""
    before = codes(package)
    path = package / file
    source = path.read_text(encoding="utf-8")
    assert old in source
    path.write_text(source.replace(old, new, 1), encoding="utf-8")
    after = codes(package)
    return {kind for kind in before if before[kind] != after[kind]}


def test_a_copy_has_the_fingerprints_of_the_original(copy: Path) -> None:
    assert codes(copy) == codes(PACKAGE)
    assert len(set(codes(copy).values())) == len(KINDS)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("theory/recommend.py", "def recommend(", "ADDED = 1\n\n\ndef recommend("),
        ("theory/loop_limit.py", '"""', '"""Another docstring. '),
        ("transformer/train.py", '"""', '"""Another docstring. '),
        ("transformer/train.py", "import ", "# a comment\nimport "),
        ("claims/session.py", "class Session:", "ADDED = 1\n\n\nclass Session:"),
        ("store.py", "def read_listing(", "ADDED = 1\n\n\ndef read_listing("),
        ("report/page.py", "def write_report(", "ADDED = 1\n\n\ndef write_report("),
    ],
)
def test_edits_that_change_no_result(copy: Path, file: str, old: str, new: str) -> None:
    assert changed(copy, file, old, new) == set()


TRANSFORMERS, STACKS = {"training", "probe"}, {"simulation", "optimizer-step", "drifting-weights"}
ASSUMPTIONS = {"assumptions", "step-assumptions", "cone-gain", "redrawn-blocks"}


@pytest.mark.parametrize(
    ("file", "old", "new", "kinds"),
    [
        ("transformer/model.py", "self.embedding(tokens)", "self.embedding(tokens) + 0", TRANSFORMERS),
        ("transformer/data.py", "def load_corpus(path: str", "def load_corpus(added: int, path: str", TRANSFORMERS),
        ("transformer/train.py", "def train(\n", "def train(\n    added: int,\n", {"training"}),
        ("measure/probe.py", "def probe(\n", "def probe(\n    added: int,\n", TRANSFORMERS),
        ("montecarlo/simulate.py", "def simulate(\n", "def simulate(\n    added: int,\n", {"simulation"}),
        ("montecarlo/dense.py", "class Dense:", "class Dense(object):", STACKS),
        ("theory/recursion.py", "def covariances(\n", "def covariances(\n    added: int,\n", {"prediction"}),
        ("measurements/kinds.py", "return predict(self.stack, ", "return 2 * predict(self.stack, ", {"prediction"}),
    ],
)
def test_edits_that_may_change_a_result(copy: Path, file: str, old: str, new: str, kinds: set[str]) -> None:
    assert kinds <= changed(copy, file, old, new)


@pytest.mark.parametrize(
    ("library", "kinds"),
    [
        ("torch", {"training", "probe", "diagnostic", "prediction"} | STACKS | ASSUMPTIONS),
        ("sympy", {"proof"}),
        ("typer", set()),
        ("matplotlib", set()),
    ],
)
def test_another_version_of_a_library_it_uses(library: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before, original = codes(PACKAGE), metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == library else original(name))
    after = codes(PACKAGE)
    assert {kind for kind in before if before[kind] != after[kind]} == kinds


SMALL = {
    "__init__.py": "if TYPE_CHECKING:\n    from small.deep import later as later\n",
    "deep.py": "import numpy as np\nfrom small import tools\nLIMIT = 3\n\ndef later():\n    return tools.used(LIMIT)\n",
    "tools.py": "TABLE = {}\nOTHER = 1\nTABLE['a'] = 1\n\ndef used(n):\n    return inner(n)\n\n"
    "def inner(n):\n    from small.kinds import KINDS\n    return KINDS, TABLE\n\ndef unused():\n    return OTHER\n",
    "kinds/__init__.py": "import importlib\nKINDS = [importlib.import_module(name) for name in ('one',)]\n",
    "kinds/one.py": "VALUE = 1\n",
    "start.py": "from small import later\n\nclass Start:\n    def go(self):\n        return later()\n",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A package with every way that one definition reaches another."""
    for name, source in SMALL.items():
        path = tmp_path / "small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path / "small"


@pytest.mark.parametrize(
    ("file", "old", "new", "matters"),
    [
        ("deep.py", "LIMIT = 3", "LIMIT = 4", True),  # through a name that the package exports when it is asked for
        ("deep.py", "import numpy as np", "import numpy as np, scipy", False),  # imported, never named
        ("tools.py", "return inner(n)", "return inner(n + 1)", True),  # through a module's attribute
        ("tools.py", "TABLE['a'] = 1", "TABLE['a'] = 2", True),  # a table filled in later
        ("tools.py", "OTHER = 1", "OTHER = 2", False),
        ("tools.py", "return OTHER", "return 5", False),
        ("kinds/one.py", "VALUE = 1", "VALUE = 2", True),  # found by code that looks for modules
        ("start.py", "class Start:\n", "class Start:\n    x = 1\n", False),  # another part of the class
        ("start.py", "return later()", "return later() + 1", True),
    ],
)
def test_how_definitions_reach_each_other(small: Path, file: str, old: str, new: str, matters: bool) -> None:
    entry = "small.start:Start.go"
    before = fingerprint(entry, package=small)
    path = small / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert (fingerprint(entry, package=small) != before) == matters


def test_a_file_counts_whole_with_all_that_it_uses(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from small.deep import later\nNAME = later()\n")
    first = fingerprint(str(file), package=small)
    file.write_text('"""Said."""\nfrom small.deep import later\nNAME = later()  # and commented\n')
    assert fingerprint(str(file), package=small) == first
    (small / "deep.py").write_text(SMALL["deep.py"].replace("LIMIT = 3", "LIMIT = 4"))
    assert fingerprint(str(file), package=small) != first


def test_an_entry_that_is_not_there_is_named(small: Path) -> None:
    for entry in ("small.start:Start.stop", "small.start:Stop", "other.start:Start"):
        with pytest.raises(LookupError, match=entry):
            fingerprint(entry, package=small)


def test_sweeps_outlive_edits_that_change_no_run(copy: Path) -> None:
    entries = ("residual_theory.transformer.train:train", "residual_theory.transformer.ensemble:train_together")
    before = fingerprint(*entries, package=copy)
    for file, old, new, matters in (
        ("sweeps/sweep.py", '"""', '"""Other words. ', False),
        ("transformer/groups.py", '"""', '"""Other words. ', False),
        ("transformer/model.py", "self.embedding(tokens)", "self.embedding(tokens) + 0", True),
    ):
        path = copy / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
        assert (fingerprint(*entries, package=copy) != before) == matters
