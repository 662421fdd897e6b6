"""Write the mask of a method that updates weights, and its pruned weights W' * M as a checkpoint of their own.

smaller.py does the same for a method that removes experts or decoder layers.

The runs of the method start from this pruned base, as those of other methods start from the model. It has the files, the
dtypes and the byte layout of the original model. Only the prunable weights differ. The mask has the digests of both: `base`
is the pruned base, and `original` is the model from which it was made.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import check_finite_weights, check_tensors, is_finite, prunable_shapes
from sparseft.checkpoints.rewriting import WriteTensor, rewritten, write_manifest
from sparseft.errors import InputError
from sparseft.masks.mask_file import MaskWriter, mask_meta, mask_writer
from sparseft.methods import Method
from sparseft.pruning.mask_report import write_report
from sparseft.records.manifests import PrunedManifest
from sparseft.storage.atomic import atomic_files, atomic_folder
from sparseft.storage.bits import pack
from sparseft.study.grid import PassFiles
from sparseft.study.mask_settings import Masks


@dataclass
class PrunedWriter:
    """Take the mask and the new weights of each prunable layer, in any order.

    meta: further entries of the mask's metadata and of the report, which may be added until the end
    rows: layer -> further entries of its row in the report"""

    original: Checkpoint
    settings: Masks
    masks: MaskWriter
    write_tensor: WriteTensor
    meta: dict = field(default_factory=dict)
    rows: dict[str, dict] = field(default_factory=dict)

    def write(self, layer: str, kept: np.ndarray, bits: np.ndarray, **row: float) -> None:
        """Write a layer's mask `kept`, bool (rows, cols), and its weights, `bits` (rows, cols) in the dtype of the original.

        What the mask prunes becomes +0.0. `row` is added to the layer's row of the report. Raises InputError if a weight is not
        finite."""
        tensor = self.original.tensors[f"{layer}.weight"]
        content = np.where(kept, bits, 0)
        if not is_finite(content, tensor.dtype):
            raise InputError(
                f"{layer}: its new weights are not finite in {tensor.dtype}", "use another method or another checkpoint"
            )
        self.masks.write(layer, 0, pack(kept).reshape(1, -1))
        self.write_tensor(tensor.name, [content.tobytes()])
        self.rows[layer] = row


def checked_origin(
    original: Checkpoint, method: Method, percent: int, settings: Masks, meta: dict
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the manifest of a pruned base says about its origin, and the metadata of its mask, to which `meta` is added.

    Raises InputError if the tensors of the original do not fit its config.json, or if one of its weights is not finite."""
    check_tensors(original, original.folder)
    if not original.prepared:
        check_finite_weights(original, original.folder)
    origin = {"method": method.name, "sparsity": percent / 100, "original": original.digest}
    return origin, mask_meta(method, [percent], settings, original.digest) | meta | origin


@contextmanager
def pruned_writer(
    original: Checkpoint,
    method: Method,
    percent: int,
    settings: Masks,
    files: PassFiles,
    meta: dict,
    pruned: Mapping[str, Iterable[int]] | None = None,
) -> Iterator[PrunedWriter]:
    """Yield the writer of one sparsity of a method. The block must write every prunable layer once.

    `meta` is added to the metadata of the mask. `pruned` is how many weights of each layer go, if it is known. After the block,
    the pruned base appears first and then the mask with its report, so that no mask is without its base. If the block fails,
    nothing appears. Raises InputError as `checked_origin` does."""
    shape = prunable_shapes(original)
    origin, meta = checked_origin(original, method, percent, settings, meta)
    assert files.base, f"{method.name} updates weights"
    # Everything is written before the base is renamed, so that a full disk leaves neither the base nor the mask.
    with (
        atomic_files(files.report.parent, files.report.name, "masks") as folder,
        atomic_folder(files.base, "pruned model") as base,
    ):
        with mask_writer([folder / files.masks[0].name], [meta], shape, method.pattern, pruned) as masks:
            with rewritten(original, {f"{layer}.weight" for layer in shape}, base) as write_tensor:
                writer = PrunedWriter(original, settings, masks, write_tensor)
                yield writer
            meta |= writer.meta | {"base": write_manifest(base, PrunedManifest, **origin)["digest"]}
            masks.record(**meta)
        write_report(folder, files, meta, [percent], masks.kept, shape, writer.rows)
