"""The looped language model: a Llama-like decoder whose blocks are visited again and again, each branch scaled by ε."""

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.scaling import residual_scale

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class ModelConfig(Description):
    """L blocks looped N times between an embedding and the head tied to it.

    Arguments:
      vocabulary: token ids are 0 … vocabulary - 1; 256 reads bytes.
      width, heads, mlp_width: d, the number of attention heads (d/heads must be even), the MLP's hidden width.
      unique_layers, loops: L and N. The whole stack of L blocks is repeated N times, with nothing in between.
      residual_scale: ε ≥ 0 on every branch, a number or a rule in N and L ("1/N", "1/sqrt(N)", "1/(N*sqrt(L))", "1").
      context: the longest sequence, in tokens.
      init_std: standard deviation of every matrix's entries.
      norm_epsilon: the constant RMSNorm adds to the mean square.
      rope_base: the base θ of the rotary frequencies θ^(-2i/head_width).
    Raises: InputError naming the field that cannot be used.
    Source: arXiv:2606.18524, §5.

    >>> ModelConfig(width=48, heads=3, mlp_width=128, unique_layers=4, loops=2, residual_scale="1/(N*sqrt(L))").epsilon
    0.25
    """

    vocabulary: Annotated[int, Field(ge=2)] = 256
    width: Count = 64
    heads: Count = 4
    mlp_width: Count = 176
    unique_layers: Count = 1
    loops: Count = 1
    residual_scale: float | str = "1/(N*sqrt(L))"
    context: Count = 64
    init_std: Positive = 0.02
    norm_epsilon: Positive = 1e-6
    rope_base: Annotated[float, Field(gt=1)] = 10_000.0

    @model_validator(mode="after")
    def _fields_agree(self) -> "ModelConfig":
        _ = self.epsilon
        if self.width % (2 * self.heads):
            raise InputError("heads", self.heads, f"must divide width = {self.width} into heads of even width")
        return self

    @property
    def epsilon(self) -> float:
        """The residual scale ε as a number."""
        return residual_scale(self.residual_scale, self.loops, self.unique_layers)

    @property
    def head_width(self) -> int:
        """The width of one attention head."""
        return self.width // self.heads


class LoopedTransformer(nn.Module):
    """A decoder-only language model that visits its L blocks N times over.

    With h_0 the tokens' embeddings E, for visits k = 0 … N·L - 1 to block l = k mod L

      u       = h_k + ε attention_l(norm(h_k))
      h_{k+1} = u   + ε mlp_l(norm(u))

    and logits = norm(h_{N·L}) Eᵀ. Every matrix has independent entries N(0, init_std²), drawn from `seed` alone and the
    same whatever N and ε are; every norm has a learned gain, 1 at the start; nothing has a bias.

    Arguments:
      config: the description. seed: of the initial weights.
    Attributes:
      blocks: the L blocks. Each is one module called once a visit, so a forward hook on it sees the stream before
        and after.

    >>> model = LoopedTransformer(ModelConfig(width=8, heads=2, mlp_width=12, loops=3, vocabulary=11), seed=5)
    >>> model(torch.zeros(2, 7, dtype=torch.int64)).shape
    torch.Size([2, 7, 11])
    """

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width, device="meta").to_empty(device="cpu")
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.unique_layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=config.init_std, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary) of the next token, from ids (batch, time) of dtype int64."""
        if tokens.shape[-1] > self.config.context:
            mend = f"a sequence has at most context = {self.config.context} tokens"
            raise InputError("tokens", tuple(tokens.shape), mend)
        h = self.embedding(tokens)  # (batch, time, width)
        for _ in range(self.config.loops):
            for block in self.blocks:
                h = block(h)
        return functional.linear(self.norm(h), self.embedding.weight)  # (batch, time, vocabulary)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token of `targets` (batch, time) given `tokens` (batch, time)."""
        return functional.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())


class Block(nn.Module):
    """h ← h + ε attention(norm(h)), then h ← h + ε mlp(norm(h))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.epsilon = config.epsilon
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.mlp = SwiGLU(config)

    def forward(self, h: Tensor) -> Tensor:
        """The stream (batch, time, width) after this visit."""
        h = torch.add(h, self.attention(self.attention_norm(h)), alpha=self.epsilon)
        return torch.add(h, self.mlp(self.mlp_norm(h)), alpha=self.epsilon)


class Attention(nn.Module):
    """Causal multi-head attention with rotary position embedding."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = matrix(config.width, 3 * config.width)
        self.output = matrix(config.width, config.width)
        cosine, sine = rotary_tables(config.context, config.head_width, config.rope_base)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, batch, head, time, head width)
        query, key = rotate(qkv[:2], self.cosine[:time], self.sine[:time])
        mixed = functional.scaled_dot_product_attention(query, key, qkv[2], is_causal=True)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, time, width))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate x) · up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = matrix(config.width, 2 * config.mlp_width)
        self.down = matrix(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # each (batch, time, mlp width)
        out: Tensor = self.down(functional.silu(gate) * up)
        return out


def matrix(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without bias, left for the model to draw: torch itself would draw it from the global state."""
    return nn.Linear(inputs, outputs, bias=False, device="meta").to_empty(device="cpu")


def rotary_tables(context: int, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin of position · base^(-2i/head_width), each (time, head_width), the two halves of a head alike."""
    frequency = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angle = torch.arange(context, dtype=torch.float64)[:, None] * frequency  # (time, head_width/2)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + head_width/2}) of x (…, time, head_width) by its position's angle."""
    low, high = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-high, low), dim=-1) * sine
