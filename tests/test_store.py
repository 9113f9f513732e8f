"""Results on disk: names, atomic writes, every kind of corruption, repair."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory.errors import InputError, MissingResultError
from residual_theory.montecarlo.simulate import simulate
from residual_theory.stack import Stack, described
from residual_theory.store import (
    CorruptResultWarning,
    OldResultsWarning,
    Specification,
    Store,
    digest,
    write_atomically,
)

STACK = Stack(loops=3, residual_scale=0.4)
SPECIFICATION: dict[str, Any] = {"instrument": "simulate", "stack": described(STACK), "width": 4, "seed": 1}


def instrument(specification: Specification) -> xr.Dataset:
    return simulate(STACK, width=specification["width"], samples=5, seed=specification["seed"])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


@pytest.fixture
def made(store: Store) -> Store:
    store.make(SPECIFICATION, instrument)
    return store


# Names


def test_a_digest_is_of_the_content_alone() -> None:
    turned = dict(reversed(SPECIFICATION.items())) | {"stack": dict(reversed(SPECIFICATION["stack"].items()))}
    assert list(turned) != list(SPECIFICATION)
    assert digest(turned) == digest(SPECIFICATION)
    assert len(digest(SPECIFICATION)) == 16
    assert set(digest(SPECIFICATION)) <= set("0123456789abcdef")
    assert digest({"a": 1, "b": [1, 2]}) == "e6f20bdc3757e5e7"  # results made earlier keep their names


@pytest.mark.parametrize("change", [{"seed": 2}, {"width": 4.0}, {"extra": None}, {"stack": {}}, {"seed": "1"}])
def test_a_digest_changes_with_the_content(change: dict[str, Any]) -> None:
    assert digest(SPECIFICATION | change) != digest(SPECIFICATION)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_is_not_json_has_no_digest(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        digest({"value": value})


def test_the_file_is_named_by_instrument_and_digest(store: Store) -> None:
    assert store.path(SPECIFICATION).name == f"simulate-{digest(SPECIFICATION)}.nc"
    assert store.path({"a": 1}).name.startswith("result-")


# There and back


def test_a_result_comes_back_identical(made: Store) -> None:
    result, expected = made.load(SPECIFICATION), instrument(SPECIFICATION)
    assert result is not None
    assert result.identical(expected)
    for name, variable in expected.variables.items():
        assert result[name].dtype == variable.dtype
    assert made.require(SPECIFICATION).identical(expected)


def test_values_that_are_not_finite_come_back_too(store: Store) -> None:
    awkward = xr.Dataset({"second_moment": ("visit", [1.0, np.inf, np.nan, -0.0])}, attrs={"first_nonfinite_visit": 1})
    store.make(SPECIFICATION, lambda _: awkward)
    result = store.require(SPECIFICATION)
    np.testing.assert_array_equal(result.second_moment, awkward.second_moment)
    assert result.attrs == awkward.attrs


@pytest.mark.parametrize(
    ("awkward", "magic"),
    [
        (xr.Dataset({"count": ("visit", [3, -4])}, {"visit": np.arange(2)}, {"seed": 2**60, "n": -7}), b"CDF"),
        (xr.Dataset({"short": np.int16(-200), "yes": np.array(True), "single": np.float32(0.1)}), b"CDF"),
        (xr.Dataset({"words": ("step", np.array(["κ(ρ)", ""], dtype=object))}, attrs={"no": "", "law": "θ"}), b"CDF"),
        (xr.Dataset(attrs={"nothing": "measured"}), b"CDF"),
        (xr.Dataset({"empty": ("step", np.zeros(0))}), b"\x89HDF"),
        (xr.Dataset({"large": ("visit", np.array([2**40, -1]))}, attrs={"list": [1, 2]}), b"\x89HDF"),
        (xr.Dataset({"small": np.uint8(200)}, attrs={"ε": 0.1}), b"\x89HDF"),
    ],
)
def test_whatever_netcdf_can_hold_comes_back_in_its_dtypes(store: Store, awkward: xr.Dataset, magic: bytes) -> None:
    """Integers of 64 bits included, which netCDF 3 lacks; what it cannot take goes to HDF5."""
    store.make(SPECIFICATION, lambda _: awkward)
    result = store.require(SPECIFICATION)
    assert result.identical(awkward)
    assert {name: one.dtype for name, one in result.variables.items()} == {
        name: one.dtype for name, one in awkward.variables.items()
    }
    assert store.path(SPECIFICATION).read_bytes().startswith(magic)
    xr.testing.assert_equal(xr.load_dataset(store.path(SPECIFICATION)), awkward)  # as anybody reads it


def test_the_sidecar_says_what_was_run(made: Store) -> None:
    sidecar = json.loads(made.path(SPECIFICATION).with_suffix(".json").read_text())
    assert sidecar["specification"] == SPECIFICATION
    assert sidecar["sha256"] == hashlib.sha256(made.path(SPECIFICATION).read_bytes()).hexdigest()
    assert sidecar["device"] == "cpu"
    assert sidecar["seconds"] == made.seconds(SPECIFICATION) >= 0
    assert {"residual-theory", "commit", "python", "machine", "libraries"} <= set(sidecar["provenance"])
    assert set(sidecar["provenance"]["libraries"]) >= {"numpy", "torch", "xarray"}


def test_an_absent_result_is_none_and_cannot_be_required(made: Store) -> None:
    other = SPECIFICATION | {"seed": 2}
    assert made.load(other) is None
    with pytest.raises(MissingResultError) as caught:
        made.require(other)
    assert digest(other) in str(caught.value)
    assert "run residual-theory verify" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_making_again_replaces_what_is_there(made: Store) -> None:
    other = instrument(SPECIFICATION | {"seed": 9})
    made.make(SPECIFICATION, lambda _: other)
    assert made.require(SPECIFICATION).identical(other)
    assert len(files(made.folder)) == 2


# Other versions of the layout


@pytest.mark.parametrize("old", [".", "v1", "v3"])
def test_results_of_another_version_are_named_once_and_left_untouched(store: Store, old: str) -> None:
    before = store.folder / old / store.path(SPECIFICATION).name
    before.parent.mkdir(parents=True)
    before.write_bytes(b"of another layout")
    with pytest.warns(OldResultsWarning) as caught:
        absent = [Store(store.folder).load(SPECIFICATION | {"seed": seed}) for seed in range(3)]
    assert absent == [None] * 3
    assert len(caught) == 1
    assert str(store.folder) in str(caught[0].message)
    assert len(str(caught[0].message).splitlines()) == 1
    store.make(SPECIFICATION, instrument)
    assert before.read_bytes() == b"of another layout"
    assert store.path(SPECIFICATION) != before
    assert store.require(SPECIFICATION).identical(instrument(SPECIFICATION))


def test_other_files_are_not_taken_for_results_of_another_version(store: Store) -> None:
    store.folder.mkdir()
    (store.folder / "losses.nc").write_bytes(b"of somebody else")
    assert store.load(SPECIFICATION) is None  # and a warning would be an error


# Atomicity


def test_a_failing_instrument_leaves_nothing(store: Store) -> None:
    def fails(specification: Specification) -> xr.Dataset:
        raise RuntimeError("the instrument's own complaint")

    with pytest.raises(RuntimeError, match="own complaint"):
        store.make(SPECIFICATION, fails)
    assert files(store.folder) == set()
    assert store.load(SPECIFICATION) is None


def test_a_failing_instrument_keeps_the_earlier_result(made: Store) -> None:
    before = files(made.folder)
    with pytest.raises(KeyError):
        made.make(SPECIFICATION, lambda specification: instrument({}))
    assert files(made.folder) == before
    assert made.require(SPECIFICATION).identical(instrument(SPECIFICATION))


@pytest.mark.parametrize("nth", [1, 2])
def test_an_interrupted_write_leaves_no_part_and_nothing_taken_for_a_result(
    store: Store, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, calls = Path.replace, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.make(SPECIFICATION, instrument)
    assert not [name for name in files(store.folder) if name.endswith(".part")]
    assert len(files(store.folder)) == nth - 1
    if nth == 1:
        assert store.load(SPECIFICATION) is None
    else:
        with pytest.warns(CorruptResultWarning, match="computed again"):
            assert store.load(SPECIFICATION) is None
    store.make(SPECIFICATION, instrument)
    assert store.require(SPECIFICATION).identical(instrument(SPECIFICATION))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "page.html"
    write_atomically(path, "first ε")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert files(tmp_path / "new" / "folder") == {"page.html"}


def test_a_file_keeps_its_old_content_when_the_new_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_atomically(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "first"
    assert files(tmp_path) == {"page.html"}


@pytest.mark.parametrize("argument", ["results", "json"])
def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path, argument: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError) as caught:
        write_atomically(tmp_path / "file" / "page.html", "content", argument=argument)
    assert caught.value.argument == argument
    assert caught.value.value == str(tmp_path / "file" / "page.html")
    assert "name a writable folder" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_store_in_a_folder_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"^results = .*name a writable folder"):
        Store(tmp_path / "file").make(SPECIFICATION, instrument)
    assert files(tmp_path) == {"file"}


# Corruption


def truncate(store: Store, path: Path, sidecar: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit_of_a_number(store: Store, path: Path, sidecar: Path) -> None:
    """netCDF reads such a file without complaint: only the checksum tells."""
    content = bytearray(path.read_bytes())
    content[content.index(instrument(SPECIFICATION).second_moment.values.astype(">f8").tobytes())] ^= 1
    path.write_bytes(content)


def empty(store: Store, path: Path, sidecar: Path) -> None:
    path.write_bytes(b"")


def lose_the_sidecar(store: Store, path: Path, sidecar: Path) -> None:
    sidecar.unlink()


def lose_the_file(store: Store, path: Path, sidecar: Path) -> None:
    path.unlink()


def garble_the_sidecar(store: Store, path: Path, sidecar: Path) -> None:
    sidecar.write_text(sidecar.read_text()[:-20])


def fill_the_sidecar_with_bytes(store: Store, path: Path, sidecar: Path) -> None:
    sidecar.write_bytes(b"\xff\xfe\x00")


def make_the_sidecar_a_list(store: Store, path: Path, sidecar: Path) -> None:
    sidecar.write_text("[1, 2]")


def drop_the_checksum(store: Store, path: Path, sidecar: Path) -> None:
    content = json.loads(sidecar.read_text())
    del content["sha256"]
    sidecar.write_text(json.dumps(content))


def swap_for_another_specification(store: Store, path: Path, sidecar: Path) -> None:
    other = SPECIFICATION | {"seed": 2}
    store.make(other, instrument)
    store.path(other).replace(path)
    store.path(other).with_suffix(".json").replace(sidecar)


def vouch_for_what_is_no_netcdf(store: Store, path: Path, sidecar: Path) -> None:
    path.write_bytes(b"no netCDF")
    content = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(b"no netCDF").hexdigest()}
    sidecar.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit_of_a_number,
        empty,
        lose_the_sidecar,
        lose_the_file,
        garble_the_sidecar,
        fill_the_sidecar_with_bytes,
        make_the_sidecar_a_list,
        drop_the_checksum,
        swap_for_another_specification,
        vouch_for_what_is_no_netcdf,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_result_is_noticed_and_made_again(made: Store, damage: Callable[[Store, Path, Path], None]) -> None:
    path = made.path(SPECIFICATION)
    damage(made, path, path.with_suffix(".json"))
    with pytest.warns(CorruptResultWarning, match="is not intact") as caught:
        assert made.load(SPECIFICATION) is None
    assert len(str(caught[0].message).splitlines()) == 1
    assert str(path) in str(caught[0].message)
    with pytest.warns(CorruptResultWarning), pytest.raises(MissingResultError):
        made.require(SPECIFICATION)
    made.make(SPECIFICATION, instrument)
    assert made.require(SPECIFICATION).identical(instrument(SPECIFICATION))
