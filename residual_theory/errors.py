"""Everything the package raises on purpose; each message is one line."""


class ResidualTheoryError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(ResidualTheoryError, ValueError):
    """An argument from outside cannot be used: names it, the value got and the mend."""

    def __init__(self, argument: str, value: object, mend: str) -> None:
        self.argument, self.value, self.mend = argument, value, mend
        shown = " ".join(repr(value).split())
        if len(shown) > 80:
            shown = f"{shown[:38]}...{shown[-39:]}"
        super().__init__(f"{argument} = {shown}: {' '.join(mend.split())}")

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
        return type(self), (self.argument, self.value, self.mend)  # survives a worker process


class DerivationError(ResidualTheoryError):
    """A step of a derivation does not go through."""


class FalseStepError(DerivationError):
    """A step of a derivation is false: a counterexample was found."""


class MissingResultError(ResidualTheoryError):
    """A figure or report asks for a result that has not been computed."""
