"""Describe one pass: a method with its sparsities on one checkpoint, and the scores by which it ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import check_finite_weights, check_tensors, prunable_shapes
from sparseft.methods import Method
from sparseft.pruning.scores import magnitude_source, random_source, scored_source
from sparseft.selection.ranking import Emit, Ranking
from sparseft.study.grid import PassFiles
from sparseft.study.mask_settings import Masks

if TYPE_CHECKING:
    # Only an importance that looks at examples needs the libraries of this module.
    from sparseft.pruning.calibration import ExampleCalibration

# Layer -> how many of its weights each sparsity prunes, int64 (sparsities,); None without an allocation.
Allocated = dict[str, np.ndarray] | None


@dataclass(frozen=True)
class MaskPass:
    """Hold what makes the masks of a method for ascending sparsities in percent. A pass with a pruned base has one sparsity.

    An importance that needs examples needs a `calibration`."""

    checkpoint: Checkpoint
    method: Method
    percents: list[int]
    files: PassFiles
    settings: Masks
    calibration: "ExampleCalibration | None" = None
    threads: int = 1

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return layer -> (rows, cols)."""
        return prunable_shapes(self.checkpoint)

    @cached_property
    def scope(self) -> str:
        """Return what is ranked together. Raises InputError if the settings do not allow the method."""
        return self.settings.scope_of(self.method.name, self.percents)

    @property
    def origin(self) -> dict[str, Any]:
        """Return what the manifest of a pruned base, and its mask, say about where it comes from."""
        sparsity = self.percents[0] / 100
        return {"method": self.method.name, "sparsity": sparsity, "original": self.checkpoint.digest}

    def checked_meta(self) -> dict:
        """Return the metadata of the masks, without their sparsities.

        Raises InputError if the settings do not allow the method, if the architecture is unknown, if tensors do not fit
        config.json, or if a weight is not finite. Scores are checked when they are ranked."""
        method, checkpoint = self.method, self.checkpoint
        check_tensors(checkpoint, checkpoint.folder)
        if (method.has_pruned_base or not method.importance) and not checkpoint.prepared:
            check_finite_weights(checkpoint, checkpoint.folder)
        return {
            "method": method.name,
            "pattern": method.pattern.name,
            "importance": method.importance.name if method.importance else "none",
            "coordinates": "hf",
            "base": checkpoint.digest,
            **self.settings.used_by(method.name),
            "scope": self.scope,
            **(self.calibration.meta if self.calibration else {}),
        }

    def rankings(self, emit: Emit, allocated: Allocated = None) -> Iterator[Ranking]:
        """Yield the scores of all layers, in parts that hold all that is ranked together. `emit` takes the masks."""
        importance, shapes, percents = self.method.importance, self.shapes, self.percents
        if not importance or importance.is_random:
            # Random bits are those of no float.
            source = random_source(self.checkpoint, self.settings.seed)
            yield self.ranking(source, shapes, dict.fromkeys(shapes), percents, emit, allocated)
        elif not importance.score:
            dtypes = {layer: self.checkpoint.tensors[f"{layer}.weight"].dtype for layer in shapes}
            yield self.ranking(magnitude_source(self.checkpoint), shapes, dtypes, percents, emit, allocated)
        else:
            for evidence in self._evidence():
                # In the model's order.
                shape = {layer: shapes[layer] for layer in shapes if evidence is None or layer in evidence}
                source = scored_source(self.checkpoint, importance, evidence)
                yield self.ranking(source, shape, dict.fromkeys(shape, "F32"), percents, emit, allocated)
                # Each part of the evidence is freed before the next one is computed.
                del evidence, source

    def ranking(self, *scores: Any) -> Ranking:
        """Return a Ranking whose first fields are `scores`."""
        return Ranking(
            *scores,
            scope=self.scope,
            sums_columns=self.method.sums_columns,
            architecture=self.checkpoint.architecture,
            config=self.checkpoint.config,
            place=self.checkpoint.folder,
            settings=self.settings,
            threads=self.threads,
        )

    def _evidence(self) -> Iterator[dict[str, np.ndarray] | None]:
        """Yield the evidence of the scores, in parts that hold all that is ranked together; None without a statistic."""
        statistic = self.method.importance and self.method.importance.statistic
        if not self.calibration or not statistic:
            yield None
        elif statistic.of_gradients and self.scope != "global":
            yield from self.calibration.evidence_of_gradients(self.checkpoint, statistic)
        else:
            yield self.calibration.evidence(self.checkpoint, statistic)
