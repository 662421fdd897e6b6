"""Remove whole experts or decoder layers, and write the smaller model as a pruned base, a checkpoint of its own.

The units with the lowest scores are removed, and those with the lowest numbers first if scores are equal. Every group
loses equally many, because stock transformers takes one number of experts for all decoder layers. The units that are
left are numbered again. Every tensor that is left keeps its bytes, and a router loses the rows of the removed experts.

The mask keeps every weight of the smaller model. It has the digests of both models, `base` and `original`, and the
number of the removed weights, so that its sparsity is that of the model from which they were removed.
"""

import math
from functools import partial

import numpy as np

from sparseft.axes.architectures.architecture import Architecture
from sparseft.axes.patterns.pattern import Units
from sparseft.models.checkpoints.checkpoint import Tensor
from sparseft.models.checkpoints.layers import decoder_layer_of, prunable_shapes
from sparseft.models.checkpoints.rewriting import Cut, write_manifest, write_smaller
from sparseft.pruning.mask_generator import MaskPass
from sparseft.pruning.mask_report import write_report
from sparseft.pruning.masks.mask_file import MaskWriter
from sparseft.pruning.masks.mask_record import MaskReport, PrunedManifest
from sparseft.pruning.unit_scores import score_units
from sparseft.storage.atomic import atomic_files, atomic_folder
from sparseft.storage.bits import pack

# The numbers of the units that are left, ascending, by group.
Kept = list[list[int]]


def remove_units(masks: MaskPass) -> None:
    """Remove units of a model, and write mask, report and pruned base.

    Raises InputError if the model has no such units, if no whole number of them is near the sparsity, or if the model
    is damaged."""
    checkpoint, files, units = masks.checkpoint, masks.files, masks.method.pattern.units
    architecture = checkpoint.architecture
    assert units and files.base, f"{masks.method.name} removes no units"
    number = units.removed(masks.model, masks.percents).get(masks.percents[0], 0)
    meta = masks.checked_meta() | masks.origin
    scores = score_units(masks)
    order = np.argsort(scores, axis=1, kind="stable")
    removed, kept = (np.sort(part, axis=1).tolist() for part in np.split(order, [number], axis=1))
    changes = architecture.config_of_part(checkpoint.config, units.key, kept[0])
    cut_of = partial(unit_cut, architecture, units, kept)
    with (
        atomic_files(files.report, MaskReport.known_by) as folder,
        atomic_folder(files.base, "manifest.json", PrunedManifest.known_by) as base,
    ):
        left = prunable_shapes(write_smaller(checkpoint, base, changes, cut_of))
        weights, weights_left = (sum(map(math.prod, of_model.values())) for of_model in (masks.shapes, left))
        meta["removed_weights"] = weights - weights_left
        removal = {"removed_weights": weights - weights_left, "original_weights": weights, "removed": removed}
        meta["base"] = write_manifest(base, PrunedManifest, **masks.origin, **removal)["digest"]
        writer = MaskWriter([folder / files.masks[0].name], [meta], left)
        for layer, (length, cols) in left.items():
            writer.write(layer, 0, np.tile(pack(np.ones((1, cols), bool)), (1, length)))
        rows = [{"scores": own.tolist(), "removed": gone} for own, gone in zip(scores, removed, strict=True)]
        write_report(folder, files, meta, writer, units=rows)


def unit_cut(architecture: Architecture, units: Units, kept: Kept, tensor: Tensor) -> Cut | None:
    """Return what is kept of a tensor; None if its unit is removed."""
    if numbers := units.unit_of(tensor.name):
        group, unit = numbers
        return Cut(units.renamed(tensor.name, kept[group].index(unit))) if unit in kept[group] else None
    # Each row belongs to a unit, as in the router of a decoder layer with experts.
    if architecture.rows_of(tensor.name) == units.key:
        return Cut(tensor.name, np.isin(np.arange(tensor.shape[0]), kept[decoder_layer_of(tensor.name)]))
    return Cut(tensor.name)
