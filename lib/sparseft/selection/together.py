"""Rank all weights of a layer, or of the model, together.

They are not sorted. A first reading of the scores counts their bits in a histogram, from which the threshold of every
sparsity follows. A second reading writes the masks. Scores of 16 bits are one digit. Scores of 32 bits have a high and
a low digit, and a reading of its own for the low one (kernels.py).
"""

import math
from collections.abc import Sequence

import numpy as np

from sparseft.errors import InputError
from sparseft.selection.kernels import BINS, LOW, count_high, count_low, masks_of
from sparseft.selection.ranking import Ranking


def by_layer(ranking: Ranking) -> None:
    """Rank the weights of each layer."""
    ranking.in_threads(lambda layer: select_together(ranking, [layer]), ranking.layers)


def by_model(ranking: Ranking) -> None:
    """Rank the weights of all layers together. Raises InputError if the dtypes of their scores differ."""
    dtypes = sorted(set(map(str, ranking.dtypes.values())))
    if len(dtypes) > 1:
        assert ranking.model, "only a model has layers of several dtypes"
        raise InputError(
            f"{ranking.model.place}: layers are in {' and '.join(dtypes)}, so they cannot be ranked together",
            "set masks.scope to layer or row",
        )
    select_together(ranking, ranking.layers)


def select_together(ranking: Ranking, layers: Sequence[str]) -> None:
    """Rank all weights of `layers` together, and write their masks.

    This reads the scores twice, and 32-bit scores three times."""
    histogram = np.zeros(BINS, np.int64)
    for layer in layers:
        # int32 takes half of the cache.
        of_layer = np.zeros(BINS, np.int32)
        for block in ranking.read(layer):
            count_high(block, of_layer)
        histogram += of_layer
    total = sum(math.prod(ranking.shape[layer]) for layer in layers)
    counts = ranking.layer_counts(layers[0], total) if len(layers) == 1 else ranking.counts(total)
    values, ties = _bins_of(histogram, counts)
    if block.dtype == np.uint32:
        values, ties = _with_low_digits(ranking, layers, values, ties)
    thresholds = values.astype(block.dtype)[None]
    for layer in layers:

        def make(_: int, block: np.ndarray, cols: int = ranking.shape[layer][1]) -> np.ndarray:
            # Every block counts the ties down.
            return masks_of(block, cols, thresholds, ties[None])

        ranking.write(layer, make)


def _with_low_digits(
    ranking: Ranking, layers: Sequence[str], digits: np.ndarray, ties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole 32-bit thresholds and their ties, both int64 (levels,).

    `digits` has the high digits of the thresholds, and `ties` the number of weights to prune with each of these
    digits."""
    used, places = np.unique(digits, return_inverse=True)
    # High digit -> row of `low`; -1 if no threshold has this digit.
    slots = np.full(BINS, -1, np.int8)
    slots[used] = np.arange(used.size)
    # int32 is enough for one layer, which has fewer than 2^31 weights, and takes half of the cache. A model needs
    # int64.
    low = np.zeros((used.size, LOW), np.int32 if len(layers) == 1 else np.int64)
    for layer in layers:
        for block in ranking.source(layer):
            count_low(block, slots, low)
    bins, low_ties = zip(*(_bins_of(low[place], ties[[level]]) for level, place in enumerate(places)), strict=True)
    return digits * LOW + np.concatenate(bins), np.concatenate(low_ties)


def _bins_of(histogram: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of the last of the first counts[j] values, and how many values of that bin are among them.

    Both are int64 (levels,)."""
    # flatnonzero takes a fifth of the time if its input is bool.
    used = np.flatnonzero(histogram != 0)
    ends = np.cumsum(histogram[used], dtype=np.int64)
    places = np.searchsorted(ends, counts)
    bins = used[places]
    values_before = ends[places] - histogram[bins]
    return bins, counts - values_before
