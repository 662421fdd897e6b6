"""Prune as SparseGPT does: choose the weights, and change the kept ones so that the layer's output changes little.

    H = sum_t x_t x_t^T    over the inputs x_t of all tokens, (cols, cols)
    U                      the upper triangle with U^T U = (H + damping * mean(diag H) * I)^-1

The columns are pruned from left to right. A pruned weight w_ij costs w_ij^2 / U_jj^2 if row i of the columns to the
right of j changes by -w_ij / U_jj * U_j,j+1:, which is the least-squares answer. For each block of columns:

    1. Rank the block's weights, as the blocks before it have changed them. Prune those with the lowest cost.
    2. For each column of the block, change the columns to the right of it in the block.
    3. Change all columns to the right of the block by one product of matrices.

The weights of an input that is always zero (H_jj = 0) have no effect. They become 0, and H_jj becomes the mean of the
others. So the layer is pruned as if the input were not there.

Source: Frantar and Alistarh, arXiv 2301.00774, algorithm 1; IST-DASLab/sparsegpt@147d215, sparsegpt.py, fasterprune.
Here counts are exact, and ties go to the lowest flat index of the block. The published code prunes all weights up to a
threshold. Its factor 2 / n of H is left out, because it changes neither the ranks nor the new weights. The published
code sets H_jj of an input that is always zero to 1. Then the damping depends on that factor and on the scale of the
other inputs.

H, the factor and the updates are in fp32. This was compared with fp64 on SmolLM2-135M in fp32, with 32 windows of 256
tokens of WikiText-2, at 50 and 70 %, on q_proj of layer 0, gate_proj and o_proj of layer 15, and down_proj of layers 1,
15 and 29. The condition number of H is up to 1e8, and up to 6e4 with the damping. H differs by up to 1.4e-7 of its
norm, a mask in up to 1 weight of 7,000, and the output error by up to 1.2e-4 of itself.

A model is pruned decoder layer by decoder layer, and its pruned base is streamed to disk. Memory is one decoder layer,
a Hessian for each of its layers, fp32 (cols, cols), the weights outside the decoder layers, and the hidden states of
the examples.
"""

from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from sparseft.axes.importances import HESSIAN
from sparseft.axes.selection.ranking import check_groups
from sparseft.pruning.hessian import NewWeights, change_weights, inverse, solve_damped
from sparseft.pruning.mask_generator import MaskPass
from sparseft.pruning.pruned_base import pruned_writer


def prune_weights(masks: MaskPass) -> None:
    """Prune and update a model's weights for a sparsity, and write mask, report and pruned base.

    Raises InputError as `pruned_writer` and `prune_layer` do, and if the settings do not allow the method."""
    settings, meta = masks.settings, {}
    if group := masks.method.pattern.group:
        for layer, (_, cols) in masks.shapes.items():
            check_groups(layer, cols, group)
    if masks.method.allocation:
        meta["outliers"], allocated = masks.allocate()
        counts = {layer: int(of_layer[0]) for layer, of_layer in allocated.items()}
    else:
        share = Fraction(masks.percents[0], 100)
        counts = {layer: round(share * rows * cols) for layer, (rows, cols) in masks.shapes.items()}
    prune = partial(prune_layer, block=settings.sparsegpt_block, damping=settings.damping, group=group)
    with pruned_writer(masks, meta) as writer:
        for weights, hessian_of in masks.calibration.in_sequence(masks.checkpoint, HESSIAN):
            for layer, weight in weights.items():
                change_weights(writer, layer, weight, hessian_of(layer), partial(prune, count=counts[layer]))


def prune_layer(
    layer: str, weights: Tensor, hessian: Tensor, count: int, *, block: int, damping: float, group: int | None = None
) -> NewWeights:
    """Prune `count` of the weights of a layer, and return what is left.

    layer: its name, for errors
    weights: (rows, cols)
    hessian: (cols, cols), in the dtype of the weights, in which all products are computed
    block: columns of a block, which loses its share of the count
    damping: the first one, as a share of the mean of the Hessian's diagonal
    group: M of N:M. Each group of a row loses the same number. `block` and cols must be multiples of it.

    Raises InputError as `solve_damped` does."""
    diagonal = hessian.diagonal().clone()
    is_dead = diagonal == 0
    if not is_dead.all():
        diagonal[is_dead] = diagonal[~is_dead].mean()
    factor, damping = solve_damped(layer, hessian, diagonal, diagonal.mean(), damping, _factor)
    rows, cols = weights.shape
    weights = weights.masked_fill(is_dead, 0)
    kept = torch.ones_like(weights, dtype=torch.bool)
    for start in range(0, cols, block):
        end = min(start + block, cols)
        U = factor[start:end, start:end]
        # (columns, rows): every change of a column is then a change of whole rows, which lie together in memory.
        columns = weights[:, start:end].T.contiguous()
        errors = torch.empty_like(columns)
        if not group:
            # How many of the pruned weights are in the columns before the block, and with it.
            before, after = (round(Fraction(count * edge, cols)) for edge in (start, end))
            lowest = _lowest(_scores(columns, U.diagonal()).reshape(1, -1), after - before)
            kept[:, start:end] = ~lowest.reshape(rows, -1)
        for column in range(end - start):
            if group and column % group == 0:
                inner = slice(column, column + group)
                outer = slice(start + column, start + column + group)
                scores = _scores(columns[inner], U.diagonal()[inner])
                kept[:, outer] = ~_lowest(scores, count * group // (rows * cols))
            errors[column] = columns[column].masked_fill(kept[:, start + column], 0) / U[column, column]
            columns[column + 1 :].addr_(U[column, column + 1 :], errors[column], alpha=-1)
        weights[:, start:end] = columns.T
        weights[:, end:].addmm_(errors.T, factor[start:end, end:], alpha=-1)
    return NewWeights(weights.masked_fill_(~kept, 0), kept, damping)


def _factor(factor: Tensor, damped: Tensor) -> Tensor | None:
    """Return the upper triangle U with U^T U = damped^-1, in the place of the lower triangle of `damped`. None if the
    factorisation fails.

    Only two matrices of this size exist in addition to the Hessian."""
    failed = torch.empty((), dtype=torch.int32, device=factor.device)
    torch.linalg.cholesky_ex(inverse(factor, damped), upper=True, out=(factor, failed))
    return None if failed else factor


def _scores(columns: Tensor, diagonal: Tensor) -> Tensor:
    """Return w^2 / U_jj^2 of some columns (cols, rows), as (rows, cols). `diagonal` has their U_jj."""
    return (columns.square() / diagonal[:, None].square()).T


def _lowest(scores: Tensor, number: int) -> Tensor:
    """Return where the `number` lowest scores of each row are, bool (rows, cols). Ties go to the lowest index."""
    chosen = scores.argsort(dim=1, stable=True)[:, :number]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)
