"""Define unstructured: single weights, ranked as `masks.scope` says."""

from typing import Any

from sparseft.patterns.pattern import Pattern


def select(ranking: Any) -> dict[str, Any]:
    """Rank all weights of a layer, of a row, or of the model."""
    ways = {"layer": ranking.by_layer, "row": ranking.by_row, "global": ranking.together}
    return ways[ranking.scope]()


UNSTRUCTURED = Pattern(
    "unstructured", select, words="single weights", settings=("scope",), takes_counts=True, updates=("sparsegpt",)
)
