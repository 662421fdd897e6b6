"""What all sections of the configuration share: how they check their keys, and the largest numbers."""

import re
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparseft.errors import InputError

# The largest count. A larger one is a typing error, and would overflow an int64 or a float somewhere.
LARGEST = 10**9
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
# The words in the text of --config that mean "no value".
NULLS = ("null", "Null", "NULL", "~", "None")


class Section(BaseModel):
    """Check one section of the configuration. An unknown key is refused, so that a typing error is no silent default.

    Types are not strict, because Snakemake passes the numbers of --config as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, raw: Any) -> Any:
        """Refuse the values that pydantic would read as another one: true as 1, and the text `null` as a name."""
        for name, field in cls.model_fields.items():
            value = raw.get(name) if isinstance(raw, dict) else None
            values = value if isinstance(value, list) else [value]
            if field.annotation is not bool and any(isinstance(element, bool) for element in values):
                raise ValueError(f"{name} is not a yes/no question: write a number or a text")
            if isinstance(value, str) and value in NULLS and type(None) in get_args(field.annotation):
                raise ValueError(
                    f"{name}: {value!r} came as a text (--config has no null): leave {name} out, set it to null in a"
                    f" file for --configfile, or write ./{value} if it is the name of a file"
                )
        return raw

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name, values in self:
            if isinstance(values, list) and len(set(values)) < len(values):
                raise ValueError(f"{name} lists a value twice")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if getattr(self, "local", None) and getattr(self, "hub", None):
            raise ValueError("local and hub are two sources: give one")
        return self


S = TypeVar("S", bound=Section)


def parse_section(section: type[S], raw: dict, name: str) -> S:
    """Return a section, checked. Raises InputError with `name` and the place of the first fault in it."""
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{name}: {first_fault(error)}", "config/schema.json describes every key") from None


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a section: its place, what is wrong, and the value."""
    fault = error.errors()[0]
    message = re.sub(r"^Value error, ", "", fault["msg"])
    if fault["type"] == "extra_forbidden":
        message = "unknown key"
    # A list is not printed, because it may contain itself.
    is_plain = isinstance(fault["input"], str | int | float | None)
    if is_plain and "Value error" not in fault["msg"]:
        message += f", not {fault['input']!r:.200}"
    place = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    return f"{place}: {message}" if place else message
