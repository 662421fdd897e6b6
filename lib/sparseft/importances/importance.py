"""Describe what an importance is: what it looks at, and how it scores the weights of a layer."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np


class Evidence(Enum):
    """Name what an importance needs in addition to the weights. pruning/calibration.py computes it from examples."""

    NONE = "nothing"
    GRADIENTS = "mean over the examples of |dL/dW|, fp32 (rows, cols)"
    INPUT_NORMS = "||X_j||_2 of each input column over all tokens of the examples, fp32 (cols,)"
    HESSIAN = "sum of x x^T over the inputs x of all tokens of the examples, fp32 (cols, cols)"


@dataclass(frozen=True)
class Importance:
    """Describe how every prunable weight is scored. The weights with the lowest scores are pruned first.

    `score(weights, evidence, column_sums)` returns the scores of some rows of a layer, non-negative fp32 (rows, cols):

    - `weights` is fp32 (rows, cols).
    - `evidence` is fp32: the same rows of GRADIENTS, (rows, cols), or INPUT_NORMS, (cols,).
    - `column_sums` is sum_i |W_ij| over all rows i of the layer, fp32 (cols,), if `uses_column_sums`; else None.

    If `score` is None, the score is |w|, which the selection reads from the bits of the weights. An importance that updates
    weights has no `score` either, because its scores change while a layer is pruned (pruning/weight_updates.py)."""

    name: str
    formula: str
    source: str
    evidence: Evidence
    # The names of the patterns whose weights it can rank.
    patterns: tuple[str, ...]
    score: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray] | None = None
    # What is ranked together if `masks.scope` is null: layer or row. With a fixed scope, `masks.scope` does not apply.
    scope: str = "layer"
    has_fixed_scope: bool = False
    # What the masks' metadata says about the evidence.
    accumulated: str = ""
    uses_column_sums: bool = False
    # The keys of `masks:` that only this importance uses.
    settings: tuple[str, ...] = ()
    # Whether it also gives the kept weights other values.
    updates_weights: bool = False

    @property
    def uses_examples(self) -> bool:
        """Return whether the importance needs examples."""
        return self.evidence is not Evidence.NONE

    @property
    def is_sequential(self) -> bool:
        """Return whether `masks.sequential` applies: the inputs of a layer depend on the pruned layers before it."""
        return self.evidence is Evidence.INPUT_NORMS
