"""Derivations that check themselves: `steps` they are made of, `ways` to prove these, `checking` and `rendering`.

What a file in derivations/ needs is here; further ways are in `sign_proof`, `induction_proof` and `sum_proof`, and what
they are about in the other modules.
"""

from residual_theory.proofs.algebra import left_over as left_over
from residual_theory.proofs.algebra import must_vanish as must_vanish
from residual_theory.proofs.algebra import nonnegative as nonnegative
from residual_theory.proofs.script import main as main
from residual_theory.proofs.steps import Derivation as Derivation
from residual_theory.proofs.steps import Proof as Proof
from residual_theory.proofs.steps import Relation as Relation
from residual_theory.proofs.steps import Step as Step

__all__ = ["Derivation", "Proof", "Relation", "Step", "left_over", "main", "must_vanish", "nonnegative"]
