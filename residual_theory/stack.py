"""Descriptions of residual stacks, and the tuple of visits that all computations read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, field_serializer, model_validator

from residual_theory.branches import KINDS
from residual_theory.branches.attention import CausalAttention
from residual_theory.branches.gated import Gated
from residual_theory.branches.law import BranchLaw
from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.scaling import residual_scale, rule_value


def _plain(value: Any) -> Any:
    """NumPy's integers, arrays of them, and lists, as Python's integers and tuples."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(map(_plain, value))
    return value


def _either(names: Iterable[str]) -> str:
    *others, last = [f"'{name}'" for name in names]
    return f"{', '.join(others)} or {last}" if others else last


def _require_kind(value: Any) -> str:
    if not isinstance(value, str) or value not in KINDS:
        raise InputError("branch", value, f"should be {_either(KINDS)}")
    return value


MOST = 10**12  # a count beyond any machine, and small enough to be multiplied
Count = Annotated[int, Field(ge=1, le=MOST), BeforeValidator(_plain)]
Variance = Annotated[float, Field(gt=0, lt=1e100)]  # products of a few stay finite
Ids = Annotated[tuple[int, ...], BeforeValidator(_plain)]
Activation = Literal["relu", "leaky-relu", "linear", "erf", "tanh", "gelu", "silu"]
Kind = Annotated[str, BeforeValidator(_require_kind)]
Outside = Annotated[int, Field(ge=0, le=MOST), BeforeValidator(_plain)]  # layers before or after the loops


class Visit(NamedTuple):
    """One step h ← n(carry · h + injection · e + scale · branch(h)).

    e is the stream as it enters the first loop; n divides by the root mean square where `normalized`, and is the
    identity elsewhere. Visits with equal `weights` use the same random weights, in branches of one law.
    """

    branch: BranchLaw | CausalAttention
    weights: int
    scale: float
    block: int  # which row of the results this visit belongs to
    loop: int | None  # None before and after the loops
    carry: float = 1.0
    injection: float = 0.0
    normalized: bool = False


class _Looped(Description):
    loops: Count
    unique_layers: Count = 1
    residual_scale: float | str = "1/(N*sqrt(L))"
    tied: bool = True

    @model_validator(mode="after")
    def _scale_has_a_value(self) -> "_Looped":
        _ = self.epsilon
        return self

    @property
    def epsilon(self) -> float:
        """The residual scale ε as a number."""
        return residual_scale(self.residual_scale, self.loops, self.unique_layers)

    @property
    def looped_blocks(self) -> int:
        """Visits to a block within the loops, V = loops × unique_layers."""
        return self.loops * self.unique_layers

    @property
    def blocks(self) -> int:
        """Visits to a block in all."""
        return self.looped_blocks

    @property
    def loop_ends(self) -> tuple[int, ...]:
        """The N + 1 rows of the results at which loops begin and end."""
        return tuple(range(0, self.looped_blocks + 1, self.unique_layers))


