"""`python -m residual_theory` is the command residual-theory."""

import sys

from residual_theory.cli import main

sys.exit(main())
