"""Check validation_report.json: what the comparison of every weight with the mask found.

A report that contradicts itself is unusable: its run is in no table (`contradictions`). A report that fails, or that says
more than its layer rows show, marks its run with a fault (`faults`). These are all checks of a report.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ValidationError

from sparseft.analysis.records.merge_record import files_digest
from sparseft.analysis.records.record_file import (
    ROUNDING,
    Count,
    Fraction,
    NonNegative,
    PositiveCount,
    RecordFile,
    RecordPart,
)
from sparseft.errors import InputError
from sparseft.masks.mask_file import count_kept, read_mask
from sparseft.storage.hashes import sha256


class LayerRow(BaseModel):
    """Hold the row of one layer: how many weights it has, are pruned by the mask, are zero, or violate the mask.

    `within_tolerance` counts the pruned weights that are not zero and at most the tolerance. `max_abs_pruned` is the largest
    magnitude of a pruned weight."""

    # Not a RecordPart, because a study has a million rows, and a row by itself has no contradictions.
    model_config = RecordPart.model_config
    layer: str
    weights: PositiveCount
    pruned: Count
    zeros: Count
    within_tolerance: Count
    violations: Count
    max_abs_pruned: NonNegative


def _as_arrays(rows: list[LayerRow]) -> dict[str, np.ndarray]:
    """Return each field of the rows as an array, because the rows of a whole study would fill the memory as objects."""
    return {name: np.array([getattr(row, name) for row in rows]) for name in LayerRow.model_fields}


class ValidationInputs(RecordPart):
    """Hold the sha256 of the mask and of each checkpoint file, and the base's digest (None without a base)."""

    mask: str
    checkpoint: dict[str, str]
    base: str | None


class MaskSettings(RecordPart):
    """Hold what a mask says of itself. A setting that its method does not use is None.

    `inferred` says that the mask was read off a checkpoint of another tool. `sparsity` is the fraction that was requested.
    `original` is the digest of the dense model if the method updated the weights of its base. `train_sha256` is that of the
    task's examples that calibrated the mask, and `text_sha256` that of the text that did."""

    scope: str
    method: str | None = None
    sparsity: Fraction | None = None
    seed: int | None = None
    nm_group: int | None = None
    inferred: bool | None = None
    owl_lambda: float | None = None
    owl_m: float | None = None
    sequential: bool | None = None
    calibration_examples: int | None = None
    calibration_seed: int | None = None
    calibration_length: int | None = None
    sparsegpt_block: int | None = None
    sparsegpt_damping: float | None = None
    accumulated: str | None = None
    train_sha256: str | None = None
    text_sha256: str | None = None
    original: str | None = None

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the masks of the method, apart from the base."""
        named = {"method", "sparsity", "train_sha256", "text_sha256", "original"}
        digest = self.train_sha256 or self.text_sha256
        return self.model_dump(exclude=named) | ({"calibration data": digest} if digest else {})


@dataclass(frozen=True)
class MaskFile:
    """Hold the sha256 of a mask file, what it says of itself, and its layers.

    `layers` has the name of each layer, how many weights it has and how many are pruned, sorted. A file that is no mask has
    neither settings nor layers."""

    sha256: str
    settings: MaskSettings | None = None
    layers: list[tuple[str, int, int]] | None = None


def read_mask_file(path: Path) -> MaskFile:
    """Return what is compared with the validations of a mask. The file may hold anything."""
    digest = sha256(path)
    try:
        mask = read_mask(path)
        settings = MaskSettings.model_validate(mask.meta)
    except (InputError, ValidationError):
        return MaskFile(digest)
    layers = [
        (layer, rows * cols, rows * cols - count_kept(mask.bits[layer])) for layer, (rows, cols) in mask.shape.items()
    ]
    return MaskFile(digest, settings, sorted(layers))


class ValidationRecord(RecordFile):
    """Check validation_report.json. Sparsities are fractions of the prunable weights, None if no layer was checked.

    `actual_sparsity` counts exact zeros. `sparsity_within_tolerance` also counts the pruned weights up to the tolerance.
    `not_checked` holds a sentence for each thing that the validation leaves open. `mask_of_base` is None without a base."""

    file_name: ClassVar[str] = "validation_report.json"
    passed: bool
    not_checked: list[str]
    mask_of_base: bool | None = None
    mask: MaskSettings
    layers_checked: Count
    layers_expected: Count
    violations: Count
    max_abs_violation: float
    max_abs_pruned: NonNegative
    tolerance: float
    expected_sparsity: Fraction | None
    actual_sparsity: Fraction | None
    sparsity_within_tolerance: Fraction | None
    tensors_outside_checked: Count
    tensors_outside_changed: list[str]
    layers: Annotated[list[LayerRow], AfterValidator(_as_arrays)]
    inputs: ValidationInputs

    @property
    def weights(self) -> int:
        """Return how many weights were compared with the mask."""
        return int(self.layers["weights"].sum())

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
        tolerated = int(self.layers["within_tolerance"].sum())
        if tolerated and self.tolerance == 0:
            yield f"{tolerated} pruned weights within a tolerance of 0"
        if self.max_abs_pruned > self.tolerance and not self.violations:
            yield f"a pruned weight of {self.max_abs_pruned:g}, and 0 violations"
        if self.max_abs_pruned > 0 and not self.violations and not tolerated:
            yield f"a pruned weight of {self.max_abs_pruned:g}, and none within the tolerance"
        zeros = self.layers["zeros"].sum() + tolerated
        if fault := self._wrong_share("sparsity_within_tolerance", zeros):
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
        layers = self.layers
        if (np.maximum(layers["pruned"], layers["zeros"]) > layers["weights"]).any():
            yield "a layer with more zeros than weights"
        if (layers["pruned"] - layers["violations"] - layers["within_tolerance"] > layers["zeros"]).any():
            yield "a layer whose pruned weights are neither zeros nor violations"
        if layers["max_abs_pruned"].max(initial=0) != self.max_abs_pruned:
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
        rows = len(self.layers["layer"])
        violations = self.layers["violations"].sum()
        if rows != self.layers_checked or violations != self.violations:
            yield f"its totals are not those of its {rows} layer rows with {violations} violations"
        for name, column in (("expected_sparsity", "pruned"), ("actual_sparsity", "zeros")):
            if fault := self._wrong_share(name, self.layers[column].sum()):
                yield fault

    def _differences(self, mask: MaskFile) -> Iterator[str]:
        """Yield what the report says of the mask and the mask's file does not."""
        if self.mask != mask.settings:
            yield "its mask settings are not those of the mask's file"
        columns = (self.layers[name].tolist() for name in ("layer", "weights", "pruned"))
        if sorted(zip(*columns, strict=True)) != mask.layers:
            yield "its layer rows are not the layers of the mask's file, with their weights and how many are pruned"

    def _wrong_share(self, name: str, count: int) -> str | None:
        """Return how a sparsity differs from a count of weights; None if it agrees, or if there is none."""
        share = getattr(self, name)
        if share is None or math.isclose(share * self.weights, count, rel_tol=ROUNDING):
            return None
        return f"{name} {share:g} is not that of its layer rows, {count:,} of {self.weights:,}"

    def _layer_counts(self) -> str:
        """Return how many layers were checked, in words."""
        return f"{self.layers_checked} of {self.layers_expected} layers checked"
