"""The looped model's options, each against the recurrence written out from its own modules."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from residual_theory.errors import InputError
from residual_theory.stack import Stack
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import Block, LoopedTransformer

SMALL: dict[str, Any] = {
    "width": 12, "heads": 2, "mlp_width": 20, "unique_layers": 2, "loops": 3, "context": 9, "vocabulary": 17,
    "residual_scale": "0.8/N", "init_std": 0.2,
}  # fmt: skip
TOKENS = torch.randint(17, (2, 7), generator=torch.Generator().manual_seed(1))


def model_of(**changes: Any) -> LoopedTransformer:
    """In float64, with gains that are not 1 and biases that are not 0."""
    model = LoopedTransformer(ModelConfig(**{**SMALL, **changes}), seed=4).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def rms(x: Tensor, norm: nn.Module) -> Tensor:
    gain = norm.weight
    assert isinstance(gain, Tensor)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def unrolled(model: LoopedTransformer) -> Tensor:
    """The logits by the recurrence of Stack.visits, with each block's two branches as two additions."""
    config = model.config
    names = ("loops", "unique_layers", "residual_scale", "skip", "carry", "injection", "prelude", "coda", "outer_scale")
    known = {name: getattr(config, name) for name in (*names, "tied", "loop_normalization")}
    kind = config.normalization
    visits = Stack(**known, normalization=kind if kind != "sandwich" else "rms").visits
    core = [model.blocks[place % len(model.blocks)] for place in range(config.loops * config.unique_layers)]
    blocks = [*model.prelude, *core, *model.coda]
    h = entered = model.embedding(TOKENS)
    for visit, block in zip(visits, blocks, strict=True):
        assert isinstance(block, Block)
        if visit.block == config.prelude:
            entered = h
        alpha = visit.carry
        if visit.loop is not None and (visit.block - config.prelude) % config.unique_layers == 0:
            alpha /= config.value("carry")
        branches = ((block.attention_norm, block.attention, block.attention_after),
                    (block.mlp_norm, block.mlp, block.mlp_after))  # fmt: skip
        for second, (before, function, after) in enumerate(branches):
            branch = function(h if kind in ("none", "post") else rms(h, before))
            if kind == "sandwich":
                branch = rms(branch, after)
            first = not second
            h = (visit.carry if first else alpha) * h + visit.injection * first * entered + visit.scale * branch
            if kind in ("post", "rms-post"):
                h = rms(h, after)
        if config.loop_normalization and visit.normalized and visit.loop is not None:
            ends = (visit.block - config.prelude) % config.unique_layers == config.unique_layers - 1
            h = rms(h, block.loop_norm) if ends else h
    return rms(h, model.norm) @ model.embedding.weight.T


OPTIONS: list[dict[str, Any]] = [
    {},
    {"normalization": "none"},
    {"normalization": "post"},
    {"normalization": "rms-post", "skip": "(2*N*L)^0.25", "residual_scale": 1.0, "branch_gain": "(8*N*L)^(-0.25)"},
    {"normalization": "sandwich"},
    {"loop_normalization": True},
    {"skip": 0.7},
    {"carry": 0.5, "injection": 0.3},
    {"injection": "1/N", "unique_layers": 1},
    {"prelude": 2, "coda": 1, "outer_scale": 0.6, "carry": 0.5},
    {"tied": False, "loop_normalization": True},
    {"biases": True},
    {"loops": 1},
    {"prelude": 1, "coda": 1, "skip": 0.9, "carry": 0.6, "injection": 0.2, "normalization": "sandwich", "tied": False,
     "loop_normalization": True, "biases": True},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "paper")
def test_every_option_is_the_recurrence_it_says(options: dict[str, Any]) -> None:
    model = model_of(**options)
    expected = unrolled(model).detach()
    assert expected.std() > 0.1
    torch.testing.assert_close(model(TOKENS).detach(), expected, rtol=0, atol=1e-6)  # ε and RoPE tables are float32


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "paper")
def test_every_visit_is_one_call_and_the_chain_has_no_gap(options: dict[str, Any]) -> None:
    model = model_of(**options)
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    for block in (*model.prelude, *model.blocks, *model.coda):
        block.register_forward_hook(lambda module, args, out: seen.append((module, args[0], out)))
    read: list[Tensor] = []
    model.norm.register_forward_hook(lambda _m, args, _out: read.append(args[0]))
    model(TOKENS)
    config = model.config
    core = [model.blocks[place % len(model.blocks)] for place in range(config.loops * config.unique_layers)]
    assert [module for module, _, _ in seen] == [*model.prelude, *core, *model.coda]
    inputs = [entering for _, entering, _ in seen] + read
    assert torch.equal(inputs[0], model.embedding(TOKENS))
    assert all(torch.equal(left[2], right) for left, right in zip(seen, inputs[1:], strict=True))


