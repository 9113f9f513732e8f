"""Descriptions of residual stacks. Everything downstream reads only the tuple of visits beneath them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.scaling import residual_scale

Count = Annotated[int, Field(ge=1), BeforeValidator(lambda n: int(n) if isinstance(n, np.integer) else n)]
Variance = Annotated[float, Field(gt=0, lt=1e100)]  # products of a few stay finite
Ids = Annotated[tuple[int, ...], BeforeValidator(lambda ids: tuple(ids) if isinstance(ids, list) else ids)]
Branch = Literal["relu", "linear", "attention", "swiglu"]


class Visit(NamedTuple):
    """One application h ← h + scale · branch(h). Visits with equal `weights` use the same random weights."""

    branch: Branch
    weights: int
    scale: float
    block: int  # which row of the results this visit belongs to
    loop: int


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
    def blocks(self) -> int:
        """Visits to a block, V = loops × unique_layers."""
        return self.loops * self.unique_layers

    def _visits(self, branches: tuple[Branch, ...]) -> tuple[Visit, ...]:
        epsilon = self.epsilon

        def weights(block: int, branch: int) -> int:
            return (block % self.unique_layers if self.tied else block) * len(branches) + branch

        return tuple(
            Visit(name, weights(block, i), epsilon, block, block // self.unique_layers)
            for block in range(self.blocks)
            for i, name in enumerate(branches)
        )


class Stack(_Looped):
    """L random layers looped N times: h ← h + ε W_l φ(h), or h ← h + ε W_l φ(h/rms(h)) with `normalization="rms"`.

    W_l has independent entries of law N(0, weight_variance/d), the input independent entries of law
    N(0, initial_variance), with d the width. `tied=False` gives every visit a matrix of its own.

    Arguments:
      loops: N ≥ 1.
      unique_layers: L ≥ 1.
      residual_scale: ε ≥ 0, a number or a rule in N and L ("1/N", "1/sqrt(N)", "1/(N*sqrt(L))", "1").
      activation: φ, "relu" or "linear".
      normalization: "none" (raw) or "rms" (pre-norm: the branch reads h divided by its root mean square).
      weight_variance: σ_w² > 0.  initial_variance: q0 > 0.  Both dimensionless.
    Raises: InputError naming the field that cannot be used.
    Source: arXiv:2606.18524, §3 (ReLU, raw, weight_variance = 1).

    >>> Stack(loops=4, unique_layers=9, residual_scale="1/(N*sqrt(L))", weight_variance=2.0).epsilon
    0.08333333333333333
    """

    activation: Literal["relu", "linear"] = "relu"
    normalization: Literal["none", "rms"] = "none"
    weight_variance: Variance = 1.0
    initial_variance: Variance = 1.0

    @property
    def visits(self) -> tuple[Visit, ...]:
        """The visits in order, one a block."""
        return self._visits((self.activation,))


class LlamaStack(_Looped):
    """A Llama-like Transformer at initialisation: RMSNorm before each branch, causal attention, SwiGLU.

    One block is two visits, h ← h + ε attention(norm(h)) and h ← h + ε swiglu(norm(h)). Every matrix has independent
    entries of standard deviation `init_std`, every token's embedding independent entries of `embedding_std`.

    Arguments:
      width, mlp_width, heads: d, the MLP's hidden width, the number of heads (heads divides width).
      tokens: the sequence length T for tokens that all differ, or the token ids themselves: equal ids share
        an embedding, so repeats are correlated from the start.
      init_std, embedding_std: dimensionless, > 0.  norm_epsilon: the constant RMSNorm adds to the mean square.
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
        return self._visits(("attention", "swiglu"))


def described(stack: Stack | LlamaStack) -> dict[str, Any]:
    """The description as plain JSON types, with its kind: what digests and provenance record."""
    return {"kind": type(stack).__name__, **stack.model_dump(mode="json")}
