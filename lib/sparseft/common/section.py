"""What all sections of the configuration share: how they check their keys, the limits of their numbers, and their
flags."""

import re
from collections.abc import Collection
from difflib import get_close_matches
from shlex import join
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparseft.common.errors import InputError, one_line

# Every seed is smaller, because torch's generator on a CPU takes 32 bits of it.
SEEDS = 2**32
# The largest count. A larger one is a typing error, and would overflow an int64 or a float somewhere.
LARGEST = 10**9
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
# Tokens of a sequence, of which the first is never predicted.
Length = Annotated[int, Field(ge=2, le=LARGEST)]
Small = Annotated[int, Field(gt=0, le=65536)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
# What may be wrong -> whether it is. A text says what is wrong and, after "; ", what to do.
Faults = dict[str, object]
# Pattern of a text -> what to write, if an error can say it better than the pattern.
IN_WORDS: dict[str, str] = {}


Percent = Annotated[int, Field(ge=0, lt=100)]


class Section(BaseModel):
    """Check one section of the configuration. An unknown key is refused, so that a typing error is no silent default.

    The text below a key describes it, in the schema and the help of the scripts. Types are not strict,
    because Snakemake passes the numbers of --config as text."""

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

    def contradictions(self) -> Faults:
        """Return what may be wrong with the keys taken together, and whether it is."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _is_read_as_meant(cls, values: object) -> object:
        """Refuse true and false where no key of that type is: pydantic would read them as 1 and 0."""
        for name, value in values.items() if isinstance(values, dict) else ():
            key = cls.model_fields.get(name)
            has_truth = any(isinstance(part, bool) for part in (value if isinstance(value, list) else [value]))
            if has_truth and key and "bool" not in str(key.annotation):
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


def refuse(faults: Faults) -> None:
    """Raise InputError with every text whose value is true."""
    if texts := [text for text, is_there in faults.items() if is_there]:
        what, _, advice = "; also: ".join(texts).partition("; ")
        raise InputError(what, advice)


def _broken(value: object) -> list[str]:
    """Return the keys and the texts in a value that end in a line break. The `$` of a pattern matches before it."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return [text for part in value for text in _broken(part)]
    return [value] if isinstance(value, str) and value.endswith("\n") else []


def parse_section(section: type[S], raw: dict, name: str) -> S:
    """Return a section, checked. Raises InputError with `name`, and every fault with its place."""
    if broken := _broken(raw):
        raise InputError(f"{name}: {broken[0]!r} ends in a line break", "config/schema.json describes every key")
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        faults: dict[tuple, str] = {}
        sections = [schema := section.model_json_schema(), *schema.get("$defs", {}).values()]
        keys = {key for described in sections for key in described.get("properties", ())}
        for fault in error.errors():
            place = fault["loc"] if fault["type"] == "missing" else _place(raw, fault["loc"])
            # A default that follows from a wrong key has no fault of its own. A value of several types has one fault
            # per type.
            if fault["type"] != "default_factory_not_called":
                faults.setdefault(place, _text(fault, place, keys))
        raise InputError(f"{name}: {'; '.join(faults.values())}", "config/schema.json describes every key") from None


def _place(raw: Any, parts: tuple) -> tuple:
    """Return the beginning of a fault's place that is in the input. The rest names one type of several."""
    for number, part in enumerate(parts):
        try:
            raw = raw[part]
        except (LookupError, TypeError):
            return parts[:number]
    return parts


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a section: its place, what is wrong, and the value."""
    fault = error.errors()[0]
    return _text(fault, tuple(part for part in fault["loc"] if part != "[key]"))


def _text(fault: Any, place: tuple, keys: Collection[str] = ()) -> str:
    """Return a fault of a section with its place. `keys` are those of the configuration."""
    key = str(place[-1]) if place else ""
    # A key of another section is in the wrong place, and not misspelled.
    nearest = [] if key in keys else get_close_matches(key, keys, 1)
    messages = {
        "extra_forbidden": "unknown key" + "".join(f" (the nearest is {name})" for name in nearest),
        "list_type": f"write a list, [{fault['input']}]",
        "string_pattern_mismatch": IN_WORDS.get(fault.get("ctx", {}).get("pattern")),
    }
    message = messages.get(fault["type"]) or re.sub(r"^Value error, ", "", fault["msg"])
    if isinstance(fault["input"], str | int | float | None) and fault["type"] not in ("value_error", "json_invalid"):
        message += f", not {fault['input']!r:.200}"
    return f"{'.'.join(map(str, place))}: {message}" if place else message


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
