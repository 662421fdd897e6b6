"""Divide the pruned weights among the layers by outliers, as OWL does, with an exact count over all layers.

An outlier is a weight whose score is more than M times the mean score of its decoder layer. The score is wanda's, with
the norms of the dense model's inputs. D_b is the share of outliers among the prunable weights of decoder layer b. At a
sparsity s, its layers keep the share

    1 - s + d_b - mean(d)    d_b = 2 lambda (D_b - min D) / (max D - min D)

Source: Yin et al., arXiv 2310.05175, section 3.2; luuyin/OWL@dddb7a4, lib/prune_all.py, prune_wanda_outlier.

The paper speaks of layers. By the tables in its appendix C, one D per matrix gives the best results. The code has one D
per decoder layer, over all its prunable weights, and so has this file. Users reach the published perplexity with the
code, and an author says that all matrices of a decoder layer have one sparsity (luuyin/OWL issues 9 and 12). The
experts of a mixture count in their decoder layer.

The published code misses the requested sparsity: it rounds every row down, and prunes 1 % of a decoder layer where the
formula prunes nothing. Here the count is exact:

    A layer of n weights has n slots, k = 0 ... n - 1, with the keys (k + 1/2) / n + d_b.
    A sparsity s takes the round(s N) smallest keys of all N slots. Equal keys are in the model's order.
    A layer loses as many weights as s takes of its slots.

Where the formula gives shares between 0 and 1, this is the formula. Where it keeps more than a whole layer, the other
layers make up for the difference. A sparsity that would prune a layer whole is refused. No layer loses fewer weights at
a larger sparsity.

In N:M, every group of a decoder layer loses the same number of its M weights, so a decoder layer has M slots. All
decoder layers have the same size, so the count is exact here too. The published code (prune_wanda_outlier_structure)
rounds the formula to whole weights, and misses the count.
"""

import math
from fractions import Fraction
from itertools import groupby

import numpy as np

from sparseft.axes.selection.ranking import Source
from sparseft.common.errors import InputError
from sparseft.common.progress import show
from sparseft.models.checkpoints.layers import decoder_layer_of
from sparseft.pruning.masks.settings import Masks


def outlier_shares(source: Source, shape: dict[str, tuple[int, int]], settings: Masks) -> list[float]:
    """Return the share D of outliers of each decoder layer, in the model's order.

    `source` has the scores of each layer of `shape`, fp32 bits. A weight is an outlier if its score is above `owl_m`
    times the mean, fp64. The scores are read twice, a few rows at a time."""
    shares = []
    for _, group in groupby(show(shape, "outliers of layer", len(shape)), key=decoder_layer_of):
        layers = list(group)
        scores = lambda: (bits.view(np.float32) for layer in layers for bits in source(layer))  # noqa: E731, B023
        size = sum(math.prod(shape[layer]) for layer in layers)
        limit = settings.owl_m * sum(block.sum(dtype=np.float64) for block in scores()) / size
        shares.append(sum(int(np.count_nonzero(block > limit)) for block in scores()) / size)
    return shares


def allocate(
    shares: list[float],
    shape: dict[str, tuple[int, int]],
    percents: list[int],
    settings: Masks,
    group: int | None = None,
) -> dict[str, np.ndarray]:
    """Return how many weights of each layer every sparsity prunes: layer -> int64 (sparsities,).

    shares: the share of outliers of each decoder layer
    shape: layer -> (rows, cols)
    percents: the sparsities in percent
    group: M of N:M; None if single weights are pruned

    Raises InputError if a layer would lose all of its weights."""
    # d of each decoder layer, from 0 for the smallest share of outliers to 2 lambda for the largest.
    above_lowest = [Fraction(share) - Fraction(min(shares)) for share in shares]
    unit = 2 * Fraction(settings.owl_lambda) / (max(above_lowest) or 1)
    shifts = [unit * share for share in above_lowest]
    sizes = {layer: math.prod(of_layer) for layer, of_layer in shape.items()}
    if group is None:
        by_layer = slots_pruned(list(sizes.values()), [shifts[decoder_layer_of(layer)] for layer in shape], percents)
        pruned = dict(zip(shape, by_layer, strict=True))
    else:
        of_group = slots_pruned([group] * len(shifts), shifts, percents)
        pruned = {layer: of_group[decoder_layer_of(layer)] * (size // group) for layer, size in sizes.items()}
    for layer, counts in pruned.items():
        if sizes[layer] in counts:
            percent = percents[counts.tolist().index(sizes[layer])]
            raise InputError(
                f"masks.owl_lambda {settings.owl_lambda:g} prunes 100 % of {layer} at a sparsity of {percent} %",
                f"set it lower, or prune less than {percent} %",
            )
    return pruned


def slots_pruned(sizes: list[int], shifts: list[Fraction], percents: list[int]) -> np.ndarray:
    """Return how many slots of each part are among the round(s N) smallest keys of all N slots, int64 (parts,
    sparsities).

    A part of n slots has the keys (k + 1/2) / n + shift for k = 0 ... n - 1. Equal keys are in the order of the parts.
    The slots are not listed: bisection finds the largest pruned key, exactly."""
    # All keys are integers in units of 1 / scale.
    scale = math.lcm(*(2 * size for size in sizes), *(shift.denominator for shift in shifts))
    parts = [(size, int(shift * scale)) for size, shift in zip(sizes, shifts, strict=True)]
    pruned = []
    for percent in percents:
        count = round(Fraction(percent * sum(sizes), 100))
        key, high = 0, scale + max(shift for _, shift in parts)
        while key < high:
            middle = (key + high) // 2
            if sum(_slots_up_to(middle, part, scale) for part in parts) >= count:
                high = middle
            else:
                key = middle + 1
        below = [_slots_up_to(key - 1, part, scale) for part in parts]
        ties = np.array([_slots_up_to(key, part, scale) for part in parts], np.int64) - below
        pruned.append(below + ties * (np.cumsum(ties) <= count - sum(below)))
    return np.array(pruned).T


def _slots_up_to(key: int, part: tuple[int, int], scale: int) -> int:
    """Return the number of slots of a part (size, shift) whose key is at most `key`.

    Shifts and keys are in units of 1 / scale."""
    size, shift = part
    return min(size, max(0, (2 * size * (key - shift) + scale) // (2 * scale)))