def test_untied_visits_have_blocks_of_their_own_that_begin_as_the_tied_ones() -> None:
    tied, untied = LoopedTransformer(ModelConfig(**SMALL), 3), LoopedTransformer(ModelConfig(**SMALL, tied=False), 3)
    assert (len(tied.blocks), len(untied.blocks)) == (2, 6)
    own = untied.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in tied.state_dict().items())
    assert not torch.equal(own["blocks.0.mlp.down.weight"], own["blocks.2.mlp.down.weight"])


def test_options_leave_the_blocks_initial_weights_alone() -> None:
    plain = LoopedTransformer(ModelConfig(**SMALL), 3).state_dict()
    options: dict[str, Any] = {"prelude": 2, "coda": 1, "biases": True, "normalization": "sandwich", "injection": 1.0}
    other = LoopedTransformer(ModelConfig(**SMALL, **options), 3).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in plain.items())


def test_the_branch_gain_scales_the_last_matrix_of_every_looped_branch() -> None:
    changes: dict[str, Any] = {"prelude": 1, "biases": True}
    plain = LoopedTransformer(ModelConfig(**SMALL, **changes), 3).state_dict()
    scaled = LoopedTransformer(ModelConfig(**SMALL, **changes, branch_gain="1/sqrt(2*N*L)"), 3).state_dict()
    for name, value in scaled.items():
        last = name.startswith("blocks.") and name.endswith(("attention.output.weight", "mlp.down.weight"))
        torch.testing.assert_close(value, plain[name] / math.sqrt(12) if last else plain[name])


def test_both_initial_laws_have_the_stated_variance() -> None:
    for law in ("truncated-normal", "normal"):
        config = ModelConfig(**{**SMALL, "init_std": 0.3, "width": 64, "mlp_width": 300}, initial_distribution=law)
        weight = LoopedTransformer(config, 0).state_dict()["blocks.0.mlp.gate_up.weight"]
        assert abs(weight.square().mean() / 0.09 - 1) < 5 * math.sqrt(2 / weight.numel())
    with pytest.raises(InputError, match=r"^init_std = 0.5: .*'normal'"):
        ModelConfig(init_std=0.5)
    assert ModelConfig(init_std=0.5, initial_distribution="normal").init_std == 0.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("normalization", "pre"),
        ("skip", -0.1),
        ("carry", "1/K"),
        ("injection", float("nan")),
        ("outer_scale", "1/(N-3)"),
        ("branch_gain", "sqrt(-N)"),
        ("prelude", -1),
        ("tied", "yes"),
        ("initial_distribution", "uniform"),
    ],
)
def test_an_option_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{field} = ") as caught:
        ModelConfig(**{**SMALL, field: value})
    assert "\n" not in str(caught.value)


def test_recomputed_activations_give_the_same_gradients() -> None:
    plain, saving = model_of(injection=0.5), model_of(injection=0.5)
    saving.recompute = True
    for model in (plain, saving):
        model.loss(TOKENS, TOKENS).backward()  # type: ignore[no-untyped-call]
    for (name, one), two in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad), name


def test_buffers_follow_device_and_dtype_and_are_not_saved() -> None:
    model = LoopedTransformer(ModelConfig(**SMALL), 0)
    assert not [name for name in model.state_dict() if "epsilon" in name or "cosine" in name]
    assert model.to(torch.bfloat16)(TOKENS).dtype == torch.bfloat16
    assert {buffer.dtype for buffer in model.buffers()} == {torch.bfloat16}
    assert model.loss(TOKENS, TOKENS).dtype == torch.float32
    moved = model.to("meta")
    assert moved(TOKENS.to("meta")).device.type == "meta"


def test_models_that_differ_in_scale_run_as_one_batch() -> None:
    scales = (0.25, 0.7)
    models = [LoopedTransformer(ModelConfig(**{**SMALL, "residual_scale": scale}), 3) for scale in scales]
    parameters, buffers = torch.func.stack_module_state(models)
    with sdpa_kernel(SDPBackend.MATH):  # the CPU's fused attention has no rule for vmap
        run = torch.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (TOKENS,)))
        together = run(parameters, buffers)
    for model, logits in zip(models, together, strict=True):
        torch.testing.assert_close(logits, model(TOKENS))


def test_biases_are_zero_at_first() -> None:
    config = ModelConfig(width=8, heads=2, mlp_width=12, biases=True)
    found = [value for name, value in LoopedTransformer(config, 1).named_parameters() if name.endswith(".bias")]
    assert len(found) == 4
    assert not any(value.any() for value in found)
