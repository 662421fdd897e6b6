"""Find how much must leave a model until it is served at a wished speed or size, before anything is pruned or trained.

Speed and size follow from the shape of a model, not from its weights. So the first channels and the last decoder
layers stand for those that a pruning would keep. Time and size fall nearly in proportion to the share that leaves. The
search starts at the share that the counted weights need. It measures a model of this shape, and corrects the share by
what it measured.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from sparseft.axes.architectures.architecture import size_of
from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.axes.methods import get_method
from sparseft.axes.patterns.channels import channels_removed
from sparseft.axes.patterns.pattern import Units
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_model
from sparseft.models.checkpoints.rewriting import Cut, write_smaller
from sparseft.pruning.compact import cuts_of
from sparseft.pruning.smaller import unit_cut
from sparseft.serving.settings import CANDIDATES, FIRST, FIRST_LAYERS

# The largest share of the prunable weights that is tried, and the most measurements of a search.
MOST, TRIALS = 70, 4
# A speed is measured to a few percent, so the search aims a little further.
FURTHER = 0.97


def layers_by_percent(model: PrunableModel, units: Units) -> dict[int, int]:
    """Return the number of decoder layers that leave a model, by the nearest whole percent."""
    number = units.number(model)
    percents = {round(100 * removed / number): removed for removed in range(1, number)}
    return {percent: removed for percent, removed in percents.items() if percent <= MOST}


def channels_by_percent(model: PrunableModel) -> dict[int, dict[str, int]]:
    """Return how many units of each kind stay in a model, by the percent of its prunable weights that leaves.

    Only the lowest percent of each shape is there, because some pruned channels stay as zeros (pruning/compact.py)."""
    groups = model.architecture.coupled
    whole = {group.unit: size_of(group.unit, model.config) for group in groups}
    shapes: dict[int, dict[str, int]] = {}
    for percent in range(1, MOST + 1):
        with suppress(InputError):
            removed = channels_removed(model, [percent], 0.0)
            left = {group: whole[group.unit] - removed[group.unit][0] for group in groups}
            kept = {
                group.unit: min(whole[group.unit], units + -units % group.multiple) for group, units in left.items()
            }
            if kept not in (whole, *shapes.values()):
                shapes[percent] = kept
    return shapes


def without_layers(checkpoint: Checkpoint, units: Units, number: int, folder: Path) -> Checkpoint:
    """Write a model without its first `number` decoder layers."""
    kept = [list(range(number, units.number(prunable_model(checkpoint))))]
    changes = checkpoint.architecture.config_of_part(checkpoint.config, units.key, kept[0])
    return write_smaller(checkpoint, folder, changes, partial(unit_cut, checkpoint.architecture, units, kept))


def with_first_channels(checkpoint: Checkpoint, kept: dict[str, int], folder: Path) -> Checkpoint:
    """Write a model with the first units of each kind, so many as `kept` says."""
    cuts: dict[str, Cut] = {}
    for parts in prunable_model(checkpoint).groups:
        unit = parts[0].unit
        cuts |= cuts_of(parts, np.arange(size_of(unit, checkpoint.config)) < kept[unit])
    changes = checkpoint.architecture.smaller_config(checkpoint.config, kept)
    return write_smaller(checkpoint, folder, changes, lambda tensor: cuts.get(tensor.name, Cut(tensor.name)))


def shapes_of(candidate: str, dense: Checkpoint, scratch: Path) -> dict[int, Callable[[Path], Checkpoint]]:
    """Return the shapes of channels, layers or both: what writes a model of each into a folder, by the percent that
    leaves.

    Raises InputError if the model has too few decoder layers for both. `scratch` then has it without the first ones."""
    method, is_shorter = CANDIDATES[candidate]
    units = get_method(FIRST).pattern.units
    assert units
    if method == FIRST:
        numbers = layers_by_percent(prunable_model(dense), units)
        return {percent: partial(without_layers, dense, units, number) for percent, number in numbers.items()}
    if is_shorter:
        number = units.removed(prunable_model(dense), [FIRST_LAYERS])[FIRST_LAYERS]
        (scratch / "shorter").mkdir()
        dense = without_layers(dense, units, number, scratch / "shorter")
    shapes = channels_by_percent(prunable_model(dense))
    return {percent: partial(with_first_channels, dense, kept) for percent, kept in shapes.items()}


def search(
    percents: list[int], start: float, slope: float, target: float, measure: Callable[[int], float]
) -> dict[int, float]:
    """Measure percents until the smallest one is known whose cost is at most `target`, and return their costs.

    start: the cost without pruning
    slope: by how much the cost is expected to fall per percent"""
    costs: dict[int, float] = {}
    missed, cost, left = 0, start, percents
    while left and len(costs) < TRIALS:
        # The nearest miss and the slope say where the target is.
        percent = next((percent for percent in left if cost - slope * (percent - missed) <= target), left[-1])
        costs[percent] = measure(percent)
        if costs[percent] > target:
            # A measured time may also be longer than that of the dense model.
            slope = max((start - costs[percent]) / percent, slope / 10)
            missed, cost, left = percent, costs[percent], [other for other in left if other > percent]
        else:
            slope = (cost - costs[percent]) / (percent - missed)
            left = [other for other in left if other < percent]
    return costs
