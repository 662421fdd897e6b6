"""Compute the masks of all sparsities of a method in one pass over the scores, and write all files of the pass together.

The method's pattern selects what is pruned, in one of the ways of selection.py. allocation.py says how many weights of each
layer, if the method has an allocation. Memory is a few blocks per thread, for any model, and the evidence of the examples if the
importance needs it. The evidence of gradients comes decoder layer by decoder layer, unless all layers are ranked together. If
masks.sequential applies to the method, each sparsity has a pass of its own, and the masks are not nested.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import check_finite_weights, check_tensors, prunable_shapes
from sparseft.importances import Statistic
from sparseft.masks.mask_file import MaskWriter, mask_meta, mask_writer, row_bytes, unpack
from sparseft.methods import Method, get_method
from sparseft.pruning.allocation import allocate_by_outliers
from sparseft.pruning.mask_report import NO_SCORES, mask_report, write_report
from sparseft.pruning.scores import Source, bits_of, magnitude_source, random_source, scored_source, sum_columns
from sparseft.pruning.selection import Ranking, Scores
from sparseft.storage.atomic import atomic_files
from sparseft.study.grid import PassFiles
from sparseft.study.mask_settings import Masks

if TYPE_CHECKING:
    # Only an importance that looks at examples needs these libraries.
    from torch import Tensor

    from sparseft.pruning.calibration import ExampleCalibration


def compute_masks(
    checkpoint: Checkpoint,
    method_name: str,
    percents: list[int],
    places: PassFiles,
    settings: Masks,
    *,
    calibration: "ExampleCalibration | None" = None,
    threads: int = 1,
) -> dict:
    """Compute the masks of a method for ascending sparsities in percent, write them, and return their report.

    All files appear together, or none. An importance that needs examples needs a `calibration`. Raises InputError if the
    settings do not allow the method, if the architecture is unknown, if tensors do not fit config.json, or if a weight is not
    finite."""
    method = get_method(method_name)
    shape = prunable_shapes(checkpoint)
    check_tensors(checkpoint, checkpoint.folder)
    if not method.importance and not checkpoint.prepared:
        # Without scores, the selection would not notice a weight that is not finite.
        check_finite_weights(checkpoint, checkpoint.folder)
    meta = mask_meta(method_name, percents, settings, checkpoint.digest) | (calibration.meta if calibration else {})
    allocated = None
    if method.allocation:
        assert calibration, "an allocation looks at examples"
        meta["outliers"], allocated = allocate_by_outliers(checkpoint, method, settings, calibration, percents)
    ranking = partial(
        Ranking,
        checkpoint=checkpoint,
        scope=meta["scope"],
        sums_columns=method.sums_columns,
        settings=settings,
        threads=threads,
    )
    metas = [meta | {"sparsity": percent / 100} for percent in percents]
    scoring = Scoring(checkpoint, method, settings.seed, meta["scope"], calibration)
    with atomic_files(places.report.parent, places.report.name, "masks") as folder:
        with mask_writer(
            [folder / path.name for path in places.masks], metas, shape, method.pattern, allocated
        ) as writer:
            masks_pass = MaskPass(scoring, percents, allocated, writer, ranking)
            is_sequential = settings.is_sequential(method_name)
            scores = masks_pass.run_in_sequence() if is_sequential else masks_pass.run()
        if is_sequential:
            # Each sparsity has its own scores. The report has those of the first one that prunes.
            meta["scores_percent"] = next((percent for percent in percents if percent), 0)
        report = mask_report(meta, percents, writer.kept, shape, scores)
        write_report(report, folder, places)
    return report


@dataclass(frozen=True)
class Scoring:
    """Score the weights of one checkpoint by one method. `scope` is what is ranked together."""

    checkpoint: Checkpoint
    method: Method
    seed: int
    scope: str
    calibration: "ExampleCalibration | None"

    def sources(self) -> Iterator[tuple[Source, dict[str, str | None]]]:
        """Yield the scores and their dtypes by layer, as a Ranking takes them, in parts that hold all that is ranked together.

        Each part of the evidence is freed before the next one is computed."""
        importance = self.method.importance
        layers = prunable_shapes(self.checkpoint)
        if not importance or importance.is_random:
            # Random bits are those of no float.
            yield random_source(self.checkpoint, self.seed), dict.fromkeys(layers)
        elif not importance.score:
            dtypes: dict[str, str | None] = {
                layer: self.checkpoint.tensors[f"{layer}.weight"].dtype for layer in layers
            }
            yield magnitude_source(self.checkpoint), dtypes
        else:
            for evidence in self._evidence(importance.statistic):
                source = scored_source(self.checkpoint, importance, evidence)
                yield source, dict.fromkeys(evidence or layers, "F32")
                del evidence, source

    def _evidence(self, statistic: Statistic | None) -> Iterator[dict[str, np.ndarray] | None]:
        """Yield the evidence of the scores, in parts that hold all that is ranked together; None without a statistic."""
        if not self.calibration or not statistic:
            yield None
        elif statistic.of_gradients and self.scope != "global":
            yield from self.calibration.evidence_of_gradients(self.checkpoint, statistic)
        else:
            yield self.calibration.evidence(self.checkpoint, statistic)


@dataclass(frozen=True)
class MaskPass:
    """Compute the masks of one method on one checkpoint.

    `ranking` takes the first fields of a Ranking, and returns it.
    `allocated` is layer -> how many weights each sparsity prunes, int64 (sparsities,); None without an allocation."""

    scoring: Scoring
    percents: list[int]
    allocated: dict[str, np.ndarray] | None
    writer: MaskWriter
    ranking: Callable[..., Ranking]

    def run(self) -> Scores:
        """Write the masks of every sparsity in one pass, and return the distribution of each layer's scores."""
        select = self.scoring.method.pattern.select
        assert select, "another tool makes imported masks"
        scores: Scores = {}
        for source, dtypes in self.scoring.sources():
            shape = {layer: shape for layer, shape in self.writer.shape.items() if layer in dtypes}
            scores |= select(self.ranking(source, shape, dtypes, self.percents, self.writer.write, self.allocated))
        return scores

    def run_in_sequence(self) -> Scores:
        """Write the masks of each sparsity in a pass of its own, in which the layers before a layer are already pruned.

        Return the distributions of scores of the first sparsity that prunes."""
        checkpoint, calibration = self.scoring.checkpoint, self.scoring.calibration
        importance = self.scoring.method.importance
        assert calibration and importance and importance.statistic, "sequential methods look at examples"
        scores: Scores = {}
        for level, percent in enumerate(self.percents):
            if not percent:
                write = partial(self.writer.write, levels=range(level, level + 1))
                self.ranking(None, self.writer.shape, {}, [percent], write).keep_all()
                continue
            of_percent: Scores = {}
            prune = partial(self._prune, level, of_percent)
            calibration.prune_in_sequence(checkpoint, importance.statistic, prune)
            scores = scores or of_percent
        return scores or dict.fromkeys(self.writer.shape, NO_SCORES)

    def _prune(
        self, level: int, scores: Scores, weights: dict[str, "Tensor"], evidence: Callable[[str], "Tensor"]
    ) -> None:
        """Call `_prune_layer` for each layer of a decoder layer."""
        for layer, weight in weights.items():
            self._prune_layer(level, scores, layer, weight, evidence(layer))

    def _prune_layer(self, level: int, scores: Scores, layer: str, weight: "Tensor", evidence: "Tensor") -> None:
        """Write a layer's mask of one sparsity by the evidence of its inputs, fp32, and set its pruned weights to 0.

        `scores` gets the distribution of the layer's scores."""
        import torch

        importance, select = self.scoring.method.importance, self.scoring.method.pattern.select
        assert importance and importance.score and select, "only scores are ranked in sequence"
        weights = self.scoring.checkpoint.read_float32(f"{layer}.weight")
        sums = sum_columns(iter([np.abs(weights)])) if importance.uses_column_sums else None
        bits = bits_of(importance.score(weights, evidence.cpu().numpy(), sums))
        shape = self.writer.shape[layer]
        allocated = {layer: self.allocated[layer][[level]]} if self.allocated else None
        packed = np.empty((1, shape[0] * row_bytes(shape[1])), np.uint8)

        def emit(_: str, offset: int, block: np.ndarray) -> None:
            packed[:, offset : offset + block.shape[1]] = block

        # The scores of the layer are one block.
        source = lambda _: iter([bits])  # noqa: E731
        ranking = self.ranking(source, {layer: shape}, {layer: "F32"}, [self.percents[level]], emit, allocated)
        scores |= select(ranking)
        self.writer.write(layer, 0, packed, range(level, level + 1))
        kept = unpack(packed.reshape(shape[0], -1), shape)
        weight.masked_fill_(torch.from_numpy(~kept).to(weight.device), 0)
