"""Make a smaller checkpoint with a structured mask: pruned channels and heads are left out instead of stored as zeros.

    MLP        down(act(gate x) * (up x))      a channel: a row of gate and of up, a column of down
    attention  o(softmax(q x (k x)^T) (v x))   a key-value head: rows of k, v and of its queries in q, columns of o

A pruned channel or head meets a zero column of down or o, so it adds exactly 0, whatever the biases of its rows are.
These are left out too. The smaller model computes the same function, except for the order of sums. Stock transformers
takes one size for all layers, so every layer must keep equally many units. Some pruned channels are kept, as zeros,
because their number must be a multiple of 32.
"""

from pathlib import Path

import numpy as np

from sparseft.axes.architectures.architecture import Part
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.models.checkpoints.rewriting import Cut, write_smaller
from sparseft.pruning.masks.mask_file import Mask, read_mask
from sparseft.storage.atomic import write_json


def compact(checkpoint: Checkpoint, mask_path: Path, output: Path) -> dict:
    """Write the smaller checkpoint and compact.json to the folder `output`, one tensor in memory at a time. Return
    compact.json.

    `checkpoint` is the model that was masked with this mask. Raises InputError if the mask prunes a unit only in part,
    or leaves layers of different sizes or without units. Then no file is written."""
    mask = read_mask(mask_path)
    cuts, units = plan_cuts(checkpoint, mask)
    changes = checkpoint.architecture.smaller_config(checkpoint.config, units)
    output.mkdir(exist_ok=True)
    smaller = write_smaller(checkpoint, output, changes, lambda tensor: cuts.get(tensor.name, Cut(tensor.name)))
    report = {key: mask.meta.get(key) for key in ("method", "sparsity", "reached")} | {
        "before": checkpoint.totals() | {"config": {key: checkpoint.config.get(key) for key in changes}},
        "after": smaller.totals() | {"config": {key: smaller.config.get(key) for key in changes}},
    }
    write_json(output / "compact.json", report)
    return report


def plan_cuts(checkpoint: Checkpoint, mask: Mask) -> tuple[dict[str, Cut], dict[str, int]]:
    """Return the cut of each smaller tensor, and the number of units that every layer keeps, by their key in
    config.json.

    Raises InputError if a unit is pruned only in part, if the layers do not keep equally many, or if a pruned unit adds
    more than 0, as in a mode that lifts the mask."""
    groups = {group.unit: group for group in checkpoint.architecture.coupled}
    cuts: dict[str, Cut] = {}
    # Tensor -> its columns that are left out.
    left_out: dict[str, np.ndarray] = {}
    # Unit -> number of kept units -> the first layer that keeps so many.
    sizes: dict[str, dict[int, str]] = {unit: {} for unit in groups}
    for parts in checkpoint.architecture.coupled_parts(checkpoint.config, prunable_layers(checkpoint)):
        first = parts[0]
        units = _kept_units(mask, parts)
        # The first pruned units are kept too, so that their number is a multiple.
        units[np.flatnonzero(~units)[: -units.sum() % groups[first.unit].multiple]] = True
        sizes[first.unit].setdefault(int(units.sum()), first.layer)
        own = cuts_of(parts, units)
        cuts |= own
        left_out |= {name: ~cut.kept for name, cut in own.items() if cut.kept is not None and cut.axis == 1}
    for unit, layers in sizes.items():
        if len(layers) > 1 or 0 in layers:
            kept_units = " and ".join(f"{size} in {layer}" for size, layer in layers.items())
            raise InputError(
                f"the layers keep different numbers of {groups[unit].title}, or none: {kept_units}",
                "use a mask that keeps equally many in each layer",
            )
    for name, columns in left_out.items():
        # The shift removes the sign.
        if (checkpoint.read(name)[:, columns] << 1).any():
            raise InputError(f"{name}: a pruned column is not zero", "give the model that the mask has pruned")
    return cuts, {unit: next(iter(layers)) for unit, layers in sizes.items()}


def cuts_of(parts: list[Part], units: np.ndarray) -> dict[str, Cut]:
    """Return the cut of each tensor of coupled layers that keep `units`, bool (units,)."""
    return {
        (name := f"{part.layer}.{kind}"): Cut(name, np.repeat(units, part.width), part.axis)
        for part in parts
        for kind in (("weight", "bias") if part.axis == 0 else ("weight",))
    }


def _kept_units(mask: Mask, parts: list[Part]) -> np.ndarray:
    """Return the units that all parts keep, bool (units,). Raises InputError if a unit is pruned only in part."""
    first = parts[0]
    units = np.all(np.all(mask.kept(first.layer), axis=1 - first.axis).reshape(-1, first.width), axis=1)
    for part in parts:
        kept = mask.kept(part.layer)
        channels = np.repeat(units, part.width)
        if (kept != (channels[:, None] if part.axis == 0 else channels)).any():
            raise InputError(
                f"{part.layer}: a channel or head is pruned only in part", "use a mask of a structured method"
            )
    return units
