"""Define unstructured: single weights, ranked as `masks.scope` says."""

from sparseft.patterns.pattern import Pattern
from sparseft.selection.ranking import by_scope

UNSTRUCTURED = Pattern(
    "unstructured", by_scope, words="single weights", settings=("scope",), takes_counts=True, updates=("sparsegpt",)
)
