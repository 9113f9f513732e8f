"""Descriptions of a looped Transformer and of its training. This module and all that it needs are free of torch."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.scaling import block_factors, residual_scale, rule_value

if TYPE_CHECKING:
    import numpy as np

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Outside = Annotated[int, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]

CUT = 2.0  # where the truncated normal law ends, as in Llama's code: so many init_std away that its variance is exact
MOST_STEPS = 10**8  # whose losses and rates fit in memory
DIVERGED_AT = 1.5  # times ln(vocabulary), the loss of a uniform guess, which every model starts near or below


class ModelConfig(Description):
    """L blocks looped N times between an embedding and the head tied to it.

    The first block of fields is the paper's model; every later one, at its default, leaves that model as it is.

    Arguments:
      vocabulary: token ids are 0 … vocabulary - 1; 256 reads bytes.
      width: d, the width.
      heads: attention heads; d/heads must be even.
      mlp_width: the MLP's hidden width.
      unique_layers: L, the unique layers. The whole stack of L blocks is repeated N times.
      loops: N, the loops.
      residual_scale: ε ≥ 0 on every branch, a number or a rule in N and L, such as "1/N" or "1/(N*sqrt(L/12))".
      context: tokens in the longest sequence.
      init_std: standard deviation of every initial matrix's entries.
      initial_distribution: of initial matrices' entries, "truncated-normal" (cut at ±2, so init_std ≤ 1/3) or "normal".
      norm_epsilon: the constant that RMSNorm adds to the mean square.
      rope_base: the base θ of the rotary frequencies θ^(-2i/head).

      normalization: "rms" (pre-norm: branches read norm(h)), "post" (the stream is normalised after each addition),
        "rms-post" (both), "sandwich" (pre-norm, and the branch's output is normalised) or "none".
      loop_normalization: normalise the stream at the end of every loop.
      skip: α, the factor of the stream at every addition, a number or a rule.
      carry: a, a further factor of the stream at the first addition of each loop, a number or a rule.
      injection: b, the factor of the stream that entered the first loop, added there too, a number or a rule.
      prelude: blocks of their own before the loops.
      coda: blocks of their own after the loops.
      outer_scale: ε of prelude and coda, a number or a rule.
      branch_gain: β, a number or a rule multiplying the initial standard deviation of the last matrix of every branch
        in the loops.
      tied: loops share weights, or each visit has a block of its own, the untied control.
      biases: matrices other than the embedding have biases, initially 0.
    Raises: InputError naming the field that cannot be used.
    Source: arXiv:2606.18524, §5. arXiv:2607.13491 is normalization = "rms-post", residual_scale = 1 with
      skip = "(2*N*L)^p" and branch_gain = "(8*N*L)^(-p)"; arXiv:2604.12946 is like carry < 1 with injection.

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
    initial_distribution: Literal["truncated-normal", "normal"] = "truncated-normal"
    norm_epsilon: Positive = 1e-6
    rope_base: Annotated[float, Field(gt=1)] = 10_000.0

    normalization: Literal["none", "rms", "post", "rms-post", "sandwich"] = "rms"
    loop_normalization: bool = False
    skip: float | str = 1.0
    carry: float | str = 1.0
    injection: float | str = 0.0
    prelude: Outside = 0
    coda: Outside = 0
    outer_scale: float | str = 1.0
    branch_gain: float | str = 1.0
    tied: bool = True
    biases: bool = False

    @model_validator(mode="after")
    def _fields_agree(self) -> "ModelConfig":
        for name in ("residual_scale", "skip", "carry", "injection", "outer_scale", "branch_gain"):
            self.value(name)
        if self.width % (2 * self.heads):
            raise InputError("heads", self.heads, f"must divide width = {self.width} into heads of even width")
        if self.initial_distribution == "truncated-normal" and self.init_std > CUT / 6:
            mend = f"is cut off at ±{CUT:g} and would lose variance; choose initial_distribution = 'normal'"
            raise InputError("init_std", self.init_std, mend)
        return self

    def value(self, name: str) -> float:
        """The number that the rule in the field `name` gives at this N and L."""
        return rule_value(name, getattr(self, name), self.loops, self.unique_layers)

    @property
    def epsilon(self) -> float:
        """The residual scale ε as a number."""
        return residual_scale(self.residual_scale, self.loops, self.unique_layers)

    @property
    def head_width(self) -> int:
        """The width of one attention head."""
        return self.width // self.heads


def _steps_or_share(value: int | float) -> int | float:
    if isinstance(value, float) and value > 1:
        raise ValueError("must be a whole number of steps, or a share from 0 to 1")
    return value


StepsOrShare = Annotated[int | float, Field(ge=0), AfterValidator(_steps_or_share)]


class TrainConfig(Description):
    """How a model is trained.

    The learning rate rises linearly to η during the warm-up, stays, and falls linearly to 0 during the decay.

    Arguments:
      steps: optimizer steps.
      batch_size: sequences (of the model's context) a step, over all processes.
      accumulation: parts that a step's batch is computed in, one after the other, to save memory.
      learning_rate: η, between warm-up and decay, of the embedding, the final norm, prelude and coda.
      block_rate: the looped blocks' rate as a multiple of η, a number or a rule in N and L; times that of block_rule.
      block_rule: the published rule of the blocks' rate and Adam ε: "paper", "completep", "rate/sqrt(N)" or "none"
        (residual_theory.scaling.block_factors).
      tuned_layers: L₀ of that rule, whose factors are powers of L/L₀: η is the rate of a model of L₀ layers.
      warmup: steps (500) or share of all steps (0.1) over which the rate rises.
      decay: steps or share over which it falls to 0.
      weight_decay: AdamW's, times the rate, on matrices (the embedding included) and not on gains and biases.
      beta1: AdamW's.
      beta2: AdamW's.
      adam_epsilon: AdamW's.
      grad_clip: the largest gradient norm, or None.
      evaluation_sequences: windows of validation text, evenly spread, that validation losses are averaged over;
        one at each position where there are fewer positions.
      validate_every: steps between validations on the way; by default there is one at the end alone.
      stop_above: nats of training loss at which a run is given up; by default 1.5 ln(vocabulary).
      diverged_above: nats of final validation loss above which it counts as diverged; by default the same level.
      dtype: "float32", or "bfloat16" for matrix products while weights stay float32.
      device: "cpu", "cuda", "cuda:1" or "mps".
      compile: through torch.compile.
      recompute: recompute activations in the backward pass rather than keep them, to save memory.
      seed: of the initial weights and of the order of the data. Neither depends on N, on ε or on the rates, so runs
        of one seed that differ in those are paired.
    Raises: InputError naming the field that cannot be used.
    """

    steps: Annotated[Count, Field(le=MOST_STEPS)] = 300
    batch_size: Count = 8
    accumulation: Count = 1
    learning_rate: Positive = 3e-3
    block_rate: Positive | str = 1.0
    block_rule: str = "none"
    tuned_layers: Count = 1
    warmup: StepsOrShare = 0.1
    decay: StepsOrShare = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    adam_epsilon: Positive = 1e-8
    grad_clip: Positive | None = 1.0
    evaluation_sequences: Count = 64
    validate_every: Count | None = None
    stop_above: Positive | None = None
    diverged_above: Positive | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    compile: bool = False
    recompute: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fields_agree(self) -> "TrainConfig":
        block_factors(self.block_rule, 1, 1)
        rule_value("block_rate", self.block_rate, 1, 1)
        if self.batch_size % self.accumulation:
            raise InputError("accumulation", self.accumulation, f"must divide batch_size = {self.batch_size}")
        return self

    def rates(self) -> "np.ndarray":
        """The learning rate of every step, (step,): the least of warm-up line, constant and decay line."""
        import numpy as np

        step = np.arange(self.steps)
        warmup, decay = (
            part if isinstance(part, int) else part * self.steps for part in (self.warmup, self.decay)
        )  # in steps
        rise = (step + 1) / max(warmup, 1)
        fall = (self.steps - step) / max(decay, 1)
        return self.learning_rate * np.minimum(1.0, np.minimum(rise, fall))
