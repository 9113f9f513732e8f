"""Operating curves: how often claims at the edge of their margin are confirmed and refuted, against what is due."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from residual_theory.calibration.calibrate import LEVEL, Rate
from residual_theory.calibration.synthetic import (
    Kind,
    at_all_sizes,
    at_largest_sizes,
    at_stacks,
    extrapolated,
    judge,
    over_seeds,
)
from residual_theory.claims.claim import seed_for
from residual_theory.claims.session import Progress
from residual_theory.errors import InputError
from residual_theory.parallel import each
from residual_theory.statistics.findings import Word, holm
from residual_theory.statistics.power import Between

INSIDE = (-2.0, -1.0, 0.0, 1.0, 2.0)  # standard errors that the truth lies inside the margin
SPARED = 5  # so many times fewer runs are made off the edge, where rates are larger or errors rarer
_BLOCK = 50  # runs that a process makes at a time


@dataclass(frozen=True)
class Situation:
    """Claims that are judged together as one run, all equally far inside their margins.

    through: what of the machinery they go through. inside: the distances tried.
    """

    name: str
    through: str
    kinds: tuple[Kind, ...]
    inside: tuple[float, ...] = INSIDE

    def due(self, word: Word, inside: float, alpha: float) -> Between:
        """How often any of the claims gets the word.

        m claims are one family, so that each law is judged at α/(2m), as is each twin. Claims draw independently.
        """
        level = alpha / (2 * len(self.kinds))
        none_least, none_most = 1.0, 1.0
        for kind in self.kinds:
            found = (kind.test.confirmed if word == "confirmed" else kind.test.refuted)(inside, level)
            none_least *= 1 - found.least
            none_most *= 1 - found.most
        return Between(1 - none_least, 1 - none_most)

    def words(self, inside: float, alpha: float, seeds: Sequence[int]) -> list[list[Word]]:
        """The words on every claim, run by run."""
        claims = [(kind.claim(inside, number), kind.parameters) for number, kind in enumerate(self.kinds)]
        return [judge(claims, alpha, seed) for seed in seeds]


_ONE = at_stacks("mean", 1)
SITUATIONS = (
    Situation("one look", "equivalence test, Student", (_ONE,)),
    Situation("three looks", "pooling, payment for looks", (at_stacks("mean", 3),)),
    Situation("three findings", "intersection–union, Bonferroni", (at_stacks("means", 1, (1, 4, 9)),)),
    Situation("five claims", "a family's budget, divided", (_ONE,) * 5),
    Situation("control variate", "coefficient from the other half", (at_stacks("controlled", 1, controlled=True),)),
    Situation("infinite width", "extrapolation from three widths", (extrapolated("limit", 1),)),
    Situation("exponent, largest sizes", "slope from below and above", (at_largest_sizes("exponent", 1),)),
    Situation("exponent, all sizes", "slope, local exponents at both ends", (at_all_sizes("growth"),)),
    Situation("exponent, paired seeds", "slopes of all sizes and of the larger half", (over_seeds("paired"),)),
    Situation(
        "all together", "a run of three claims, three looks each",
        (at_stacks("means", 3, (1, 4, 9)), extrapolated("limit", 3), at_largest_sizes("exponent", 3)), (0.0,),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What became of the runs of one situation at one distance.

    confirmed, refuted: runs in which some claim was. wrong: in which some word was wrong, either being so at the edge.
    """

    situation: str
    through: str
    inside: float
    confirmed: Rate
    refuted: Rate
    wrong: Rate

    @property
    def rates(self) -> dict[str, Rate]:
        """The rates by name; all have nominal values."""
        return {"confirmed": self.confirmed, "refuted": self.refuted, "wrong": self.wrong}


