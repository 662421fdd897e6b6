"""The proof that a checkpoint is sparse: every weight of every prunable layer is compared with the mask.

A pruned weight must be zero, or at most the tolerance, which is 0 unless asked otherwise. A kept weight may be zero, and is
counted on its own. With the base, the mask must have been computed from it, every tensor must have its dtype and shape, and
every tensor outside the mask must have its bytes. Without the base none of this is known, and the report says so. A mask that
matches no layer proves nothing, so zero layers checked is a failure.
"""

import numpy as np

from sparseft.checkpoints.checkpoint import BITS, Checkpoint, infinity, to_float32
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError
from sparseft.masks.mask_file import Mask
from sparseft.masks.mask_kernels import count_ones, survey


def validate(checkpoint: Checkpoint, mask: Mask, *, tolerance: float = 0.0, base: Checkpoint | None = None) -> dict:
    """Check every weight and return the content of validation_report.json.

    Layers of the model without a mask, masks without a layer, and shapes that differ fail the validation."""
    shapes = prunable_shapes(checkpoint)
    checked = [layer for layer in shapes if mask.shape.get(layer) == shapes[layer]]
    unmatched = sorted((shapes.keys() | mask.shape.keys()) - set(checked))
    rows = [_check_layer(checkpoint, layer, mask, tolerance) for layer in checked]
    counts = ("weights", "pruned", "zeros", "within_tolerance", "violations")
    total = {key: sum(row[key] for row in rows) for key in counts}
    largest = max((row["max_abs_pruned"] for row in rows), default=0.0)
    outside = _outside(checkpoint, base, {f"{layer}.weight" for layer in mask.shape}) if base else ([], [])
    mask_of_base = mask.meta.get("base") == base.digest if base else None
    return {
        "passed": bool(rows)
        and not unmatched
        and mask_of_base is not False
        and not total["violations"]
        and not outside[1],
        "not_checked": _not_checked(base, tolerance, total["within_tolerance"]),
        "layers_checked": len(checked),
        "layers_expected": len(shapes),
        "layers_not_checked": unmatched,
        "mask": mask.meta,
        "mask_of_base": mask_of_base,
        "violations": total["violations"],
        "max_abs_violation": max((row["max_abs_violation"] for row in rows), default=0.0),
        "max_abs_pruned": largest,
        "tolerance": tolerance,
        "expected_sparsity": total["pruned"] / total["weights"] if rows else None,
        "actual_sparsity": total["zeros"] / total["weights"] if rows else None,
        "sparsity_within_tolerance": (total["zeros"] + total["within_tolerance"]) / total["weights"] if rows else None,
        "tensors_outside_checked": len(outside[0]),
        "tensors_outside_changed": outside[1],
        "layers": rows,
    }


def _not_checked(base: Checkpoint | None, tolerance: float, within_tolerance: int) -> list[str]:
    """Return what a report leaves open, a sentence each; `within_tolerance` counts pruned weights that are not zero."""
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
        # Pruned weights that are not zero and not violations either.
        "within_tolerance": pruned - int(zeros - kept_zeros) - int(violations),
        "violations": int(violations),
        "max_abs_violation": max_abs_pruned if violations else 0.0,
        "max_abs_pruned": max_abs_pruned,
    }


def first_above(tolerance: float, dtype: str) -> np.unsignedinteger:
    """The bits of the smallest BF16, F16 or F32 magnitude above `tolerance`; whatever is no number lies above too."""
    word = BITS[dtype].type
    low, high = 0, infinity(dtype)  # bits order like magnitudes, so they can be bisected
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if to_float32(np.array([middle], word), dtype)[0] > tolerance else (middle + 1, high)
    return word(low)


def _finite(value: np.floating) -> float:
    """JSON knows no infinity: the largest float stands for it and for NaN."""
    return float(np.nan_to_num(np.float64(value), nan=np.finfo(np.float64).max))


def _outside(checkpoint: Checkpoint, base: Checkpoint, masked: set[str]) -> tuple[list[str], list[str]]:
    """(tensors outside the mask; those of them that differ from the base's bytes or are missing on one side, and any tensor
    of another dtype or shape than the base's)."""
    if checkpoint.config != base.config:
        raise InputError(f"{base.folder}: another config.json than the checkpoint's", "give the base it was made from")
    names = sorted((checkpoint.tensors.keys() | base.tensors.keys()) - masked)
    changed = [name for name in names if _bytes(checkpoint, name) != _bytes(base, name)]
    both = checkpoint.tensors.keys() & base.tensors.keys()
    other = {name for name in both if _kind(checkpoint, name) != _kind(base, name)}
    return names, sorted({*changed, *other})


def _kind(checkpoint: Checkpoint, name: str) -> tuple:
    return checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape


def _bytes(checkpoint: Checkpoint, name: str) -> bytes | memoryview | None:
    return checkpoint.read_bytes(name) if name in checkpoint.tensors else None
