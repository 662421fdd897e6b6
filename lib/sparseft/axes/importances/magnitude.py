"""Define magnitude: the weight's absolute value."""

from sparseft.axes.importances.importance import Importance

MAGNITUDE = Importance(
    name="magnitude",
    formula="|w|",
    source="Han et al. 2015, arXiv 1506.02626, section 3",
)
