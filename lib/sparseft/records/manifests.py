"""Define the files beside prepared inputs and masks: what they are, where they come from, and their digests."""

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import ConfigDict, Field, JsonValue, create_model

from sparseft.records import Count, Fraction, NonNegative, PositiveCount, measurement, provenance, setting
from sparseft.records.record_file import RecordFile, RecordPart, kind
from sparseft.study.mask_settings import Masks

Source = dict[str, JsonValue]


# The name of a file in the folder of a manifest, never a path or a pattern.
FileName = Annotated[str, Field(pattern=r"^[^./\\*?\[\]][^/\\*?\[\]]*$")]


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
    files: dict[FileName, FileEntry] = provenance("The digest and the size of each file that decides a result.")
    others: dict[FileName, FileEntry] = provenance("The same of each other file, such as a licence, but not README.md.")


class ModelManifest(CheckpointManifest):
    """Record a prepared model: manifest.json."""

    # The key that no other file has, by which the outputs of the stage are known (storage/outputs.py).
    known_by: ClassVar[str] = '\n  "revision": '
    source: str = provenance("Where the model comes from.")
    revision: str | None = provenance("The commit of a model from the hub. Null elsewhere.")
    dtype: str = setting("The number format of the weights.")


class PrunedManifest(CheckpointManifest):
    """Record a pruned base: manifest.json."""

    known_by: ClassVar[str] = '\n  "original": '
    method: str = setting("The method that updated the weights, or removed some.")
    sparsity: Fraction = setting("The sparsity that was asked for.", "fraction")
    original: str = provenance("The digest of the dense model.")
    original_weights: PositiveCount | None = measurement("Its prunable weights, if some were removed.", default=None)
    removed_weights: Count | None = measurement("Those that were removed.", default=None)
    removed: list[list[Count]] | None = measurement(
        "The removed experts of each decoder layer, or, in one list, the removed decoder layers.", default=None
    )


class ExportManifest(CheckpointManifest):
    """Record an exported run: manifest.json."""

    known_by: ClassVar[str] = '\n  "why_not_smaller": '
    run_id: str = provenance("The run.")
    source: str = provenance("Where its dense model comes from, without the folders of the machine.")
    dense: str = provenance("The digest of its dense model.")
    merged: dict[str, str] = provenance("The sha256 of each file of the merged model.")
    mask: str = provenance("The sha256 of the mask.")
    why_not_smaller: str | None = provenance("Why no channel was left out. Null if the model is smaller.")
    licence: dict[str, str] = provenance("What the README.md of its dense model states of the licence.")


class TaskManifest(RecordPart):
    """Record the prepared rows of a split of a task: manifest.json for training, and validation_manifest.json."""

    known_by: ClassVar[str] = '\n  "examples": '
    task: str = provenance("The task.")
    source: Source = provenance("Where the rows come from.")
    seed: Count = setting("The seed that chose the rows.")
    examples: dict[str, Count] = measurement("The number of rows of the split.")
    sha256: dict[str, str] = provenance("The sha256 of the file of the split.")
    validation_overlap: Fraction | None = measurement("The share that training has too.", "fraction", default=None)
    lengths: dict[str, int | list[int]] | None = measurement(
        "The lengths of all examples, for estimates.", default=None
    )
    definition: Source | None = setting("The definition of a task that is not built in.", default=None)


class SelectionManifest(RecordFile):
    """Record the selection rows of a task: selection_manifest.json."""

    record: Literal["selection_rows"] = kind("selection_rows")
    task: str = provenance("The task.")
    source: Source = provenance("Where the rows come from.")
    split: str = provenance("The split of that source.")
    seed: Count = setting("The seed that chose the rows.")
    examples: PositiveCount = measurement("The number of rows.")
    left_out: Count = measurement("The candidates that also occur in another row.")
    overlap: Fraction = measurement("The share of a text that occurs in the other splits.", "fraction")
    sha256: str = provenance("The sha256 of the rows.")
    disjoint_from: dict[str, str] = provenance("The sha256 of the files that the rows do not occur in, by split.")


