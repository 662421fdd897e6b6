"""Check merge.json: the hashes of what went into the merge and of what came out."""

import hashlib
from typing import Annotated, ClassVar

from pydantic import Field

from sparseft.analysis.records.record_file import RecordFile, RecordPart


class MergeInputs(RecordPart):
    """Hold the digest of the base, the sha256 of the mask, and the digest of the adapter (None if there is none)."""

    model: str
    mask: str
    adapter: str | None


class MergeRecord(RecordFile):
    """Check merge.json: `outputs` has the sha256 of each file of the merged model.

    `as_trained` is true if the trained layers multiply by the merged weight itself (before_merge.py)."""

    file_name: ClassVar[str] = "merge.json"
    inputs: MergeInputs
    as_trained: bool
    outputs: Annotated[dict[str, str], Field(min_length=1)]

    @property
    def digests(self) -> dict[str, str | None]:
        """Return the digests that the file names, by link of the chain."""
        return {
            "base": self.inputs.model,
            "mask": self.inputs.mask,
            "adapter": self.inputs.adapter,
            "merged": files_digest(self.outputs),
        }


def files_digest(files: dict[str, str]) -> str | None:
    """Return one sha256 for the files of a model, given the sha256 of each; None without a file.

    It is the file's own if there is one file. Else it is the sha256 of what `LC_ALL=C sha256sum *` prints."""
    if len(files) < 2:
        return next(iter(files.values()), None)
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()
