"""Prove that a checkpoint is sparse: compare every weight of every prunable layer with the mask.

The magnitude of a pruned weight must be at most the tolerance, which is 0 by default. A kept weight may be zero, and such
zeros are counted separately. If the base is given, three more things must hold:

    the mask was computed from the base
    every tensor has the dtype and shape that it has in the base
    every tensor outside the mask has the bytes that it has in the base

Without the base, the report says that these were not checked. A mask that matches no layer proves nothing, so the validation
fails if no layer is checked.
"""

import numpy as np

from sparseft.checkpoints.checkpoint import BITS, Checkpoint, infinity, to_float32
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError
from sparseft.masks.mask_file import Mask
from sparseft.masks.mask_kernels import count_ones, survey

_COUNTS = ("weights", "pruned", "zeros", "within_tolerance", "violations")


def validate(checkpoint: Checkpoint, mask: Mask, *, tolerance: float = 0.0, base: Checkpoint | None = None) -> dict:
    """Check every weight and return the content of validation_report.json.

    The validation also fails if a prunable layer has no mask, if a mask has no layer, or if their shapes differ."""
    shapes = prunable_shapes(checkpoint)
    checked = [layer for layer in shapes if mask.shape.get(layer) == shapes[layer]]
    unmatched = sorted((shapes.keys() | mask.shape.keys()) - set(checked))
    rows = [_check_layer(checkpoint, layer, mask, tolerance) for layer in checked]
    total = {key: sum(row[key] for row in rows) for key in _COUNTS}
    masked = {f"{layer}.weight" for layer in mask.shape}
    outside = _outside(checkpoint, base, masked) if base else []
    changed = _changed(checkpoint, base, masked) if base else []
    mask_of_base = mask.meta.get("base") == base.digest if base else None
    is_complete = bool(rows) and not unmatched
    return {
        "passed": is_complete and mask_of_base is not False and not total["violations"] and not changed,
        "not_checked": _not_checked(base, tolerance, total["within_tolerance"]),
        "layers_checked": len(checked),
        "layers_expected": len(shapes),
        "layers_not_checked": unmatched,
        "mask": mask.meta,
        "mask_of_base": mask_of_base,
        "violations": total["violations"],
        "max_abs_violation": max((row["max_abs_violation"] for row in rows), default=0.0),
        "max_abs_pruned": max((row["max_abs_pruned"] for row in rows), default=0.0),
        "tolerance": tolerance,
        "expected_sparsity": total["pruned"] / total["weights"] if rows else None,
        "actual_sparsity": total["zeros"] / total["weights"] if rows else None,
        "sparsity_within_tolerance": (total["zeros"] + total["within_tolerance"]) / total["weights"] if rows else None,
        "tensors_outside_checked": len(outside),
        "tensors_outside_changed": changed,
        "layers": rows,
    }


def _not_checked(base: Checkpoint | None, tolerance: float, within_tolerance: int) -> list[str]:
    """Return a sentence for everything that the report does not prove.

    `within_tolerance` is the number of pruned weights that are not zero and passed."""
    sentences = []
    if base is None:
        sentences.append("The tensors outside the mask were compared with nothing, because no base was given.")
        sentences.append("The mask may belong to another base, because no base was given.")
    if within_tolerance:
        sentences.append(
            f"Pruned weights up to the tolerance of {tolerance:g} passed as zeros: {within_tolerance} are not exactly zero."
        )
    return sentences


def _check_layer(checkpoint: Checkpoint, layer: str, mask: Mask, tolerance: float) -> dict:
    """Compare the weights of one layer with its mask and return its row of the report."""
    tensor = checkpoint.tensors[f"{layer}.weight"]
    rows, cols = tensor.shape
    bits = checkpoint.read(tensor.name).reshape(-1)
    packed = np.ascontiguousarray(mask.bits[layer]).reshape(-1)
    zeros, kept_zeros, violations, largest = survey(bits, cols, packed, first_above(tolerance, tensor.dtype))
    pruned = rows * cols - int(count_ones(packed[None])[0])
    max_abs_pruned = _finite(to_float32(np.array([largest], bits.dtype), tensor.dtype)[0])
    return {
        "layer": layer,
        "weights": rows * cols,
        "pruned": pruned,
        "zeros": int(zeros),
        "kept_zeros": int(kept_zeros),
        # Pruned weights that are neither zero nor violations.
        "within_tolerance": pruned - int(zeros - kept_zeros) - int(violations),
        "violations": int(violations),
        "max_abs_violation": max_abs_pruned if violations else 0.0,
        "max_abs_pruned": max_abs_pruned,
    }


def first_above(tolerance: float, dtype: str) -> np.unsignedinteger:
    """Return the bits of the smallest BF16, F16 or F32 magnitude above `tolerance`. NaN and infinity are above it too."""
    word = BITS[dtype].type
    low = 0
    high = infinity(dtype)
    # Magnitudes order like their bits, so the bits can be bisected.
    while low < high:
        middle = (low + high) // 2
        if to_float32(np.array([middle], word), dtype)[0] > tolerance:
            high = middle
        else:
            low = middle + 1
    return word(low)


def _finite(value: np.floating) -> float:
    """Return the value for JSON, which has no infinity and no NaN. The largest float stands for both."""
    return float(np.nan_to_num(np.float64(value), nan=np.finfo(np.float64).max))


def _outside(checkpoint: Checkpoint, base: Checkpoint, masked: set[str]) -> list[str]:
    """Return the names of all tensors outside the mask, in the checkpoint or in the base, sorted."""
    return sorted((checkpoint.tensors.keys() | base.tensors.keys()) - masked)


def _changed(checkpoint: Checkpoint, base: Checkpoint, masked: set[str]) -> list[str]:
    """Return the names of the tensors that differ from the base and must not, sorted.

    Outside the mask, a tensor must exist on both sides and have the base's bytes. Every tensor must have the base's dtype
    and shape. Raises InputError if the checkpoint has another config.json than the base."""
    if checkpoint.config != base.config:
        raise InputError(f"{base.folder}: another config.json than the checkpoint's", "give the base it was made from")
    outside = _outside(checkpoint, base, masked)
    changed = {name for name in outside if _bytes(checkpoint, name) != _bytes(base, name)}
    common = checkpoint.tensors.keys() & base.tensors.keys()
    return sorted(changed | {name for name in common if _form(checkpoint, name) != _form(base, name)})


def _form(checkpoint: Checkpoint, name: str) -> tuple[str, tuple[int, ...]]:
    """Return the dtype and the shape of a tensor."""
    return checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape


def _bytes(checkpoint: Checkpoint, name: str) -> bytes | memoryview | None:
    """Return the bytes of a tensor, or None if the checkpoint does not have it."""
    return checkpoint.read_bytes(name) if name in checkpoint.tensors else None