class Stack(_Looped):
    """L random layers looped N times: h ← h + ε f_l(h), with f_l(h) = W_l φ(h) unless `branch` says otherwise.

    W_l has independent entries of law N(0, weight_variance/d), the input independent entries of law
    N(0, initial_variance), with d the width. Written out, with each part in its place, a loop is
      h ← skip · carry · h + injection · e + ε f_1(h),  then h ← skip · h + ε f_l(h) for l = 2 … L,
    where e is the stream that enters the first loop.

    Arguments:
      loops: N, the loops.
      unique_layers: L, the unique layers.
      residual_scale: ε ≥ 0, a number or a rule in N and L, such as "1/N" or "1/(N*sqrt(L))".
      tied: loops share weights, or each visit has its own.
      sharing: which visits share weights: "cyclic" (layers 1 … L, N times over), "consecutive" (layer 1 N times, then
        layer 2), or the weights of each of the N·L visits by number, such as 0,1,0,1.
      activation: φ: "relu", "leaky-relu" (slope 0.01), "linear", "erf", "tanh", "gelu" or "silu"; in Python also a
        function of an array of your own.
      branch: "single" W φ(h), "mlp" W₂ φ(W₁ h), or "gated" W₂ (φ(W₁ h) ⊙ W₃ h), SwiGLU's shape.
      normalization: "none" (raw), "rms" (pre-norm: the branch reads h divided by its root mean square), "post" (the
        stream is divided after each visit), or "rms-post" (both).
      loop_normalization: divide the stream by its root mean square after every loop.
      weight_variance: σ_w² > 0, Var W = σ_w²/d; of W₂, σ_w²/(expansion · d). Dimensionless, as all others.
      hidden_variance: σ_1² > 0, Var W₁ = Var W₃ = σ_1²/d.
      initial_variance: q0 > 0, the input's mean square.
      expansion: rows of W₁ and W₃ as a multiple of d.
      skip: α ≥ 0, the factor of the stream at every visit, a number or a rule.
      carry: a ≥ 0, a further factor of the stream once a loop, a number or a rule.
      injection: b ≥ 0, the factor of the first loop's input, added once a loop, a number or a rule.
      prelude: untied layers before the loops.
      coda: untied layers after the loops.
      outer_scale: ε of prelude and coda, a number or a rule.
    Raises: InputError naming the field that cannot be used.
    Source: arXiv:2606.18524, §3 (ReLU, raw, weight_variance = 1). arXiv:2607.13491 is "rms-post" with
      skip = "(2*N*L)^p" and residual_scale = "(8*N*L)^(-p)"; arXiv:2604.12946 is carry < 1 with injection.

    >>> Stack(loops=4, unique_layers=9, residual_scale="1/(N*sqrt(L))", weight_variance=2.0).epsilon
    0.08333333333333333
    """

    sharing: Literal["cyclic", "consecutive"] | Ids = "cyclic"
    activation: Activation | Callable[[Any], Any] = "relu"
    branch: Kind = "single"
    normalization: Literal["none", "rms", "post", "rms-post"] = "none"
    loop_normalization: bool = False
    weight_variance: Variance = 1.0
    hidden_variance: Variance = 1.0
    initial_variance: Variance = 1.0
    expansion: Count = 1
    skip: float | str = 1.0
    carry: float | str = 1.0
    injection: float | str = 0.0
    prelude: Outside = 0
    coda: Outside = 0
    outer_scale: float | str = 1.0

    @model_validator(mode="after")
    def _rules_and_sharing(self) -> "Stack":
        for name in ("skip", "carry", "injection", "outer_scale"):
            self._value(name)
        for name in ("hidden_variance", "expansion"):
            taking = [kind for kind, law in KINDS.items() if name in _parameters(law)]
            if self.branch not in taking and getattr(self, name) != 1:
                mend = f"needs branch = {_either(taking)}; a single matrix hides nothing"
                raise InputError(name, getattr(self, name), mend)
        if self.sharing != "cyclic" and not self.tied:
            raise InputError("sharing", self.sharing, "needs tied = True; untied visits share nothing")
        if isinstance(self.sharing, tuple) and len(self.sharing) != self.looped_blocks:
            mend = f"must name the weights of all loops × unique_layers = {self.looped_blocks} visits"
            raise InputError("sharing", self.sharing, mend)
        if isinstance(self.sharing, tuple) and min(self.sharing) < 0:
            raise InputError("sharing", self.sharing, "number the weights from 0; give no negative ones")
        return self

    @field_serializer("activation")
    def _name_of_activation(self, activation: object) -> str:
        if isinstance(activation, str):
            return activation
        named = activation if hasattr(activation, "__qualname__") else type(activation)
        return f"{getattr(named, '__module__', '')}:{named.__qualname__}"

    def _value(self, name: str) -> float:
        return rule_value(name, getattr(self, name), self.loops, self.unique_layers)

    @property
    def blocks(self) -> int:
        """Visits in all, those of prelude and coda included."""
        return self.prelude + self.looped_blocks + self.coda

    @property
    def loop_ends(self) -> tuple[int, ...]:
        """The N + 1 rows of the results at which loops begin and end."""
        return tuple(self.prelude + end for end in super().loop_ends)

    @property
    def visits(self) -> tuple[Visit, ...]:
        """The visits in order, one a block."""
        branch = self._branch_law()
        skip, carry, injection, outer = map(self._value, ("skip", "carry", "injection", "outer_scale"))
        epsilon, L, post = self.epsilon, self.unique_layers, self.normalization.endswith("post")

        def core(place: int) -> Visit:
            entering, leaving = place % L == 0, place % L == L - 1
            return Visit(
                branch,
                self._weights(place),
                epsilon,
                self.prelude + place,
                place // L,
                carry=skip * (carry if entering else 1.0),
                injection=injection * entering,
                normalized=post or (leaving and self.loop_normalization),
            )

        def outside(weights: int, block: int) -> Visit:
            return Visit(branch, weights, outer, block, None, carry=skip, normalized=post)

        first = [outside(-1 - block, block) for block in range(self.prelude)]  # negative: weights that no loop has
        last = [outside(-1 - self.prelude - i, self.blocks - self.coda + i) for i in range(self.coda)]
        return (*first, *map(core, range(self.looped_blocks)), *last)

    def _branch_law(self) -> BranchLaw:
        law = KINDS[self.branch]
        given = {name: getattr(self, name) for name in _parameters(law) if name != "epsilon"}
        return law(**given, epsilon=0.0 if self.normalization.startswith("rms") else None)

    def _weights(self, place: int) -> int:
        if not self.tied:
            return place
        if self.sharing == "cyclic":
            return place % self.unique_layers
        return place // self.loops if self.sharing == "consecutive" else int(self.sharing[place])


