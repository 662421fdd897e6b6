"""Define what all records share: the fields, and how a file is written and read."""

from collections.abc import Container, Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sparseft.common.errors import InputError
from sparseft.common.section import Section, first_fault
from sparseft.storage.atomic import write_json
from sparseft.storage.fields import field, setting
from sparseft.storage.hashes import sha256_of_text
from sparseft.storage.record import remake_advice, unaltered, write_record

# Relative difference of two sums of the same numbers in another order.
ROUNDING = 1e-9


def kind(name: str) -> Any:
    """Return the field `record` of a kind of record."""
    return field("The kind of the record.", default=name)


class RecordPart(BaseModel):
    """Check an object of a file: strict types, finite numbers, and no unknown key."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    @classmethod
    def _extras(cls) -> dict[str, dict[str, Any]]:
        """Return by field what `field` says of it: whether it decides a comparison, its unit and its column."""
        fields: dict[str, Any] = cls.model_fields
        return {name: field.json_schema_extra for name, field in fields.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings by name. A setting of a part has the part's name before a dot."""
        settings: dict[str, Any] = {}
        for name, extra in self._extras().items():
            value = getattr(self, name)
            entries = {name: value}
            if isinstance(value, dict):
                entries = {f"{name}.{key}": entry for key, entry in value.items()}
            for place, entry in entries.items():
                if isinstance(entry, RecordPart):
                    settings |= {f"{place}.{key}": part for key, part in entry.settings.items()}
                elif extra["decides"]:
                    settings[place] = entry
        return settings

    @classmethod
    def column_names(cls) -> dict[str, str]:
        """Return the names of the columns of summary.csv by the names of the fields that are in it."""
        columns = {name: extra["column"] for name, extra in cls._extras().items()}
        return {name: name if column is True else column for name, column in columns.items() if column}

    @property
    def columns(self) -> dict[str, Any]:
        """Return the fields that are columns of summary.csv, by the name of the column."""
        return {column: getattr(self, name) for name, column in self.column_names().items()}


class Inputs(RecordPart):
    """Hold the digests of a pruned model: of its base and its mask."""

    model: str = field("The digest of the base.")
    mask: str = field("The sha256 of the mask.")


class RecordFile(RecordPart):
    """Check a whole file. It is known by its first key, `record` (storage/outputs.py). It ends with its own digest."""

    file_name: ClassVar[str]
    record: str = kind("")
    # Excluded, because `write_record` computes it.
    record_sha256: str | None = field("The sha256 of the record without this key.", default=None, exclude=True)


class RunRecord(RecordFile):
    """Check a file of a run."""

    run_id: str | None = field("The run. Null if you ran the script by hand without --run_id.", default=None)


R = TypeVar("R", bound=RecordPart)


def section_fields(
    section: type[Section], names: Iterable[str], optional: Container[str], without_effect: Container[str] = ()
) -> dict[str, Any]:
    """Return keys of a section of the configuration as fields of a record, for `pydantic.create_model`.

    optional: keys that not every training has
    without_effect: keys that do not decide which results can be compared"""
    fields = {}
    for name in names:
        key = section.model_fields[name]
        make = field if name in without_effect else setting
        kind: Any = key.annotation
        if name in optional:
            kind |= None
        fields[name] = (Annotated[kind, *key.metadata, make(key.description)], ...)
    return fields


def write(path: Path, record: RecordPart) -> None:
    """Write a record. A `RecordFile` ends with its digest. Other files leave out what was not set, such as unused
    settings."""
    if isinstance(record, RecordFile):
        write_record(path, record.model_dump())
    else:
        write_json(path, record.model_dump(exclude_unset=True))


def read_record_file(path: Path, schema: type[R]) -> R:
    """Return a record. Raises InputError, with the first fault, if the file is missing, unsound or altered."""
    try:
        content = path.read_bytes()
        record = schema.model_validate_json(content)
    except OSError as error:
        raise InputError(f"{path.name}: {str(error.strerror).lower()}", "make it again") from None
    except ValidationError as error:
        raise InputError(f"{path.name}: {first_fault(error)}", remake_advice(path)) from None
    if issubclass(schema, RecordFile) and not unaltered(content):
        raise InputError(f"{path.name}: altered since it was written", remake_advice(path))
    return record


def files_digest(files: dict[str, str]) -> str | None:
    """Return one sha256 for the files of a model, given the sha256 of each; None without a file.

    It is the file's own if there is one file. Else it is the sha256 of what `LC_ALL=C sha256sum *` prints."""
    if len(files) < 2:
        return next(iter(files.values()), None)
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return sha256_of_text(listing)
