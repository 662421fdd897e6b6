"""Define validation_report.json: what the comparison of every weight with the mask found.

A report that contradicts itself is unusable (`contradictions`). A report that fails, or that says more than its layer rows show,
marks its run with a fault (`faults`). Sparsities are fractions of the prunable weights.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict, JsonValue

from sparseft.records.merge_record import files_digest
from sparseft.records.record_file import (
    ROUNDING,
    Count,
    Fraction,
    NonNegative,
    PositiveCount,
    RecordPart,
    RunRecord,
    kind,
    measurement,
    provenance,
    setting,
)


class MaskMeta(RecordPart):
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
    scope: str | None = setting("Which weights were ranked together.", default=None)
    seed: int | None = setting("The seed of random masks.", default=None)
    nm_group: int | None = setting("M of N:M.", default=None)
    owl_lambda: float | None = setting("The most by which owl moves a layer's sparsity.", "fraction", default=None)
    owl_m: float | None = setting("The multiple of the mean that owl counts as an outlier.", default=None)
    outliers: dict[str, float] | None = measurement("The share of outliers of each layer.", "fraction", default=None)
    sequential: bool | None = setting("Whether the layers before a layer were pruned first.", default=None)
    calibration: str | None = provenance("The name of the text that calibrated the mask.", default=None)
    calibration_examples: int | None = setting("The number of calibration examples.", default=None)
    calibration_seed: int | None = setting("The seed that chose the calibration examples.", default=None)
    calibration_length: int | None = setting("The length of a calibration example.", "tokens", default=None)
    sparsegpt_block: int | None = setting("The columns that sparsegpt prunes together.", default=None)
    sparsegpt_damping: float | None = setting("The damping of sparsegpt's Hessians.", default=None)
    more_damping: dict[str, float] | None = measurement("The damping of the layers that needed more.", default=None)
    accumulated: str | None = setting("What was accumulated over the calibration examples.", default=None)
    task: str | None = provenance("The task whose examples calibrated the mask.", default=None)
    train_sha256: str | None = setting("The sha256 of the task's examples that calibrated the mask.", default=None)
    text_sha256: str | None = setting("The sha256 of the text that calibrated the mask.", default=None)
    text_source: JsonValue = provenance("Where that text comes from.", default=None)
    inferred: bool | None = setting("Whether the mask was read off a checkpoint of another tool.", default=None)
    source: str | None = provenance("That checkpoint.", default=None)
    source_digest: str | None = provenance("The digest of that checkpoint.", default=None)
    natural_zeros: int | None = measurement(
        "The zeros of that checkpoint that are zero in the model too.", default=None
    )
    changed_weights: int | None = measurement("The kept weights that the tool changed.", default=None)


@dataclass(frozen=True)
class MaskFile:
    """Hold the sha256 of a mask file, what it says of itself, and its layers.

    `layers` has the name of each layer, how many weights it has and how many are pruned, sorted. A file that is no mask has
    neither settings nor layers."""

    sha256: str
    settings: MaskMeta | None = None
    layers: list[tuple[str, int, int]] | None = None


class LayerRow(RecordPart):
    """Hold the row of one layer."""

    layer: str = provenance("The layer.")
    weights: PositiveCount = measurement("Its weights.")
    pruned: Count = measurement("The weights that the mask prunes.")
    zeros: Count = measurement("The weights that are zero.")
    kept_zeros: Count = measurement("The zeros that the mask keeps.")
    within_tolerance: Count = measurement("The pruned weights that are not zero and at most the tolerance.")
    violations: Count = measurement("The pruned weights above the tolerance.")
    max_abs_violation: NonNegative = measurement("The largest magnitude of a violation, or 0.")
    max_abs_pruned: NonNegative = measurement("The largest magnitude of a pruned weight, or 0.")


class ValidationInputs(RecordPart):
    """Hold the digests of what was compared."""

    mask: str = provenance("The sha256 of the mask.")
    checkpoint: dict[str, str] = provenance("The sha256 of each file of the checkpoint.")
    base: str | None = provenance("The digest of the base. Null if none was given.")


class ValidationRecord(RunRecord):
    """Record the proof that a checkpoint obeys a mask."""

    file_name: ClassVar[str] = "validation_report.json"
    record: Literal["validation"] = kind("validation")
    passed: bool = measurement("Whether the proof succeeded.")
    not_checked: list[str] = measurement("A sentence for each thing that the validation leaves open.")
    layers_checked: Count = measurement("The layers that were compared with their mask.")
    layers_expected: Count = measurement("The prunable layers of the checkpoint.")
    layers_not_checked: list[str] = measurement("The layers without a mask, and the masks without a layer.")
    mask: MaskMeta = provenance("What the mask says of itself.")
    mask_of_base: bool | None = measurement("Whether the mask is of the base. Null without a base.")
    violations: Count = measurement("The pruned weights above the tolerance.")
    max_abs_violation: float = measurement("The largest magnitude of a violation, or 0.")
    max_abs_pruned: NonNegative = measurement("The largest magnitude of a pruned weight, or 0.")
    tolerance: float = provenance("The largest magnitude that passes as zero.")
    expected_sparsity: Fraction | None = measurement("The share that the mask prunes.", "fraction")
    actual_sparsity: Fraction | None = measurement("The share of exact zeros.", "fraction")
    sparsity_within_tolerance: Fraction | None = measurement("The share that passes as zero.", "fraction")
    tensors_outside_checked: Count = measurement("The tensors outside the mask that were compared with the base.")
    tensors_outside_changed: list[str] = measurement("The tensors that differ from the base and must not.")
    layers: list[LayerRow] = measurement("The row of each layer.")
    inputs: ValidationInputs = provenance("The digests of what was compared.")

    @property
    def weights(self) -> int:
        """Return how many weights were compared with the mask."""
        return self._total("weights")

    @property
    def merged_digest(self) -> str | None:
        """Return the digest of the merged model that was checked."""
        return files_digest(self.inputs.checkpoint)

    @property
    def digests(self) -> dict[str, str | None]:
        """Return the digests that the file names, by link of the chain. The base is left out if the validation had none."""
        base = {"base": self.inputs.base} if self.inputs.base else {}
        return base | {"mask": self.inputs.mask, "merged": self.merged_digest}

    def contradictions(self) -> Iterator[str]:
        """Yield what makes the report unusable."""
        yield from self._layer_contradictions()
        tolerated = self._total("within_tolerance")
        if tolerated and self.tolerance == 0:
            yield f"{tolerated} pruned weights within a tolerance of 0"
        if self.max_abs_pruned > self.tolerance and not self.violations:
            yield f"a pruned weight of {self.max_abs_pruned:g}, and 0 violations"
        if self.max_abs_pruned > 0 and not self.violations and not tolerated:
            yield f"a pruned weight of {self.max_abs_pruned:g}, and none within the tolerance"
        if fault := self._wrong_share("sparsity_within_tolerance", self._total("zeros") + tolerated):
            yield fault
        without_base = self.inputs.base is None
        if bool(self.not_checked) != (without_base or tolerated > 0):
            yield f"{len(self.not_checked)} sentences in not_checked, and {'no' if without_base else 'a'} base"

    def faults(self, mask: MaskFile | None) -> list[str]:
        """Return why the validation failed, or why it should have failed although it says that it passed; else nothing.

        `mask` is the mask's file as it is now. The chain of hashes finds another file than the one that was compared."""
        wrong = [*self._failures(), *self._wrong_totals()]
        if mask and mask.sha256 == self.inputs.mask:
            wrong += self._differences(mask)
        if not self.passed:
            return ["validation failed: " + ("; ".join(wrong) or f"{self._layer_counts()}, 0 violations")]
        return ["validation says passed, but: " + "; ".join(wrong)] if wrong else []

    def _layer_contradictions(self) -> Iterator[str]:
        """Yield what is wrong with the layer rows."""
        rows = self.layers
        if any(max(row.pruned, row.zeros) > row.weights for row in rows):
            yield "a layer with more zeros than weights"
        if any(row.pruned - row.violations - row.within_tolerance > row.zeros for row in rows):
            yield "a layer whose pruned weights are neither zeros nor violations"
        if max((row.max_abs_pruned for row in rows), default=0) != self.max_abs_pruned:
            yield f"max_abs_pruned {self.max_abs_pruned:g} is not the layers' largest"

    def _failures(self) -> Iterator[str]:
        """Yield what fails a validation."""
        if self.violations:
            yield f"{self.violations} weights violate the mask, the largest {self.max_abs_violation:.3g}"
        elif self.max_abs_violation > self.tolerance:
            yield f"0 violations, and the largest is {self.max_abs_violation:.3g}"
        if self.layers_checked == 0 or self.layers_checked != self.layers_expected:
            yield self._layer_counts()
        if self.mask_of_base is False:
            yield "the mask was computed from another base"
        if self.tensors_outside_changed:
            yield f"changed outside the mask: {', '.join(self.tensors_outside_changed)}"

    def _wrong_totals(self) -> Iterator[str]:
        """Yield the totals that are not those of the layer rows."""
        violations = self._total("violations")
        if len(self.layers) != self.layers_checked or violations != self.violations:
            yield f"its totals are not those of its {len(self.layers)} layer rows with {violations} violations"
        for name, column in (("expected_sparsity", "pruned"), ("actual_sparsity", "zeros")):
            if fault := self._wrong_share(name, self._total(column)):
                yield fault

    def _differences(self, mask: MaskFile) -> Iterator[str]:
        """Yield what the report says of the mask and the mask's file does not."""
        if self.mask != mask.settings:
            yield "its mask settings are not those of the mask's file"
        if sorted((row.layer, row.weights, row.pruned) for row in self.layers) != mask.layers:
            yield "its layer rows are not the layers of the mask's file, with their weights and how many are pruned"

    def _total(self, column: str) -> int:
        """Return the sum of a column of the layer rows."""
        return sum(getattr(row, column) for row in self.layers)

    def _wrong_share(self, name: str, count: int) -> str | None:
        """Return how a sparsity differs from a count of weights; None if it agrees, or if there is none."""
        share = getattr(self, name)
        if share is None or math.isclose(share * self.weights, count, rel_tol=ROUNDING):
            return None
        return f"{name} {share:g} is not that of its layer rows, {count:,} of {self.weights:,}"

    def _layer_counts(self) -> str:
        """Return how many layers were checked, in words."""
        return f"{self.layers_checked} of {self.layers_expected} layers checked"
