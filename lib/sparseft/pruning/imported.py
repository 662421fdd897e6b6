"""Infer the mask of a checkpoint that another tool pruned, by comparing it with the model that the tool was given.

Such a checkpoint holds no mask, and its zeros are not the mask, because a weight of the model may be zero too:

    pruned          zero in the checkpoint, but not in the model
    natural zero    zero in both; nothing shows that the tool pruned it, so the mask keeps it
    kept            everything else, also a weight that the tool changed (SparseGPT's update, a merged adapter)

-0.0 is zero. A weight that the tool kept, and that became exactly zero, looks like a pruned one. The mask therefore
says that it is inferred.

Every zero is pruned in two cases. Both are the user's statement, and never a guess:

    no parent       the model itself is the pruned checkpoint, so that nothing tells its natural zeros
    a pattern N:M   of M consecutive weights of a row at most N are not zero; a natural zero may be one of the others
"""

from collections import Counter
from typing import Any

import numpy as np

from sparseft.axes.architectures import tensor_shapes
from sparseft.common.errors import InputError
from sparseft.common.progress import show
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.models.checkpoints.model_source import open_source
from sparseft.models.checkpoints.rewriting import converted
from sparseft.models.language_model.model import model_config
from sparseft.pruning.mask_generator import MaskPass
from sparseft.pruning.pruned_base import pruned_writer
from sparseft.storage.bits import BITS

# How far the share of pruned weights may be from the configured sparsity. Tools round per row or block.
TOLERANCE = 0.01
# Keys of a configuration that do not change what a model computes from tokens, so that tools may write other values.
_WITHOUT_EFFECT = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
_WITHOUT_EFFECT |= {"bos_token_id", "eos_token_id", "pad_token_id"}
_GIVE_BASE = "give the model that the tool pruned, in the same dtype (models.NAME.source and dtype, or --model_path)"


def infer_mask(base: np.ndarray | None, pruned: np.ndarray, stated: str | None = None) -> tuple[np.ndarray, dict]:
    """Return the mask of a layer, bool (rows, cols), and its numbers of natural zeros and of changed weights.

    `base` and `pruned` are its bits in the base and in the pruned checkpoint, (rows, cols). Without a base the
    numbers are absent. `stated` is the pattern N:M that the user stated."""
    # The shift removes the sign.
    is_zero = pruned << 1 == 0
    if base is None:
        return ~is_zero, {}
    natural = is_zero & (base << 1 == 0)
    changed = ~is_zero & (pruned != base)
    return ~is_zero if stated else natural | ~is_zero, {
        "natural_zeros": int(np.count_nonzero(natural)),
        "changed_weights": int(np.count_nonzero(changed)),
    }


def check_pattern(filled: np.ndarray, stated: str, layer: str, place: str) -> None:
    """Raise InputError, naming the layer and the group, if a group of a layer breaks the pattern N:M that the user
    stated."""
    most, group = map(int, stated.split(":"))
    # The weights of each group that are not zero, (rows, cols / group). numpy refuses groups that do not divide a row.
    counts = np.count_nonzero(filled.reshape(len(filled), -1, group), axis=2)
    for row, number in np.argwhere(counts > most)[:1]:
        columns = f"columns {number * group} to {(number + 1) * group - 1}"
        what = f"{layer}, row {row}, {columns}: {counts[row, number]} weights are not zero, and {stated} allows {most}"
        raise InputError(
            f"{place}: {what}", "correct the pattern (masks.imported_pattern or --pattern), or leave it out"
        )


def import_pruned(masks: MaskPass, source: str | None, stated: str | None = None) -> dict[str, Any]:
    """Write the mask, its report and the pruned base of a checkpoint that another tool pruned to the sparsity of the
    pass.

    Return the sparsity that it reaches, as a fraction, the counts of `infer_mask` over all layers, and the number of
    layers by the pattern of their zeros. One layer at a time is in memory. The checkpoint of the pass is the base that
    the tool was given. Without a source, the base itself was pruned. Raises InputError if the checkpoint does not come
    from the base, if it has another sparsity or breaks the `stated` pattern, or if a weight is not finite."""
    base, shapes, percent = masks.checkpoint, masks.shapes, masks.percents[0]
    pruned, place = base, source or str(base.folder)
    if source:
        pruned = open_source(source)
        check_origin(pruned, source, base)
    meta = {"inferred": True, "source": source, "source_digest": pruned.digest, "stated_pattern": stated}
    totals: Counter[str] = Counter()
    given = {key: value for key, value in meta.items() if value is not None}
    with pruned_writer(masks, given) as writer:
        for layer in show(shapes, "layer", len(shapes)):
            bits = _read_in_dtype(pruned, place, base, f"{layer}.weight")
            if stated:
                check_pattern(bits << 1 != 0, stated, layer, place)
            kept, counts = infer_mask(base.read(f"{layer}.weight") if source else None, bits, stated)
            writer.write(layer, kept, bits)
            totals.update(counts)
        reached = writer.mask_writer.reached(0)
        if abs(reached - percent / 100) > TOLERANCE:
            raise InputError(
                f"{place}: {100 * reached:.2f} % of the prunable weights are pruned, not {percent} %",
                "correct the sparsity or the source; if the model itself was pruned, leave --source out, or give"
                " masks.imported and models.NAME.source the same text",
            )
        writer.meta.update(totals)
    return {"reached": reached, **totals}


def check_origin(pruned: Checkpoint, source: str, base: Checkpoint) -> None:
    """Raise InputError if a checkpoint computes another function than the base with other prunable weights.

    Its tensors must have the shapes of the base's, its configuration must say the same, and the tensors outside the
    prunable layers must be equal. The two may be divided into files in different ways."""
    shapes, ours, theirs = tensor_shapes(base.config, base.folder), _described(base), _described(pruned)
    for key in sorted(ours | theirs):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"{source}: {key} is {theirs.get(key)!r:.100}, and {ours.get(key)!r:.100} in {base.folder}", _GIVE_BASE
            )
    masked = {f"{layer}.weight" for layer in prunable_shapes(base)}
    for name in shapes:
        if name not in masked and not np.array_equal(_read_in_dtype(pruned, source, base, name), base.read(name)):
            raise InputError(
                f"{source}: {name} differs from {base.folder}, and a mask cannot hold this change", _GIVE_BASE
            )


def _described(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the shapes of a checkpoint's tensors, and the keys of its configuration that decide what it computes.

    What the configuration leaves out has transformers' default."""
    said = model_config(checkpoint.folder).to_dict()
    keys = {f"config.json: {key}": value for key, value in said.items() if key not in _WITHOUT_EFFECT}
    return keys | tensor_shapes(checkpoint.config, checkpoint.folder)


def _read_in_dtype(pruned: Checkpoint, source: str, base: Checkpoint, name: str) -> np.ndarray:
    """Return the bits of a tensor of a checkpoint in the base's dtype. Raises InputError if this changes a value."""
    bits, stored, dtype = pruned.read(name), pruned.tensors[name].dtype, base.tensors[name].dtype
    words = converted(bits.reshape(-1), stored, dtype).view(BITS[dtype])
    if not np.array_equal(converted(words, dtype, stored), bits.reshape(-1).view(np.uint8)):
        what = f"{source}: {name} is in {stored} and has values that {dtype}, the dtype of {base.folder}, lacks"
        raise InputError(what, _GIVE_BASE)
    return words.reshape(bits.shape)
