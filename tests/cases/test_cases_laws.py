"""Patterns met in public code and reports, each as a small model: what its stream does with more loops is known.

The name of each case says where it is met. A model of a pattern, not of the project named.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from residual_theory import coordinate_check, diagnose, probe
from residual_theory.diagnosis.diagnose import Diagnosis

WIDTH = 48


class Branch(nn.Module):
    """A matrix behind ReLU, with a norm before it if wanted."""

    def __init__(self, norm: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.norm, self.linear = nn.RMSNorm(WIDTH) if norm else nn.Identity(), nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(self.linear.weight, std=gain * WIDTH**-0.5)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.linear(torch.relu(self.norm(h)))
        return out


class Step(nn.Module):
    """h ← f(h) for a rule of the block's own branch."""

    def __init__(self, rule: Callable[[nn.Module, Tensor], Tensor], branch: nn.Module | None = None) -> None:
        super().__init__()
        self.rule, self.branch = rule, branch if branch is not None else Branch()

    def forward(self, h: Tensor) -> Tensor:
        return self.rule(self.branch, h)


class Driven(nn.Module):
    """h ← f(h, e), where e is the input."""

    def __init__(self, rule: Callable[[nn.Module, Tensor, Tensor], Tensor], branch: nn.Module | None = None) -> None:
        super().__init__()
        self.rule, self.branch = rule, branch if branch is not None else Branch()

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        return self.rule(self.branch, h, e)


