"""What a derivation is made of: steps, each a formula with its reason and its proof."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from residual_theory.proofs.algebra import must_vanish

Relation = Literal["=", "<=", ">=", ":="]


@dataclass(frozen=True, eq=False)
class Proof:
    """One way to prove a step: `run` returns when the proof goes through and raises DerivationError otherwise.

    `uses` are steps that must stand earlier in the same derivation. `evidence` marks a proof that is none:
    the step then rests on the numerical check alone, and says so wherever it is shown. `argued` marks one whose
    reasoning is in words, of which `run` checks parts only; what the derivation does not prove has to name the step.
    """

    how: str
    run: Callable[["Step"], None]
    uses: tuple["Step", ...] = ()
    evidence: bool = False
    argued: bool = False


def simplification() -> Proof:
    """Sums, integrals and products are carried out and lhs − rhs simplifies to 0."""
    return Proof("simplification", lambda step: must_vanish(step.lhs - step.rhs, "that both sides agree"))


@dataclass(frozen=True, eq=False)
class Step:
    """One formula of a derivation, lhs `relation` rhs, with its reason and its proof.

    Arguments:
      title, because: short prose.
      lhs, rhs: SymPy expressions. A limit is an unevaluated `sympy.Limit` on the left.
      relation: "=", "<=", ">=", or ":=" for the definition of a new symbol.
      proof: how SymPy proves it; by default simplify(lhs − rhs) = 0.
      domain: the interval (low, high) a symbol is sampled from. By default integer symbols run over 1…7, positive
        and real ones over rationals (of both signs where the assumptions allow).
      given: hypotheses, each an expression taken to be nonnegative; sampled points respect them.
      along: where a limit's variable is sampled; the distance to the limit must shrink.
    """

    title: str
    lhs: Any
    rhs: Any
    because: str
    relation: Relation = "="
    proof: Proof = field(default_factory=simplification)
    domain: Mapping[Any, tuple[Any, Any]] = field(default_factory=dict)
    given: tuple[Any, ...] = ()
    along: tuple[int, ...] = (10**2, 10**4, 10**8, 10**16)

    @property
    def slack(self) -> Any:
        """The difference that the step says is nonnegative (an inequality) or zero (an identity)."""
        return self.rhs - self.lhs if self.relation == "<=" else self.lhs - self.rhs


@dataclass(frozen=True, eq=False)
class Derivation:
    """A theorem and the chain of steps that proves it.

    Arguments:
      id: kebab-case.  title, statement: prose.  formula: the result, a SymPy expression or LaTeX.
      assumptions, not_proved: one line each.  steps: in the order of the argument.
      source: where arXiv:2606.18524 states it, or "this project".
      paper: what of that paper it belongs to, such as "Theorem 1", several or none, as for `Claim`.
      verdict, needed: where it follows the paper's own proof, how that fares and what it needs beside what is written.
    """

    id: str
    title: str
    statement: str
    formula: Any
    assumptions: tuple[str, ...]
    steps: tuple[Step, ...]
    not_proved: tuple[str, ...]
    source: str
    paper: tuple[str, ...] | str = ()
    verdict: str = ""
    needed: str = ""
