"""Describe what a pattern is: what is removed together, and how its masks are selected from the scores."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from sparseft.axes.architectures.architecture import size_of
from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.axes.importances.importance import Importance
from sparseft.axes.patterns.channels import channels_removed
from sparseft.axes.selection.ranking import Ranking
from sparseft.common.errors import InputError

# How far the share of the removed weights may be from the requested sparsity.
TOLERANCE = Fraction(2, 100)


@dataclass(frozen=True)
class Units:
    """Describe what a pattern removes from a model so that a smaller model is left: experts or decoder layers.

    key      the number of units, as the architectures name it
    title    the units in words, for messages
    tensors  a pattern of the tensors of a unit, with the number of the unit as `unit`, and that of its decoder layer as
             `group` if each decoder layer has units of its own

    The same number of units is removed from each group, and at least one stays."""

    key: str
    title: str
    tensors: str

    def unit_of(self, name: str) -> tuple[int, int] | None:
        """Return the group and the unit that a tensor or a layer belongs to; None if it belongs to none."""
        match = re.match(self.tensors, name)
        return (int(match.groupdict().get("group") or 0), int(match["unit"])) if match else None

    def renamed(self, name: str, number: int) -> str:
        """Return the name that a tensor of a unit has as a tensor of unit `number`."""
        match = re.match(self.tensors, name)
        assert match, f"{name} belongs to no unit"
        return f"{name[: match.start('unit')]}{number}{name[match.end('unit') :]}"

    def number(self, model: PrunableModel) -> int:
        """Return how many units each group of a model has. Raises InputError if it has none."""
        if self.key not in model.architecture.sizes:
            raise InputError(
                f"{model.architecture.class_name} has no {self.title}",
                "leave out the methods that remove them, or use another model",
            )
        return size_of(self.key, model.config)

    def removed(self, model: PrunableModel, percents: Iterable[int]) -> dict[int, int]:
        """Return by sparsity, in percent, how many units each group loses.

        Raises InputError if the nearest number reaches a share of the prunable weights that is not near the sparsity,
        or if two sparsities lead to the same number."""
        number = self.number(model)
        sizes = {layer: math.prod(shape) for layer, shape in model.shapes.items()}
        unit = Fraction(sum(size for layer, size in sizes.items() if self.unit_of(layer)), number * sum(sizes.values()))
        numbers: dict[int, int] = {}
        for percent in filter(None, percents):
            asked = Fraction(percent, 100)
            near = sorted(range(1, number), key=lambda count: abs(count * unit - asked))[:2]
            if not near or abs(near[0] * unit - asked) > TOLERANCE:
                reached = [f"{float(100 * count * unit):.1f} % ({count} of {number})" for count in sorted(near)]
                raise InputError(
                    f"{model.place}: no whole number of {self.title} reaches {percent} %",
                    f"choose among what it reaches, such as {' and '.join(reached)}" if near else "use another method",
                )
            for other in (known for known, count in numbers.items() if count == near[0]):
                same = f"{other} % and {percent} % both remove {near[0]} of {number} {self.title}"
                raise InputError(f"{model.place}: {same}", "leave one of them out")
            numbers[percent] = near[0]
        return numbers


@dataclass(frozen=True)
class Pattern:
    """Describe what is removed together."""

    name: str
    # Writes the masks of all layers, by one of the ways in selection/. None if the masks are another tool's, or keep
    # all that is left.
    select: Callable[[Ranking], None] | None = None
    # What is removed, in words for the results page.
    words: str = ""
    # What is ranked together; None if `masks.scope` and the importance decide it.
    scope: str | None = None
    # The keys of `masks:` that the pattern uses.
    settings: tuple[str, ...] = ()
    has_importance: bool = True
    # What an importance must rank: weights, channels (coupled ones of several layers), experts or decoder layers
    # ("layers").
    removes: str = "weights"
    # What is removed, if a smaller model is written at once: a pruned base, whose masks keep every weight.
    units: Units | None = None
    # Whether a reconstruction of the decoder layers that are left can learn something.
    is_reconstructed: bool = True
    # Whether every scope loses exactly the requested share of its weights, except for rounding.
    has_exact_counts: bool = True
    # Whether an allocation can decide how many weights a layer loses.
    takes_counts: bool = False
    # The names in pruning/updates.py of the algorithms that can make its masks and change the kept weights.
    updates: tuple[str, ...] = ()
    # M of N:M: how many consecutive weights of a row are ranked by themselves. N follows from the sparsity. None if not
    # N:M.
    group: int | None = None
    # Raise it when the masks that it selects change.
    version: int = 1

    def allows(self, importance: Importance) -> bool:
        """Return whether the scores of an importance can rank what the pattern removes."""
        if not self.has_importance or (importance.update and importance.update not in self.updates):
            return False
        return self.removes in importance.ranks

    def check_model(self, model: PrunableModel, percents: Iterable[int], head_share: float) -> None:
        """Raise InputError if the pattern cannot remove these sparsities, in percent, from a model.

        head_share: as in `channels_removed`"""
        if self.units:
            self.units.removed(model, percents)
        elif self.removes == "channels":
            channels_removed(model, percents, head_share)
