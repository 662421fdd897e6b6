"""Define merge.json: the hashes of what went into a merge and of what came out."""

import hashlib
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sparseft.records.record_file import Count, Positive, RecordPart, RunRecord, kind, measurement, provenance


class MergeInputs(RecordPart):
    """Hold the digests of what was merged."""

    model: str = provenance("The digest of the base.")
    mask: str = provenance("The sha256 of the mask.")
    adapter: str | None = provenance("The digest of the adapter. Null if the run is not trained.")


class MergeRecord(RunRecord):
    """Record what a merge read and wrote."""

    file_name: ClassVar[str] = "merge.json"
    record: Literal["merge"] = kind("merge")
    inputs: MergeInputs = provenance("The digests of what was merged.")
    scale: float | None = provenance("The factor alpha / r of the adapter. Null if the run is not trained.")
    layers_merged: Count = provenance("The number of layers with an adapter.")
    as_trained: bool = provenance("Whether the trained layers multiply by the merged weight itself, bit for bit.")
    outputs: Annotated[dict[str, str], Field(min_length=1)] = provenance("The sha256 of each file of the merged model.")
    seconds: Positive = measurement("The time of the merge.", "s")

    @property
    def digests(self) -> dict[str, str | None]:
        """Return the digests that the file names, by link of the chain."""
        inputs = self.inputs
        return {
            "base": inputs.model,
            "mask": inputs.mask,
            "adapter": inputs.adapter,
            "merged": files_digest(self.outputs),
        }


def files_digest(files: dict[str, str]) -> str | None:
    """Return one sha256 for the files of a model, given the sha256 of each; None without a file.

    It is the file's own if there is one file. Else it is the sha256 of what `LC_ALL=C sha256sum *` prints."""
    if len(files) < 2:
        return next(iter(files.values()), None)
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()
