"""An error in what simulates, judges, describes, trains or measures, and why no test notices it where none does."""

from dataclasses import dataclass

from tests.mutants import Mutant


@dataclass(frozen=True)
class UnitMutant(Mutant):
    """A wrong function, `old` in the place of `new` as in `Rewrite`.

    claims: of the quick preset, whose verdicts are looked at, too. survives: why no unit test can notice it, or none
    should; empty for errors that tests have to notice.
    """

    survives: str = ""
