"""Define validation_report.json: what the comparison of every weight with the mask found.

A report that fails, or that says more than its layer rows show, marks its run with a fault (`faults`). Sparsities are
fractions of the prunable weights of the model that was pruned.
"""

import math
from typing import ClassVar, Literal

from sparseft.axes.methods import get_method
from sparseft.pruning.masks.mask_record import MaskMeta
from sparseft.storage.fields import Count, Fraction, NonNegative, PositiveCount, field
from sparseft.storage.record_file import ROUNDING, RecordPart, RunRecord, kind


class LayerRow(RecordPart):
    """Hold the row of one layer."""

    layer: str = field("The layer.")
    weights: PositiveCount = field("Its weights.")
    pruned: Count = field("The weights that the mask prunes.")
    zeros: Count = field("The weights that are zero.")
    kept_zeros: Count = field("The zeros that the mask keeps.")
    within_tolerance: Count = field("The pruned weights that are not zero and at most the tolerance.")
    violations: Count = field("The pruned weights above the tolerance.")
    max_abs_violation: NonNegative = field("The largest magnitude of a violation, or 0.")
    max_abs_pruned: NonNegative = field("The largest magnitude of a pruned weight, or 0.")


class ValidationInputs(RecordPart):
    """Hold the digests of what was compared."""

    mask: str = field("The sha256 of the mask.")
    checkpoint: dict[str, str] = field("The sha256 of each file of the checkpoint.")
    base: str | None = field("The digest of the base. Null if none was given.")


class ValidationRecord(RunRecord):
    """Record the proof that a checkpoint obeys a mask."""

    file_name: ClassVar[str] = "validation_report.json"
    record: Literal["validation"] = kind("validation")
    passed: bool = field("Whether the proof succeeded.")
    not_checked: list[str] = field("A sentence for each thing that the validation leaves open.")
    layers_checked: Count = field("The layers that were compared with their mask.")
    layers_expected: Count = field("The prunable layers of the checkpoint.")
    layers_not_checked: list[str] = field("The layers without a mask, and the masks without a layer.")
    mask: MaskMeta = field("What the mask says of itself.")
    mask_of_base: bool | None = field("Whether the mask is of the base. Null without a base.")
    violations: Count = field("The pruned weights above the tolerance.")
    max_abs_violation: float = field("The largest magnitude of a violation, or 0.")
    max_abs_pruned: NonNegative = field("The largest magnitude of a pruned weight, or 0.")
    tolerance: float = field("The largest magnitude that passes as zero.")
    parameters: PositiveCount | None = field("The parameters of the merged model.", column=True, default=None)
    bytes: PositiveCount | None = field("The size of their files.", "bytes", column="model_bytes", default=None)
    removed_weights: Count = field("The prunable weights that a pruned base lacks.", default=0)
    expected_sparsity: Fraction | None = field("The share that the mask prunes, or that was removed.", "fraction")
    actual_sparsity: Fraction | None = field("The share of exact zeros, or of what was removed.", "fraction")
    sparsity_within_tolerance: Fraction | None = field("The share that passes as zero.", "fraction")
    tensors_outside_checked: Count = field("The tensors outside the mask that were compared with the base.")
    tensors_outside_changed: list[str] = field("The tensors that differ from the base and must not.")
    layers: list[LayerRow] = field("The row of each layer.")
    inputs: ValidationInputs = field("The digests of what was compared.")

    @property
    def weights(self) -> int:
        """Return how many weights were compared with the mask."""
        return sum(row.weights for row in self.layers)

    @property
    def parameters_left(self) -> int | None:
        """Return the parameters without the channels that a structured mask prunes; None if they were not counted."""
        rows = self.layers if self.mask.method and get_method(self.mask.method).pattern.removes == "channels" else []
        return self.parameters and self.parameters - sum(row.pruned for row in rows)

    def faults(self) -> list[str]:
        """Return why the validation failed, or why it should have failed although it says that it passed; else
        nothing."""
        rows, violations = len(self.layers), sum(row.violations for row in self.layers)
        is_fault = {
            f"{self.violations} weights violate the mask, the largest {self.max_abs_violation:.3g}": self.violations,
            f"{self.layers_checked} of {self.layers_expected} layers checked": (
                self.layers_checked != self.layers_expected or not self.layers_checked
            ),
            "the mask was computed from another base": self.mask_of_base is False,
            f"changed outside the mask: {', '.join(self.tensors_outside_changed)}": self.tensors_outside_changed,
            f"its totals are not those of its {rows} layer rows with {violations} violations": (
                (rows, violations) != (self.layers_checked, self.violations)
            ),
        }
        for name, column in {"expected_sparsity": "pruned", "actual_sparsity": "zeros"}.items():
            count = self.removed_weights + sum(getattr(row, column) for row in self.layers)
            share, weights = getattr(self, name), self.removed_weights + self.weights
            is_right = share is None or math.isclose(share * weights, count, rel_tol=ROUNDING)
            is_fault[f"{name} {share} is not that of its layer rows, {count:,} of {weights:,}"] = not is_right
        wrong = "; ".join(text for text, is_true in is_fault.items() if is_true)
        if not self.passed:
            return [f"validation failed: {wrong or 'it does not say why'}"]
        return [f"validation says passed, but: {wrong}"] if wrong else []
