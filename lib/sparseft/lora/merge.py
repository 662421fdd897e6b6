"""Merge an adapter into its pruned base, one tensor at a time:

    W' = (W + s B A) * M      with an adapter
    W' = W * M                without one (no_finetune), which is the pruning

The output has the base's files, headers and byte layout. Every tensor outside the mask is copied byte for byte, so only
the prunable weights differ. effective_weight.py computes W', for the training and for the merge.
"""

from pathlib import Path

import torch

from sparseft.checkpoints.checkpoint import Checkpoint, Tensor
from sparseft.checkpoints.rewriting import rewritten
from sparseft.errors import InputError
from sparseft.language_model.weights import fused_experts, read_weight
from sparseft.lora.adapter import Adapter, check_origin, read_adapter
from sparseft.lora.carried_mask import bits_of, carry_mask_
from sparseft.lora.effective_weight import Workspace
from sparseft.lora.masked_lora import MaskedLoRALinear, kind_of
from sparseft.masks.mask_file import Mask, zero_pruned
from sparseft.storage.atomic import atomic_folder
from sparseft.study.grid import TRAINED_MODES, Run

# Without an adapter the merge only prunes.
_NO_ADAPTER = Adapter({}, 0.0, {}, "")


def merge(
    base: Checkpoint, mask: Mask, mask_sha256: str, adapter: Path | None, output: Path, run: Run | None = None
) -> dict:
    """Write the merged checkpoint to `output`, and return what merge.json records of it.

    `as_trained` says whether every adapted layer was trained with the very W' that is written, bit for bit.

    An adapter of stock PEFT records neither mask nor run, and is merged under the given mask. Raises InputError if the
    adapter was trained with another mask or in another run, does not fit the mask, or has matrices for
    other layers than its target_modules name."""
    factors = read_adapter(adapter) if adapter else _NO_ADAPTER
    if adapter and "sparseft" in factors.config:
        check_origin(adapter, factors.config, mask_sha256, run)
    for layer, (A, B) in factors.pairs.items():
        if B.shape[:1] + A.shape[1:] != tuple(mask.shape.get(layer, ())):
            matrices = f"A {tuple(A.shape)} and B {tuple(B.shape)}"
            raise InputError(
                f"{adapter}: {layer} has {matrices}, but the mask has {mask.shape.get(layer, 'no such layer')}",
                "use the base it was trained on",
            )
    # A target names the end of a layer's path, as in PEFT.
    ends = tuple(f".{target}" for target in factors.config.get("target_modules", ()))
    targets = {layer for layer in mask.shape if f".{layer}".endswith(ends)}
    if wrong := sorted(targets ^ factors.pairs.keys()):
        raise InputError(
            f"{adapter}: its target_modules do not name the layers of its matrices (first: {wrong[0]})",
            "train the run again",
        )
    workspace = Workspace()

    def merged(tensor: Tensor) -> bytes:
        layer = tensor.name.removesuffix(".weight")
        if layer not in factors.pairs:
            bits = base.read(tensor.name)
            zero_pruned(bits, mask.bits[layer])
            return bits.tobytes()
        weight = carry_mask_(read_weight(base, tensor.name), torch.from_numpy(mask.kept(layer)))
        weight = workspace.merged(weight, *factors.pairs[layer], factors.scale)
        if not weight.isfinite().all():
            raise InputError(
                f"{adapter}: {layer} merges to NaN or infinity in {tensor.dtype}",
                "train again with a lower learning rate",
            )
        return bits_of(weight).numpy().tobytes()

    names = {f"{layer}.weight" for layer in mask.shape}
    with atomic_folder(output, "merged model") as temporary:
        with rewritten(base, names, temporary) as write:
            for tensor in base.tensors.values():
                if tensor.name in names:
                    write(tensor.name, merged(tensor))
        outputs = Checkpoint(temporary).hashes()
    return {
        "scale": factors.scale if adapter else None,
        "layers_merged": len(mask.shape),
        "as_trained": _is_as_trained(base, factors, mask),
        "adapter": factors.digest if adapter else None,
        "outputs": outputs,
    }


def _is_as_trained(base: Checkpoint, factors: Adapter, mask: Mask) -> bool:
    """Return whether the trained model multiplies by the merged weights, as the merged model does.

    All layers but masked ones, and fused experts, compute the same product with another order of sums."""
    mode = factors.config.get("sparseft", {}).get("mode")
    # An adapter of stock PEFT names no mode.
    if mode not in TRAINED_MODES:
        return False
    kinds = {kind_of(mode, torch.from_numpy(mask.kept(layer))) for layer in factors.pairs}
    return kinds == {MaskedLoRALinear} and not fused_experts(base.architecture)
