"""How often a claim is due to be confirmed and refuted when its truth lies at a known distance from the margin."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from scipy import stats

from residual_theory.statistics.sequential import doubling, shares

TOO_CAREFUL = 1.1  # an approximate test may take its standard errors for this much larger than they are


class Between(NamedTuple):
    """The bounds of a probability, which is known where they are equal."""

    least: float
    most: float


def passing(inside: float, level: float, degrees: float, factor: float = 1.0) -> float:
    """The probability that a one-sided Student test rejects at a level, the mean being `inside` standard errors off 0.

    factor: by which the standard errors that it uses are too large.

    >>> round(passing(0.0, 0.01, 23), 6), round(passing(2.0, 0.01, 23), 3), round(passing(0.0, 0.01, 23, 1.5), 6)
    (0.01, 0.329, 0.000522)
    """
    if math.isinf(degrees):
        return float(stats.norm.sf(factor * stats.norm.isf(level) - inside))
    return float(stats.nct.sf(factor * stats.t.isf(level, degrees), degrees, inside))


@dataclass(frozen=True)
class EdgeTest:
    """What of a claim's check its rates depend on, one edge of the margin being near and the other far away.

    degrees: of freedom at each look, the samples doubling from one to the next. bounds: how many there are in all
      findings together, any of which may refute. approximate: whether the test is Student's but for estimated weights
      or coefficients. stricter: whether confirming asks for more than this one test. misfit: how often refuting does,
      independently of it.
    """

    degrees: tuple[float, ...]
    bounds: int = 2
    approximate: bool = False
    stricter: bool = False
    misfit: float = 0.0

    def confirmed(self, inside: float, level: float) -> Between:
        """The probability of "confirmed", the truth lying `inside` standard errors (of the last look) in the margin."""
        found = self._over_looks(inside, level)
        return Between(0.0, found.most) if self.stricter else found

    def refuted(self, inside: float, level: float) -> Between:
        """The probability of "refuted"."""
        found = self._over_looks(-inside, level / self.bounds)
        return Between((1 - self.misfit) * found.least, found.most)

    def _over_looks(self, inside: float, level: float) -> Between:
        """At some look at least: no less often than at the one that does most often, nor than at all added up."""
        fractions = doubling(len(self.degrees))
        looks = [
            self._at_look(inside * math.sqrt(fraction), level * share, degrees)
            for fraction, share, degrees in zip(fractions, shares(fractions, level), self.degrees, strict=True)
        ]
        return Between(max(look.least for look in looks), min(1.0, sum(look.most for look in looks)))

    def _at_look(self, inside: float, level: float, degrees: float) -> Between:
        found = [passing(inside, level, degrees)]
        if self.approximate:
            found += [passing(inside, level, math.inf), passing(inside, level, degrees, TOO_CAREFUL)]
        return Between(min(found), max(found))
