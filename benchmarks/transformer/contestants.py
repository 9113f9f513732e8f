"""Three Llama-like language models of equal shape and equal weights: the library's, transformers', and a user's own."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.model import LoopedTransformer

OURS, HUGGING_FACE, BY_HAND = "residual_theory", "transformers Llama", "loop by hand"


class Shape(NamedTuple):
    """Sizes of a model and of a batch."""

    width: int
    heads: int
    mlp_width: int
    layers: int
    context: int
    batch: int
    vocabulary: int

    def config(self, loops: int = 1) -> ModelConfig:
        """Ours; ε = 1, which is what a plain Llama has."""
        return ModelConfig(
            vocabulary=self.vocabulary, width=self.width, heads=self.heads, mlp_width=self.mlp_width,
            unique_layers=self.layers, loops=loops, residual_scale=1.0, context=self.context,
        )  # fmt: skip

    def operations_per_token(self, loops: int = 1) -> int:
        """Floating-point operations of forward and backward: 6 a weight and visit, and 6 d T of causal attention."""
        matrices = self.layers * loops * (4 * self.width**2 + 3 * self.width * self.mlp_width)
        attention = self.layers * loops * self.width * self.context  # half of the T × T scores, twice (scores, mix)
        return 6 * (matrices + attention + self.width * self.vocabulary)


class Contestant(NamedTuple):
    """A model, and its logits (batch, time, vocabulary) of tokens."""

    model: nn.Module
    logits: Callable[[Tensor], Tensor]

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return functional.cross_entropy(self.logits(tokens).flatten(0, 1), targets.flatten())


def build(name: str, shape: Shape, device: str = "cpu", seed: int = 0) -> Contestant:
    """The contestant of that name, with the weights that ours has at the seed."""
    ours = LoopedTransformer(shape.config(), seed)
    if name == OURS:
        model = ours.to(device)
        return Contestant(model, model)
    if name == BY_HAND:
        by_hand = LoopByHand(shape)
        by_hand.load_state_dict(by_hand.from_ours(ours))
        by_hand.to(device)
        return Contestant(by_hand, by_hand)
    llama = hugging_face(shape, ours).to(device)
    return Contestant(llama, lambda tokens: llama(tokens, use_cache=False).logits)


def hugging_face(shape: Shape, ours: LoopedTransformer) -> nn.Module:
    """LlamaForCausalLM of our shape and weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context, rms_norm_eps=ours.config.norm_epsilon, tie_word_embeddings=True,
        attention_bias=False, mlp_bias=False, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    llama: nn.Module = LlamaForCausalLM(config)
    weights = {"model.embed_tokens.weight": ours.embedding.weight, "lm_head.weight": ours.embedding.weight}
    weights["model.norm.weight"] = ours.norm.weight
    for index, block in enumerate(ours.blocks):
        query, key, value = block.attention.qkv.weight.chunk(3)
        gate, up = block.mlp.gate_up.weight.chunk(2)
        layer = {
            "self_attn.q_proj": query, "self_attn.k_proj": key, "self_attn.v_proj": value,
            "self_attn.o_proj": block.attention.output.weight,
            "mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": block.mlp.down.weight,
            "input_layernorm": block.attention_norm.weight, "post_attention_layernorm": block.mlp_norm.weight,
        }  # fmt: skip
        weights |= {f"model.layers.{index}.{name}.weight": weight for name, weight in layer.items()}
    llama.load_state_dict(weights)
    return llama


class LoopByHand(nn.Module):
    """What a user writes in an afternoon: a small decoder, its layers in a for loop."""

    def __init__(self, shape: Shape, loops: int = 1, scale: float = 1.0) -> None:
        super().__init__()
        self.loops, self.scale = loops, scale
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        frequency = 10_000.0 ** (-torch.arange(0, shape.width // shape.heads, 2) * shape.heads / shape.width)
        angle = torch.outer(torch.arange(shape.context), frequency).repeat(1, 2)
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary)."""
        x = self.embedding(tokens)
        for _ in range(self.loops):
            for layer in self.layers:
                x = x + self.scale * layer.attend(layer.norm1(x), self.cosine, self.sine)
                x = x + self.scale * layer.mlp(layer.norm2(x))
        return self.norm(x) @ self.embedding.weight.T

    @staticmethod
    def from_ours(ours: LoopedTransformer) -> dict[str, Tensor]:
        """Our weights under the names here."""
        weights = {"embedding.weight": ours.embedding.weight, "norm.weight": ours.norm.weight}
        for index, block in enumerate(ours.blocks):
            gate, up = block.mlp.gate_up.weight.chunk(2)
            layer = {
                "qkv": block.attention.qkv.weight, "out": block.attention.output.weight,
                "gate": gate, "up": up, "down": block.mlp.down.weight,
                "norm1": block.attention_norm.weight, "norm2": block.mlp_norm.weight,
            }  # fmt: skip
            weights |= {f"layers.{index}.{name}.weight": weight for name, weight in layer.items()}
        return weights


class Layer(nn.Module):
    """Attention with rotary positions, and SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, self.heads = shape.width, shape.heads
        self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.gate, self.up = nn.Linear(d, shape.mlp_width, bias=False), nn.Linear(d, shape.mlp_width, bias=False)
        self.down = nn.Linear(shape.mlp_width, d, bias=False)

    def attend(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Causal attention of x (batch, time, width)."""
        batch, time, width = x.shape
        query, key, value = (
            part.view(batch, time, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(width, dim=2)
        )
        query, key = (part * cosine[:time] + half_turned(part) * sine[:time] for part in (query, key))
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).contiguous().view(batch, time, width))
        return out

    def mlp(self, x: Tensor) -> Tensor:
        """SwiGLU of x (batch, time, width)."""
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


def half_turned(x: Tensor) -> Tensor:
    """(x₂, −x₁ …): the two halves swapped, one negated."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((-high, low), dim=-1)


def tokens_and_targets(shape: Shape, device: str, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random ids (batch, time) and the ids that follow."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(shape.vocabulary, (shape.batch, shape.context + 1), generator=generator).to(device)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def disagreement(shape: Shape) -> dict[str, float]:
    """The largest difference of logits from ours, in units of their standard deviation, on the CPU."""
    small = shape._replace(batch=min(shape.batch, 2), context=min(shape.context, 64))
    tokens, _ = tokens_and_targets(small, "cpu")
    with torch.no_grad():
        logits = {name: build(name, small).logits(tokens) for name in (OURS, HUGGING_FACE, BY_HAND)}
    spread = float(logits[OURS].std())
    return {name: float((value - logits[OURS]).abs().max()) / spread for name, value in logits.items()}
