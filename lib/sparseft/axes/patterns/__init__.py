"""List the patterns. To add one, write its file and put it into the table."""

from sparseft.patterns.experts import EXPERTS
from sparseft.patterns.layers import LAYERS
from sparseft.patterns.pattern import Pattern
from sparseft.patterns.random import RANDOM
from sparseft.patterns.semistructured import SEMISTRUCTURED
from sparseft.patterns.semistructured8 import SEMISTRUCTURED8
from sparseft.patterns.structured import STRUCTURED
from sparseft.patterns.unstructured import UNSTRUCTURED

PATTERNS = (UNSTRUCTURED, STRUCTURED, SEMISTRUCTURED, SEMISTRUCTURED8, RANDOM, EXPERTS, LAYERS)

__all__ = ["PATTERNS", "Pattern"]
