"""What ModelZoo's Trainer has trained, read from its last checkpoint: the adapter, and whether the base is as it was."""

import math

import numpy as np
import torch
from torch import Tensor

from sparseft.backends.modelzoo.trainer_run import TrainerRun
from sparseft.checkpoints.checkpoint import BITS, BLOCK
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.mdl import MdlFile, MdlTensor
from sparseft.checkpoints.modelzoo_checkpoint import deinterleave, open_checkpoint
from sparseft.checkpoints.rewriting import converted
from sparseft.errors import InputError
from sparseft.lora.masked_lora import StructuredLoRALinear, kind_of, rows_and_columns


def check_frozen(before: MdlFile, after: MdlFile) -> None:
    """Raise InputError if the Trainer's checkpoint has another base or other masks than the one that it started from."""
    for key, tensor in before.tensors.items():
        other = after.tensors.get(key)
        # A layer without a zero is not declared sparse, so the Trainer saves no mask of it.
        if other is None and key.endswith("_mask") and before.read(tensor).all():
            continue
        if other is None or not _equal(before, tensor, after, other):
            raise InputError(
                f"{after.path}: {key} is not as it was before the training", "report this line; no adapter was written"
            )


def trained_factors(run: TrainerRun, trained: MdlFile) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A (r, in) and B (out, r) of each layer as they act, in fp32, with Hugging Face's names and order of rows."""
    exported = open_checkpoint(run.checkpoint)
    factors = {}
    for layer in prunable_layers(run.job.checkpoint):
        place = exported.places[f"{layer}.weight"]
        path = f"model.model.{place.key.removesuffix('.weight')}"
        if f"{path}.lora_A" not in trained.tensors:
            continue
        A = torch.from_numpy(_fp32(trained, f"{path}.lora_A"))
        rows = _fp32(trained, f"{path}.lora_B")
        B = torch.from_numpy(np.ascontiguousarray(deinterleave(rows, place.head_dim) if place.head_dim else rows))
        kept = torch.from_numpy(run.job.mask.kept(layer))
        if kind_of(run.job.mode, kept) is StructuredLoRALinear:
            kept_rows, columns = rows_and_columns(kept)
            A, B = A * columns, B * kept_rows[:, None]
        factors[layer] = (A, B)
    return factors


def _fp32(file: MdlFile, key: str) -> np.ndarray:
    """Return a tensor of a file in fp32."""
    tensor = file.tensors[key]
    bits = file.read(tensor)
    return converted(bits.reshape(-1), tensor.dtype, "F32").view(np.float32).reshape(tensor.shape)


def _equal(before: MdlFile, tensor: MdlTensor, after: MdlFile, other: MdlTensor) -> bool:
    """Return whether two tensors have the same values, in whatever dtypes. A block of rows is in memory at a time."""
    if tensor.shape != other.shape:
        return False
    step = max(1, BLOCK // math.prod(tensor.shape[1:]))
    for start in range(0, tensor.shape[0], step):
        rows = slice(start, start + step)
        ours = before.read(tensor, rows)
        theirs = after.read(other, rows)
        if tensor.dtype in BITS and other.dtype in BITS:
            ours = converted(ours.reshape(-1), tensor.dtype, "F32")
            theirs = converted(theirs.reshape(-1), other.dtype, "F32")
        if not np.array_equal(ours, theirs):
            return False
    return True
