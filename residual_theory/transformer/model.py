"""The looped language model: a Llama-like decoder whose blocks are visited N times, each branch scaled by ε."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from residual_theory.errors import InputError
from residual_theory.transformer.config import CUT, ModelConfig


class LoopedTransformer(nn.Module):
    """A decoder-only language model that visits its L blocks N times over.

    With h_0 the tokens' embeddings E, for visits k = 0 … N·L - 1 to block l = k mod L

      u       = h_k + ε attention_l(norm(h_k))
      h_{k+1} = u   + ε mlp_l(norm(u))

    and logits = norm(h_{N·L}) Eᵀ. Every matrix has independent entries of standard deviation init_std, drawn from
    `seed` alone and the same whatever N and ε are; every norm has a learned gain, 1 at the start. `Block` says what the
    other fields of the config change.

    Arguments:
      config: the description. seed: of the initial weights.
    Attributes:
      blocks: the L blocks (N·L if untied). Each visit is one call of one block, so a forward hook on it sees the stream
        before and after. prelude, coda: the blocks outside the loops.
      recompute: keep only the stream at each visit and recompute the rest in the backward pass: less memory, same
        numbers. A block's forward hooks are then called twice.

    >>> model = LoopedTransformer(ModelConfig(width=8, heads=2, mlp_width=12, loops=3, vocabulary=11), seed=5)
    >>> model(torch.zeros(2, 7, dtype=torch.int64)).shape
    torch.Size([2, 7, 11])
    """

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.embedding = nn.Embedding(config.vocabulary, config.width, device="meta").to_empty(device="cpu")
        own = config.unique_layers * (1 if config.tied else config.loops)
        self.blocks = nn.ModuleList(Block(config, config.epsilon, place=place) for place in range(own))
        self.norm = rms_norm(config)
        outer = config.value("outer_scale")
        self.prelude = nn.ModuleList(Block(config, outer) for _ in range(config.prelude))
        self.coda = nn.ModuleList(Block(config, outer) for _ in range(config.coda))
        self._draw(seed)

    @torch.no_grad()
    def _draw(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():  # blocks before prelude and coda, which therefore change no block's weights
            draw(parameter, self.config, generator)
        for block in self.blocks:
            amplify(block, self.config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary) of the next token, from ids (batch, time) of dtype int64."""
        if tokens.shape[-1] > self.config.context:
            mend = f"a sequence has at most context = {self.config.context} tokens"
            raise InputError("tokens", tuple(tokens.shape), mend)
        h = self.embedding(tokens)  # (batch, time, width)
        for block in self.prelude:
            h = self._visit(block, h)
        entered = h
        for visit in range(self.config.loops * self.config.unique_layers):
            block = self.blocks[visit % len(self.blocks)]
            h = self._visit(block, h, entered) if block.opens_loop else self._visit(block, h)
        for block in self.coda:
            h = self._visit(block, h)
        return functional.linear(self.norm(h), self.embedding.weight)  # (batch, time, vocabulary)

    def _visit(self, block: nn.Module, *streams: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(block, *streams, use_reentrant=False, preserve_rng_state=False)
        else:
            out = block(*streams)
        return out

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token of `targets` (batch, time) given `tokens` (batch, time)."""
        logits = self(tokens).flatten(0, 1)
        return functional.cross_entropy(logits.float() if logits.itemsize < 4 else logits, targets.flatten())


class Block(nn.Module):
    """h ← α h + ε attention(norm(h)), then h ← α h + ε mlp(norm(h)).

    In the block that opens a loop the first addition is α a h + b e + ε attention(norm(h)), e being the stream that
    entered the first loop. Norms stand where the config places them; that of a loop's end belongs to its last block.

    Arguments:
      config: the description. epsilon: ε. place: of a looped block, 0 … N·L - 1; None outside the loops.
    """

    epsilon: Tensor  # a buffer, not a number: models that differ in ε alone can then be run as one batch

    def __init__(self, config: ModelConfig, epsilon: float, place: int | None = None) -> None:
        super().__init__()
        self.register_buffer("epsilon", torch.tensor(epsilon, dtype=torch.float32), persistent=False)
        kind = config.normalization
        before, after = kind in ("rms", "rms-post", "sandwich"), kind in ("post", "rms-post", "sandwich")
        self.attention_norm = rms_norm(config) if before else nn.Identity()
        self.attention = Attention(config)
        self.mlp_norm = rms_norm(config) if before else nn.Identity()
        self.mlp = SwiGLU(config)
        self.attention_after = rms_norm(config) if after else nn.Identity()
        self.mlp_after = rms_norm(config) if after else nn.Identity()
        place_in_loop = None if place is None else place % config.unique_layers
        ends_loop = place_in_loop == config.unique_layers - 1 and config.loop_normalization
        self.loop_norm = rms_norm(config) if ends_loop else nn.Identity()
        self.normalizes_branch = kind == "sandwich"
        self.skip, self.carry, self.injection = map(config.value, ("skip", "carry", "injection"))
        self.opens_loop = place_in_loop == 0 and (self.carry, self.injection) != (1.0, 0.0)

    def forward(self, h: Tensor, entered: Tensor | None = None) -> Tensor:
        """The stream (batch, time, width) after this visit; `entered` is e, given to a block that opens a loop."""
        branch = self.attention(self.attention_norm(h))
        h = h if self.skip == 1.0 else self.skip * h
        if entered is not None:
            h = self.carry * h + self.injection * entered
        h = self._add(h, branch, self.attention_after)
        branch = self.mlp(self.mlp_norm(h))
        h = h if self.skip == 1.0 else self.skip * h
        out: Tensor = self.loop_norm(self._add(h, branch, self.mlp_after))
        return out

    def _add(self, h: Tensor, branch: Tensor, after: nn.Module) -> Tensor:
        if self.normalizes_branch:
            return torch.addcmul(h, self.epsilon, after(branch.to(h.dtype)))  # autocast has narrowed the branch
        out: Tensor = after(torch.addcmul(h, self.epsilon, branch))
        return out


class Attention(nn.Module):
    """Causal multi-head attention with rotary position embedding."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = matrix(config.width, 3 * config.width, config.biases)
        self.output = matrix(config.width, config.width, config.biases)
        cosine, sine = rotary_tables(config.context, config.head_width, config.rope_base)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, batch, head, time, head width)
        query, key = rotate(qkv[:2], self.cosine[:time], self.sine[:time]).to(qkv.dtype)
        mixed = functional.scaled_dot_product_attention(query, key, qkv[2], is_causal=True)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, time, width))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate x) · up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = matrix(config.width, 2 * config.mlp_width, config.biases)
        self.down = matrix(config.mlp_width, config.width, config.biases)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # each (batch, time, mlp width)
        out: Tensor = self.down(functional.silu(gate) * up)
        return out


def draw(parameter: Tensor, config: ModelConfig, generator: torch.Generator) -> None:
    """Initial entries for a matrix; gains and biases keep theirs."""
    if parameter.ndim == 2 and config.initial_distribution == "normal":
        nn.init.normal_(parameter, std=config.init_std, generator=generator)
    elif parameter.ndim == 2:
        nn.init.trunc_normal_(parameter, std=config.init_std, a=-CUT, b=CUT, generator=generator)


def amplify(block: nn.Module, config: ModelConfig) -> None:
    """Multiply the initial last matrix of both branches of a looped block by β."""
    for name, parameter in block.named_parameters():
        if name.endswith(("attention.output.weight", "mlp.down.weight")):
            parameter.mul_(config.value("branch_gain"))


def matrix(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A linear map, left for the model to draw: torch itself would draw it from the global state."""
    linear = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def rms_norm(config: ModelConfig) -> nn.RMSNorm:
    """x / sqrt(mean x² + norm_epsilon) times a learned gain."""
    return nn.RMSNorm(config.width, eps=config.norm_epsilon)


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
