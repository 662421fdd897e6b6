"""Define validation_report.json: what the comparison of every weight with the mask found.

A report that contradicts itself is unusable (`contradictions`). A report that fails, or that says more than its layer rows show,
marks its run with a fault (`faults`). Sparsities are fractions of the prunable weights.
"""

import math
from typing import ClassVar, Literal

from sparseft.records import Count, Fraction, NonNegative, PositiveCount, measurement, provenance
from sparseft.records.manifests import MaskMeta
from sparseft.records.record_file import ROUNDING, RecordPart, RunRecord, kind, that_hold


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

    mask: str = provenance("The sha256 of the mask.", link="mask")
    checkpoint: dict[str, str] = provenance("The sha256 of each file of the checkpoint.", link="merged")
    base: str | None = provenance("The digest of the base. Null if none was given.", link="base")


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
    def digests(self) -> dict[str, str]:
        """Return the digests that the record names. The base is left out if the validation had none."""
        return {link: digest for link, digest in super().digests.items() if digest}

    def contradictions(self) -> dict[str, object]:
        """Return what may make the report unusable."""
        rows = self.layers
        largest = self.max_abs_pruned
        largest_of_rows = max((row.max_abs_pruned for row in rows), default=0)
        has_unexplained = any(row.pruned > row.zeros + row.violations + row.within_tolerance for row in rows)
        tolerated = self._total("within_tolerance")
        is_open = self.inputs.base is None or tolerated > 0
        return {
            "a layer with more zeros than weights": any(max(row.pruned, row.zeros) > row.weights for row in rows),
            "a layer whose pruned weights are neither zeros nor violations": has_unexplained,
            f"max_abs_pruned {largest:g} is not the layers' largest": largest != largest_of_rows,
            f"{tolerated} pruned weights within a tolerance of 0": tolerated and self.tolerance == 0,
            f"a pruned weight of {largest:g}, and 0 violations": largest > self.tolerance and not self.violations,
            f"a pruned weight of {largest:g}, and none that passed": largest and not self.violations and not tolerated,
            f"{len(self.not_checked)} sentences in not_checked": bool(self.not_checked) != is_open,
        } | self._wrong_share("sparsity_within_tolerance", self._total("zeros") + tolerated)

    def faults(self) -> list[str]:
        """Return why the validation failed, or why it should have failed although it says that it passed; else nothing."""
        wrong = "; ".join(that_hold(self._failures() | self._wrong_totals()))
        if not self.passed:
            return [f"validation failed: {wrong or 'it does not say why'}"]
        return [f"validation says passed, but: {wrong}"] if wrong else []

    def _failures(self) -> dict[str, object]:
        """Return what may have failed the validation."""
        largest = self.max_abs_violation
        checked = self.layers_checked
        return {
            f"{self.violations} weights violate the mask, the largest {largest:.3g}": self.violations,
            f"0 violations, and the largest is {largest:.3g}": not self.violations and largest > self.tolerance,
            f"{checked} of {self.layers_expected} layers checked": checked == 0 or checked != self.layers_expected,
            "the mask was computed from another base": self.mask_of_base is False,
            f"changed outside the mask: {', '.join(self.tensors_outside_changed)}": self.tensors_outside_changed,
        }

    def _wrong_totals(self) -> dict[str, object]:
        """Return the totals that may not be those of the layer rows."""
        rows, violations = len(self.layers), self._total("violations")
        is_wrong = (rows, violations) != (self.layers_checked, self.violations)
        return {
            f"its totals are not those of its {rows} layer rows with {violations} violations": is_wrong,
            **self._wrong_share("expected_sparsity", self._total("pruned")),
            **self._wrong_share("actual_sparsity", self._total("zeros")),
        }

    def _total(self, column: str) -> int:
        """Return the sum of a column of the layer rows."""
        return sum(getattr(row, column) for row in self.layers)

    def _wrong_share(self, name: str, count: int) -> dict[str, object]:
        """Return that a sparsity is not that of a count of weights. If there is none, nothing is wrong."""
        share = getattr(self, name)
        is_right = share is None or math.isclose(share * self.weights, count, rel_tol=ROUNDING)
        return {f"{name} {share} is not that of its layer rows, {count:,} of {self.weights:,}": not is_right}
