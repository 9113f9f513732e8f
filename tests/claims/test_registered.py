"""What was registered before its run stays what it was: file, digest and claims agree."""

import hashlib
import tomllib
from typing import Any

import pytest

from residual_theory.claims.presets import load_preset
from residual_theory.claims.registry import claims_of
from residual_theory.loading import find_root

ROOT = find_root(None)
FILE = ROOT / "docs" / "registered.toml"
REGISTERED: dict[str, Any] = tomllib.loads(FILE.read_text())
SAID = {name: said for name, said in REGISTERED["registration"].items() if isinstance(said, dict)}
CLAIMS = {claim.id: claim for claim in claims_of(ROOT, list(SAID))}
JUDGED: dict[str, Any] = tomllib.loads((ROOT / "docs" / "judged.toml").read_text())


def test_the_file_has_the_digest_that_was_recorded() -> None:
    recorded, name = (ROOT / "docs" / "registered.sha256").read_text().split()
    assert name == FILE.name
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == recorded


@pytest.mark.parametrize("name", SAID)
def test_a_registered_claim_says_what_was_registered(name: str) -> None:
    claim, said = CLAIMS[name], SAID[name]
    assert claim.statement == said["statement"]
    for law, registered in ((claim.law, said["law"]), (claim.twin.law, said["twin"])):
        assert getattr(law, "__name__", law) == (tuple(registered) if isinstance(registered, list) else registered)


def test_it_is_a_preset_that_leaves_no_size_to_the_defaults_that_matter() -> None:
    preset = load_preset(ROOT, str(FILE), list(CLAIMS.values()))
    for key, sizes in preset.parameters.items():
        name, level = key.split("/")
        given = REGISTERED[name][level]
        assert {field: getattr(sizes, field) for field in given} == {
            field: tuple(value) if isinstance(value, list) else value for field, value in given.items()
        }
    assert preset.run.alpha == 0.01


def test_what_was_judged_has_fewer_seeds_and_differs_in_nothing_else() -> None:
    """Time ended before all runs were made; five complete seeds at least were registered as enough."""
    seeds = {name: JUDGED[name]["model"].pop("seeds") for name in JUDGED if "model" in JUDGED[name]}
    for name, count in seeds.items():
        assert 5 <= count <= REGISTERED[name]["model"]["seeds"]
    rest = {name: {level: dict(sizes) for level, sizes in REGISTERED[name].items()} for name in SAID}
    for levels in rest.values():
        levels.get("model", {}).pop("seeds", None)
    assert {"run": REGISTERED["run"], **{name: rest[name] for name in JUDGED if name in rest}} == JUDGED
