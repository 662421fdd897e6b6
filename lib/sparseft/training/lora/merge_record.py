"""Define merge.json: the hashes of what went into a merge and of what came out."""

from pathlib import Path
from typing import ClassVar, Literal

from sparseft.common.errors import InputError
from sparseft.storage.fields import Count, Positive, field
from sparseft.storage.record import MODEL, remake_advice
from sparseft.storage.record_file import Inputs, RunRecord, kind, read_record_file


class MergeInputs(Inputs):
    """Hold the digests of what was merged."""

    adapter: str | None = field("The digest of the adapter or the trained weights. Null if the run is not trained.")


class MergeRecord(RunRecord):
    """Record what a merge read and wrote."""

    file_name: ClassVar[str] = "merge.json"
    record: Literal["merge"] = kind("merge")
    inputs: MergeInputs = field("The digests of what was merged.")
    scale: float | None = field("The factor alpha / r of the adapter. Null without one.")
    layers_merged: Count = field("The number of layers with a mask.")
    trained_outside: list[str] = field("The tensors outside the mask that were trained.", default=[])
    as_trained: bool = field("Whether the trained layers multiply by the merged weight itself, bit for bit.")
    outputs: dict[str, str] = field("The sha256 of each file of the model.", min_length=1)
    seconds: Positive = field("The time of the merge.", "s")


def check_model(folder: Path, hashes: dict[str, str]) -> MergeRecord | None:
    """Return the merge.json beside a merged model; None if there is none, so that any model passes.

    `hashes` are those of its files as they are now, from `Checkpoint.hashes`. Raises InputError if the record has
    others."""
    path = folder.parent / MergeRecord.file_name
    if folder.name != MODEL or not path.is_file():
        return None
    record = read_record_file(path, MergeRecord)
    if altered := hashes.items() ^ record.outputs.items():
        raise InputError(f"{folder / min(altered)[0]}: not the file that merge.json records", remake_advice(folder))
    return record
