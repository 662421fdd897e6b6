"""Compute the masks of all sparsities of a method in one pass over the scores, and write all files of the pass together.

The method's pattern selects what is pruned, in one of the ways of selection/. allocation.py says how many weights of each layer,
if the method has an allocation. Memory is a few blocks per thread, for any model, and the evidence of the examples if the
importance needs it. The evidence of gradients comes decoder layer by decoder layer, unless all layers are ranked together. If
masks.sequential applies to the method, each sparsity has a pass of its own, and the masks are not nested.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from sparseft.masks.mask_file import MaskWriter, mask_writer
from sparseft.pruning.allocation import allocate_by_outliers
from sparseft.pruning.mask_pass import Allocated, MaskPass
from sparseft.pruning.mask_report import write_report
from sparseft.pruning.scores import bits_of, sum_columns
from sparseft.selection.ranking import Emit
from sparseft.storage.atomic import atomic_files
from sparseft.storage.bits import row_bytes, unpack


def compute_masks(masks: MaskPass) -> dict:
    """Compute the masks of a pass, write them, and return their report. All files appear together, or none.

    Raises InputError as `MaskPass.checked_meta` does."""
    meta, allocated = masks.checked_meta(), None
    if masks.method.allocation:
        meta["outliers"], allocated = allocate_by_outliers(masks)
    metas = [meta | {"sparsity": percent / 100} for percent in masks.percents]
    select = select_in_sequence if masks.settings.is_sequential(masks.method.name) else select_in_one_pass
    with atomic_files(masks.files.report.parent, masks.files.report.name, "masks") as folder:
        paths = [folder / path.name for path in masks.files.masks]
        with mask_writer(paths, metas, masks.shapes, masks.method.pattern, allocated) as writer:
            select(masks, allocated, writer)
        return write_report(folder, masks, meta, writer)


def select_in_one_pass(masks: MaskPass, allocated: Allocated, writer: MaskWriter) -> None:
    """Write the masks of every sparsity in one pass."""
    select = masks.method.pattern.select
    assert select, "another tool makes imported masks"
    for ranking in masks.rankings(writer.write, allocated):
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
            masks.ranking(None, masks.shapes, {}, [0], write).keep_all()


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
        select(masks.ranking(lambda _: iter([bits]), {layer: shape}, {layer: "F32"}, [percent], emit, counts))
        write(layer, 0, packed)
        kept = unpack(packed.reshape(rows, -1), shape)
        weight.masked_fill_(torch.from_numpy(~kept).to(weight.device), 0)

    def prune(weights: dict[str, torch.Tensor], evidence: Callable[[str], torch.Tensor]) -> None:
        for layer, weight in weights.items():
            prune_layer(layer, weight, evidence(layer).cpu().numpy())

    masks.calibration.prune_in_sequence(masks.checkpoint, importance.statistic, prune)
