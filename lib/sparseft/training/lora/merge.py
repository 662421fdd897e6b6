"""Merge what was trained into its pruned base, one block of rows at a time:

    W' = (W + s B A) * M      with an adapter
    W' = W~ * M               with trained weights W~; without the mask if the mode lifts it
    W' = W * M                without either (no_finetune), which is the pruning

The output has the base's files, headers and byte layout. Every tensor outside the mask that was not trained is
copied byte for byte. effective_weight.py computes W', for the training and for the merge.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from sparseft.axes.grid import TRAINED_MODES, Run
from sparseft.axes.modes import get_mode
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import BLOCK, Checkpoint, Tensor
from sparseft.models.checkpoints.rewriting import rewritten
from sparseft.models.checkpoints.trained_weights import TrainedCheckpoint
from sparseft.models.language_model.weights import as_weight, fused_experts
from sparseft.pruning.masks.mask_file import Mask, zero_pruned
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.bits import is_finite
from sparseft.training.lora.adapter import Adapter, read_trained
from sparseft.training.lora.carried_mask import carry_mask_
from sparseft.training.lora.effective_weight import build
from sparseft.training.lora.masked_lora import MaskedLoRALinear, kind_of

# Without an adapter the merge only prunes.
_NO_ADAPTER = Adapter({}, 0.0, {}, {}, "")
# Rows of a mask that usually show whether it has a structure.
_ROWS = 64


def merge(
    base: Checkpoint, mask: Mask, mask_sha256: str, trained: Path | None, output: Path, run: Run | None = None
) -> dict:
    """Write the merged checkpoint to `output`, and return what merge.json records of it.

    `trained` is the folder of an adapter or of trained weights.

    `as_trained` says whether every adapted layer was trained with the very W' that is written, bit for bit.

    An adapter of stock PEFT records neither mask nor run, and is merged under the given mask, which must be one of the
    base. Raises InputError if the adapter was trained with another mask or in another run, or does not fit the base.
    Also raises it if a merged weight is not finite."""
    origin: dict[str, object] = {"mask_sha256": mask_sha256}
    result = read_trained(trained, base, origin, run, allows_stock=True) if trained else _NO_ADAPTER
    source, factors, changed = base, _NO_ADAPTER, set()
    if isinstance(result, TrainedCheckpoint):
        source, changed = result, set(result.trained)
    else:
        factors = result
    # An adapter of stock PEFT names no mode.
    mode = result.origin.get("mode")
    pruned = {} if mode and get_mode(mode).lifts_mask else mask.bits

    def merged(tensor: Tensor) -> Iterator[bytes]:
        layer = tensor.name.removesuffix(".weight")
        rows = slice(0, 0)
        for flat in source.read_blocks(tensor.name, BLOCK):
            bits = flat.reshape(-1, *tensor.shape[1:])
            rows = slice(rows.stop, rows.stop + len(bits))
            if layer in factors.pairs:
                A, B = factors.pairs[layer]
                weight = as_weight(bits, tensor.dtype)
                carry_mask_(weight, torch.from_numpy(mask.kept(layer, rows)))
                build(weight, weight, A, B[rows], factors.scale)
            elif layer in pruned:
                zero_pruned(bits, pruned[layer][rows])
            if trained and not is_finite(bits, tensor.dtype):
                raise InputError(
                    f"{trained}: {layer} merges to NaN or infinity in {tensor.dtype}",
                    "train again with a lower learning rate",
                )
            # A copy, because the next block comes in the same memory.
            yield bits.tobytes()

    layers = {f"{layer}.weight" for layer in mask.shape}
    with atomic_folder(output) as temporary:
        with rewritten(base, layers | changed, temporary) as write:
            for name in sorted(layers | changed):
                write(name, merged(base.tensors[name]))
        hashes = Checkpoint(temporary).hashes()
    return {
        "inputs": {"model": base.digest, "mask": mask_sha256, "adapter": result.digest or None},
        "scale": factors.scale if factors.pairs else None,
        "layers_merged": len(mask.shape),
        "as_trained": _is_as_trained(base, mode, factors, mask),
        "trained_outside": sorted(changed - layers),
        "outputs": hashes,
    }


def _is_as_trained(base: Checkpoint, mode: str | None, factors: Adapter, mask: Mask) -> bool:
    """Return whether the trained model multiplies by the merged weights, as the merged model does.

    Adapters beside layers that are not masked ones, and fused experts, compute the same product with another order of
    sums."""
    if mode not in TRAINED_MODES or fused_experts(base.architecture):
        return False
    # If a few rows show a pruned weight and no structure, the whole mask has both properties.
    parts = ((mask.kept(layer, slice(rows)) for rows in (_ROWS, None)) for layer in factors.pairs)
    return all(any(kind_of(mode, torch.from_numpy(kept)) is MaskedLoRALinear for kept in layer) for layer in parts)
