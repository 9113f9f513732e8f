"""The claim author's face, pinned: what a claims file imports, and that each helper is explained with an example."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import residual_theory as rt
from residual_theory import claims

ROOT = Path(__file__).parent.parent.parent
FILES = [*sorted((ROOT / "simulations").glob("*.py")), *sorted((ROOT / "docs/example").glob("*.py"))]
NAMES = """
    Activation Array Assumptions Claim ConeGain Count Curve Diagnostic Draws DriftingWeights Evidence FEWEST_SIZES
    Finding FittedSizes Limit Measurement ModelConfig Observation Observations OfStacks OptimizerStep Parameters
    Positive Prediction Probe Proof Rates Record RedrawnBlocks Round Seeds Simulation StackLaw StackParameters
    StepAssumptions SweepParameters TrainConfig Training TrainingParameters TransformerParameters Twin WideParameters
"""
SIGNATURES = {
    "at_best": "curve",
    "at_infinite_width": "parameters observations law",
    "at_large_width": "parameters observations law observables",
    "bounded": "label sizes values stderrs samples margin",
    "change_cosines": "covariance loops",
    "computed": "label value low high",
    "curves": "observations kind size value",
    "elements": "observed law observable margin where",
    "equivalence": "label value stderr predicted margin samples degrees systematic",
    "exponent": "where curve predicted margin",
    "from_one": "name sizes",
    "gain": "stack drawn",
    "gains": "stacks parameters current",
    "has": "description wanted",
    "label": "stack",
    "limits": "observations",
    "losses": "observations wanted",
    "lower": "loss better where",
    "own_trials": "first current index",
    "paired_exponent": "label sizes values predicted margin",
    "pooled": "kind observations",
    "positive": "label differences",
    "predicted": "observations config probed tied",
    "rate_exponent": "label rates curves predicted margin",
    "runs_of": "observations wanted",
    "separate_simulations": "stacks parameters current options",
    "simulations": "stacks parameters current",
    "stack_claim": "id statement source stacks law twin margin because recorded reason observables width samples paper",
    "transformer": "config tokens tied",
    "trials": "first number",
    "typical_norm": "_ drawn",
    "unbounded": "label sizes values stderrs samples margin",
    "untied": "stack",
    "visit_alignment": "covariance loops",
    "wide_simulations": "stacks parameters current options",
    "within": "label value stderr low high samples degrees systematic",
}
CLOSED_LAWS = {"bounds", "concentration", "constants", "finite_width", "growth", "learning_rate", "loop_limit"}


def test_names_and_signatures() -> None:
    assert claims.__all__ == sorted([*NAMES.split(), *SIGNATURES])
    found = {name: " ".join(inspect.signature(getattr(claims, name)).parameters) for name in SIGNATURES}
    assert found == SIGNATURES


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_helper_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(claims, name)) or "")


@pytest.mark.parametrize("package", [rt, claims], ids=lambda package: package.__name__)
def test_a_type_checker_sees_the_same_names(package: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(package))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: part.module for part in block.body if isinstance(part, ast.ImportFrom) for alias in part.names
    }
    assert sorted(map(str, seen)) == package.__all__
    for name, module in seen.items():
        __import__(str(module))
        assert getattr(package, str(name)) is getattr(sys.modules[str(module)], str(name))


@pytest.mark.parametrize("package", [rt, claims], ids=lambda package: package.__name__)
def test_no_module_hides_a_name(package: ModuleType) -> None:
    """Importing a module of the package would put it where the name was."""
    assert not {module.name for module in pkgutil.iter_modules(package.__path__)} & set(package.__all__)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_claims_files_import_the_face_and_nothing_behind_it(file: Path) -> None:
    modules = {node.module or "" for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
    allowed = {"residual_theory", "residual_theory.claims", "residual_theory.testing"}
    allowed |= {f"residual_theory.theory.{law}" for law in CLOSED_LAWS}
    assert {module for module in modules if module.startswith("residual_theory")} <= allowed


def test_the_face_is_imported_without_torch() -> None:
    program = "import sys; from residual_theory.claims import Claim, Twin, stack_claim; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
