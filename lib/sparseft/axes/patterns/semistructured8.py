"""Define semistructured8: of every 8 weights in a row, those with the lowest scores. At 50 % it is 4:8."""

from sparseft.axes.patterns.semistructured import in_groups

SEMISTRUCTURED8 = in_groups("semistructured8", 8)
