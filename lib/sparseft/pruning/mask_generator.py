"""Compute the masks of all sparsities of a method in one pass over the scores, and write all files of the pass
together.

The method's pattern selects what is pruned, in one of the ways of selection/. allocation.py says how many weights of
each layer, if the method has an allocation. Memory is a few blocks per thread, for any model, and the evidence of the
examples if the importance needs it. The evidence of gradients comes decoder layer by decoder layer, unless all layers
are ranked together. If masks.sequential applies to the method, each sparsity has a pass of its own, and the masks are
not nested.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from sparseft.masks.mask_file import MaskWriter
from sparseft.pruning.allocation import allocate_by_outliers
from sparseft.pruning.mask_pass import MaskPass
from sparseft.pruning.mask_report import write_report
from sparseft.pruning.scores import bits_of, magnitude_source, random_source, scored_source, sum_columns
from sparseft.selection.ranking import Emit, Ranking
from sparseft.storage.atomic import atomic_files
from sparseft.storage.bits import row_bytes, unpack

# Layer -> how many of its weights each sparsity prunes, int64 (sparsities,); None without an allocation.
Allocated = dict[str, np.ndarray] | None


def compute_masks(masks: MaskPass) -> dict:
    """Compute the masks of a pass, write them, and return their report. All files appear together, or none.

    Raises InputError as `MaskPass.checked_meta` does."""
    meta, allocated = masks.checked_meta(), None
    if masks.method.allocation:
        meta["outliers"], allocated = allocate_by_outliers(masks)
    metas = [meta | {"sparsity": percent / 100} for percent in masks.percents]
    select = select_in_sequence if masks.settings.is_sequential(masks.method) else select_in_one_pass
    with atomic_files(masks.files.report.parent, masks.files.report.name, "masks") as folder:
        paths = [folder / path.name for path in masks.files.masks]
        writer = MaskWriter(paths, metas, masks.shapes)
        select(masks, allocated, writer)
        writer.finish()
        return write_report(folder, masks, meta, writer)


def rankings(masks: MaskPass, emit: Emit, allocated: Allocated = None) -> Iterator[Ranking]:
    """Yield the scores of all layers, in parts that hold all that is ranked together. `emit` takes the masks."""
    importance, shapes, percents = masks.method.importance, masks.shapes, masks.percents
    if not importance or importance.is_random:
        # Random bits are those of no float.
        source = random_source(masks.checkpoint, masks.settings.seed)
        yield ranking_of(masks, source, shapes, dict.fromkeys(shapes), percents, emit, allocated)
    elif not importance.score:
        dtypes = {layer: masks.checkpoint.tensors[f"{layer}.weight"].dtype for layer in shapes}
        yield ranking_of(masks, magnitude_source(masks.checkpoint), shapes, dtypes, percents, emit, allocated)
    else:
        for evidence in _evidence(masks):
            # In the model's order.
            shape = {layer: shapes[layer] for layer in shapes if evidence is None or layer in evidence}
            source = scored_source(masks.checkpoint, importance, evidence)
            yield ranking_of(masks, source, shape, dict.fromkeys(shape, "F32"), percents, emit, allocated)
            # Each part of the evidence is freed before the next one is computed.
            del evidence, source


def ranking_of(masks: MaskPass, *scores: Any) -> Ranking:
    """Return a Ranking whose first fields are `scores`."""
    return Ranking(
        *scores,
        scope=masks.scope,
        sums_columns=masks.method.sums_columns,
        architecture=masks.checkpoint.architecture,
        config=masks.checkpoint.config,
        place=masks.checkpoint.folder,
        settings=masks.settings,
        threads=masks.threads,
    )


def _evidence(masks: MaskPass) -> Iterator[dict[str, np.ndarray] | None]:
    """Yield the evidence of the scores, in parts that hold all that is ranked together; None without a statistic."""
    statistic = masks.method.importance and masks.method.importance.statistic
    if not masks.calibration or not statistic:
        yield None
    elif statistic.of_gradients and masks.scope != "global":
        yield from masks.calibration.evidence_of_gradients(masks.checkpoint, statistic)
    else:
        yield masks.calibration.evidence(masks.checkpoint, statistic)


def select_in_one_pass(masks: MaskPass, allocated: Allocated, writer: MaskWriter) -> None:
    """Write the masks of every sparsity in one pass."""
    select = masks.method.pattern.select
    assert select, "another tool makes imported masks"
    for ranking in rankings(masks, writer.write, allocated):
        select(ranking)
        del ranking


def select_in_sequence(masks: MaskPass, allocated: Allocated, writer: MaskWriter) -> None:
    """Write the masks of each sparsity in a pass of its own, in which the layers before a layer are already pruned."""
    for level, percent in enumerate(masks.percents):
        write = partial(writer.write, levels=range(level, level + 1))
        counts = {layer: of_layer[[level]] for layer, of_layer in allocated.items()} if allocated else None
        if percent:
            _select_level(masks, percent, counts, write)
        else:
            ranking_of(masks, None, masks.shapes, {}, [0], write).keep_all()


def _select_level(masks: MaskPass, percent: int, counts: Allocated, write: Emit) -> None:
    """Write the masks of one sparsity, decoder layer by decoder layer, each by the evidence of its inputs."""
    import torch

    importance, select = masks.method.importance, masks.method.pattern.select
    assert masks.calibration and importance and importance.statistic and select, "sequential methods look at examples"
    score, sums_columns = importance.score, importance.uses_column_sums
    assert score, "only scores are ranked in sequence"

    def prune_layer(layer: str, weight: torch.Tensor, evidence: np.ndarray) -> None:
        weights = masks.checkpoint.read_float32(f"{layer}.weight")
        sums = sum_columns(iter([np.abs(weights)])) if sums_columns else None
        bits = bits_of(score(weights, evidence, sums))
        rows, cols = shape = weights.shape
        packed = np.empty((1, rows * row_bytes(cols)), np.uint8)

        def emit(_: str, offset: int, block: np.ndarray) -> None:
            packed[:, offset : offset + block.shape[1]] = block

        # The scores of the layer are one block.
        select(ranking_of(masks, lambda _: iter([bits]), {layer: shape}, {layer: "F32"}, [percent], emit, counts))
        write(layer, 0, packed)
        kept = unpack(packed.reshape(rows, -1), shape)
        weight.masked_fill_(torch.from_numpy(~kept).to(weight.device), 0)

    def prune(weights: dict[str, torch.Tensor], evidence: Callable[[str], torch.Tensor]) -> None:
        for layer, weight in weights.items():
            prune_layer(layer, weight, evidence(layer).cpu().numpy())

    masks.calibration.prune_in_sequence(masks.checkpoint, importance.statistic, prune)
