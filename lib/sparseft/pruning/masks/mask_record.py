"""Define what a mask says of itself, report_METHOD.json beside masks, and manifest.json of a pruned base."""

from typing import Any, ClassVar, cast

from pydantic import ConfigDict, JsonValue, create_model

from sparseft.models.checkpoints.manifests import CheckpointManifest
from sparseft.pruning.masks.settings import Masks
from sparseft.storage.fields import Count, Fraction, NonNegative, PositiveCount, field, setting
from sparseft.storage.record_file import RecordPart


class PrunedManifest(CheckpointManifest):
    """Record a pruned base: manifest.json."""

    known_by: ClassVar[str] = '\n  "original": '
    method: str = setting("The method that updated the weights, or removed some.")
    sparsity: Fraction = setting("The sparsity that was asked for.", "fraction")
    original: str = field("The digest of the dense model.")
    original_weights: PositiveCount | None = field("Its prunable weights, if some were removed.", default=None)
    removed_weights: Count | None = field("Those that were removed.", default=None)
    removed: list[list[Count]] | None = field(
        "The removed experts of each decoder layer, or, in one list, the removed decoder layers.", default=None
    )


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
    method: str | None = field("The method.", default=None)
    pattern: str | None = field("The pattern of the method.", default=None)
    importance: str | None = field("The importance of the method.", default=None)
    coordinates: str | None = field("The names and shapes of the layers: hf for Hugging Face's.", default=None)
    base: str | None = field("The digest of the model that the mask belongs to.", default=None)
    original: str | None = field("The digest of the dense model, if the base has other weights.", default=None)
    sparsity: Fraction | None = field("The sparsity that was asked for.", "fraction", default=None)
    reached: Fraction | None = field("The sparsity that was reached.", "fraction", default=None)
    removed_weights: Count | None = field("The prunable weights that the base lacks.", default=None)
    scope: str | None = setting("Which weights were ranked together.", default=None)
    outliers: list[float] | None = field("The share of outliers of each decoder layer.", "fraction", default=None)
    calibration: str | None = field("The name of the text that calibrated the mask.", default=None)
    calibration_length: int | None = setting("The length of a calibration example.", "tokens", default=None)
    calibration_choice: str | None = setting("How its windows were chosen. Null: shuffled.", default=None)
    more_damping: dict[str, float] | None = field("The damping of the layers that needed more.", default=None)
    accumulated: str | None = setting("What was accumulated over the calibration examples.", default=None)
    task: str | None = field("The task whose examples calibrated the mask.", default=None)
    train_sha256: str | None = setting("The sha256 of the task's examples that calibrated the mask.", default=None)
    text_sha256: str | None = setting("The sha256 of the text that calibrated the mask.", default=None)
    text_source: JsonValue = field("Where that text comes from.", default=None)
    inferred: bool | None = setting("Whether the mask was read off a checkpoint of another tool.", default=None)
    source: str | None = field("That checkpoint. Null if it is the model itself.", default=None)
    source_digest: str | None = field("The digest of that checkpoint.", default=None)
    stated_pattern: str | None = setting("Its pattern N:M, if the user stated one.", default=None)
    natural_zeros: int | None = field("Its zeros that are zero in the model too.", default=None)
    changed_weights: int | None = field("The kept weights that the tool changed.", default=None)


class KeptRow(RecordPart):
    """Hold how much of a layer a mask keeps."""

    layer: str = field("The layer.")
    weights: PositiveCount = field("Its weights.")
    kept: Count = field("The weights that the mask keeps.")
    reached: Fraction = field("The share of the weights that it prunes.", "fraction")
    damping: float | None = field("The damping of its Hessian, if weights are updated.", default=None)
    output_error: NonNegative | None = field("The error of its outputs, if so.", default=None)


class ReachedSparsity(RecordPart):
    """Hold what the mask of one sparsity keeps."""

    asked_percent: Count = field("The sparsity that was asked for.", "%", lt=100)
    reached: Fraction = field("The sparsity that was reached.", "fraction")
    layers: list[KeptRow] = field("The row of each layer.")


class UnitRow(RecordPart):
    """Hold the experts of a decoder layer, or the decoder layers of the model."""

    scores: list[float] = field("The score of each one.")
    removed: list[Count] = field("The numbers of those that were removed.")


class MaskReport(MaskMeta):
    """Record what the masks of a method prune: report_METHOD.json. Its first fields are the metadata of the masks."""

    known_by: ClassVar[str] = '\n  "sparsities": '
    model_config = ConfigDict(extra="forbid")
    format_version: int = field("The version of this format.")
    sparsities: list[ReachedSparsity] = field("The result of each sparsity.")
    units: list[UnitRow] | None = field("The scores of experts or decoder layers, if these were removed.", default=None)
