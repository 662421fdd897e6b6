"""Define the files beside prepared inputs and masks: what they are, where they come from, and their digests."""

from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue

from sparseft.records.record_file import (
    Count,
    Fraction,
    NonNegative,
    PositiveCount,
    RecordFile,
    RecordPart,
    measurement,
    provenance,
    setting,
)
from sparseft.records.validation_record import MaskMeta

Source = dict[str, JsonValue]


class FileEntry(RecordPart):
    """Hold the digest and the size of a file."""

    sha256: str = provenance("The sha256 of the file.")
    bytes: Count = provenance("The size of the file.", "bytes")


class CheckpointManifest(RecordPart):
    """Record the files of a checkpoint folder."""

    format_version: int = provenance("The version of this format.")
    architecture: str = provenance("The class of the model in Transformers.")
    prunable_layers: PositiveCount = measurement("The number of prunable layers.")
    prunable_weights: PositiveCount = measurement("The number of their weights.")
    digest: str = provenance("The digest of all files.")
    files: dict[str, FileEntry] = provenance("The digest and the size of each file.")


class ModelManifest(CheckpointManifest):
    """Record a prepared model: manifest.json."""

    source: str = provenance("Where the model comes from.")
    revision: str | None = provenance("The commit of a model from the hub. Null elsewhere.")
    dtype: str = setting("The number format of the weights.")


class PrunedManifest(CheckpointManifest):
    """Record a pruned base: manifest.json."""

    method: str = setting("The method that updated the weights.")
    sparsity: Fraction = setting("The sparsity that was asked for.", "fraction")
    original: str = provenance("The digest of the dense model.")


class TaskManifest(RecordPart):
    """Record the prepared rows of a task: manifest.json."""

    task: str = provenance("The task.")
    source: Source = provenance("Where the rows come from.")
    seed: Count = setting("The seed that chose the rows.")
    examples: dict[str, Count] = measurement("The number of rows of each split.")
    validation_overlap: Fraction = measurement("The share of the validation rows among the training rows.", "fraction")
    sha256: dict[str, str] = provenance("The sha256 of the file of each split.")
    lengths: dict[str, int | list[int]] = measurement("The lengths of the examples, for the estimates.")
    definition: Source | None = setting("The task's definition. Null if it is built in.", default=None)


class SelectionManifest(RecordFile):
    """Record the selection rows of a task: selection_manifest.json."""

    file_name = "selection_manifest.json"
    task: str = provenance("The task.")
    source: Source = provenance("Where the rows come from.")
    split: str = provenance("The split of that source.")
    seed: Count = setting("The seed that chose the rows.")
    examples: PositiveCount = measurement("The number of rows.")
    left_out: Count = measurement("The candidates that also occur in another row.")
    overlap: Fraction = measurement("The share of a text that occurs in the other splits.", "fraction")
    sha256: str = provenance("The sha256 of the rows.")
    disjoint_from: dict[str, str] = provenance("The sha256 of the files that the rows do not occur in, by split.")


class KeptRow(RecordPart):
    """Hold how much of a layer a mask keeps."""

    layer: str = provenance("The layer.")
    weights: PositiveCount = measurement("Its weights.")
    kept: Count = measurement("The weights that the mask keeps.")
    reached: Fraction = measurement("The share of the weights that it prunes.", "fraction")
    damping: float | None = measurement(
        "The damping of the layer's Hessian. Null without weight updates.", default=None
    )
    output_error: NonNegative | None = measurement(
        "The error of the layer's outputs. Null without weight updates.", default=None
    )
    natural_zeros: Count | None = measurement("The zeros that the model has too. Null unless imported.", default=None)
    changed_weights: Count | None = measurement(
        "The kept weights that the tool changed. Null unless imported.", default=None
    )


class ReachedSparsity(RecordPart):
    """Hold what the mask of one sparsity keeps."""

    asked_percent: Annotated[int, Field(ge=0, lt=100)] = provenance("The sparsity that was asked for.", "%")
    reached: Fraction = measurement("The sparsity that was reached.", "fraction")
    layers_below_1_percent_kept: list[str] = measurement("The layers that keep less than 1 % of their weights.")
    layers: list[KeptRow] = measurement("The row of each layer.")


class ScoreRow(RecordPart):
    """Hold the distribution of a layer's scores. It is empty for random scores."""

    layer: str = provenance("The layer.")
    quantiles: dict[float, float] = measurement("The score at each share of the weights.")
    octaves: dict[int, Count] = measurement("The number of scores from 2^k to below 2^(k + 1), by k.")
    zeros: Count = measurement("The number of scores that are 0.")


class MaskReport(MaskMeta):
    """Record what the masks of a method prune: report_METHOD.json. Its first fields are the metadata of the masks."""

    model_config = ConfigDict(extra="forbid")
    format_version: int = provenance("The version of this format.")
    scores_percent: int | None = provenance(
        "The sparsity whose scores these are, if each has its own.", "%", default=None
    )
    sparsities: list[ReachedSparsity] = measurement("The result of each sparsity.")
    scores: list[ScoreRow] = measurement("The scores of each layer.")