def _parameters(law: type[BranchLaw]) -> list[str]:
    return [field.name for field in fields(law)]


class LlamaStack(_Looped):
    """A Llama-like Transformer at initialisation: RMSNorm before each branch, causal attention, SwiGLU.

    One block is two visits, h ← h + ε attention(norm(h)) and h ← h + ε swiglu(norm(h)). Every matrix has independent
    entries of standard deviation `init_std`, every token's embedding independent entries of `embedding_std`.

    Arguments:
      width, mlp_width, heads: d, the MLP's hidden width, the number of heads (heads divides width).
      tokens: the sequence length T for tokens that all differ, or the token ids themselves: equal ids share
        an embedding, so repeats are correlated from the start.
      init_std, embedding_std: dimensionless, > 0.  norm_epsilon: the constant RMSNorm adds to the mean square.
      rope: queries and keys are rotated by position.
    Raises: InputError naming the field that cannot be used.
    Source: arXiv:2606.18524, §5 (the model); theory in docs/theory.md, "A Llama-like block".
    """

    width: Count
    mlp_width: Count
    heads: Count
    tokens: Count | Ids = 128
    init_std: Variance = 0.02
    embedding_std: Variance = 0.02
    norm_epsilon: Annotated[float, Field(ge=0)] = 1e-6
    rope: bool = True

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "LlamaStack":
        if self.width % self.heads:
            raise InputError("heads", self.heads, f"must divide width = {self.width}")
        if self.tokens == ():
            raise InputError("tokens", self.tokens, "needs at least one token")
        return self

    @property
    def token_ids(self) -> Sequence[int]:
        """One id a position; positions with equal ids share an embedding."""
        return range(self.tokens) if isinstance(self.tokens, int) else self.tokens

    @property
    def visits(self) -> tuple[Visit, ...]:
        """The visits in order, attention then MLP for each block."""
        epsilon, variance = self.epsilon, self.init_std**2 * self.width
        branches: tuple[BranchLaw | CausalAttention, ...] = (
            CausalAttention(variance, self.width // self.heads, self.rope, self.norm_epsilon),
            Gated(
                "silu",
                weight_variance=self.mlp_width * self.init_std**2,
                epsilon=self.norm_epsilon,
                hidden_variance=variance,
                expansion=self.mlp_width / self.width,
            ),
        )
        return tuple(
            Visit(branch, layer * len(branches) + i, epsilon, block, block // self.unique_layers)
            for block in range(self.blocks)
            for layer in (block % self.unique_layers if self.tied else block,)
            for i, branch in enumerate(branches)
        )


def described(stack: Stack | LlamaStack) -> dict[str, Any]:
    """The description as plain JSON types, with its kind: what digests and provenance record."""
    return {"kind": type(stack).__name__, **stack.model_dump(mode="json")}
