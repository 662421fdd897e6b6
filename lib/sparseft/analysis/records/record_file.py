"""Read one JSON file of a run. Its syntax, types, ranges, sums and digest are checked here, once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Self, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparseft.errors import InputError
from sparseft.storage.reading import read_bytes
from sparseft.storage.record import remake_advice, unaltered

Count = Annotated[int, Field(ge=0, lt=2**63)]
PositiveCount = Annotated[int, Field(gt=0, lt=2**63)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# In nats.
Loss = Annotated[float, Field(ge=0, lt=1e6)]
LogLikelihood = Annotated[float, Field(le=0)]
FractionArray = Annotated[list[Fraction], AfterValidator(np.array)]
LossArray = Annotated[list[Loss], AfterValidator(np.array)]
CountArray = Annotated[list[PositiveCount], AfterValidator(np.array)]

# Relative difference of two sums of the same numbers in another order.
ROUNDING = 1e-9


class RecordPart(BaseModel):
    """Check an object of a file: strict types, finite numbers, and no contradiction between them. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

    def contradictions(self) -> Iterable[str]:
        """Return what is wrong with the numbers taken together. Any of it makes the file unusable."""
        return ()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse the object if its numbers contradict each other."""
        if faults := list(self.contradictions()):
            raise ValueError(", ".join(faults))
        return self


class RecordFile(RecordPart):
    """Check a whole file of a run. `run_id` is None in a file whose script does not know the run."""

    file_name: ClassVar[str]
    run_id: str | None = None


R = TypeVar("R", bound=RecordPart)


def read_file(path: Path, schema: type[R]) -> R:
    """Return the checked content of a file. Raises InputError, with the first three faults, if it is missing or unsound."""
    try:
        content = read_bytes(path)
        checked = schema.model_validate_json(content)
    except OSError as error:
        raise InputError(f"{path.name}: {error.strerror.lower()}", "make it again") from None
    except ValidationError as error:
        raise InputError(f"{path.name}: {_faults_of(error)}", remake_advice(path)) from None
    if not unaltered(content):
        raise InputError(f"{path.name}: altered since it was written", remake_advice(path))
    return checked


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
