"""Claims of users: run from a file anywhere, bad ones refused by name while the rest runs, verdicts for machines."""

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xarray as xr

from residual_theory.claims.files import ClaimsFiles, Refusal
from residual_theory.claims.junit import junit
from residual_theory.claims.outcome import Outcome, document, exit_status
from residual_theory.claims.session import Selection, Session
from residual_theory.cli import main
from residual_theory.measurements.kinds import Simulation
from residual_theory.measurements.measurement import Context

Capture = pytest.CaptureFixture[str]
Verify = Callable[..., int]

START = """
import math
import numpy as np
from residual_theory import InputError, Stack
from residual_theory.claims import Claim, Evidence, Parameters, Simulation, Twin, equivalence, pooled, trials
from residual_theory.statistics.findings import proof

STACK = Stack(loops=2, residual_scale=0.5, activation="linear")
EXACT = 1 + 4 * 0.25 + 0.0625 + 0.5 / 3 + 0.125 / 9  # second moment at width 3, by Wick pairings


class Sizes(Parameters):
    samples: int = 3000
    margin: float = 0.5


def plan(sizes, current):
    start, count = trials(sizes.samples, current.number)
    return [Simulation(stack=STACK, width=3, samples=count, seed=current.seed, first_trial=start)]


def check(sizes, observations, law):
    ((_, found),) = pooled(Simulation, observations)
    value, stderr = float(found.second_moment[-1]), float(found.second_moment_stderr[-1])
    return Evidence((equivalence("R²", value, stderr, predicted=law, margin=sizes.margin, samples=int(found.samples)),))


def fails(*_):
    return 1 / 0


def claim(id="good", **changed):
    fields = dict(
        id=id, statement="two loops <at> width 3 & no more", source="this project", level="simulation",
        recorded="confirmed", reason="Wick pairings", margin="half", law=EXACT, twin=Twin("a wrong moment", EXACT + 2),
        parameters=Sizes, plan=plan, check=check,
    )
    fields.update(changed)
    return Claim(**{name: value for name, value in fields.items() if value is not ...})


"""


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Write claims files in a folder that is no checkout, and verify them there."""
    monkeypatch.chdir(tmp_path)

    def run(claims: str, *words: str, file: str = "claims.py") -> int:
        (tmp_path / file).write_text(START + claims)
        files = [] if file in words else [file]
        return main(["verify", *files, "--results", "results", "--json", "v.json", "--jobs", "1", *words])

    return run


def verdicts() -> dict[str, str]:
    return {row["id"]: row["verdict"] for row in json.loads(Path("v.json").read_text())["claims"]}


def test_a_claims_file_is_verified_outside_a_checkout(verify: Verify, capsys: Capture) -> None:
    assert verify("CLAIMS = (claim(), claim('false', law=EXACT + 3))") == 1
    assert verdicts() == {"good": "confirmed", "false": "refuted"}
    assert len(list(Path("results/quick/data").rglob("*.nc"))) == 2
    assert "looped-growth" not in capsys.readouterr().out
    assert verify("CLAIMS = (claim(), claim('false', law=EXACT + 3))", "good") == 0  # ids choose
    assert verdicts() == {"good": "confirmed"}


def test_ids_of_the_catalogue_join_those_of_a_file(verify: Verify) -> None:
    assert verify("CLAIMS = [claim()]", "relu-kernel") == 0
    assert verdicts() == {"good": "confirmed", "relu-kernel": "confirmed"}


def test_a_folder_stands_for_its_files(verify: Verify, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/other.py").write_text(START + "CLAIMS = (claim('other'),)")
    (tmp_path / "mine/test_claims.py").write_text("raise SystemExit(7)")  # a test of these claims states none
    assert verify("CLAIMS = (claim(),)", "mine", file="mine/claims.py") == 0
    assert verdicts() == {"good": "confirmed", "other": "confirmed"}


def test_a_preset_of_ones_own_sets_sizes_seed_and_alpha(verify: Verify, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[run]\nseed = 8\nalpha = 0.001\n[good.simulation]\nsamples = 2000\n")
    assert verify("CLAIMS = (claim(),)", "--preset", "mine.toml") == 0
    found = json.loads(Path("v.json").read_text())
    assert (found["preset"], found["claims"][0]["samples"]) == ("mine", 2000)
    assert found["claims"][0]["confidence"] == pytest.approx(1 - 0.001 / 2)
    assert Path("results/mine/data").is_dir()


@pytest.mark.parametrize(
    ("table", "words"),
    [("[god.simulation]\nsamples = 9", "belongs to no claim"), ("[good.simulation]\nsample = 9", "no such field")],
)
def test_a_wrong_table_of_ones_own_preset_is_refused(
    table: str, words: str, verify: Verify, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "mine.toml").write_text(table)
    assert verify("CLAIMS = (claim(),)", "--preset", "mine.toml") == 2
    assert words in capsys.readouterr().err
    assert not Path("results").exists()


BAD_FILES = {
    "raises": ("1 / 0", "ZeroDivisionError: division by zero"),
    "is no Python": ("def", "SyntaxError"),
    "exits": ("raise SystemExit(0)", "SystemExit"),
    "bad description": ("Stack(loops=0)", "loops = 0"),
    "no claims": ("", "must define CLAIMS"),
    "empty claims": ("CLAIMS = ()", "must define CLAIMS"),
    "one bare claim": ("CLAIMS = claim('bad')", "must define CLAIMS"),
}
BAD_CLAIMS = {
    "no claim": ("'bad'", "is no Claim"),
    "stated twice": ("claim('good')", "is stated already in claims.py"),
    "no twin": ("claim('bad', twin=...)", "give a Twin"),
    "twin is None": ("claim('bad', twin=None)", "twin = None: give a Twin"),
    "no source": ("claim('bad', source=...)", "source = '': give where"),
    "blank source": ("claim('bad', source=' ')", "source = ' ': give where"),
    "unknown place": (
        "claim('bad', paper=('Fig. 4', 'Fig. 44'))",
        "paper = ('Fig. 4', 'Fig. 44'): give nothing, or one or several of §3, App. A.1",
    ),
    "unknown level": ("claim('bad', level='hope')", "level = 'hope': give one of symbolic"),
    "unknown record": ("claim('bad', recorded='true')", "recorded = 'true'"),
    "plan is no function": ("claim('bad', plan=3)", "plan = 3"),
    "plan raises": ("claim('bad', plan=fails)", "its plan fails: ZeroDivisionError: division by zero"),
    "plan is bad input": (
        "claim('bad', plan=lambda sizes, current: [Simulation(stack=Stack(loops=0), width=3, samples=9, seed=0)])",
        "its plan fails: loops = 0",
    ),
    "plans nothing": ("claim('bad', plan=lambda sizes, current: [])", "nothing to measure"),
    "plans no measurement": ("claim('bad', plan=lambda sizes, current: [7])", "must list measurements"),
    "plans the impossible": (
        "claim('bad', plan=lambda sizes, current: [Simulation(stack=STACK, width=-3, samples=9, seed=0)])",
        "its plan fails: width = -3",
    ),
    "plans what cannot be measured": (
        "claim('bad', plan=lambda sizes, current: "
        "[Simulation(stack=STACK, width=3, samples=9, seed=0, inputs=((1.0, 5.0), (5.0, 1.0)))])",
        "its measurement fails: inputs = ",
    ),
    "plans the unknown": (
        "claim('bad', plan=lambda sizes, current: [{'instrument': 'oracle'}])",
        "its plan fails: plan = {'instrument': 'oracle'}: must list measurements",
    ),
    "check raises": ("claim('bad', check=fails)", "its check fails: ZeroDivisionError"),
    "check exits": ("claim('bad', check=lambda *_: exit(0))", "its check fails: SystemExit"),
    "check raises for the twin": ("claim('bad', twin=Twin('words', 'two'))", "its check fails: TypeError"),
    "check finds NaN": (
        "claim('bad', check=lambda *_: "
        "Evidence((equivalence('R²', math.nan, 0.1, predicted=1.0, margin=0.1, samples=9),)))",
        "value = nan: R² must be a number",
    ),
    "law is NaN": ("claim('bad', law=math.nan)", "predicted = nan: R² must be a number"),
    "check finds numbers of another kind": (
        "claim('bad', check=lambda *_: "
        "Evidence((equivalence('R²', 1.0, 0.1, predicted=1.0, margin=0.1, samples=np.int64(9)),)))",
        "check = 'R²': give str, int and float of Python",
    ),
    "check finds no words": (
        "claim('bad', check=lambda *_: Evidence((equivalence(None, 1.0, 0.1, predicted=1.0, margin=0.1, samples=9),)))",
        "check = None: give str",
    ),
    "a name of two lines": ("claim('bad\\nname', twin=None)", "bad name/simulation of claims.py: twin = None"),
    "check says nothing": ("claim('bad', check=lambda *_: None)", "must return Evidence"),
}


@pytest.mark.parametrize(("source", "words"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_named_and_the_rest_runs(source: str, words: str, verify: Verify, capsys: Capture) -> None:
    Path("bad.py").write_text(START + source)
    assert verify("CLAIMS = (claim(),)", "bad.py") == 2
    refused = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("measured")]
    assert len(refused) == 1
    assert refused[0].startswith("refused: bad.py: ")
    assert words in refused[0]
    assert verdicts() == {"good": "confirmed"}


@pytest.mark.parametrize(("source", "words"), BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
def test_a_bad_claim_is_named_and_the_rest_runs(source: str, words: str, verify: Verify, capsys: Capture) -> None:
    assert verify(f"CLAIMS = (claim(), {source})", "--junit", "j.xml") == 2
    printed = capsys.readouterr()
    refused = [line for line in printed.err.splitlines() if not line.startswith("measured")]
    assert len(refused) == 1
    assert refused[0].startswith("refused: ")
    assert "claims.py" in refused[0]
    assert words in refused[0]
    assert "good" in printed.out
    assert verdicts() == {"good": "confirmed"}
    assert len(json.loads(Path("v.json").read_text())["refused"]) == 1
    assert len(ElementTree.parse("j.xml").findall("testsuite/testcase/error")) == 1


def test_a_claim_that_fails_in_a_later_round_has_no_verdict(verify: Verify, capsys: Capture) -> None:
    late = (
        "class Rounds(Sizes):\n    rounds: int = 2\n"
        "CLAIMS = (claim(), claim('late', law=EXACT + 0.5, parameters=Rounds,"
        " plan=lambda sizes, current: fails() if current.number else plan(sizes, current)))"
    )
    assert verify(late) == 2
    assert "late/simulation of claims.py: its plan fails" in capsys.readouterr().err
    assert verdicts() == {"good": "confirmed"}


def test_an_interrupted_run_keeps_what_it_measured(
    verify: Verify, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    original = Simulation.measure

    def interrupted(self: Simulation, context: Context) -> xr.Dataset:
        if list(Path("results").rglob("*.nc")):
            raise KeyboardInterrupt
        return original(self, context)

    monkeypatch.setattr(Simulation, "measure", interrupted)
    assert verify("CLAIMS = (claim(), claim('other'), 3)") == 130
    assert "refused: CLAIMS/int of claims.py: is no Claim" in capsys.readouterr().err  # said before the measuring
    (kept,) = Path("results").rglob("*.nc")
    made = kept.stat().st_mtime_ns
    monkeypatch.setattr(Simulation, "measure", original)
    assert verify("CLAIMS = (claim(), claim('other'))") == 0
    assert kept.stat().st_mtime_ns == made


def test_nothing_but_refused_claims(verify: Verify, capsys: Capture) -> None:
    assert verify("CLAIMS = (claim(plan=fails),)") == 2
    assert capsys.readouterr().out == ""
    assert verdicts() == {}
    assert verify("CLAIMS = (claim('bad', twin=None), claim())", "bad") == 2  # the one chosen is the one refused
    assert verdicts() == {}


def test_names_and_sizes_of_every_kind_end_in_words(verify: Verify, capsys: Capture) -> None:
    assert verify("CLAIMS = (claim('[/b] a name'),)") == 0
    assert "[/b] a name" in capsys.readouterr().out
    sizes = "class Own(Sizes):\n    def model_post_init(self, _):\n        1 / 0\n"
    assert verify(sizes + "CLAIMS = (claim(parameters=Own),)") == 2
    assert "[good.simulation] = {}: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_measure_as_one_does(verify: Verify) -> None:
    bad = (
        "claim('bad', plan=lambda sizes, current: "
        "[Simulation(stack=STACK, width=3, samples=9, seed=0, inputs=((1.0, 5.0), (5.0, 1.0)))])"
    )
    found = []
    for jobs in ("1", "2"):
        assert verify(f"CLAIMS = (claim(), {bad}, claim('other'))", "--jobs", jobs, "--results", f"with-{jobs}") == 2
        rows = json.loads(Path("v.json").read_text())
        found.append(([row["value"] for row in rows["claims"]], rows["refused"]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such.py"], "claims = 'no-such.py'"),
        (["empty"], "claims = 'empty'"),
        (["good.py", "no-such-claim"], "claim = 'no-such-claim'"),
        (["good.py", "--preset", "no-such.toml"], "--preset = 'no-such.toml'"),
        (["good.py", "--junit", "empty"], "--junit = 'empty'"),
    ],
)
def test_misuse_is_one_line(words: list[str], message: str, verify: Verify, capsys: Capture) -> None:
    Path("empty").mkdir()
    Path("good.py").write_text(START + "CLAIMS = (claim(),)")
    assert main(["verify", *words, "--results", "results"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}")
    assert printed.count("\n") == 1
    assert not Path("results").exists()


def outcomes_of(claims: str, tmp_path: Path) -> tuple[list[Outcome], list[Refusal]]:
    file = tmp_path / "claims.py"
    file.write_text(START + claims)
    session = Session(Selection.prepare("quick", tmp_path / "results", ids=[str(file)]))
    return session.verify(), session.refused


EVERY_KIND = """
CLAIMS = (
    claim(), claim("[/b]false", law=EXACT + 3), claim("powerless", twin=Twin("nearly right", EXACT + 0.01)),
    claim("open", law=EXACT + 0.5, statement=chr(0) + chr(0xD800) + "<&]]>" + chr(27) + chr(10)),
    claim("refuted-as-recorded", law=EXACT + 3, recorded="refuted"), claim("refused", check=fails),
    claim("proved", level="symbolic", check=lambda sizes, observations, law: Evidence((proof("2 steps",
          "" if law == EXACT else "step 1", law != EXACT),))),
)
"""


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Outcome], list[Refusal]]:
    return outcomes_of(EVERY_KIND, tmp_path_factory.mktemp("kinds"))


def test_junit_has_a_case_for_each_claim_whatever_its_words(every_kind: tuple[list[Outcome], list[Refusal]]) -> None:
    suite = ElementTree.fromstring(junit("quick", *every_kind))[0]
    kinds = {
        case.get("classname"): next(((e.tag, e.get("type")) for e in case if e.tag != "system-out"), None)
        for case in suite
    }
    assert kinds == {
        "good": None,
        "[/b]false": ("failure", "refuted"),
        "powerless": ("failure", "powerless"),
        "open": ("skipped", "inconclusive"),
        "refuted-as-recorded": None,
        "refused": ("error", "refused"),
        "proved": None,
    }
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "7", "failures": "2", "errors": "1", "skipped": "1"}
    words = {case.get("classname"): case.findtext("system-out") for case in suite}
    assert str(words["open"]).startswith("\ufffd\ufffd<&]]>\ufffd\n")
    assert "its false twin (a wrong moment) is refuted" in str(words["good"])
    assert exit_status(every_kind[0]) == 1
    assert exit_status(*every_kind) == 2


def schema() -> dict[str, Any]:
    text = resources.files("residual_theory.claims").joinpath("verdicts.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_schema_covers_the_document(every_kind: tuple[list[Outcome], list[Refusal]]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    found = json.loads(document("quick", *every_kind))
    validator.validate(found)
    validator.validate(json.loads(document("quick", [], [Refusal("claims.py", "", "why")])))
    wrong: list[tuple[list[Any], str, Any]] = [
        ([], "extra", 1),
        (["claims", 0], "verdict", "true"),
        (["claims", 0], "value", "1"),
        (["claims", 0], "interval", [1]),
        (["claims", 0, "findings", 0], "confirm_p", 2),
        (["claims", 0, "findings", 0], "extra", 2),
        (["refused", 0], "reason", "two\nlines"),
        (["provenance"], "extra", 1),
    ]
    for path, key, value in wrong:
        spoilt = part = json.loads(json.dumps(found))
        for step in path:
            part = part[step]
        part[key] = value
        assert not validator.is_valid(spoilt), (path, key)


def test_every_field_written_is_in_the_schema(every_kind: tuple[list[Outcome], list[Refusal]]) -> None:
    outcomes, refused = every_kind
    parts = schema()["$defs"]
    finding = asdict(outcomes[0].evidence.decisive).keys() | {"interval"}
    written = {"claim": outcomes[0].row().keys(), "finding": finding, "refusal": refused[0].row().keys()}
    for name, fields in written.items():
        assert set(parts[name]["properties"]) == set(parts[name]["required"]) == set(fields), name
    found = json.loads(document("quick", outcomes))
    assert set(schema()["properties"]) == set(schema()["required"]) == found.keys()
    assert set(parts["provenance"]["properties"]) == found["provenance"].keys()


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "mine").mkdir(parents=True)
        (tmp_path / folder / "mine/claims.py").write_text(START + f"CLAIMS = (claim('of-{folder}'),)")
    found = ClaimsFiles.read([tmp_path / "a/mine/claims.py", tmp_path / "b/mine"])
    assert [claim.id for claim in found.claims] == ["of-a", "of-b"]
