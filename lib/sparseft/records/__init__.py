"""Define the records: what each stage writes about what it did, and what the analysis reads. One pydantic model per
file.

    training_record     train.json
    merge_record        merge.json
    validation_record   validation_report.json, and the metadata of a mask
    evaluation_record   before_merge.json, evaluation.json and selection.json
    throughput_record   throughput/CELL.json, and the measurements that are joined into it
    manifests           manifest.json and selection_manifest.json of prepared inputs, report_METHOD.json of masks
    record_file         what they share

A field has a description, a unit and a role: a setting decides which results can be compared, a measurement is a
result, and provenance says where the result comes from. A field with a `column` is a column of summary.csv.
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

SETTING = "setting"


def _field(role: str, description: str | None, unit: str = "", column: str | bool = "", **options: Any) -> Any:
    """Return a field of a record. `column` is the column of summary.csv that has it, or true if that has its name."""
    extra: dict[str, Any] = {"role": role, "unit": unit, "column": column}
    return Field(description=description, json_schema_extra=extra, **options)


# A field that decides which results can be compared.
setting = partial(_field, SETTING)
# A field that is a result.
measurement = partial(_field, "measurement")
# A field that says where a result comes from.
provenance = partial(_field, "provenance")
