"""What all sections of the configuration share: how they check their keys, the limits of their numbers, and their flags."""

import re
from shlex import join
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparseft.errors import InputError, one_line
from sparseft.study.grid import SEEDS

# The largest count. A larger one is a typing error, and would overflow an int64 or a float somewhere.
LARGEST = 10**9
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
# Tokens of a sequence, of which the first is never predicted.
Length = Annotated[int, Field(ge=2, le=LARGEST)]
Small = Annotated[int, Field(gt=0, le=65536)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
LearningRate = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """Check one section of the configuration. An unknown key is refused, so that a typing error is no silent default.

    The text below a key describes it, in the schema, the reference and the help of the scripts. Types are not strict, because
    Snakemake passes the numbers of --config as text."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        # Some patterns look ahead.
        regex_engine="python-re",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Put the description of each key on one line."""
        for field in cls.model_fields.values():
            field.description = field.description and one_line(field.description)

    def contradictions(self) -> dict[str, object]:
        """Return what may be wrong with the keys taken together, and whether it is. The first that is true is refused."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _counts_no_truths(cls, values: object) -> object:
        """Refuse true and false where no key of that type is: pydantic would read them as 1 and 0."""
        for name, value in values.items() if isinstance(values, dict) else ():
            parts = value if isinstance(value, list) else [value]
            has_truth = any(isinstance(part, bool) for part in parts)
            if has_truth and name in cls.model_fields and "bool" not in str(cls.model_fields[name].annotation):
                raise ValueError(f"{name} cannot be {value!r}")
        return values

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for name, values in self:
            if isinstance(values, list) and len(set(values)) < len(values):
                raise ValueError(f"{name} lists a value twice")
        refuse(self.contradictions())
        return self


S = TypeVar("S", bound=Section)


def refuse(faults: dict[str, object]) -> None:
    """Raise ValueError with the first text whose value is true."""
    for text, is_there in faults.items():
        if is_there:
            raise ValueError(text)


def parse_section(section: type[S], raw: dict, name: str) -> S:
    """Return a section, checked. Raises InputError with `name` and the place of the first fault in it."""
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{name}: {first_fault(error)}", "config/schema.json describes every key") from None


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a section: its place, what is wrong, and the value."""
    fault = error.errors()[0]
    message = "unknown key" if fault["type"] == "extra_forbidden" else re.sub(r"^Value error, ", "", fault["msg"])
    if isinstance(fault["input"], str | int | float | None) and fault["type"] not in ("value_error", "json_invalid"):
        message += f", not {fault['input']!r:.200}"
    place = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    return f"{place}: {message}" if place else message


def flags(**values: object) -> str:
    """Return `--name value` for every value that is set, as a flag of a script, quoted for a shell.

    A list gives all of its values. The keys of a section `name` are the flags `--name.key`."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}={value}")
        elif isinstance(value, Section):
            words.append(flags(**{f"{name}.{key}": part for key, part in value}))
        else:
            listed = value if isinstance(value, list) else [value]
            if listed not in ([], [None]):
                words.append(join([f"--{name}", *map(str, listed)]))
    return " ".join(words)
