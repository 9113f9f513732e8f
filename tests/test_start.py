"""What is imported before it is needed: nothing that takes long. And the package's names, imported at first use."""

import pickle
import subprocess
import sys

import pytest

import residual_theory as rt

SLOW = {"torch", "sympy", "matplotlib", "pandas", "xarray", "scipy", "numpy", "joblib", "jinja2"}
COMMAND = "from residual_theory.cli import main; main({!r})"


def imported(program: str) -> set[str]:
    """The packages that a program has imported at its end, in a process of its own."""
    found = "import sys; sys.stderr.write(' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{found}"], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("program", "needed"),
    [
        ("import residual_theory", ""),
        (COMMAND.format(["--help"]), ""),
        (COMMAND.format(["--version"]), ""),
        (COMMAND.format(["train", "--help"]), ""),
        (COMMAND.format(["sweep", "--help"]), ""),
        (COMMAND.format(["verify", "--help"]), ""),
        (COMMAND.format(["list", "--paper"]), ""),
        (COMMAND.format(["predict", "--help"]), "numpy"),
        (COMMAND.format(["predict", "--loops", "8", "--scale", "1/N"]), "numpy pandas scipy xarray"),
        ("import residual_theory.sweeps.grid", ""),
    ],
    ids=str,
)
def test_no_slow_library_is_imported_without_need(program: str, needed: str) -> None:
    found = imported(program)
    assert "residual_theory" in found
    assert found & SLOW == set(needed.split())


def test_every_name_is_there_before_and_after_its_first_use() -> None:
    program = "import residual_theory as rt; print({})"
    for listed in ("set(rt.__all__) <= set(dir(rt))", "all(getattr(rt, name) is not None for name in rt.__all__)"):
        done = subprocess.run(
            [sys.executable, "-c", program.format(listed)], capture_output=True, text=True, check=True
        )
        assert done.stdout == "True\n"
    names: dict[str, object] = {}
    exec("from residual_theory import *", names)
    assert set(rt.__all__) <= set(names)


def test_names_are_the_objects_of_their_modules() -> None:
    from residual_theory import Stack, simulate
    from residual_theory.montecarlo.simulate import simulate as defined

    assert simulate is defined is rt.simulate
    assert pickle.loads(pickle.dumps(simulate)) is simulate
    assert pickle.loads(pickle.dumps(Stack(loops=3))) == rt.Stack(loops=3)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'residual_theory' has no attribute 'predit'"):
        getattr(rt, "predit")  # noqa: B009  (mypy knows that it is not there)
    with pytest.raises(ImportError, match="predit"):
        exec("from residual_theory import predit")
