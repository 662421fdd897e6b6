"""Define frequency: how many tokens reach the expert."""

from sparseft.axes.importances.importance import Importance

FREQUENCY = Importance(
    name="frequency",
    formula="number of its tokens",
    source="expert_frequency in CerebrasResearch/reap@46d78eb, src/reap/observer.py",
    ranks=("experts",),
    score_units=lambda observation: observation.sum_by_expert(lambda routed: routed.chosen.sum(0)),
    accumulated="number of tokens of each expert",
)
