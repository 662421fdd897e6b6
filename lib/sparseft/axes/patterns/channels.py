"""Compute how many channels and how many heads a model loses at a sparsity.

Every decoder layer, and every expert, loses the same number, because stock transformers takes one size for all. Heads
lose `masks.head_share` times the sparsity, rounded to whole key-value heads, and at least one stays. Channels lose the
rest, so that the sparsity is reached to within one channel of each decoder layer."""

import math
from collections.abc import Iterable
from fractions import Fraction

from sparseft.axes.architectures.architecture import KEY_VALUE_HEADS, size_of
from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.common.errors import InputError, located


def channels_removed(model: PrunableModel, percents: Iterable[int], head_share: float) -> dict[str, list[int]]:
    """Return how many units each group of coupled layers loses by sparsity: key of the number of units -> number by
    sparsity.

    percents: the sparsities in percent
    head_share: the share of the heads that goes, as a multiple of the sparsity

    Raises InputError if a sparsity would leave no channel, or if the model can lose no heads."""
    titles = {group.unit: group.title for group in model.architecture.coupled}
    weights = dict.fromkeys(titles, 0)
    for parts in model.groups:
        weights[parts[0].unit] += sum(math.prod(model.shapes[part.layer]) for part in parts)
    numbers = {unit: size_of(unit, model.config) for unit in weights}
    total = sum(weights.values())
    head_part = Fraction(weights[KEY_VALUE_HEADS], total)
    removed: dict[str, list[int]] = {unit: [] for unit in weights}
    for percent in percents:
        asked = Fraction(percent, 100)
        heads = heads_removed(numbers[KEY_VALUE_HEADS], percent, head_share)
        heads_weights = Fraction(heads * weights[KEY_VALUE_HEADS], numbers[KEY_VALUE_HEADS])
        # Where every decoder layer has the same kinds of channels, there is one kind.
        share = (asked * total - heads_weights) / (total - weights[KEY_VALUE_HEADS])
        for unit, number in numbers.items():
            count = heads if unit == KEY_VALUE_HEADS else max(0, round(share * number))
            if count >= number:
                reached = float(100 * (heads_weights / total + 1 - head_part))
                raise InputError(
                    f"{model.place}: {percent} % cannot be reached: without any {titles[unit]} and with"
                    f" masks.head_share {head_share:g} it is {reached:.1f} %",
                    "lower the sparsity, or raise masks.head_share",
                )
            removed[unit].append(count)
        if heads:
            left = {unit: number - removed[unit][-1] for unit, number in numbers.items()}
            # Heads that share a norm cannot be left out.
            with located(str(model.place)):
                model.architecture.smaller_config(model.config, left)
    return removed


def heads_removed(number: int, percent: int, head_share: float) -> int:
    """Return how many of `number` key-value heads go at a sparsity in percent. At least one stays."""
    return min(round(Fraction(str(head_share)) * Fraction(percent, 100) * number), number - 1)
