"""Define ean: how large the outputs of the expert are, summed over its tokens (expert activation norm)."""

from sparseft.axes.importances.importance import Importance

EAN = Importance(
    name="ean",
    formula="sum ||f(x)||",
    source="ean_sum in CerebrasResearch/reap@46d78eb, src/reap/observer.py",
    ranks=("experts",),
    # The norms of the experts that a token does not reach are 0.
    score_units=lambda observation: observation.sum_by_expert(lambda routed: routed.norms.double().sum(0)),
    accumulated="sum over the tokens of each expert of the norm of its output",
)
