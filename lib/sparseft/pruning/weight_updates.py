"""Prune a model with an importance that updates weights, decoder layer by decoder layer, and stream its pruned base to disk.

Every layer is pruned in fp32 and rounded once to the dtype of the model. The next decoder layer sees the rounded weights,
because the file holds these. Memory is one decoder layer, a Hessian for each of its layers, fp32 (cols, cols), the weights
outside the decoder layers, and the hidden states of the examples.
"""

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from sparseft.checkpoints.checkpoint import BITS, Checkpoint, to_float32
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.checkpoints.rewriting import converted
from sparseft.masks.mask_kernels import BINS, count_high
from sparseft.methods import get_method
from sparseft.pruning.allocation import allocate_by_outliers
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.pruning.mask_report import ScoreDistribution
from sparseft.pruning.pruned_base import pruned_writer
from sparseft.pruning.scores import bits_of
from sparseft.pruning.selection import check_groups
from sparseft.pruning.sparsegpt import output_error, prune_layer
from sparseft.study.grid import PassFiles
from sparseft.study.mask_settings import Masks


def prune_weights(
    checkpoint: Checkpoint,
    method: str,
    percent: int,
    files: PassFiles,
    settings: Masks,
    calibration: ExampleCalibration,
) -> None:
    """Prune and update a model's weights for a sparsity in percent, and write mask, report, plots and pruned base.

    Raises InputError as `pruned_writer` and `prune_layer` do, and if the settings do not allow the method."""
    shapes = prunable_shapes(checkpoint)
    group = settings.nm_group if get_method(method).pattern.has_groups else None
    if group:
        for layer, (_, cols) in shapes.items():
            check_groups(layer, cols, group)
    meta = calibration.meta
    if get_method(method).allocation:
        shares, allocated = allocate_by_outliers(checkpoint, get_method(method), settings, calibration, [percent])
        meta = meta | {"outliers": shares}
        counts = {layer: int(of_layer[0]) for layer, of_layer in allocated.items()}
    else:
        counts = {layer: round(Fraction(percent * rows * cols, 100)) for layer, (rows, cols) in shapes.items()}
    # The damping of each layer whose Hessian needed more than the settings say.
    more_damping: dict[str, float] = {}

    def update(layer: str, weights: Tensor, hessian: Tensor) -> Tensor:
        """Prune a layer's weights, fp32 (rows, cols), write them, and return them as the file holds them, in fp32."""
        block, damping = settings.sparsegpt_block, settings.sparsegpt_damping
        pruned = prune_layer(layer, weights, hessian, counts[layer], block=block, damping=damping, group=group)
        if pruned.damping != damping:
            more_damping[layer] = pruned.damping
        dtype = checkpoint.tensors[f"{layer}.weight"].dtype
        bits = converted(bits_of(pruned.weights.cpu().numpy()), "F32", dtype).view(BITS[dtype]).reshape(weights.shape)
        stored = torch.from_numpy(to_float32(bits, dtype)).to(weights.device)
        histogram = np.zeros(BINS, np.int32)
        count_high(bits_of(pruned.scores.cpu().numpy()), histogram)
        writer.write(
            layer,
            pruned.kept.cpu().numpy(),
            bits,
            ScoreDistribution.of_histogram(histogram, "F32"),
            damping=pruned.damping,
            output_error=output_error(weights, stored, hessian),
        )
        return stored

    with pruned_writer(checkpoint, method, percent, settings, files, meta) as writer:
        calibration.update_in_sequence(checkpoint, update)
        writer.meta["more_damping"] = more_damping
