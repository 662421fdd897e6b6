"""Make a smaller checkpoint with a structured mask: pruned channels and heads are left out instead of stored as zeros.

    MLP        down(act(gate x) * (up x))      a channel: a row of gate and of up, a column of down
    attention  o(softmax(q x (k x)^T) (v x))   a key-value head: rows of k, v and of its queries in q, columns of o

A pruned channel or head meets a zero column of down or o, so it adds exactly 0, whatever the biases of its rows are. These
are left out too. The smaller model computes the same function, except for the order of sums. Stock transformers takes one size
for all layers, so every layer must keep equally many units. Some pruned channels are kept, as zeros, because their number must
be a multiple of 8.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparseft.architectures.architecture import Part
from sparseft.checkpoints.checkpoint import INDEX, Checkpoint, Tensor, read_header, safetensors_header
from sparseft.checkpoints.layers import coupled_parts, prunable_shapes
from sparseft.errors import InputError
from sparseft.masks.mask_file import Mask, check_mask, read_mask
from sparseft.storage.atomic import atomic_folder, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.ownership import check_apart, check_replaceable
from sparseft.storage.reading import read_json
from sparseft.storage.record import check_model


@dataclass(frozen=True)
class Cut:
    """Hold which rows (axis 0) or columns (axis 1) of a tensor are kept: `kept`, bool (rows,) or (cols,)."""

    axis: int
    kept: np.ndarray


def compact(checkpoint: Checkpoint, mask_path: Path, output: Path) -> dict:
    """Write the smaller checkpoint and compact.json to `output`, one tensor in memory at a time. Return compact.json.

    `checkpoint` is the masked model. Raises InputError if it is not, or if the mask is another model's. Raises it too if
    the mask prunes a unit only in part, or leaves layers of different sizes or without units. Then no file is written."""
    check_apart([output], [checkpoint.folder, mask_path])
    check_replaceable(output, "smaller model")
    hashes = checkpoint.hashes()
    check_model(checkpoint.folder, hashes)
    mask = read_mask(mask_path)
    mask_sha256 = sha256(mask_path)
    check_mask(mask, mask_path, prunable_shapes(checkpoint))
    cuts, units = plan_cuts(checkpoint, mask)
    changes = checkpoint.architecture.smaller_config(checkpoint.config, units)
    with atomic_folder(output, "smaller model") as folder:
        checkpoint.copy_rest(folder)
        for file in checkpoint.files:
            _write_weights(checkpoint, file, cuts, folder / file.name)
        write_json(folder / "config.json", checkpoint.config | changes)
        smaller = Checkpoint(folder)
        _correct_index(smaller)
        report = {key: mask.meta.get(key) for key in ("method", "sparsity", "reached")} | {
            "inputs": {"checkpoint": checkpoint.digest_of(hashes), "mask": mask_sha256},
            "before": _totals(checkpoint) | {"config": {key: checkpoint.config.get(key) for key in changes}},
            "after": _totals(smaller) | {"config": changes},
            "outputs": smaller.hashes(),
        }
        write_json(folder / "compact.json", report)
    return report


def plan_cuts(checkpoint: Checkpoint, mask: Mask) -> tuple[dict[str, Cut], dict[str, int]]:
    """Return the cut of each smaller tensor, and the number of units that every layer keeps, by their key in config.json.

    Raises InputError if a unit is pruned only in part, or if the layers do not keep equally many."""
    groups = {group.unit: group for group in checkpoint.architecture.coupled}
    cuts: dict[str, Cut] = {}
    sizes: dict[str, dict[int, str]] = {unit: {} for unit in groups}
    for parts in coupled_parts(checkpoint):
        first = parts[0]
        units = _filled_up(_kept_together(mask, parts), groups[first.unit].multiple)
        # By size, the first layer that has it.
        sizes[first.unit].setdefault(int(units.sum()), first.layer)
        for part in parts:
            cut = Cut(part.axis, np.repeat(units, part.width))
            cuts[f"{part.layer}.weight"] = cut
            if part.axis == 0:
                cuts[f"{part.layer}.bias"] = cut
    return cuts, {unit: _only_size(groups[unit].title, layers) for unit, layers in sizes.items()}


def _kept_together(mask: Mask, parts: list[Part]) -> np.ndarray:
    """Return the units that all parts keep, bool (units,). Raises InputError if they do not keep the same ones."""
    units = _kept_units(mask, parts[0])
    for part in parts:
        if not np.array_equal(_kept_units(mask, part), units):
            raise _pruned_in_part(part.layer)
    return units


def _kept_units(mask: Mask, part: Part) -> np.ndarray:
    """Return the units that a layer keeps, bool (units,). Raises InputError if a unit is pruned only in part."""
    kept = mask.kept(part.layer)
    units = kept.all(axis=1 - part.axis).reshape(-1, part.width).all(axis=1)
    expected = np.repeat(units, part.width)
    if part.axis == 0:
        expected = expected[:, None]
    if (kept != expected).any():
        raise _pruned_in_part(part.layer)
    return units


def _filled_up(units: np.ndarray, multiple: int) -> np.ndarray:
    """Return the kept units, bool (units,), with the first pruned ones added, so that their number is a multiple."""
    filled = units.copy()
    pruned = np.flatnonzero(~units)
    filled[pruned[: -units.sum() % multiple]] = True
    return filled


def _pruned_in_part(layer: str) -> InputError:
    return InputError(f"{layer}: a channel or head is pruned only in part", "use a mask of a structured method")


def _only_size(title: str, layers: dict[int, str]) -> int:
    """Return the one size in `layers`, size -> layer. Raises InputError if there are several, or if it is 0.

    `title`: what is counted, in words"""
    if 0 in layers:
        raise InputError(f"{layers[0]}: no {title} are left", "use a mask of a lower sparsity")
    if len(layers) > 1:
        sizes = " and ".join(f"{size} in {layer}" for size, layer in list(layers.items())[:2])
        advice = "use a mask that keeps equally many in each layer"
        raise InputError(f"the layers keep different numbers of {title}: {sizes}", advice)
    (size,) = layers
    return size


def _write_weights(checkpoint: Checkpoint, file: Path, cuts: dict[str, Cut], path: Path) -> None:
    """Write the smaller tensors of one safetensors file to `path`, in the same order."""
    header, tensors = read_header(file)
    with open(file, "rb") as source, open(path, "wb") as target:
        metadata = json.loads(header[8:]).get("__metadata__")
        target.write(safetensors_header([_smaller(tensor, cuts) for tensor in tensors], metadata))
        for tensor in tensors:
            cut = cuts.get(tensor.name)
            source.seek(tensor.start)
            target.write(_kept_bits(checkpoint, tensor, cut) if cut else source.read(tensor.nbytes))


def _smaller(tensor: Tensor, cuts: dict[str, Cut]) -> Tensor:
    """Return a tensor with its future shape and size. Its place in the file is still the old one."""
    cut = cuts.get(tensor.name)
    if not cut:
        return tensor
    shape = tuple(int(cut.kept.sum()) if axis == cut.axis else size for axis, size in enumerate(tensor.shape))
    width = tensor.nbytes // math.prod(tensor.shape)
    return replace(tensor, shape=shape, nbytes=width * math.prod(shape))


def _kept_bits(checkpoint: Checkpoint, tensor: Tensor, cut: Cut) -> memoryview:
    """Return the bits that a cut keeps. Raises InputError if a weight that it removes is not zero. A bias may be anything."""
    bits = checkpoint.read(tensor.name)
    # The shift removes the sign, because -0 is zero too.
    if tensor.name.endswith(".weight") and (np.compress(~cut.kept, bits, cut.axis) << 1).any():
        raise InputError(
            f"{checkpoint.folder}: {tensor.name} is not zero where the mask prunes it",
            "give the merged checkpoint and the mask that it was merged with",
        )
    return np.compress(cut.kept, bits, cut.axis).data


def _correct_index(checkpoint: Checkpoint) -> None:
    """Correct the sizes in the index of a sharded checkpoint. Its files stay the same."""
    path = checkpoint.folder / INDEX
    if path.exists():
        index = read_json(path)
        size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        totals = {"total_parameters": _totals(checkpoint)["parameters"], "total_size": size}
        write_json(path, index | {"metadata": index.get("metadata", {}) | totals})


def _totals(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the bytes of the weights' files, and the number of parameters in them."""
    return {
        "bytes": sum(file.stat().st_size for file in checkpoint.files),
        "parameters": sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values()),
    }
