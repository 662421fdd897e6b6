"""Compute the masks of all sparsities of a method in one pass over the scores, and write all files of the pass together.

The method's pattern selects what is pruned, in one of the ways of selection/. allocation.py says how many weights of each layer,
if the method has an allocation. Memory is a few blocks per thread, for any model, and the evidence of the examples if the
importance needs it. The evidence of gradients comes decoder layer by decoder layer, unless all layers are ranked together. If
masks.sequential applies to the method, each sparsity has a pass of its own, and the masks are not nested.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import check_finite_weights, check_tensors, prunable_shapes
from sparseft.masks.mask_file import MaskWriter, mask_meta, mask_writer
from sparseft.methods import Method
from sparseft.pruning.allocation import allocate_by_outliers
from sparseft.pruning.mask_report import write_report
from sparseft.pruning.scores import bits_of, magnitude_source, random_source, scored_source, sum_columns
from sparseft.selection.ranking import Emit, Ranking
from sparseft.storage.atomic import atomic_files
from sparseft.storage.bits import row_bytes, unpack
from sparseft.study.grid import PassFiles
from sparseft.study.mask_settings import Masks

if TYPE_CHECKING:
    # Only an importance that looks at examples needs these libraries.
    from torch import Tensor

    from sparseft.pruning.calibration import ExampleCalibration

# Layer -> how many of its weights each sparsity prunes, int64 (sparsities,); None without an allocation.
Allocated = dict[str, np.ndarray] | None


def compute_masks(
    checkpoint: Checkpoint,
    method: Method,
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
    shape = prunable_shapes(checkpoint)
    check_tensors(checkpoint, checkpoint.folder)
    if not method.importance and not checkpoint.prepared:
        # Without scores, the selection would not notice a weight that is not finite.
        check_finite_weights(checkpoint, checkpoint.folder)
    meta = mask_meta(method, percents, settings, checkpoint.digest) | (calibration.meta if calibration else {})
    allocated = None
    if method.allocation:
        assert calibration, "an allocation looks at examples"
        meta["outliers"], allocated = allocate_by_outliers(checkpoint, method, settings, calibration, percents)
    scoring = Scoring(checkpoint, method, settings, meta["scope"], calibration, threads)
    metas = [meta | {"sparsity": percent / 100} for percent in percents]
    select = select_in_sequence if settings.is_sequential(method.name) else select_in_one_pass
    with atomic_files(places.report.parent, places.report.name, "masks") as folder:
        paths = [folder / path.name for path in places.masks]
        with mask_writer(paths, metas, shape, method.pattern, allocated) as writer:
            select(scoring, percents, allocated, writer)
        return write_report(folder, places, meta, percents, writer.kept, shape)


@dataclass(frozen=True)
class Scoring:
    """Score the weights of one checkpoint by one method. `scope` is what is ranked together."""

    checkpoint: Checkpoint
    method: Method
    settings: Masks
    scope: str
    calibration: "ExampleCalibration | None"
    threads: int = 1

    def rankings(self, percents: list[int], emit: Emit, allocated: Allocated = None) -> Iterator[Ranking]:
        """Yield the scores of all layers, in parts that hold all that is ranked together."""
        importance = self.method.importance
        shapes = prunable_shapes(self.checkpoint)
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


def select_in_one_pass(scoring: Scoring, percents: list[int], allocated: Allocated, writer: MaskWriter) -> None:
    """Write the masks of every sparsity in one pass."""
    select = scoring.method.pattern.select
    assert select, "another tool makes imported masks"
    for ranking in scoring.rankings(percents, writer.write, allocated):
        select(ranking)
        del ranking


def select_in_sequence(scoring: Scoring, percents: list[int], allocated: Allocated, writer: MaskWriter) -> None:
    """Write the masks of each sparsity in a pass of its own, in which the layers before a layer are already pruned."""
    importance = scoring.method.importance
    assert scoring.calibration and importance and importance.statistic, "sequential methods look at examples"
    for level, percent in enumerate(percents):
        write = partial(writer.write, levels=range(level, level + 1))
        if not percent:
            scoring.ranking(None, writer.shape, {}, [0], write).keep_all()
            continue
        counts = {layer: of_layer[[level]] for layer, of_layer in allocated.items()} if allocated else None

        def prune(weights: dict[str, "Tensor"], evidence: Callable[[str], "Tensor"]) -> None:
            for layer, weight in weights.items():
                _prune_layer(scoring, percent, counts, layer, weight, evidence(layer), write)  # noqa: B023

        scoring.calibration.prune_in_sequence(scoring.checkpoint, importance.statistic, prune)


def _prune_layer(
    scoring: Scoring,
    percent: int,
    counts: Allocated,
    layer: str,
    weight: "Tensor",
    evidence: "Tensor",
    write: Emit,
) -> None:
    """Write a layer's mask of one sparsity by the evidence of its inputs, fp32, and set its pruned weights to 0."""
    import torch

    importance, select = scoring.method.importance, scoring.method.pattern.select
    assert importance and importance.score and select, "only scores are ranked in sequence"
    weights = scoring.checkpoint.read_float32(f"{layer}.weight")
    sums = sum_columns(iter([np.abs(weights)])) if importance.uses_column_sums else None
    bits = bits_of(importance.score(weights, evidence.cpu().numpy(), sums))
    rows, cols = shape = weights.shape
    packed = np.empty((1, rows * row_bytes(cols)), np.uint8)

    def emit(_: str, offset: int, block: np.ndarray) -> None:
        packed[:, offset : offset + block.shape[1]] = block

    # The scores of the layer are one block.
    select(scoring.ranking(lambda _: iter([bits]), {layer: shape}, {layer: "F32"}, [percent], emit, counts))
    write(layer, 0, packed)
    kept = unpack(packed.reshape(rows, -1), shape)
    weight.masked_fill_(torch.from_numpy(~kept).to(weight.device), 0)
