"""Compute the masks of all sparsities of a method in one pass over the scores, and write all files of the pass
together.

The method's pattern selects what is pruned, in one of the ways of selection/. allocation.py says how many weights of
each layer, if the method has an allocation. Memory is a few blocks per thread, for any model, and the evidence of the
examples if the importance needs it. The evidence of gradients comes decoder layer by decoder layer, unless all layers
are ranked together. If masks.sequential applies to the method, each sparsity has a pass of its own, and the masks are
not nested.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from sparseft.checkpoints.checkpoint import BLOCK
from sparseft.masks.mask_file import MaskWriter
from sparseft.masks.mask_record import MaskReport
from sparseft.pruning.allocation import allocate_by_outliers
from sparseft.pruning.mask_pass import MaskPass
from sparseft.pruning.mask_report import write_report
from sparseft.pruning.scores import random_source, scored_source
from sparseft.selection.ranking import Emit, Ranking, Source
from sparseft.storage.atomic import atomic_files

# Layer -> how many of its weights each sparsity prunes, int64 (sparsities,); None without an allocation.
Allocated = dict[str, np.ndarray] | None


def compute_masks(masks: MaskPass) -> dict:
    """Compute the masks of a pass, write them, and return their report. All files appear together, or none.

    Raises InputError as `MaskPass.checked_meta` does."""
    meta, allocated, select = masks.checked_meta(), None, masks.method.pattern.select
    assert select, "another tool makes imported masks"
    if masks.method.allocation:
        meta["outliers"], allocated = allocate_by_outliers(masks)
    metas = [meta | {"sparsity": percent / 100} for percent in masks.percents]
    with atomic_files(masks.files.report, MaskReport.known_by) as folder:
        writer = MaskWriter([folder / path.name for path in masks.files.masks], metas, masks.shapes)
        if masks.settings.is_sequential(masks.method):
            parts = _rankings_in_sequence(masks, writer, allocated)
        else:
            parts = rankings(masks, writer.write, allocated)
        for ranking in parts:
            select(ranking)
            del ranking
        return write_report(folder, masks, meta, writer)


def rankings(masks: MaskPass, emit: Emit, allocated: Allocated = None) -> Iterator[Ranking]:
    """Yield the scores of all layers, in parts that hold all that is ranked together. `emit` takes the masks."""
    checkpoint, importance, layers = masks.checkpoint, masks.method.importance, masks.shapes
    if not importance or importance.is_random:
        # Random bits are those of no float.
        source = random_source(layers, masks.settings.seed)
        yield _ranking(masks, source, dict.fromkeys(layers), masks.percents, emit, allocated)
    elif not importance.score:
        dtypes = {layer: checkpoint.tensors[f"{layer}.weight"].dtype for layer in layers}
        # The weights' own bits are the scores.
        source = lambda layer: checkpoint.read_blocks(f"{layer}.weight", BLOCK)  # noqa: E731
        yield _ranking(masks, source, dtypes, masks.percents, emit, allocated)
    else:
        for evidence in _evidence(masks):
            # In the model's order.
            dtypes = {layer: "F32" for layer in layers if evidence is None or layer in evidence}
            source = scored_source(checkpoint, importance, evidence)
            yield _ranking(masks, source, dtypes, masks.percents, emit, allocated)
            # Each part of the evidence is freed before the next one is computed.
            del evidence, source


def _evidence(masks: MaskPass) -> Iterator[dict[str, np.ndarray] | None]:
    """Yield the evidence of the scores, in parts that hold all that is ranked together; None without a statistic."""
    statistic = masks.method.importance and masks.method.importance.statistic
    if not masks.calibration or not statistic:
        yield None
    elif statistic.of_gradients and masks.scope != "global":
        yield from masks.calibration.evidence_of_gradients(masks.checkpoint, statistic)
    else:
        yield masks.calibration.evidence(masks.checkpoint, statistic)


def _rankings_in_sequence(masks: MaskPass, writer: MaskWriter, allocated: Allocated) -> Iterator[Ranking]:
    """Yield the scores of each layer once per sparsity, by the inputs that it has after the pruned layers before it."""
    import torch

    importance = masks.method.importance
    assert importance and importance.statistic, "sequential methods look at inputs"
    for level, percent in enumerate(masks.percents):
        emit = partial(writer.write, levels=[level])
        if not percent:
            # Any scores keep every weight.
            source = random_source(masks.shapes, masks.settings.seed)
            yield _ranking(masks, source, dict.fromkeys(masks.shapes), [percent], emit, None)
            continue
        for weights, evidence in masks.calibration.in_sequence(masks.checkpoint, importance.statistic):
            for layer, weight in weights.items():
                source = scored_source(masks.checkpoint, importance, {layer: evidence(layer).cpu().numpy()})
                counts = allocated and {layer: allocated[layer][[level]]}
                yield _ranking(masks, source, {layer: "F32"}, [percent], emit, counts)
                weight.masked_fill_(torch.from_numpy(~writer.mask(layer, level)).to(weight.device), 0)


def _ranking(
    masks: MaskPass,
    source: Source,
    dtypes: Mapping[str, str | None],
    percents: list[int],
    emit: Emit,
    allocated: Allocated,
) -> Ranking:
    """Return the ranking of the layers of `dtypes`. The other fields are those of the pass."""
    return Ranking(
        source,
        {layer: masks.shapes[layer] for layer in dtypes},
        dtypes,
        percents,
        emit,
        allocated,
        scope=masks.scope,
        sums_columns=masks.method.looks_at_inputs,
        model=masks.model,
        settings=masks.settings,
        threads=masks.threads,
    )
