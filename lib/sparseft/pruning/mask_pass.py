"""Describe one pass: what makes the masks of a method with its sparsities on one checkpoint."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sparseft.architectures.prunable_model import PrunableModel
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import check_finite_weights, check_tensors, prunable_shapes
from sparseft.grid import PassFiles
from sparseft.masks.mask_record import MaskReport, PrunedManifest
from sparseft.masks.settings import Masks
from sparseft.methods import Method
from sparseft.storage.outputs import check_ours


@dataclass(frozen=True)
class MaskPass:
    """Hold what makes the masks of a method for ascending sparsities in percent. A pass with a pruned base has one
    sparsity.

    An importance that needs examples needs a `calibration`."""

    checkpoint: Checkpoint
    method: Method
    percents: list[int]
    files: PassFiles
    settings: Masks
    # An ExampleCalibration. Its module is not imported, because what an imported mask counts as its code needs no
    # examples.
    calibration: Any = None
    threads: int = 1

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return layer -> (rows, cols)."""
        return prunable_shapes(self.checkpoint)

    @property
    def model(self) -> PrunableModel:
        """Return the model that is pruned, without its weights."""
        return PrunableModel(self.checkpoint.architecture, self.checkpoint.config, self.shapes, self.checkpoint.folder)

    @cached_property
    def scope(self) -> str:
        """Return what is ranked together. Raises InputError if the settings do not allow the method."""
        return self.settings.scope_of(self.method, self.percents)

    @property
    def origin(self) -> dict[str, Any]:
        """Return what the manifest of a pruned base, and its mask, say about where it comes from."""
        sparsity = self.percents[0] / 100
        return {"method": self.method.name, "sparsity": sparsity, "original": self.checkpoint.digest}

    def check_outputs(self) -> None:
        """Raise InputError if a file of the pass may be somebody else's."""
        check_ours(self.files.report, MaskReport.known_by, *self.files.masks)
        if base := self.files.base:
            check_ours(base / "manifest.json", PrunedManifest.known_by, base)

    def checked_meta(self) -> dict:
        """Return the metadata of the masks, without their sparsities.

        Raises InputError if the settings do not allow the method, if the architecture is unknown, if tensors do not fit
        config.json, or if a weight is not finite. Scores are checked when they are ranked."""
        method, checkpoint = self.method, self.checkpoint
        assert self.scope and (self.calibration or not method.uses_examples), f"{method.name} looks at examples"
        check_tensors(checkpoint, checkpoint.folder)
        if (method.has_pruned_base or not method.importance) and not checkpoint.prepared:
            check_finite_weights(checkpoint, checkpoint.folder)
        return {
            "method": method.name,
            "pattern": method.pattern.name,
            "importance": method.importance.name if method.importance else "none",
            "coordinates": "hf",
            "base": checkpoint.digest,
            **self.settings.used_by(method),
            "scope": self.scope,
            **(self.calibration.meta if self.calibration else {}),
        }
