"""Define structured: whole coupled channels and heads (LLM-Pruner, arXiv 2305.11627). architectures/ says what is coupled.

Unless `masks.head_share` says otherwise, only channels of the MLP go. Few key-value heads share all of the attention, and the
loss of one hurts more than that of as many weights in channels (docs/smaller_models.md).
"""

from typing import Any

import numpy as np

from sparseft.patterns.pattern import Pattern


def select(ranking: Any) -> dict[str, Any]:
    """Rank the channels of each MLP, and the key-value heads of each attention."""
    return ranking.by_unit(ranking.coupled_parts(), ranking.coupled_numbers())


def is_sound(kept: np.ndarray) -> bool:
    """Return whether a mask, bool (rows, cols), prunes whole rows and columns only."""
    return bool((kept == (kept.any(axis=1, keepdims=True) & kept.any(axis=0))).all())


STRUCTURED = Pattern(
    "structured",
    select,
    words="whole channels",
    scope="layer",
    settings=("head_share",),
    removes="channels",
    has_exact_counts=False,
    updates=("obs", "refit"),
    is_sound=is_sound,
)
