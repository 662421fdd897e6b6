"""The sparse merge: W' = (W + alpha/r B A) * M, one tensor at a time.

The output has the base's files, headers and byte layout: every tensor outside the mask is copied byte for byte, so
that only the prunable weights differ. Without an adapter (no_finetune) the merge is the pruning: W' = W * M.
"""

from collections.abc import Callable, Set
from pathlib import Path

import numpy as np
import torch

from sparseft.architectures.architecture import Architecture
from sparseft.checkpoints.checkpoint import Checkpoint, Tensor, read_header
from sparseft.errors import InputError
from sparseft.language_model.experts import memory_path
from sparseft.lora.adapter import check_layers, check_origin, read_adapter
from sparseft.lora.effective_weight import INTEGERS, Workspace, carry_mask_
from sparseft.lora.masked_lora import MaskedLoRALinear, kind_of
from sparseft.masks.mask_file import Mask
from sparseft.masks.mask_kernels import zero_pruned
from sparseft.storage.files import atomic_folder
from sparseft.study.grid import Run

TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def merge(
    base: Checkpoint, mask: Mask, mask_sha256: str, adapter: Path | None, output: Path, run: Run | None = None
) -> dict:
    """Write the merged checkpoint to `output`; return merge.json's scale, layers, outputs and the adapter's digest.

    `as_trained`: whether every adapted layer was trained with the very W' that is written, bit for bit on a CPU.

    An adapter of stock PEFT records neither mask nor run, and is merged under the mask given. Raises InputError if the
    adapter was trained with another mask or in another run, has not the layers that it names, or does not fit the mask."""
    pairs, scale, config, digest = read_adapter(adapter) if adapter else ({}, None, {}, None)
    if adapter:
        _check_adapter(adapter, config, pairs.keys(), mask, mask_sha256)
    if adapter and run:
        check_origin(adapter, config, run)

    workspace = Workspace()

    def merged(tensor: Tensor) -> bytes:
        layer = tensor.name.removesuffix(".weight")
        bits = base.read(tensor.name)
        if layer not in pairs:
            zero_pruned(bits.reshape(-1), tensor.shape[1], np.ascontiguousarray(mask.bits[layer]).reshape(-1))
            return bits.tobytes()
        _check_shapes(adapter, layer, tensor.shape, *pairs[layer])
        weight = torch.from_numpy(bits).view(TORCH_DTYPES[tensor.dtype])
        carry_mask_(weight, torch.from_numpy(mask.kept(layer)))
        weight = workspace.merged(weight, *pairs[layer], scale)
        if not weight.isfinite().all():
            raise InputError(
                f"{adapter}: {layer} merges to NaN or infinity in {tensor.dtype}",
                "train again with a lower learning rate",
            )
        return weight.view(INTEGERS[weight.element_size()]).numpy().tobytes()

    with atomic_folder(output) as temporary:
        _copy(base, {f"{layer}.weight" for layer in mask.shape}, merged, temporary)
        outputs = Checkpoint(temporary).hashes()
    as_trained = _is_as_trained(base.architecture, config, pairs.keys(), mask)
    return {
        "scale": scale,
        "layers_merged": len(mask.shape),
        "as_trained": as_trained,
        "adapter": digest,
        "outputs": outputs,
    }


def _is_as_trained(architecture: Architecture, config: dict, layers: Set[str], mask: Mask) -> bool:
    """Return whether the trained model multiplies by the merged weights, as the merged model does.

    Other layers than masked ones, and fused experts, reach the same product in another order of sums."""
    mode = config.get("sparseft", {}).get("mode")
    is_fused = any(memory_path(architecture, layer) != layer for layer in mask.shape)
    kinds = {kind_of(mode, torch.from_numpy(mask.kept(layer))) for layer in layers}
    return kinds == {MaskedLoRALinear} and not is_fused


def _check_adapter(adapter: Path, config: dict, layers: Set[str], mask: Mask, mask_sha256: str) -> None:
    """Raise InputError if an adapter was trained with another mask, or its layers are not those of the mask that it names."""
    trained_with = config.get("sparseft", {}).get("mask_sha256", mask_sha256)
    if trained_with != mask_sha256:
        raise InputError(f"{adapter}: trained with another mask ({str(trained_with)[:12]})", "merge it with that mask")
    foreign = sorted(layers - mask.shape.keys())
    if foreign:
        raise InputError(f"{adapter}: {len(foreign)} layers without a mask (first: {foreign[0]})", "use its own base")
    check_layers(adapter, config, layers, mask.shape)


def _check_shapes(adapter: Path, layer: str, shape: tuple[int, ...], A: torch.Tensor, B: torch.Tensor) -> None:
    if (B.shape[0], A.shape[1]) != shape:
        found = f"A {tuple(A.shape)} and B {tuple(B.shape)}"
        raise InputError(f"{adapter}: {layer} is {shape}, its {found} do not fit", "use the base it was trained on")


def _copy(base: Checkpoint, names: set[str], transform: Callable[[Tensor], bytes], folder: Path) -> None:
    """Copy the checkpoint, with `transform` on the tensors in `names`."""
    base.copy_rest(folder)
    for file in base.files:
        header, tensors = read_header(file)
        with open(file, "rb") as source, open(folder / file.name, "wb") as target:
            target.write(header)
            for tensor in tensors:
                source.seek(tensor.start)
                target.seek(tensor.start)
                target.write(transform(tensor) if tensor.name in names else source.read(tensor.nbytes))
