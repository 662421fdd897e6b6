"""Define what all records share: the types and roles of their fields, and how a file is written and read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparseft.errors import InputError
from sparseft.storage.atomic import write_json
from sparseft.storage.reading import read_bytes
from sparseft.storage.record import remake_advice, unaltered, write_record
from sparseft.study.section import Section

Count = Annotated[int, Field(ge=0, lt=2**63)]
PositiveCount = Annotated[int, Field(gt=0, lt=2**63)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# In nats.
Loss = Annotated[float, Field(ge=0, lt=1e6)]

# Relative difference of two sums of the same numbers in another order.
ROUNDING = 1e-9
SETTING = "setting"


def setting(description: str, unit: str = "", **field: Any) -> Any:
    """Return a field that decides which results can be compared."""
    return Field(description=description, json_schema_extra={"role": SETTING, "unit": unit}, **field)


def measurement(description: str, unit: str = "", **field: Any) -> Any:
    """Return a field that is a result."""
    return Field(description=description, json_schema_extra={"role": "measurement", "unit": unit}, **field)


def provenance(description: str, unit: str = "", **field: Any) -> Any:
    """Return a field that says where a result comes from."""
    return Field(description=description, json_schema_extra={"role": "provenance", "unit": unit}, **field)


def kind(name: str) -> Any:
    """Return the field `record` of a kind of record."""
    return provenance("The kind of the record.", default=name)


class RecordPart(BaseModel):
    """Check an object of a file: strict types, finite numbers, no unknown key, and no contradiction between the numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    def contradictions(self) -> Iterable[str]:
        """Return what is wrong with the numbers taken together. Any of it makes the file unusable."""
        return ()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse the object if its numbers contradict each other."""
        if faults := list(self.contradictions()):
            raise ValueError(", ".join(faults))
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings by name. A setting of a part has the part's name before a dot."""
        found = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            entries = (
                {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
            )
            for place, entry in entries.items():
                if isinstance(entry, RecordPart):
                    found |= {f"{place}.{key}": part for key, part in entry.settings.items()}
                elif field.json_schema_extra["role"] == SETTING:
                    found[place] = entry
        return found


class RecordFile(RecordPart):
    """Check a whole file that ends with its own digest."""

    file_name: ClassVar[str]
    # Excluded, because `write_record` computes it.
    record_sha256: str | None = provenance("The sha256 of the record without this key.", default=None, exclude=True)


class RunRecord(RecordFile):
    """Check a file of a run. Its first key is `record`, by which `storage.record.check_record` knows it."""

    record: str = kind("")
    run_id: str | None = provenance("The run. Null if you ran the script by hand without --run_id.", default=None)


R = TypeVar("R", bound=RecordPart)


def section_fields(section: type[Section], names: Iterable[str], without_effect: Iterable[str] = ()) -> dict[str, Any]:
    """Return keys of a section of the configuration as fields of a record, for `pydantic.create_model`.

    They are settings, apart from those in `without_effect`."""
    fields = {}
    for name in names:
        key = section.model_fields[name]
        role = provenance if name in without_effect else setting
        fields[name] = (Annotated[key.annotation, *key.metadata, role(key.description)], ...)
    return fields


def write(path: Path | str, record: RecordPart) -> None:
    """Write a record. A `RecordFile` ends with its digest."""
    write_file = write_record if isinstance(record, RecordFile) else write_json
    write_file(path, record.model_dump())


def read_record_file(path: Path, schema: type[R]) -> R:
    """Return a record. Raises InputError, with the first three faults, if the file is missing, unsound or altered."""
    try:
        content = read_bytes(path)
        record = schema.model_validate_json(content)
    except OSError as error:
        raise InputError(f"{path.name}: {error.strerror.lower()}", "make it again") from None
    except ValidationError as error:
        raise InputError(f"{path.name}: {_faults_of(error)}", remake_advice(path)) from None
    if issubclass(schema, RecordFile) and not unaltered(content):
        raise InputError(f"{path.name}: altered since it was written", remake_advice(path))
    return record


def _faults_of(error: ValidationError) -> str:
    """Return the first three faults of a file in words. If fields are missing, the file may be from another version."""
    faults = error.errors()
    missing = [".".join(map(str, fault["loc"])) for fault in faults if fault["type"] == "missing"]
    if missing:
        return f"it lacks {_first_three(missing)}, as if another version of SparseFT had written it"
    return _first_three([_fault_in_words(fault["loc"], fault["msg"]) for fault in faults])


def _fault_in_words(place: tuple[int | str, ...], message: str) -> str:
    """Return the place of a fault and what is wrong there."""
    return " ".join([*map(str, place), message.lower().removeprefix("value error, ")])


def _first_three(words: list[str]) -> str:
    """Return a list in words, with the number of those after the third."""
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more