@dataclass(frozen=True)
class Curve:
    """The points of all situations, and which rates are not what is due.

    Every rate is tested by exact binomial tests, for a known probability or the bounds of one; at most alpha of runs
    may hold a wrong word. Holm over all tests keeps their joint error at 5 %.
    """

    alpha: float
    points: tuple[Point, ...]

    @property
    def tests(self) -> list[tuple[Point, str, Rate]]:
        """Every rate, with its point and name."""
        return [(point, name, rate) for point in self.points for name, rate in point.rates.items()]

    @property
    def off(self) -> list[tuple[Point, str, Rate]]:
        """The rates that are significantly off."""
        rejected = holm([rate.p_value or 0.0 for _, _, rate in self.tests], LEVEL)
        return [test for test, reject in zip(self.tests, rejected, strict=True) if reject]

    def csv(self) -> str:
        """One line a rate: count, runs, interval, and the bounds of what is due."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["situation", "inside", "event", "runs", "count", "rate", "low", "high", "due_least", "due_most"]
        )
        for point, name, rate in self.tests:
            numbers = (rate.value, *rate.interval, rate.least or 0.0, rate.most or 0.0)
            shown = [f"{number:.4g}" for number in numbers]
            writer.writerow([point.situation, f"{point.inside:g}", name, rate.runs, rate.count, *shown])
        return text.getvalue()


def measure(
    runs: int,
    alpha: float,
    *,
    seed: int = 0,
    situations: Sequence[Situation] = SITUATIONS,
    jobs: int = 1,
    progress: Progress = lambda *_: None,
) -> Curve:
    """The operating curves: `runs` runs at the edge of the margin, a fifth as many at every other distance.

    Arguments: alpha: the chance of a wrong verdict in a run, at most. seed: of all that is drawn.
    Raises: InputError for too few runs, or an alpha that is no probability.
    """
    if runs < SPARED:
        raise InputError("runs", runs, f"must be at least {SPARED}")
    if not 0 < alpha < 1:
        raise InputError("alpha", alpha, "must lie between 0 and 1")
    blocks = [
        (place, inside, range(first, min(first + _BLOCK, count)))
        for place, situation in enumerate(situations)
        for inside in situation.inside
        for count in (runs if inside == 0 else runs // SPARED,)
        for first in range(0, count, _BLOCK)
    ]
    words: dict[tuple[int, float], list[list[Word]]] = {}
    progress(0, len(blocks))
    try:
        make = _Make(tuple(situations), alpha, seed)
        for done, (place, inside, found) in enumerate(each(make, blocks, jobs), start=1):
            words.setdefault((place, inside), []).extend(found)
            progress(done, len(blocks))
    except BaseException:
        progress(0, 0)  # leaves the terminal as it was
        raise
    return Curve(
        alpha,
        tuple(_point(situations[place], inside, alpha, found) for (place, inside), found in sorted(words.items())),
    )


@dataclass(frozen=True)
class _Make:
    situations: tuple[Situation, ...]
    alpha: float
    seed: int

    def __call__(self, block: tuple[int, float, range]) -> tuple[int, float, list[list[Word]]]:
        place, inside, numbers = block
        situation = self.situations[place]
        seeds = [seed_for(self.seed, f"{situation.name}, {inside:g}, run {number}") for number in numbers]
        return place, inside, situation.words(inside, self.alpha, seeds)


def _point(situation: Situation, inside: float, alpha: float, runs: Sequence[Sequence[Word]]) -> Point:
    def count(happens: Callable[[Word], bool]) -> int:
        return sum(any(map(happens, words)) for words in runs)

    def rate(word: Word) -> Rate:
        due = situation.due(word, inside, alpha)
        return Rate(count(lambda said: said == word), len(runs), most=due.most, least=due.least or None)

    false: set[Word] = {"confirmed"} if inside < 0 else {"refuted"} if inside > 0 else {"confirmed", "refuted"}
    wrong = Rate(count(lambda said: said in false), len(runs), most=alpha)
    return Point(situation.name, situation.through, inside, rate("confirmed"), rate("refuted"), wrong)
