"""Write the mask of a method that updates weights, and its pruned weights W' * M as a checkpoint of their own.

smaller.py does the same for a method that removes experts or decoder layers.

The runs of the method start from this pruned base, as those of other methods start from the model. It has the files,
the dtypes and the byte layout of the original model. Only the prunable weights differ. The mask has the digests of
both: `base` is the pruned base, and `original` is the model from which it was made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from sparseft.common.errors import InputError
from sparseft.models.checkpoints.rewriting import WriteTensor, rewritten, write_manifest
from sparseft.pruning.mask_generator import MaskPass
from sparseft.pruning.mask_report import write_report
from sparseft.pruning.masks.mask_file import MaskWriter
from sparseft.pruning.masks.mask_record import MaskReport, PrunedManifest
from sparseft.storage.atomic import atomic_files, atomic_folder
from sparseft.storage.bits import is_finite, pack


@dataclass
class PrunedWriter:
    """Take the mask and the new weights of each prunable layer, in any order.

    meta: further entries of the mask's metadata and of the report, which may be added until the end
    rows: layer -> further entries of its row in the report"""

    masks: MaskPass
    mask_writer: MaskWriter
    write_tensor: WriteTensor
    meta: dict = field(default_factory=dict)
    rows: dict[str, dict] = field(default_factory=dict)

    def write(self, layer: str, kept: np.ndarray, bits: np.ndarray, **row: float) -> None:
        """Write a layer's mask `kept`, bool (rows, cols), and its weights, `bits` (rows, cols) in the dtype of the
        original.

        What the mask prunes becomes +0.0. `row` is added to the layer's row of the report. Raises InputError if a
        weight is not finite."""
        tensor = self.masks.checkpoint.tensors[f"{layer}.weight"]
        content = np.where(kept, bits, 0)
        if not is_finite(content, tensor.dtype):
            what = f"{layer}: its new weights are not finite in {tensor.dtype}"
            raise InputError(what, "use another method or another checkpoint")
        self.mask_writer.write(layer, 0, pack(kept).reshape(1, -1))
        self.write_tensor(tensor.name, [content.tobytes()])
        self.rows[layer] = row


@contextmanager
def pruned_writer(masks: MaskPass, meta: dict | None = None) -> Iterator[PrunedWriter]:
    """Yield the writer of one sparsity of a method. The block must write every prunable layer once.

    `meta` is added to the metadata of the mask. After the block, the pruned base appears first and then the mask with
    its report, so that no mask is without its base. If the block fails, nothing appears. Raises InputError as
    `MaskPass.checked_meta` does."""
    files, shapes = masks.files, masks.shapes
    all_meta = masks.checked_meta() | (meta or {}) | masks.origin
    assert files.base, f"{masks.method.name} updates weights"
    # Everything is written before the base is renamed, so that a full disk leaves neither the base nor the mask.
    with (
        atomic_files(files.report, MaskReport.known_by) as folder,
        atomic_folder(files.base, "manifest.json", PrunedManifest.known_by) as base,
    ):
        mask_writer = MaskWriter([folder / files.masks[0].name], [all_meta], shapes)
        with rewritten(masks.checkpoint, {f"{layer}.weight" for layer in shapes}, base) as write_tensor:
            writer = PrunedWriter(masks, mask_writer, write_tensor)
            yield writer
        # The writer of the mask reads it when it writes the mask.
        all_meta |= writer.meta | {"base": write_manifest(base, PrunedManifest, **masks.origin)["digest"]}
        write_report(folder, files, all_meta, mask_writer, writer.rows)
