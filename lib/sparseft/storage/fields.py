"""Define what all records share: JSON files in which a stage writes what it did, and which the analysis reads.

The pydantic model of a record stands beside the code that writes it. A field has a description and a unit. A `setting`
decides which results can be compared. A field with a `column` is a column of summary.csv.
"""

from functools import partial
from typing import Annotated, Any

from pydantic import Field

Count = Annotated[int, Field(ge=0, lt=2**63)]
PositiveCount = Annotated[int, Field(gt=0, lt=2**63)]
NonNegative = Annotated[float, Field(ge=0)]
# A time in seconds, or a speed per second. Others were not measured.
Positive = Annotated[float, Field(gt=1e-6, lt=1e9)]
# The share of its threads' time that a process got. Threads that are not counted may make it larger than 1.
CpuShare = Annotated[float, Field(ge=0, lt=10)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# In nats.
Loss = Annotated[float, Field(ge=0, lt=1e6)]

# Keys of a section of the configuration.
Keys = dict[str, int | str | None]


def field(
    description: str | None, unit: str = "", column: str | bool = "", *, decides: bool = False, **options: Any
) -> Any:
    """Return a field of a record. `column` is the column of summary.csv that has it, or true if that has its name."""
    extra: dict[str, Any] = {"decides": decides, "unit": unit, "column": column}
    return Field(description=description, json_schema_extra=extra, **options)


# A field that decides which results can be compared.
setting = partial(field, decides=True)
