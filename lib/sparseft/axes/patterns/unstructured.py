"""Define unstructured: single weights, ranked as `masks.scope` says."""

from sparseft.axes.patterns.pattern import Pattern
from sparseft.axes.selection.ranking import by_scope

UNSTRUCTURED = Pattern(
    "unstructured", by_scope, words="single weights", settings=("scope",), takes_counts=True, updates=("sparsegpt",)
)
