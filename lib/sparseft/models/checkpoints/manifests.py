"""Define manifest.json of a checkpoint folder: its files, where they come from, and their digests."""

from typing import Annotated, ClassVar

from pydantic import Field

from sparseft.storage.fields import Count, PositiveCount, field, setting
from sparseft.storage.record_file import RecordPart

# The name of a file in the folder of a manifest, never a path or a pattern.
FileName = Annotated[str, Field(pattern=r"^[^./\\*?\[\]][^/\\*?\[\]]*$")]


class FileEntry(RecordPart):
    """Hold the digest and the size of a file."""

    sha256: str = field("The sha256 of the file.")
    bytes: Count = field("The size of the file.", "bytes")


class CheckpointManifest(RecordPart):
    """Record the files of a checkpoint folder."""

    format_version: int = field("The version of this format.")
    architecture: str = field("The class of the model in Transformers.")
    prunable_layers: PositiveCount = field("The number of prunable layers.")
    prunable_weights: PositiveCount = field("The number of their weights.")
    digest: str = field("The digest of all files.")
    files: dict[FileName, FileEntry] = field("The digest and the size of each file that decides a result.")
    others: dict[FileName, FileEntry] = field("The same of each other file, such as a licence, but not README.md.")


class ModelManifest(CheckpointManifest):
    """Record a prepared model: manifest.json."""

    # The key that no other file has, by which the outputs of the stage are known (storage/outputs.py).
    known_by: ClassVar[str] = '\n  "revision": '
    source: str = field("Where the model comes from.")
    revision: str | None = field("The commit of a model from the hub. Null elsewhere.")
    dtype: str = setting("The number format of the weights.")
