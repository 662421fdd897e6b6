"""Define random: single weights, by random scores."""

from sparseft.axes.patterns.pattern import Pattern
from sparseft.axes.selection.ranking import by_scope

RANDOM = Pattern("random", by_scope, words="single weights at random", settings=("seed", "scope"), has_importance=False)
