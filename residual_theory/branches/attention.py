"""Causal attention as the branch of a visit; its law at infinite width is in kernels.attention."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CausalAttention:
    """W_O Σ_s p_ts W_V x_s behind RMSNorm, known at infinite width only.

    Arguments:
      variance: v, the variance of an entry of a query, key or value of a normalised input.
      head_size: the width of a head.  rope: queries and keys are rotated by position.
      epsilon: what RMSNorm adds to the mean square.
    """

    variance: float
    head_size: int
    rope: bool
    epsilon: float
    name: str = "attention"
