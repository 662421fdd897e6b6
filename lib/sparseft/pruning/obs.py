"""Prune whole channels and heads, and change the kept columns so that the outputs change little.

A unit g is some columns of the last matrix W of its coupled layers (down_proj or o_proj), and the rows that compute
their inputs.

    H = sum_t x_t x_t^T + damping * mean(diag) * I    over the inputs x_t of W for all tokens, (cols, cols)

`obs` removes units in rounds. Without unit g, the least-squares change of the other columns, and its cost, are

    W -= W_g [H^-1_gg]^-1 H^-1_g:        tr(W_g [H^-1_gg]^-1 W_g^T)

Each round removes the units with the lowest costs together, with this change, and updates H^-1 for the columns that are
left:

    H^-1 -= H^-1_:g [H^-1_gg]^-1 H^-1_g:

`refit` takes the units that an importance chose. Both end with the least-squares weights of the kept columns S. P are
the others:

    W_S + W_P H_PS H_SS^-1

Sources: Kurtic et al., ZipLM, arXiv 2302.04089, section 3; Ling et al., SlimGPT, arXiv 2412.18110; Li et al.,
Tyr-the-Pruner, arXiv 2503.09657, for the last step. IST-DASLab/ZipLM removes one unit after the other, as here with as
many rounds as units.

A model is pruned decoder layer by decoder layer, as by SparseGPT. Memory is one decoder layer, one Hessian for each of
its groups of coupled layers that lose units, and three more matrices of this size at a time.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sparseft.axes.architectures.architecture import Part
from sparseft.axes.importances import HESSIAN
from sparseft.axes.patterns.channels import channels_removed
from sparseft.axes.selection.units import unit_ranks
from sparseft.pruning.hessian import NewWeights, change_weights, inverse, solve_damped
from sparseft.pruning.mask_generator import MaskPass, rankings
from sparseft.pruning.pruned_base import PrunedWriter, pruned_writer


def prune_units(masks: MaskPass) -> None:
    """Prune the units of a model for a sparsity, update what is left, and write mask, report and pruned base.

    Raises InputError as `pruned_writer`, `channels_removed` and `solve_damped` do."""
    checkpoint, groups = masks.checkpoint, masks.model.groups
    numbers = channels_removed(masks.model, masks.percents, masks.settings.head_share)
    changed = {parts[-1].layer for parts in groups if numbers[parts[0].unit][0]}
    chosen = units_by_scores(masks, numbers) if masks.method.update else {}
    with pruned_writer(masks) as writer:
        for weights, hessian_of in masks.calibration.in_sequence(checkpoint, HESSIAN, changed):
            for parts in (parts for parts in groups if parts[0].layer in weights):
                last, number = parts[-1], numbers[parts[0].unit][0]
                if number:
                    _prune_group(writer, parts, weights, hessian_of(last.layer), chosen.get(last.layer), number)
                    continue
                for part in parts:
                    bits = checkpoint.read(f"{part.layer}.weight")
                    writer.write(part.layer, np.ones(bits.shape, bool), bits)


def units_by_scores(masks: MaskPass, numbers: dict[str, list[int]]) -> dict[str, Tensor]:
    """Return the units that an importance keeps by its scores in the dense model: last layer of a group -> bool
    (units,).

    numbers: kind of unit -> how many are removed, as `channels_removed` returns them"""
    kept = {}
    for ranking in rankings(masks, lambda *_: None):
        for parts in (parts for parts in masks.model.groups if parts[0].layer in ranking.shape):
            kept[parts[-1].layer] = torch.from_numpy(unit_ranks(ranking, parts) >= numbers[parts[0].unit][0])
    return kept


def choose_units(weights: Tensor, inverted: Tensor, width: int, number: int, rounds: int) -> Tensor:
    """Return the units that are left after `number` are removed in `rounds`, bool (units,).

    weights: (rows, cols); unit u is the columns from u * width on
    inverted: H^-1, (cols, cols), which is overwritten

    Ties go to the lowest unit."""
    weights = weights.clone()
    kept = torch.ones(weights.shape[1] // width, dtype=torch.bool, device=weights.device)
    for done in range(rounds):
        costs = _costs(weights, inverted, width, kept)
        count = number * (done + 1) // rounds - number * done // rounds
        gone = kept.nonzero()[:, 0][costs.argsort(stable=True)[:count]]
        columns = (gone[:, None] * width + torch.arange(width, device=gone.device)).flatten()
        change = torch.linalg.solve(inverted[columns][:, columns], inverted[columns])  # (columns, cols)
        weights.addmm_(weights[:, columns], change, alpha=-1)
        inverted.addmm_(inverted[:, columns], change, alpha=-1)
        kept[gone] = False
    return kept


def _costs(weights: Tensor, inverted: Tensor, width: int, kept: Tensor) -> Tensor:
    """Return tr(W_g [H^-1_gg]^-1 W_g^T) of each unit that is kept, (kept units,)."""
    units = len(kept)
    numbers = torch.arange(units, device=kept.device)[kept]
    blocks = inverted.view(units, width, units, width)[numbers, :, numbers]  # (kept units, width, width)
    columns = weights.T.view(units, width, -1)[numbers]  # (kept units, width, rows)
    if width == 1:
        return columns.square().sum((1, 2)) / blocks[:, 0, 0]
    return (torch.linalg.solve(blocks, columns) * columns).sum((1, 2))


def refit(layer: str, weights: Tensor, hessian: Tensor, kept: Tensor, damping: float) -> NewWeights:
    """Return the least-squares weights of a layer if only some of its columns are kept.

    weights: (rows, cols)
    hessian: (cols, cols), without damping
    kept: bool (cols,)
    damping: the first one, as a share of the mean of the Hessian's diagonal

    Raises InputError as `solve_damped` does."""
    right = (weights[:, ~kept] @ hessian[~kept][:, kept]).T  # (kept, rows)
    diagonal, part = hessian.diagonal(), hessian[kept][:, kept]
    solve = lambda factor, _: torch.cholesky_solve(right, factor)  # noqa: E731
    change, damping = solve_damped(layer, part, diagonal[kept], diagonal.mean(), damping, solve)
    new = torch.zeros_like(weights)
    new[:, kept] = weights[:, kept] + change.T
    return NewWeights(new, kept.expand_as(weights), damping)


def _prune_group(
    writer: PrunedWriter,
    parts: list[Part],
    weights: dict[str, Tensor],
    hessian: Tensor,
    units: Tensor | None,
    number: int,
) -> None:
    """Remove `number` of the coupled units of `parts`, write their layers, and set the `weights` in memory to what was
    written.

    weights: layer -> (rows, cols)
    hessian: of the inputs of the last part, whose columns are updated
    units: those that are kept, bool (units,); None if `obs` chooses them"""
    (*heads, last), settings = parts, writer.masks.settings
    weight = weights[last.layer]
    if units is None:
        diagonal = hessian.diagonal()
        inverted, _ = solve_damped(last.layer, hessian, diagonal, diagonal.mean(), settings.damping, inverse)
        units = choose_units(weight.float(), inverted, last.width, number, settings.obs_rounds)
    units = units.to(weight.device)
    columns = units.repeat_interleave(last.width)
    change_weights(writer, last.layer, weight, hessian, partial(refit, kept=columns, damping=settings.damping))
    for part in heads:
        kept = units.repeat_interleave(part.width)[:, None]
        weights[part.layer].mul_(kept)
        bits = writer.masks.checkpoint.read(f"{part.layer}.weight")
        writer.write(part.layer, kept.expand_as(weights[part.layer]).cpu().numpy(), bits)
