"""Prune a model with an importance that updates weights, decoder layer by decoder layer, and stream its pruned base to disk.

Every layer is pruned in fp32 and rounded once to the dtype of the model. The next decoder layer sees the rounded weights,
because the file holds these. Memory is one decoder layer, a Hessian for each of its layers, fp32 (cols, cols), the weights
outside the decoder layers, and the hidden states of the examples.
"""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from sparseft.checkpoints.checkpoint import BITS, Checkpoint, to_float32
from sparseft.checkpoints.conversion import converted
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.masks.mask_kernels import BINS, count_high
from sparseft.methods import get_method
from sparseft.pruning.allocation import allocate, outlier_shares
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.pruning.mask_report import ScoreDistribution
from sparseft.pruning.pruned_base import PrunedFiles, PrunedWriter, pruned_writer
from sparseft.pruning.scores import bits_of
from sparseft.pruning.selection import check_groups
from sparseft.pruning.sparsegpt import output_error, prune_layer
from sparseft.study.config import Masks


def prune_weights(
    checkpoint: Checkpoint,
    method: str,
    percent: int,
    places: PrunedFiles,
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
        norms = calibration.evidence(checkpoint, get_method(method).allocation.importance.statistic)
        outliers = outlier_shares(checkpoint, norms, settings.owl_m)
        meta = meta | {"outliers": outliers}
        allocated = allocate(outliers, shapes, [percent], settings.owl_lambda, group)
        counts = {layer: int(of_layer[0]) for layer, of_layer in allocated.items()}
    else:
        counts = {layer: round(Fraction(percent * rows * cols, 100)) for layer, (rows, cols) in shapes.items()}
    with pruned_writer(checkpoint, method, percent, settings, places, meta) as writer:
        weight_pass = WeightPass(checkpoint, writer, counts, settings, group)
        calibration.update_in_sequence(checkpoint, weight_pass.update)
        writer.record(more_damping=weight_pass.more_damping)


@dataclass(frozen=True)
class WeightPass:
    """Prune the layers of a model one after the other.

    counts: layer -> how many of its weights are pruned
    group: M of N:M; None if single weights are pruned
    more_damping: gets the damping of each layer whose Hessian needed more than the settings say"""

    checkpoint: Checkpoint
    writer: PrunedWriter
    counts: dict[str, int]
    settings: Masks
    group: int | None
    more_damping: dict[str, float] = field(default_factory=dict)

    def update(self, layer: str, weights: Tensor, hessian: Tensor) -> Tensor:
        """Prune a layer's weights, fp32 (rows, cols), write them, and return them as the file holds them, in fp32."""
        settings = self.settings
        pruned = prune_layer(
            layer,
            weights,
            hessian,
            self.counts[layer],
            block=settings.sparsegpt_block,
            damping=settings.sparsegpt_damping,
            group=self.group,
        )
        if pruned.damping != settings.sparsegpt_damping:
            self.more_damping[layer] = pruned.damping
        dtype = self.checkpoint.tensors[f"{layer}.weight"].dtype
        bits = converted(bits_of(pruned.weights.cpu().numpy()), "F32", dtype).view(BITS[dtype]).reshape(weights.shape)
        stored = torch.from_numpy(to_float32(bits, dtype)).to(weights.device)
        self.writer.write(
            layer,
            pruned.kept.cpu().numpy(),
            bits,
            _distribution(pruned.scores),
            damping=pruned.damping,
            output_error=output_error(weights, stored, hessian),
        )
        return stored


def _distribution(scores: Tensor) -> ScoreDistribution:
    """Return the distribution of scores, fp32 (rows, cols)."""
    histogram = np.zeros(BINS, np.int32)
    count_high(bits_of(scores.cpu().numpy()), histogram)
    return ScoreDistribution.of_histogram(histogram, "F32")
