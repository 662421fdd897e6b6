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

from sparseft.checkpoints.checkpoint import BLOCK
from sparseft.masks.mask_file import MaskWriter
from sparseft.pruning.allocation import allocate_by_outliers
from sparseft.pruning.mask_pass import MaskPass
from sparseft.pruning.mask_report import write_report
from sparseft.pruning.scores import random_source, scored_source
from sparseft.selection.ranking import Emit, Ranking
from sparseft.storage.atomic import atomic_files

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
        # The weights' own bits are the scores.
        source = lambda layer: masks.checkpoint.read_blocks(f"{layer}.weight", BLOCK)  # noqa: E731
        yield ranking_of(masks, source, shapes, dtypes, percents, emit, allocated)
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
        model=masks.model,
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
        counts = {layer: of_layer[[level]] for layer, of_layer in allocated.items()} if allocated else None
        if percent:
            _select_level(masks, level, counts, writer)
        else:
            write = partial(writer.write, levels=[level])
            ranking_of(masks, None, masks.shapes, {}, [0], write).keep_all()


def _select_level(masks: MaskPass, level: int, counts: Allocated, writer: MaskWriter) -> None:
    """Write the masks of one sparsity, decoder layer by decoder layer, each by the evidence of its inputs."""
    import torch

    importance, select = masks.method.importance, masks.method.pattern.select
    assert importance and importance.statistic and select, "sequential methods look at inputs"
    percents, write = [masks.percents[level]], partial(writer.write, levels=[level])

    def prune(weights: dict[str, torch.Tensor], evidence: Callable[[str], torch.Tensor]) -> None:
        for layer, weight in weights.items():
            source = scored_source(masks.checkpoint, importance, {layer: evidence(layer).cpu().numpy()})
            shape = {layer: masks.shapes[layer]}
            select(ranking_of(masks, source, shape, {layer: "F32"}, percents, write, counts))
            weight.masked_fill_(torch.from_numpy(~writer.mask(layer, level)).to(weight.device), 0)

    masks.calibration.prune_in_sequence(masks.checkpoint, importance.statistic, prune)
