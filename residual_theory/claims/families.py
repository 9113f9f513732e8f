"""Families of claims and their error budgets: fixed by what is stated, whatever is verified.

Each family has a share of a run's alpha, and divides it equally among the claims stated in it, by whichever preset they
run. A claim divides its part between its law and its twin. So the chance that any verdict is wrong is at most alpha
(Bonferroni, weighted), and a claim verified alone gets the verdict that it gets among all others. Holm's procedure,
which rejects a little more, cannot have this: it needs the p-values of claims that were not verified.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from residual_theory.claims.headers import Header


@dataclass(frozen=True)
class Family:
    """Claims that belong to the same part of the paper.

    places: its places, as of `residual_theory.claims.paper`; none for what goes beyond the paper. share: of alpha.
    """

    name: str
    about: str
    places: tuple[str, ...]
    share: Fraction


def _tenths(number: int) -> Fraction:
    return Fraction(number, 10)


FAMILIES = (  # shares are about as the claims that each held when they were fixed
    Family(
        "§3", "one layer looped",
        ("§3", "App. A.1", "§3.2", "Lemma 4", "Lemma 5", "Theorem 1", "App. A.2"), _tenths(2),
    ),
    Family("§3.3", "an optimizer step", ("Theorem 2", "App. A.3"), _tenths(1)),
    Family("§4", "several layers looped", ("Theorem 3", "Theorem 6", "Proposition 7"), _tenths(1)),
    Family(
        "Fig. 1–4, 9", "Transformers at initialisation and in their first steps",
        ("Fig. 1", "Fig. 2", "Fig. 3", "Fig. 4", "Fig. 9"), _tenths(2),
    ),
    Family("§5", "Transformers in training", ("Fig. 5", "§5.2", "Fig. 6", "Fig. 7", "Fig. 8", "Tables"), _tenths(2)),
    Family("beyond", "what goes beyond the paper", (), _tenths(2)),
)  # fmt: skip
PROOFS = "proofs"


@dataclass(frozen=True)
class Budget:
    """What a claim may err with: its family's name, and its share of alpha, of which law and twin get half each."""

    family: str
    share: float

    def level(self, alpha: float) -> float:
        """The chance that the verdict on the law is wrong, at most; and that on the twin.

        >>> Budget("§4", 0.1).level(0.01)
        0.0005
        """
        return self.share * alpha / 2


def family_of(paper: tuple[str, ...]) -> Family:
    """The family of a claim with these places, in the paper's order: the first decides.

    >>> family_of(("Theorem 2", "Fig. 4")).name, family_of(()).name
    ('§3.3', 'beyond')
    """
    first = paper[:1]
    return next(family for family in FAMILIES if (first[0] in family.places if first else not family.places))


def budgets_of(headers: Iterable[Header]) -> dict[str, Budget]:
    """The budget of every claim stated, by key.

    Derivations take nothing from their family: a proof that is checked has p-values of 0 or 1, at any level.
    """
    families = {header.key: family_of(header.paper) for header in headers if header.file.parent.name != "derivations"}
    sizes = Counter(family.name for family in families.values())
    measured = {key: Budget(family.name, float(family.share / sizes[family.name])) for key, family in families.items()}
    proved = {header.key: Budget(PROOFS, 1.0) for header in headers if header.key not in families}
    return measured | proved


def budgets_of_files(files: Mapping[str, str]) -> dict[str, Budget]:
    """The budgets of users' claims, by key, from the file of each: a file is a family with an alpha of its own.

    >>> budgets_of_files({"a/model": "one.py", "b/model": "one.py", "c/model": "two.py"})["a/model"]
    Budget(family='one.py', share=0.5)
    """
    sizes = Counter(files.values())
    return {key: Budget(file, 1 / sizes[file]) for key, file in files.items()}


def budgets_of_given(keys: Iterable[str]) -> dict[str, Budget]:
    """The budgets of claims that are stated nowhere but here: one family."""
    found = list(keys)
    return {key: Budget("given", 1 / len(found)) for key in found}
