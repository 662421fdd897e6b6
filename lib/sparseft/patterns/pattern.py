"""Describe what a pattern is: what is removed together, and how its masks are selected from the scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparseft.importances.importance import Importance


@dataclass(frozen=True)
class Pattern:
    """Describe what is removed together."""

    name: str
    # select(ranking) writes the masks of all layers of a `Ranking` (pruning/selection.py), by one of its methods. It returns what
    # this method returns: the distribution of the scores by layer. None if the masks are another tool's.
    select: Callable[[Any], dict[str, Any]] | None
    # What is removed, in words for the results page.
    words: str = ""
    # What is ranked together; None if `masks.scope` and the importance decide it.
    scope: str | None = None
    # The keys of `masks:` that the pattern uses.
    settings: tuple[str, ...] = ()
    has_importance: bool = True
    # Whether it removes coupled channels of several layers. Then the layers are not pruned one after the other, and the model
    # can be written without them.
    removes_channels: bool = False
    # Whether every scope loses exactly the requested share of its weights, except for rounding.
    has_exact_counts: bool = True
    # Whether an allocation, or an importance that updates weights, can decide how many weights a layer loses.
    takes_counts: bool = False
    # Whether groups of `masks.nm_group` weights are ranked by themselves.
    has_groups: bool = False
    # Whether the kept weights get other values, so that the pruned weights are a checkpoint of their own.
    updates_weights: bool = False

    def allows(self, importance: Importance) -> bool:
        """Return whether the scores of an importance can rank what the pattern removes."""
        if not self.has_importance or (importance.updates_weights and not self.takes_counts):
            return False
        return importance.ranks_channels or not self.removes_channels
