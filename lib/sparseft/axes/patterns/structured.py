"""Define structured: whole coupled channels and heads (LLM-Pruner, arXiv 2305.11627). architectures/ says what is
coupled.

Unless `masks.head_share` says otherwise, only channels of the MLP go. Few key-value heads share all of the attention,
so a share of them rounds far from the requested one.
"""

from sparseft.axes.patterns.channels import channels_removed
from sparseft.axes.patterns.pattern import Pattern
from sparseft.axes.selection.ranking import Ranking
from sparseft.axes.selection.units import by_unit


def select(ranking: Ranking) -> None:
    """Rank the channels of each MLP, and the key-value heads of each attention."""
    model = ranking.model
    assert model, "only a model has coupled layers"
    groups = [parts for parts in model.groups if parts[0].layer in ranking.shape]
    by_unit(ranking, groups, channels_removed(model, ranking.percents, ranking.settings.head_share))


STRUCTURED = Pattern(
    "structured",
    select,
    words="whole channels",
    scope="layer",
    settings=("head_share",),
    removes="channels",
    has_exact_counts=False,
    updates=("obs", "refit"),
)