class Looped(nn.Module):
    """A block called again and again, with something between the calls."""

    def __init__(self, block: nn.Module, loops: int, between: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.block, self.loops, self.between = block, loops, between

    def forward(self, e: Tensor) -> Tensor:
        h = e
        for loop in range(self.loops):
            if self.between is not None and loop:
                h = self.between(h, e)
            h = self.block(h, e) if isinstance(self.block, Driven) else self.block(h)
        return h


def unit(h: Tensor) -> Tensor:
    return h / h.square().mean(-1, keepdim=True).sqrt()


def diagonal(low: float) -> Driven:
    """h ← A h + e/2 + 0.1 f(h + e), A diagonal from `low` to 0.4."""
    carry = torch.linspace(low, 0.4, WIDTH)
    return Driven(lambda f, h, e: carry * h + 0.5 * e + 0.1 * f(h + e))


def seeded(make: Callable[[int], nn.Module], loops: int, factor: int = 1) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = make(loops).double().eval()
        inputs = torch.randn(8, WIDTH, dtype=torch.float64)
    if isinstance(model, Looped):
        model.loops = factor * loops
    return model, inputs


def diagnosed(make: Callable[[int], nn.Module], loops: int, **options: bool) -> Diagnosis:
    model, inputs = seeded(make, loops)
    block = "block" if isinstance(model, Looped) else ["prelude", "core", "coda"]
    with torch.random.fork_rng():
        return diagnose(probe(model, block=block, inputs=inputs, **options))  # type: ignore[arg-type]


KNOWN: dict[str, tuple[Callable[[int], nn.Module], int, set[str]]] = {
    "kyegomez/OpenMythos#50, eigenvalue −0.95": (lambda n: Looped(diagonal(-0.95), n), 60, {"bounded"}),
    "kyegomez/OpenMythos#50, eigenvalue −1.1": (lambda n: Looped(diagonal(-1.1), n), 60, {"exponential"}),
    "kyegomez/OpenMythos#79, norm after injection": (
        lambda n: Looped(Step(lambda f, h: unit(h + 0.3 * f(h))), n, lambda h, e: h + e), 16, {"normalised"},
    ),
    "Rituraj003/readout-blind-spot, pre-norm, no norm between": (
        lambda n: Looped(Step(lambda f, h: h + f(h)), n), 16, {"linear"},
    ),
    "kaldi-asr/kaldi#1186, recurrence × 0.85": (
        lambda n: Looped(Driven(lambda f, h, e: 0.85 * h + 0.1 * torch.tanh(f(h)) + 0.1 * e), n), 40, {"bounded"},
    ),
    "quark0/darts#36, sum of all states before": (lambda n: Looped(Step(lambda f, h: 2 * h), n), 12, {"exponential"}),
    "princeton-vl/RAFT, gated refinement": (
        lambda n: Looped(Step(lambda f, h: 0.7 * h + 0.3 * torch.tanh(f(h))), n), 32, {"bounded"},
    ),
    "locuslab/deq#20, fixed point": (
        lambda n: Looped(Driven(lambda f, h, e: torch.tanh(f(h) + e), Branch(False, 0.7)), n), 24, {"bounded"},
    ),
    "google-deepmind/graph_nets#62, core of latent and input": (
        lambda n: Looped(Driven(lambda f, h, e: h + f(h + e), Branch(True)), n), 12, {"linear"},
    ),
    "openai/parameter-golf#319, loop embeddings between": (
        lambda n: Looped(Step(lambda f, h: h + f(h) / n), n, lambda h, e: h + 0.01), 12, {"coherent", "linear"},
    ),
    "injection outside the block": (
        lambda n: Looped(Step(lambda f, h: h + 0.1 * f(h)), n, lambda h, e: h + e), 12, {"linear"},
    ),
    "gated unit without a norm": (
        lambda n: Looped(Step(lambda f, h: h + f(h) * h / n, Branch(False)), n), 12, {"exponential"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_what_the_stream_does_is_said(name: str) -> None:
    make, loops, laws = KNOWN[name]
    found = diagnosed(make, loops)
    assert found.law in laws, found.why
    model, inputs = seeded(make, loops, 8)
    longer = probe(model, block="block", inputs=inputs).second_moment.values ** 0.5
    for each in found.forecasts:
        seen = float(longer[each.factor * loops])
        if each.same.told:
            assert each.same.low * (1 - 1e-6) <= seen <= each.same.high * (1 + 1e-6), each
        elif math.isfinite(each.same.low) and each.same.low > found.norms[-1]:
            assert seen >= each.same.low


def test_a_carry_is_judged_by_its_least_eigenvalue() -> None:
    """Not by its largest entry, 0.4: the rate is log 1.1."""
    unstable = diagnosed(lambda n: Looped(diagonal(-1.1), n), 60, loop_map=True)
    assert abs(unstable.rate.value - math.log(1.1)) < 0.02
    assert "grows, × 1.1 a loop, to and fro" in unstable.regime
    stable = diagnosed(lambda n: Looped(diagonal(-0.95), n), 60, loop_map=True)
    assert "settles, × 0.95" in stable.regime
    assert str(stable).startswith("Stable at 8 times the 60 loops")


def test_what_lies_between_visits_is_no_reason_to_scale_branches() -> None:
    """The injection alone makes R grow: no residual scale bounds it, and none is recommended."""
    found = diagnosed(KNOWN["injection outside the block"][0], 12)
    assert math.isnan(found.residual_scale)
    assert "between visits" in str(found).splitlines()[2]


class Parts(nn.Module):
    """Blocks called in an order of their own."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.parts = nn.ModuleDict({name: Step(lambda f, h: h + 0.2 * f(h)) for name in sorted(set(order))})

    def forward(self, h: Tensor) -> Tensor:
        for name in self.order:
            h = self.parts[name](h)
        return h


def of_order(order: str) -> Diagnosis:
    model, inputs = seeded(lambda n: Parts(order), 1)
    return diagnose(probe(model, block="parts.*", inputs=inputs))


def test_a_core_between_prelude_and_coda_is_found() -> None:
    """TransformerLensOrg/TransformerLens#1520, seal-rg/recurrent-pretraining#24: 2 blocks, 4 blocks × N, 2 blocks."""
    found = of_order("ab" + "cdef" * 8 + "gh")
    assert (found.loops, found.unique_layers, found.unit) == (8, 4, "loop")
    assert found.forecasts[0].visits == 2 + 64 + 2
    again = of_order("ab" + "cdef" * 16)
    assert found.forecasts[0].same.low < again.norms[-1] < found.forecasts[0].same.high


@pytest.mark.parametrize("order", ["abcdbcde", "aabbccddee", "abcdefcdefcdefgh"])
def test_layers_repeated_in_the_middle_are_no_loops_to_forecast(order: str) -> None:
    """arcee-ai/mergekit#53, ggml-org/llama.cpp#4718, turboderp-org/exllamav2#275: layers 0–24, then 8–32."""
    found = of_order(order)
    assert found.forecasts == ()
    assert str(found).startswith(("Not forecast, because the visits are not whole loops", "Cannot tell"))


def test_layers_that_are_one_by_their_parameters_are_loops() -> None:
    """facebookresearch/fairseq#3261, raymin0223/mixture_of_recursions#12: twelve blocks, one matrix."""

    def tied(count: int) -> nn.Module:
        blocks = [Step(lambda f, h: h + f(h) / 12) for _ in range(count)]
        for block in blocks[1:]:
            block.branch.linear = blocks[0].branch.linear
        return nn.Sequential(*blocks)

    model, inputs = seeded(tied, 12)
    found = diagnose(probe(model, block="*", inputs=inputs))
    assert (found.loops, found.unique_layers, found.law) == (12, 1, "coherent")
    longer, _ = seeded(tied, 48)
    seen = float(probe(longer, block="*", inputs=inputs).second_moment[-1]) ** 0.5
    assert found.forecasts[1].same.low < seen < found.forecasts[1].same.high


def test_a_map_that_turns_grows_or_settles_by_its_spectral_radius() -> None:
    for radius in (0.9, 1.05):
        turn = (
            radius * torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)).double())[0]
        )
        found = diagnosed(lambda n, turn=turn: Looped(Step(lambda f, h: h @ turn), n), 24, loop_map=True)  # type: ignore[misc]
        assert found.law == ("bounded" if radius < 1 else "exponential")
        assert f"× {radius:g} a loop" in found.regime


class Cell(nn.Module):
    """h ← h + g W relu(h)/N, g = 1 or a parameter that starts at zero."""

    def __init__(self, loops: int, gate: bool) -> None:
        super().__init__()
        self.loops, self.linear = loops, nn.Linear(32, 32)
        self.gate = nn.Parameter(torch.zeros(())) if gate else 1.0

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.gate * self.linear(h.relu()) / self.loops
        return out


class Readout(nn.Module):
    """A loop whose read-out, or whose block's gate, starts at zero."""

    def __init__(self, loops: int, gate: bool, dead: bool) -> None:
        super().__init__()
        self.loops, self.dead = loops, dead
        self.layer, self.out = Cell(loops, gate), nn.Linear(32, 8)
        for zero in () if gate else (self.out.weight, self.out.bias):
            nn.init.zeros_(zero)

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.loops):
            h = self.layer(h)
        out: Tensor = self.out(h)
        return out * out.detach() if self.dead else out


