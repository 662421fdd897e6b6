"""Define unstructured: single weights, ranked as `masks.scope` says."""

from sparseft.patterns.pattern import Pattern
from sparseft.selection.ranking import Ranking


def select(ranking: Ranking) -> None:
    """Rank all weights of a layer, of a row, or of the model."""
    from sparseft.selection import rows, together

    ways = {"layer": together.by_layer, "row": rows.by_row, "global": together.by_model}
    ways[ranking.scope](ranking)


UNSTRUCTURED = Pattern(
    "unstructured", select, words="single weights", settings=("scope",), takes_counts=True, updates=("sparsegpt",)
)
