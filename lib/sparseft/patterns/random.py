"""Define random: single weights, by random scores."""

from sparseft.patterns.pattern import Pattern
from sparseft.patterns.unstructured import select

RANDOM = Pattern("random", select, words="single weights at random", settings=("seed", "scope"), has_importance=False)
