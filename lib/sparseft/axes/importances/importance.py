"""Describe what an importance is: what it looks at, and how it scores the weights of a layer, or what is larger than a
weight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Statistic:
    """Describe what is accumulated over the examples for each layer. pruning/calibration.py runs the model.

    add           add(total, values) adds to the total in place; it may overwrite a gradient, but not the inputs
    of_gradients  whether the values are the gradient dL/dW of each example, (rows, cols); if not, they are the inputs
                  of the layer, (tokens, cols), which come example by example
    shape         (rows, cols) of a layer -> the shape of its total, which starts as zeros
    finish        finish(total, count) returns the statistic, fp32; `count` is the number of the examples, or of the
                  tokens that reached the layer, and at least 1
    dtype         the dtype of the total
    words         what it is, for the masks' metadata

    Totals and values are torch tensors. A function that needs torch imports it itself, because plans run without
    torch."""

    add: Callable[[Any, Any], object]
    of_gradients: bool = False
    shape: Callable[[int, int], tuple[int, ...]] = lambda rows, cols: (rows, cols)
    finish: Callable[[Any, int], Any] = lambda total, count: total
    dtype: str = "float32"
    words: str = ""


@dataclass(frozen=True)
class Importance:
    """Describe how every prunable weight, expert or decoder layer is scored. Those with the lowest scores are pruned
    first.

    `score(weights, values)` returns the scores of some rows of a layer, non-negative fp32 (rows, cols):

    - `weights` is fp32 (rows, cols).
    - `values` is what `statistic` finishes with, fp32. It has the same rows if it is of gradients. It is None without a
      statistic.
    - `column_sums` is a third argument if `uses_column_sums`: sum_i |W_ij| over all rows i of the layer, fp32 (cols,).

    If `score` is None, the score is |w|, which the selection reads from the bits of the weights. An importance with an
    `update` has no `score` either, because its scores change while a layer is pruned."""

    name: str
    formula: str
    source: str
    # What it looks at in addition to the weights.
    statistic: Statistic | None = None
    score: Callable[..., np.ndarray] | None = None
    # What its scores, or their sums, rank: weights, channels, experts or decoder layers ("layers").
    ranks: tuple[str, ...] = ("weights", "channels")
    # score_units(observation) returns the scores of experts or of decoder layers, float64 (groups, units). The groups
    # and the observation are those of pruning/unit_scores.py. None if it scores weights.
    score_units: Callable[[Any], np.ndarray] | None = None
    # How often the model runs over the examples for these scores, from the number of its decoder layers. None: once.
    passes: Callable[[int], float] | None = None
    # What is ranked together if `masks.scope` is null: layer or row. With a fixed scope, `masks.scope` does not apply.
    scope: str = "layer"
    has_fixed_scope: bool = False
    # What the masks' metadata says about the statistic, if its words do not say it.
    accumulated: str = ""
    uses_column_sums: bool = False
    # The keys of `masks:` that only this importance uses.
    settings: tuple[str, ...] = ()
    # Whether its scores are random bits, which do not depend on the weights.
    is_random: bool = False
    # The name in pruning/updates.py of the algorithm that scores, prunes and changes the kept weights in one; None if
    # the importance only scores.
    update: str | None = None
    # Raise it when its scores change.
    version: int = 1

    @property
    def uses_examples(self) -> bool:
        """Return whether the scores depend on examples."""
        return self.statistic is not None or (self.score_units is not None and not self.is_random)
