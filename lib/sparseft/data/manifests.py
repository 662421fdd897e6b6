"""Define the manifests of the prepared rows of a task."""

from typing import ClassVar, Literal

from pydantic import JsonValue

from sparseft.storage.fields import Count, Fraction, PositiveCount, field, setting
from sparseft.storage.record_file import RecordFile, RecordPart, kind

Source = dict[str, JsonValue]


class TaskManifest(RecordPart):
    """Record the prepared rows of a split of a task: manifest.json for training, and validation_manifest.json."""

    known_by: ClassVar[str] = '\n  "examples": '
    task: str = field("The task.")
    source: Source = field("Where the rows come from.")
    seed: Count = setting("The seed that chose the rows.")
    examples: dict[str, Count] = field("The number of rows of the split.")
    sha256: dict[str, str] = field("The sha256 of the file of the split.")
    validation_overlap: Fraction | None = field("The share that training has too.", "fraction", default=None)
    lengths: dict[str, int | list[int]] | None = field("The lengths of all examples, for estimates.", default=None)
    definition: Source | None = setting("The definition of a task that is not built in.", default=None)


class SelectionManifest(RecordFile):
    """Record the selection rows of a task: selection_manifest.json."""

    record: Literal["selection_rows"] = kind("selection_rows")
    task: str = field("The task.")
    source: Source = field("Where the rows come from.")
    split: str = field("The split of that source.")
    seed: Count = setting("The seed that chose the rows.")
    examples: PositiveCount = field("The number of rows.")
    left_out: Count = field("The candidates that also occur in another row.")
    overlap: Fraction = field("The share of a text that occurs in the other splits.", "fraction")
    sha256: str = field("The sha256 of the rows.")
    disjoint_from: dict[str, str] = field("The sha256 of the files that the rows do not occur in, by split.")
