"""The base of every description: frozen, closed to unknown keys, and validating itself in one line."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from residual_theory.errors import InputError


class Description(BaseModel):
    """A frozen record whose constructor raises `InputError` naming the field, the value and the mend."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise as_input_error(error) from None


def as_input_error(error: ValidationError) -> InputError:
    """The first complaint of a pydantic error as one line."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    field = str(first["loc"][0]) if first["loc"] else error.title
    if first["type"] == "extra_forbidden":
        return InputError(field, first["input"], f"{error.title} has no such field")
    if first["type"] == "missing":
        return InputError(field, None, f"{error.title} needs this field")
    return InputError(
        field, first["input"], str(cause) if cause else first["msg"].lower().replace("input should", "should")
    )
