"""Step sizes and learning-rate exponents against the gradients' recursion and against real steps."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

import residual_theory as rt
from residual_theory.errors import InputError
from residual_theory.stack import Stack
from residual_theory.theory.forward import predict
from residual_theory.theory.learning_rate import RULES, Exponents, ScalingRule, step_size

# Large N for every rule; large L too where the gain ε²N²L itself vanishes with it
SIZES = {
    "factored": itertools.product((64, 128, 256), (1, 2, 4)),
    "1/(N·L)": itertools.product((64, 128), (12, 24, 48)),
}


def fitted(values: dict[tuple[int, int], float]) -> Exponents:
    """Powers of L and N by least squares on logarithms; values by (N, L)."""
    design = np.array([[1.0, math.log(layers), math.log(loops)] for loops, layers in values])
    solution = np.linalg.lstsq(design, np.log(list(values.values())), rcond=None)[0]
    return Exponents(float(solution[1]), float(solution[2]))


def stack(rule: ScalingRule, loops: int, layers: int, **fields: Any) -> Stack:
    scale = layers**-rule.layers * loops**-rule.loops
    return Stack(loops=loops, unique_layers=layers, residual_scale=scale, **fields)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.bounded], ids=lambda rule: rule.name)
def test_bounded_rules_have_the_predicted_exponents(rule: ScalingRule) -> None:
    """Θ and √Θ of the recursion. Corrections are of order 1/N and, at 1/(NL), 1/L: at most 1/64 + 1/12 in all."""
    steps = {size: step_size(stack(rule, *size)) for size in SIZES[rule.name]}
    for optimizer, values in (
        ("gradient-descent", {size: 1 / step.gradient_descent for size, step in steps.items()}),
        ("adam", {size: 1 / step.sign for size, step in steps.items()}),
    ):
        found, predicted = fitted(values), rule.learning_rate(optimizer)  # type: ignore[arg-type]
        assert found.loops == pytest.approx(predicted.loops, abs=0.02)
        assert found.layers == pytest.approx(predicted.layers, abs=0.02)


def test_without_the_bound_gradients_grow_and_the_plain_exponents_fail() -> None:
    """Raw at 1/√N: the true rate falls exponentially in √N, not like the power that bounded gradients would give."""
    rule = ScalingRule("root", 0.5, 0.5, "")
    rates = [1 / step_size(stack(rule, loops, 1)).sign for loops in (16, 64, 256)]
    slopes = -np.diff(np.log(rates)) / math.log(4)
    assert slopes[1] > 1.5 * slopes[0] > 1.5  # steeper and steeper; the power law would have slope 0.5 throughout
    assert rule.learning_rate().loops == -0.5


def test_prenorm_rates_beyond_the_boundary_move_by_a_logarithm_only() -> None:
    rule = ScalingRule("unscaled", 0.0, 0.0, "")
    assert rule.prenorm_learning_rate == Exponents(-0.5, 0.0)
    steps = [step_size(stack(rule, loops, 1, normalization="rms")) for loops in (64, 256, 1024)]
    relative = np.array([step.sign / step.stream for step in steps])
    growth = np.diff(np.log(relative)) / math.log(4)
    assert (growth < 0.2).all()
    assert growth[1] < growth[0]
    assert steps[-1].sign / steps[0].sign > 10  # in absolute terms it does move


def one_step(described: Stack, width: int, trial: int, sign: bool) -> float:
    """|Δf| per unit rate of one real, small step on every weight; divided by √d for sign steps."""
    generator = torch.Generator().manual_seed(5_000_000 + 1000 * width + trial)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    entry = (described.weight_variance / width) ** 0.5  # W = entry · (standard normal)
    start = normal(width) * described.initial_variance**0.5
    weights = {visit.weights: normal(width, width).requires_grad_(True) for visit in described.visits}
    readout = normal(width)
    readout = readout / readout.norm()

    def output(layers: dict[int, torch.Tensor]) -> torch.Tensor:
        stream = start
        for visit in described.visits:
            stream = stream + visit.scale * entry * layers[visit.weights] @ torch.relu(stream)
        return torch.sum(stream * readout)

    gradients = torch.autograd.grad(output(weights), list(weights.values()))
    rate = 1e-4
    moved = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        of_weight = gradient / entry
        step = of_weight.sign() if sign else of_weight
        moved[name] = weight.detach() - rate / width * step / entry
    with torch.no_grad():
        change = abs(float(output(moved) - output(weights))) / rate
    return change / width**0.5 if sign else change


@pytest.mark.parametrize(("loops", "unique_layers", "tied"), [(4, 1, True), (4, 2, True), (4, 1, False)])
def test_a_real_step_of_gradient_descent_changes_the_output_by_theta(
    loops: int, unique_layers: int, tied: bool
) -> None:
    described = Stack(
        loops=loops,
        unique_layers=unique_layers,
        residual_scale=0.4,
        tied=tied,
        weight_variance=1.5,
        initial_variance=0.7,
    )
    changes = {
        width: np.array([one_step(described, width, trial, sign=False) for trial in range(128)]) for width in (64, 128)
    }
    limit = 2 * changes[128].mean() - changes[64].mean()
    stderr = math.hypot(2 * changes[128].std(ddof=1), changes[64].std(ddof=1)) / math.sqrt(128)
    theta = step_size(described).gradient_descent
    assert abs(limit - theta) < 5 * stderr
    assert stderr < 0.1 * theta


def test_a_real_sign_step_is_below_its_bound_by_a_constant_factor() -> None:
    """The loss of E|x| ≤ √E x² hardly depends on N and L under the factored rule; 2/π for a Gaussian product."""
    ratios = {}
    for loops, layers in ((1, 1), (2, 1), (8, 1), (32, 1), (4, 4)):
        described = Stack(loops=loops, unique_layers=layers, weight_variance=1.5)
        steps = np.array([one_step(described, 128, trial, sign=True) for trial in range(12)])
        ratios[loops, layers] = steps.mean() / step_size(described).sign
        assert steps.std(ddof=1) / math.sqrt(12) < 0.05 * steps.mean()
    assert all(0.35 < ratio < 1 for ratio in ratios.values()), ratios
    assert max(ratios.values()) < 1.3 * min(ratios.values()), ratios


def test_untied_sign_steps_add_up_over_all_visits() -> None:
    tied, untied = (step_size(Stack(loops=64, residual_scale=1e-3, tied=tied)) for tied in (True, False))
    assert untied.sign == pytest.approx(tied.sign, rel=0.01)  # εV either way
    assert untied.gradient_descent == pytest.approx(tied.gradient_descent / 64, rel=0.01)  # ε²V against ε²N²


# recommend


def test_the_papers_table_of_factors() -> None:
    advice = rt.recommend(8, 48, tuned_layers=12)
    assert advice.residual_scale == pytest.approx(1 / 8 * 4**-0.5)
    assert advice.learning_rate == pytest.approx(4**-0.5)
    assert advice.adam_epsilon == pytest.approx(4**-0.5)
    assert advice.other_parameters == 1.0
    assert rt.recommend(2, 48, tuned_layers=12).learning_rate == advice.learning_rate  # not of N


def test_gradient_descent_keeps_its_rate() -> None:
    advice = rt.recommend(8, 48, tuned_layers=12, optimizer="gradient-descent")
    assert (advice.learning_rate, advice.adam_epsilon) == (1.0, 1.0)


def test_the_growth_recommended_is_that_of_the_stack_it_describes() -> None:
    advice = rt.recommend(8, 6, strength=0.5, tuned_layers=2)
    described = Stack(loops=8, unique_layers=6, residual_scale=advice.residual_scale)
    assert advice.stream_growth["raw"] ** 2 == pytest.approx(float(predict(described).second_moment[-1]))
    assert advice.critical_rate == pytest.approx(2 / float(predict(described).tangent_kernel))
    assert str(advice).startswith("residual scale            ε = 0.5/(N*sqrt(L/2)) = 0.0360844")
    huge = rt.recommend(10**6, 10**4, tuned_layers=10**4)
    assert huge.residual_scale == 1e-6
    assert (huge.stream_growth, huge.critical_rate) == ({}, None)
    assert "theory.bounds.bounds" in str(huge)
    assert rt.recommend(8, 24, strength=0.123456789).residual_scale == 0.123456789 / 8
    assert rt.recommend(8, 24, strength=1e-99).critical_rate is not None


def test_the_initial_rate_keeps_the_effect_of_the_first_step() -> None:
    """The rate × the change per unit of rate stays: gradient descent changes the output by its rate times Θ."""
    tuned, wanted = ((1, 1), (8, 6))
    descent = rt.recommend(*wanted, tuned_loops=1, tuned_layers=1, optimizer="gradient-descent")
    raw = [Stack(loops=n, unique_layers=layers, residual_scale=descent.rule) for n, layers in (tuned, wanted)]
    theta = [float(predict(stack).tangent_kernel) for stack in raw]
    assert theta[1] > 1.1 * theta[0]  # so that the quotient and its inverse differ
    assert descent.initial_rate["raw"] * theta[1] == pytest.approx(theta[0])
    adam = rt.recommend(*wanted, tuned_loops=1, tuned_layers=1)
    steps = [step_size(stack.model_copy(update={"normalization": "rms"})) for stack in raw]
    effects = [step.sign / step.stream for step in steps]
    assert effects[1] > 1.1 * effects[0]
    assert adam.initial_rate["pre-norm"] * effects[1] == pytest.approx(effects[0])


def test_the_strength_and_the_layers_it_rests_on_are_said() -> None:
    """24 layers without tuned_layers: ε = 1/8 is five times what a Stack of the same sizes has by default."""
    advice = rt.recommend(8, 24)
    assert (advice.residual_scale, advice.strength, advice.tuned_layers) == (0.125, 1.0, 24)
    assert advice.default_scale == Stack(loops=8, unique_layers=24).epsilon
    second = str(advice).splitlines()[1]
    for words in ("λ = 1 at 24 tuned layers", "1/(N*sqrt(L)) = 0.0255155", "a Stack's default"):
        assert words in second
    assert "λ = 0.5 at 2 tuned layers" in str(rt.recommend(8, 6, strength=0.5, tuned_layers=2))


def test_large_growth_without_a_norm_is_warned_of() -> None:
    warned = [
        any("choose pre-norm" in caveat for caveat in rt.recommend(8, n, tuned_layers=n).caveats) for n in (1, 48)
    ]
    assert warned == [False, True]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("loops", 0),
        ("unique_layers", 2.0),
        ("tuned_layers", -1),
        ("tuned_loops", True),
        ("strength", 0.0),
        ("strength", math.nan),
        ("strength", 1e300),
        ("loops", 10**400),
        ("optimizer", "lion"),
    ],
)
def test_bad_arguments_are_named(argument: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{argument} = "):
        rt.recommend(**({"loops": 2, "unique_layers": 2} | {argument: value}))  # type: ignore[arg-type]
    if argument == "optimizer":
        with pytest.raises(InputError, match="choose from adam"):
            RULES[0].learning_rate("lion")  # type: ignore[arg-type]