@pytest.mark.parametrize(
    ("gate", "dead", "verdict"),
    [(False, False, "confirmed"), (True, False, "confirmed"), (False, True, "inconclusive")],
)
def test_zeros_at_the_start_are_a_finding(gate: bool, dead: bool, verdict: str) -> None:
    """microsoft/mup#71, majumderb/rezero#8: judged once they move. yz93/LAVT-RIS#25: two zeros multiplied never do."""
    draw = torch.Generator().manual_seed(5)
    found = coordinate_check(
        lambda loops, layers: Readout(loops, gate, dead), block="layer", loops=(4, 8, 16, 32, 64),
        inputs=torch.randn(16, 32, generator=draw), targets=torch.randint(8, (16,), generator=draw),
        optimizer=lambda model, loops, layers: torch.optim.Adam(model.parameters(), lr=1e-3),
        steps=2, seeds=(0, 1, 2, 3),
    )  # fmt: skip
    assert found.verdict == verdict, str(found)
    zeros = {(zero.quantity, zero.moves_from) for zero in found.zeros}
    if dead:
        assert ("output", None) in zeros
        assert "nothing that is trained reaches it" in str(found)
        assert "never moves" in str(found)
    elif gate:
        assert not zeros
    else:
        assert zeros == {("output", 1), ("stream_update", 2)}
        assert "exactly zero: output, before step 1, and judged from there on" in str(found)
