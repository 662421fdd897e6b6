"""Describe the distribution of scores, for the report of a pass."""

from typing import Any

import numpy as np

from sparseft.storage.bits import to_float32

# Values of the high digit of a magnitude: all 15 bits of a 16-bit one, the high 16 bits of a 32-bit one.
BINS = 1 << 16
# Values of the low digit of a 32-bit magnitude.
LOW = 1 << 15
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)

# The distribution of a layer's scores, or of its coupled units' scores if the method is structured: the fields of ScoreRow.
Distribution = dict[str, Any]
# That of random scores, and of a mask that ranks nothing.
NO_SCORES: Distribution = {"quantiles": {}, "zeros": 0}


def distribution_of_histogram(histogram: np.ndarray, dtype: str) -> Distribution:
    """Return the distribution from int (BINS,) counts by the high digit of scores in BF16, F16 or F32.

    It is exact for 16-bit scores, and low by up to 1 / 256 of their value for 32-bit ones."""
    used = np.flatnonzero(histogram != 0)  # On bool it takes a fifth of the time.
    bits = (used * LOW).astype(np.uint32) if dtype == "F32" else used.astype(np.uint16)
    return distribution_of_values(to_float32(bits, dtype), histogram[used])


def distribution_of_values(values: np.ndarray, counts: np.ndarray) -> Distribution:
    """Return the distribution of ascending non-negative values, each `counts` times."""
    ends = np.cumsum(counts)
    places = np.searchsorted(ends, np.ceil(np.array(QUANTILES) * ends[-1]))
    quantiles = dict(zip(QUANTILES, map(float, values[places]), strict=True))
    return {"quantiles": quantiles, "zeros": int(counts[values == 0].sum())}
