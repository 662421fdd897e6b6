"""List the patterns. To add one, write its file and put it into the table."""

from sparseft.axes.patterns.experts import EXPERTS
from sparseft.axes.patterns.layers import LAYERS
from sparseft.axes.patterns.pattern import Pattern
from sparseft.axes.patterns.random import RANDOM
from sparseft.axes.patterns.semistructured import SEMISTRUCTURED
from sparseft.axes.patterns.semistructured8 import SEMISTRUCTURED8
from sparseft.axes.patterns.structured import STRUCTURED
from sparseft.axes.patterns.unstructured import UNSTRUCTURED

PATTERNS = (UNSTRUCTURED, STRUCTURED, SEMISTRUCTURED, SEMISTRUCTURED8, RANDOM, EXPERTS, LAYERS)

__all__ = ["PATTERNS", "Pattern"]
