"""Looks at growing data: the error allowed is spent over them as the data come in (group-sequential testing)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from residual_theory.errors import InputError
from residual_theory.statistics.findings import Evidence


def spent(fraction: float, alpha: float) -> float:
    """The error that may be spent when a fraction t of the planned samples is drawn: α t².

    It rises from 0 to α late, so that early looks at few samples leave the last one most of its power, and still can
    decide what is clear. (The O'Brien–Fleming form leaves the first of three looks 0.00003 of α = 0.01, too little.)
    Source: Kim & DeMets, Biometrika 74 (1987), the power family.

    >>> [round(spent(t, 0.05), 6) for t in (0.25, 0.5, 1.0)]
    [0.003125, 0.0125, 0.05]
    """
    return alpha * fraction**2


def shares(fractions: Sequence[float], alpha: float) -> tuple[float, ...]:
    """Each look's share of the error, (α(t_k) − α(t_{k−1}))/α; they add up to 1.

    Arguments: fractions: t_1 < … < t_K = 1, the samples drawn at each planned look over the most that may be drawn.
    Raises: InputError unless the fractions rise from above 0 to 1 and alpha lies between 0 and 1.

    >>> [round(share, 4) for share in shares((0.25, 0.5, 1.0), alpha=0.05)]
    [0.0625, 0.1875, 0.75]
    """
    if not 0 < alpha < 1:
        raise InputError("alpha", alpha, "must lie between 0 and 1")
    if not fractions or fractions[-1] != 1 or (np.diff([0.0, *fractions]) <= 0).any():
        raise InputError("fractions", tuple(fractions), "must rise from above 0 to 1")
    total = [spent(fraction, alpha) for fraction in fractions]
    return tuple(float(part) for part in np.diff([0.0, *total]) / total[-1])


def doubling(looks: int) -> tuple[float, ...]:
    """The fractions of data that double from look to look, as `claims.stacks.trials` lays them out.

    >>> doubling(3)
    (0.25, 0.5, 1.0)
    """
    return tuple(2.0 ** (look + 1 - looks) for look in range(looks))


@dataclass(frozen=True)
class Looks:
    """The looks taken at one law so far, of those planned; its p-values hold over all of them.

    The p-value of a null hypothesis is P = min_k p_k/s_k, over the looks k so far, of p-values p_k and shares s_k. Why
    a verdict at level a errs with probability ≤ a although looks end when the data say so:

    1. Over *all* K planned looks P is a p-value: under its null Pr(P ≤ u) ≤ Σ_k Pr(p_k ≤ u s_k) ≤ u Σ_k s_k = u,
       however the looks depend on one another. It takes that shares are fixed before the data are seen and add up to 1;
       it does not take that the fractions behind them are right: wrong ones cost power only.
    2. A minimum over fewer looks is no smaller, so that whatever is rejected at level a after *any* look, by whatever
       rule looks end, is rejected after all of them, which by 1 errs with probability ≤ a.

    By 2 a verdict once reached also stays. Levels of several claims add up (`residual_theory.claims.families`).
    """

    shares: tuple[float, ...]
    evidence: tuple[Evidence, ...] = ()

    def and_at(self, evidence: Evidence) -> "Looks":
        """These looks and one more. Raises: InputError beyond those planned."""
        if len(self.evidence) == len(self.shares):
            raise InputError("looks", len(self.evidence) + 1, f"only {len(self.shares)} are planned")
        return replace(self, evidence=(*self.evidence, evidence))

    @property
    def last(self) -> Evidence:
        """The evidence of the last look."""
        return self.evidence[-1]

    @property
    def share(self) -> float:
        """The share of the error that the last look may spend: intervals at 1 − share·α hold at all looks at once."""
        return self.shares[len(self.evidence) - 1]

    @property
    def confirm_p(self) -> float:
        """Against "the law is wrong", over all looks."""
        return self._over_looks([evidence.confirm_p for evidence in self.evidence])

    @property
    def refute_p(self) -> float:
        """Against "the law is right", over all looks."""
        return self._over_looks([evidence.refute_p for evidence in self.evidence])

    def _over_looks(self, p_values: Sequence[float]) -> float:
        paid = zip(p_values, self.shares, strict=False)  # looks still to come have no p-value
        return min((p / share if p < share else 1.0 for p, share in paid), default=1.0)
