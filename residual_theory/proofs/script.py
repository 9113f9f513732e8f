"""What a file in derivations/ does when it is run by itself."""

import argparse
import sys

from residual_theory.errors import DerivationError
from residual_theory.proofs.checking import check
from residual_theory.proofs.rendering import latex, text
from residual_theory.proofs.steps import Derivation


def main(derivation: Derivation, arguments: list[str] | None = None) -> int:
    """Check and print one derivation. Returns the exit status."""
    parser = argparse.ArgumentParser(description=f"Prove and print: {derivation.title}.")
    parser.add_argument("--latex", action="store_true", help="print LaTeX instead of text")
    options = parser.parse_args(arguments)
    try:
        records = check(derivation)
    except DerivationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write((latex if options.latex else text)(derivation, records))
    return 0
