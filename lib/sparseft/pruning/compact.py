"""The smaller checkpoint of a structured mask: what it prunes is left out instead of being stored as zeros.

    FFN        down(act(gate x) * (up x))       a channel: a row of gate and of up, a column of down
    attention  o(softmax(q x (k x)^T) (v x))    a key-value head: its rows of k and v, its query heads' of q, columns of o

A pruned channel or head meets a zero column of down or o and adds exactly 0: without it the function is the same, but
for the order of sums. Stock transformers takes one size for all layers, so every layer must keep as many; head_dim is
written out, since hidden_size / heads is it no longer. Channels are kept, zeros as they are, up to a multiple of 8.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparseft.checkpoints.checkpoint import INDEX, Checkpoint, Tensor, read_header, safetensors_header
from sparseft.checkpoints.layers import Part, coupled_parts, prunable_shapes
from sparseft.errors import InputError
from sparseft.masks.mask_file import Mask, check_mask, read_mask
from sparseft.storage.atomic import atomic_folder, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.ownership import check_apart, check_replaceable
from sparseft.storage.reading import read_json
from sparseft.storage.record import check_model

# The grouped products that transformers runs Mixtral's experts with take rows of whole 16 bytes: 8 numbers in 16 bits.
# Tensor cores ask the same of every product.
_MULTIPLE = 8

# transformers refuses a LlamaConfig whose heads do not divide hidden_size, with head_dim written out too. Mistral's
# decoder without a window is LLaMA's without biases, which prunable_layers has made sure of, and takes any number.
_LLAMA_AS_MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}


@dataclass(frozen=True)
class Cut:
    """What stays of a matrix: `kept`, bool (rows,) on axis 0, bool (cols,) on axis 1."""

    axis: int
    kept: np.ndarray


def compact(checkpoint: Checkpoint, mask_path: Path, output: Path) -> dict:
    """Write the smaller checkpoint and compact.json to `output`, one tensor in memory at a time; return compact.json.

    `checkpoint` is the masked model. Raises InputError if it is not, or if the mask is another model's, prunes units in
    part, leaves layers of different sizes, or leaves one of them nothing. No file is written then."""
    check_apart([output], [checkpoint.folder, mask_path])
    check_replaceable(output)
    hashes = checkpoint.hashes()
    check_model(checkpoint.folder, hashes)
    mask, mask_sha256 = read_mask(mask_path), sha256(mask_path)
    check_mask(mask, mask_path, prunable_shapes(checkpoint))
    cuts, sizes = plan_cuts(checkpoint, mask)
    config = smaller_config(checkpoint.config, **sizes)
    with atomic_folder(output) as folder:
        checkpoint.copy_rest(folder)
        for file in checkpoint.files:
            _write_weights(checkpoint, file, cuts, folder / file.name)
        write_json(folder / "config.json", checkpoint.config | config)
        smaller = Checkpoint(folder)
        _correct_index(smaller)
        report = {key: mask.meta.get(key) for key in ("method", "sparsity", "reached")} | {
            "inputs": {"checkpoint": checkpoint.digest_of(hashes), "mask": mask_sha256},
            "before": _totals(checkpoint) | {"config": {key: checkpoint.config.get(key) for key in config}},
            "after": _totals(smaller) | {"config": config},
            "outputs": smaller.hashes(),
        }
        write_json(folder / "compact.json", report)
    return report


def plan_cuts(checkpoint: Checkpoint, mask: Mask) -> tuple[dict[str, Cut], dict[str, int]]:
    """(cut by layer, the sizes that are left: `channels` an FFN or expert, `kv_heads` an attention)."""
    cuts: dict[str, Cut] = {}
    left: dict[str, dict[int, str]] = {"channels": {}, "kv_heads": {}}  # size -> the first layer that has it
    for parts in coupled_parts(checkpoint):
        units = _kept_units(mask, parts[0])
        for part in parts:
            if not np.array_equal(_kept_units(mask, part), units):
                raise _pruned_in_part(part.layer)
        kind = "kv_heads" if parts[0].layer.endswith("q_proj") else "channels"
        if kind == "channels":
            units[np.flatnonzero(~units)[: -units.sum() % _MULTIPLE]] = True
        left[kind].setdefault(int(units.sum()), parts[0].layer)
        cuts |= {part.layer: Cut(part.axis, np.repeat(units, part.width)) for part in parts}
    return cuts, {kind: _same_size(kind, found) for kind, found in left.items()}


def smaller_config(config: dict, channels: int, kv_heads: int) -> dict:
    """The keys of config.json that change, with their new values."""
    heads = config["num_attention_heads"]
    group = heads // (config.get("num_key_value_heads") or heads)  # query heads a key-value head
    sizes = {
        "intermediate_size": channels,
        "num_attention_heads": group * kv_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
    }
    llama = config["architectures"][0] == "LlamaForCausalLM"
    return sizes | (_LLAMA_AS_MISTRAL if llama and config["hidden_size"] % sizes["num_attention_heads"] else {})


def _kept_units(mask: Mask, part: Part) -> np.ndarray:
    """bool (units,). Raises InputError where a unit is pruned in part."""
    kept = mask.kept(part.layer)
    units = kept.all(axis=1 - part.axis).reshape(-1, part.width).all(axis=1)
    whole = np.repeat(units, part.width)
    if (kept != (whole[:, None] if part.axis == 0 else whole)).any():
        raise _pruned_in_part(part.layer)
    return units


def _pruned_in_part(layer: str) -> InputError:
    return InputError(f"{layer}: a channel or head is pruned only in part", "use a mask of a structured method")


def _same_size(kind: str, found: dict[int, str]) -> int:
    """The one size that is in `found`."""
    name = kind.replace("kv_heads", "key-value heads")
    if 0 in found:
        raise InputError(f"{found[0]}: no {name} are left", "use a mask of a lower sparsity")
    if len(found) > 1:
        sizes = " and ".join(f"{size} in {layer}" for size, layer in list(found.items())[:2])
        raise InputError(
            f"the layers keep different numbers of {name}: {sizes}", "use a mask that keeps as many in each"
        )
    return next(iter(found))


def _write_weights(checkpoint: Checkpoint, file: Path, cuts: dict[str, Cut], path: Path) -> None:
    """Write one safetensors file, its tensors in the order in which they were."""
    header, tensors = read_header(file)
    with open(file, "rb") as source, open(path, "wb") as target:
        metadata = json.loads(header[8:]).get("__metadata__")
        target.write(safetensors_header([_smaller(tensor, cuts) for tensor in tensors], metadata))
        for tensor in tensors:
            cut = cuts.get(tensor.name.removesuffix(".weight"))
            source.seek(tensor.start)
            target.write(_rest(checkpoint, tensor, cut) if cut else source.read(tensor.nbytes))


def _smaller(tensor: Tensor, cuts: dict[str, Cut]) -> Tensor:
    """A tensor as it will be; where it starts is not said."""
    cut = cuts.get(tensor.name.removesuffix(".weight"))
    if not cut:
        return tensor
    shape = tuple(int(cut.kept.sum()) if axis == cut.axis else size for axis, size in enumerate(tensor.shape))
    return replace(tensor, shape=shape, nbytes=tensor.nbytes // math.prod(tensor.shape) * math.prod(shape))


def _rest(checkpoint: Checkpoint, tensor: Tensor, cut: Cut) -> memoryview:
    """The bits that stay. Raises InputError where one that goes is not zero."""
    bits = checkpoint.read(tensor.name)
    if (np.compress(~cut.kept, bits, cut.axis) << 1).any():  # the sign aside
        raise InputError(
            f"{checkpoint.folder}: {tensor.name} is not zero where the mask prunes it",
            "give the merged checkpoint and the mask that it was merged with",
        )
    return np.compress(cut.kept, bits, cut.axis).data


def _correct_index(checkpoint: Checkpoint) -> None:
    """The index of a sharded checkpoint: the same files, other sizes."""
    path = checkpoint.folder / INDEX
    if path.exists():
        index = read_json(path)
        size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        totals = {"total_parameters": _totals(checkpoint)["parameters"], "total_size": size}
        write_json(path, index | {"metadata": index.get("metadata", {}) | totals})


def _totals(checkpoint: Checkpoint) -> dict[str, int]:
    return {
        "bytes": sum(file.stat().st_size for file in checkpoint.files),
        "parameters": sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values()),
    }
