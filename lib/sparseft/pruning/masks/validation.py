"""Prove that a checkpoint is sparse: compare every weight of every prunable layer with the mask.

The magnitude of a pruned weight must be at most the tolerance, which is 0 by default. A kept weight may be zero, and
such zeros are counted separately. If the base is given, three more things must hold:

    the mask was computed from the base
    every tensor has the dtype and shape that it has in the base
    every tensor outside the mask that was not trained has the bytes that it has in the base

Without the base, the report says that these were not checked. A mask that matches no layer proves nothing, so the
validation fails if no layer is checked.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import BLOCK, Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.pruning.masks.mask_file import Mask
from sparseft.storage.bits import BITS, infinity, to_float32

_COUNTS = ("weights", "pruned", "zeros", "within_tolerance", "violations")


def validate(
    checkpoint: Checkpoint,
    mask: Mask,
    *,
    tolerance: float = 0.0,
    base: Checkpoint | None = None,
    trained_outside: Iterable[str] = (),
    lifts_mask: bool = False,
) -> dict:
    """Check every weight and return the content of validation_report.json.

    trained_outside: the tensors outside the mask that were trained, and may differ from the base
    lifts_mask: no weight need be zero, because the mode of the run lifts the mask

    The validation also fails if a prunable layer has no mask, if a mask has no layer, or if their shapes differ."""
    shapes = prunable_shapes(checkpoint)
    if lifts_mask:
        mask = replace(mask, bits={layer: np.full_like(bits, 0xFF) for layer, bits in mask.bits.items()})
    checked = [layer for layer in shapes if mask.shape.get(layer) == shapes[layer]]
    unmatched = sorted((shapes.keys() | mask.shape.keys()) - set(checked))
    rows = [_check_layer(checkpoint, layer, mask, tolerance) for layer in checked]
    total = {key: sum(row[key] for row in rows) for key in _COUNTS}
    outside, changed = _compare(checkpoint, base, mask, set(trained_outside)) if base else ([], [])
    mask_of_base = mask.meta.get("base") == base.digest if base else None
    is_complete = bool(rows) and not unmatched
    # A smaller model lacks them, so they count as zeros of the model that was pruned.
    removed = mask.meta.get("removed_weights", 0)
    weights = total["weights"] + removed
    share = lambda count: (count + removed) / weights if rows else None  # noqa: E731
    within = total["within_tolerance"]
    open_points: dict[str, object] = {
        "The tensors outside the mask were compared with nothing, because no base was given.": base is None,
        "The mask may belong to another base, because no base was given.": base is None,
        "The model is dense: its mode lifts the mask, so no weight need be zero.": lifts_mask,
        f"{len(set(trained_outside))} tensors outside the mask were trained, and may have any values.": trained_outside,
        f"Pruned weights up to the tolerance of {tolerance:g} passed as zeros: {within} are not exactly zero.": within,
    }
    return {
        "passed": is_complete and mask_of_base is not False and not total["violations"] and not changed,
        "not_checked": [sentence for sentence, holds in open_points.items() if holds],
        "layers_checked": len(checked),
        "layers_expected": len(shapes),
        "layers_not_checked": unmatched,
        "mask": mask.meta,
        "mask_of_base": mask_of_base,
        "violations": total["violations"],
        "max_abs_violation": max((row["max_abs_violation"] for row in rows), default=0.0),
        "max_abs_pruned": max((row["max_abs_pruned"] for row in rows), default=0.0),
        "tolerance": tolerance,
        **checkpoint.totals(),
        "removed_weights": removed,
        "expected_sparsity": share(total["pruned"]),
        "actual_sparsity": share(total["zeros"]),
        "sparsity_within_tolerance": share(total["zeros"] + within),
        "tensors_outside_checked": len(outside),
        "tensors_outside_changed": changed,
        "layers": rows,
    }


def _check_layer(checkpoint: Checkpoint, layer: str, mask: Mask, tolerance: float) -> dict:
    """Compare the weights of one layer with its mask, block by block, and return its row of the report."""
    tensor = checkpoint.tensors[f"{layer}.weight"]
    cols = tensor.shape[1]
    limit = first_above(tolerance, tensor.dtype)
    row = 0
    largest = 0
    counts = dict.fromkeys(("pruned", "zeros", "kept_zeros", "violations"), 0)
    for bits in checkpoint.read_blocks(tensor.name, BLOCK):
        sizes = (bits & (np.iinfo(bits.dtype).max >> 1)).reshape(-1, cols)
        kept = mask.kept(layer, slice(row, row + len(sizes)))
        row += len(sizes)
        pruned_sizes = sizes * ~kept
        largest = max(largest, int(pruned_sizes.max()))
        conditions = {
            "pruned": ~kept,
            "zeros": sizes == 0,
            "kept_zeros": (sizes == 0) & kept,
            "violations": pruned_sizes >= limit,
        }
        counts = {name: counts[name] + int(np.count_nonzero(holds)) for name, holds in conditions.items()}
    # JSON has no infinity and no NaN. The largest float stands for both.
    value = to_float32(np.array([largest], BITS[tensor.dtype]), tensor.dtype)[0]
    max_abs_pruned = float(np.nan_to_num(np.float64(value), nan=np.finfo(np.float64).max))
    pruned_zeros = counts["zeros"] - counts["kept_zeros"]
    return {
        "layer": layer,
        "weights": row * cols,
        **counts,
        # Pruned weights that are neither zero nor violations.
        "within_tolerance": counts["pruned"] - pruned_zeros - counts["violations"],
        "max_abs_violation": max_abs_pruned if counts["violations"] else 0.0,
        "max_abs_pruned": max_abs_pruned,
    }


def first_above(tolerance: float, dtype: str) -> np.unsignedinteger:
    """Return the bits of the smallest BF16, F16 or F32 magnitude above `tolerance`. NaN and infinity are above it
    too."""
    word = BITS[dtype].type
    # Magnitudes order like their bits, so the bits can be bisected.
    magnitude = lambda bits: to_float32(np.array([bits], word), dtype)[0]  # noqa: E731
    return word(bisect_right(range(infinity(dtype)), tolerance, key=magnitude))


def _compare(checkpoint: Checkpoint, base: Checkpoint, mask: Mask, trained: set[str]) -> tuple[list[str], list[str]]:
    """Return the names of the tensors outside the mask that were not `trained`, and of those tensors that differ from
    the base and must not, sorted.

    Outside the mask, a tensor must exist on both sides and have the base's bytes. Every tensor must have the base's
    dtype and shape. Raises InputError if the checkpoint has another config.json than the base."""
    if checkpoint.config != base.config:
        raise InputError(f"{base.folder}: another config.json than the checkpoint's", "give the base it was made from")
    sides = checkpoint.tensors, base.tensors
    outside = (sides[0].keys() | sides[1].keys()) - {f"{layer}.weight" for layer in mask.shape} - trained
    common = sides[0].keys() & sides[1].keys()
    changed = outside - common
    changed |= {name for name in outside & common if checkpoint.read_bytes(name) != base.read_bytes(name)}
    forms = {name: [(side[name].dtype, side[name].shape) for side in sides] for name in common}
    changed |= {name for name, (ours, theirs) in forms.items() if ours != theirs}
    return sorted(outside), sorted(changed)
