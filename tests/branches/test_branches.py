"""Laws of branches: found by their files, right in recursion and sampler alike, and in one tuple of visits together."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from residual_theory import branches
from residual_theory.branches import KINDS
from residual_theory.branches.attention import CausalAttention
from residual_theory.branches.gated import Gated
from residual_theory.branches.law import BranchLaw
from residual_theory.branches.mlp import Mlp
from residual_theory.branches.single import Single
from residual_theory.errors import InputError
from residual_theory.kernels.branch import kernels_of
from residual_theory.montecarlo.simulate import simulate
from residual_theory.stack import LlamaStack, Stack, Visit
from residual_theory.theory.forward import predict

FOLDER = Path(branches.__file__).parent
LAWS = (
    Single("tanh", weight_variance=1.3, epsilon=0.0),
    Gated("silu", weight_variance=0.8, epsilon=0.4, hidden_variance=1.6, expansion=2),
    Mlp("gelu", weight_variance=1.7, hidden_variance=0.7, expansion=3),
)


class Mixed(Stack):
    """Three layers of three laws, in place of those described."""

    @property
    def visits(self) -> tuple[Visit, ...]:
        return tuple(visit._replace(branch=LAWS[visit.weights % 3]) for visit in super().visits)


def mixed(**fields: Any) -> Mixed:
    return Mixed(loops=3, unique_layers=3, residual_scale=0.5, initial_variance=0.6, **fields)


def far(drawn: xr.Dataset, predicted: xr.Dataset, name: str) -> float:
    """Standard errors between the two, at most."""
    gap, stderr = abs(drawn[name] - predicted[name]), drawn[f"{name}_stderr"]
    return float((gap / (stderr + 3e-4 * abs(predicted[name]))).max())


OBSERVABLES = ("second_moment", "covariance", "gradient_second_moment", "tangent_kernel")


def test_kinds_are_known_by_their_files_the_simplest_first() -> None:
    holding = {path.stem for path in FOLDER.glob("*.py") if "(BranchLaw):" in path.read_text(encoding="utf-8")}
    assert set(KINDS) == holding
    assert list(KINDS) == ["single", "mlp", "gated"]
    assert all(Stack(loops=1, branch=kind).visits[0].branch == law("relu") for kind, law in KINDS.items())


def test_laws_need_no_torch_to_be_imported() -> None:
    for path in FOLDER.glob("*.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:  # what stands within an if is for types
            assert not isinstance(statement, ast.Import | ast.ImportFrom) or "torch" not in ast.unparse(statement)


@pytest.mark.parametrize("normalization", ["none", "rms"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_predicted_as_it_is_drawn(kind: str, normalization: Any) -> None:
    """What is left of the 1/d expansion after extrapolation is within 3·10⁻⁴ of the value."""
    hidden: dict[str, Any] = {} if kind == "single" else {"hidden_variance": 1.4}
    stack = Stack(
        loops=3, unique_layers=2, residual_scale=0.4, branch=kind, activation="tanh", weight_variance=1.3,
        initial_variance=0.7, normalization=normalization, **hidden,
    )  # fmt: skip
    drawn, predicted = simulate(stack, width=(64, 128, 256), samples=200, with_gradients=True), predict(stack)
    assert max(far(drawn, predicted, name) for name in OBSERVABLES) < 5


@pytest.mark.parametrize("fields", [{}, {"carry": 0.8, "injection": 0.4}, {"tied": False}], ids=str)
def test_several_laws_in_one_stack(fields: dict[str, Any]) -> None:
    stack = mixed(**fields)
    drawn = simulate(stack, width=(64, 128, 256), samples=200, with_gradients=True, seed=2)
    assert max(far(drawn, predict(stack), name) for name in OBSERVABLES) < 5
    plain = predict(Stack(**dict(stack)))
    assert max(far(drawn, plain, name) for name in OBSERVABLES) > 20  # not those of one law


def test_several_laws_in_one_stack_with_matrices() -> None:
    """At one width, against those drawn without matrices."""
    sizes: dict[str, Any] = {"width": 48, "samples": 300, "with_gradients": True}
    held, free = (simulate(mixed(), method=method, **sizes) for method in ("dense", "matrix-free"))
    for name in OBSERVABLES:
        gap = abs(held[name] - free[name])
        assert (gap <= 5 * np.hypot(held[f"{name}_stderr"], free[f"{name}_stderr"]) + 1e-12).all(), name


def test_what_the_norm_adds_to_the_mean_square_counts_in_both() -> None:
    class Softened(Stack):
        @property
        def visits(self) -> tuple[Visit, ...]:
            return tuple(visit._replace(branch=Single("relu", epsilon=0.5)) for visit in super().visits)

    fields: dict[str, Any] = {"loops": 2, "residual_scale": 1.0, "initial_variance": 0.5}
    drawn = simulate(Softened(**fields), width=512, samples=400)
    first = 0.5 + 0.5 / 2  # q0 + κ(1) q0/(q0 + 0.5)
    assert float(predict(Softened(**fields)).second_moment[1]) == pytest.approx(first, rel=1e-12)
    assert abs(float(drawn.second_moment[1]) - first) < 5 * float(drawn.second_moment_stderr[1])


def test_attention_is_not_drawn() -> None:
    class Attending(Stack):
        @property
        def visits(self) -> tuple[Visit, ...]:
            law = CausalAttention(1.0, 4, rope=True, epsilon=0.0)
            return tuple(visit._replace(branch=law) for visit in super().visits)

    with pytest.raises(InputError, match=r"^branch = 'attention': is known at infinite width only; predict it$"):
        simulate(Attending(loops=2), width=16, samples=2)


def test_a_kernel_is_made_once_a_law() -> None:
    """Also of an activation that has no hash; laws that share weights must agree."""

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, x: np.ndarray) -> np.ndarray:
            return np.asarray(np.tanh(x))

    kernels = kernels_of(Stack(loops=3, unique_layers=2, tied=False, activation=Unhashable()).visits)
    assert list(kernels) == list(range(6))
    assert len({id(kernel) for kernel in kernels.values()}) == 1
    of_llama = kernels_of(LlamaStack(loops=2, width=8, mlp_width=12, heads=2).visits)
    assert [type(kernel).__name__ for kernel in of_llama.values()] == ["PreNormAttention", "Elementwise"]
    first, second = Stack(loops=2).visits
    with pytest.raises(AssertionError, match="equal weights"):
        kernels_of([first, second._replace(branch=Single("erf"))])


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_lead_from_the_stream_back_to_it(kind: str) -> None:
    law: BranchLaw = KINDS[kind]("relu")
    matrices = law.matrices(12)
    assert matrices[-1].rows == matrices[0].columns == 12
    assert law.kept == {"single": 0, "mlp": 4, "gated": 8}[kind]


def test_the_hidden_width_of_a_transformer_is_its_own() -> None:
    visit = LlamaStack(loops=1, width=7, mlp_width=11, heads=1).visits[1]
    assert isinstance(visit.branch, Gated)
    assert [(matrix.rows, matrix.columns) for matrix in visit.branch.matrices(7)] == [(11, 7), (11, 7), (7, 11)]