# The keys of `masks:` that a mask records. The others have fields of their own.
_KEYS: dict[str, Any] = {
    name: (key.annotation | None, setting(key.description, default=None))
    for name, key in cast(dict[str, Any], Masks.model_fields).items()
    if name not in ("scope", "calibration", "imported", "imported_pattern")
}
MaskSettings = create_model("MaskSettings", __base__=RecordPart, **_KEYS)


class MaskMeta(MaskSettings):
    """Hold what a mask says of itself. What its method does not use is null."""

    # A mask may come from the user, with keys of its own.
    model_config = ConfigDict(extra="allow")
    method: str | None = provenance("The method.", default=None)
    pattern: str | None = provenance("The pattern of the method.", default=None)
    importance: str | None = provenance("The importance of the method.", default=None)
    coordinates: str | None = provenance("The names and shapes of the layers: hf for Hugging Face's.", default=None)
    base: str | None = provenance("The digest of the model that the mask belongs to.", default=None)
    original: str | None = provenance("The digest of the dense model, if the base has other weights.", default=None)
    sparsity: Fraction | None = provenance("The sparsity that was asked for.", "fraction", default=None)
    reached: Fraction | None = measurement("The sparsity that was reached.", "fraction", default=None)
    removed_weights: Count | None = measurement("The prunable weights that the base lacks.", default=None)
    scope: str | None = setting("Which weights were ranked together.", default=None)
    outliers: list[float] | None = measurement("The share of outliers of each decoder layer.", "fraction", default=None)
    calibration: str | None = provenance("The name of the text that calibrated the mask.", default=None)
    calibration_length: int | None = setting("The length of a calibration example.", "tokens", default=None)
    calibration_choice: str | None = setting("How its windows were chosen. Null: shuffled.", default=None)
    more_damping: dict[str, float] | None = measurement("The damping of the layers that needed more.", default=None)
    accumulated: str | None = setting("What was accumulated over the calibration examples.", default=None)
    task: str | None = provenance("The task whose examples calibrated the mask.", default=None)
    train_sha256: str | None = setting("The sha256 of the task's examples that calibrated the mask.", default=None)
    text_sha256: str | None = setting("The sha256 of the text that calibrated the mask.", default=None)
    text_source: JsonValue = provenance("Where that text comes from.", default=None)
    inferred: bool | None = setting("Whether the mask was read off a checkpoint of another tool.", default=None)
    source: str | None = provenance("That checkpoint. Null if it is the model itself.", default=None)
    source_digest: str | None = provenance("The digest of that checkpoint.", default=None)
    stated_pattern: str | None = setting("Its pattern N:M, if the user stated one.", default=None)
    natural_zeros: int | None = measurement("Its zeros that are zero in the model too.", default=None)
    changed_weights: int | None = measurement("The kept weights that the tool changed.", default=None)


class KeptRow(RecordPart):
    """Hold how much of a layer a mask keeps."""

    layer: str = provenance("The layer.")
    weights: PositiveCount = measurement("Its weights.")
    kept: Count = measurement("The weights that the mask keeps.")
    reached: Fraction = measurement("The share of the weights that it prunes.", "fraction")
    damping: float | None = measurement("The damping of its Hessian, if weights are updated.", default=None)
    output_error: NonNegative | None = measurement("The error of its outputs, if so.", default=None)


class ReachedSparsity(RecordPart):
    """Hold what the mask of one sparsity keeps."""

    asked_percent: Count = provenance("The sparsity that was asked for.", "%", lt=100)
    reached: Fraction = measurement("The sparsity that was reached.", "fraction")
    layers: list[KeptRow] = measurement("The row of each layer.")


class UnitRow(RecordPart):
    """Hold the experts of a decoder layer, or the decoder layers of the model."""

    scores: list[float] = measurement("The score of each one.")
    removed: list[Count] = measurement("The numbers of those that were removed.")


class MaskReport(MaskMeta):
    """Record what the masks of a method prune: report_METHOD.json. Its first fields are the metadata of the masks."""

    known_by: ClassVar[str] = '\n  "sparsities": '
    model_config = ConfigDict(extra="forbid")
    format_version: int = provenance("The version of this format.")
    sparsities: list[ReachedSparsity] = measurement("The result of each sparsity.")
    units: list[UnitRow] | None = measurement(
        "The scores of experts or decoder layers, if these were removed.", default=None
    )
