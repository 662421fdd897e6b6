"""Write the new weights of a layer whose kept weights make up for the pruned ones, and say in the report how well they do.

Every layer is rounded once to the dtype of the model. The next decoder layer sees the rounded weights, because the file holds
these.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparseft.checkpoints.checkpoint import BITS, to_float32
from sparseft.checkpoints.rewriting import converted
from sparseft.pruning.hessian import output_error
from sparseft.pruning.mask_report import Distribution
from sparseft.pruning.pruned_base import PrunedWriter
from sparseft.pruning.scores import bits_of


@dataclass(frozen=True)
class NewWeights:
    """Hold what an update makes of a layer.

    weights: the new weights, 0 where they are pruned, fp32 (rows, cols)
    kept: the mask, bool (rows, cols)
    damping: the one with which the Hessian was positive definite"""

    weights: Tensor
    kept: Tensor
    damping: float


def write_new_weights(
    writer: PrunedWriter, layer: str, weight: Tensor, new: NewWeights, hessian: Tensor, scores: Distribution
) -> None:
    """Write a layer's mask and new weights, and set its `weight` (rows, cols) in memory to what the file holds.

    The report gets the damping, and the error of the layer's output over all tokens of the examples. `hessian` is (cols, cols).
    The metadata gets each damping that is not the one of the settings."""
    dtype = writer.original.tensors[f"{layer}.weight"].dtype
    bits = converted(bits_of(new.weights.cpu().numpy()), "F32", dtype).view(BITS[dtype]).reshape(weight.shape)
    stored = torch.from_numpy(to_float32(bits, dtype)).to(weight.device)
    error = output_error(weight.float(), stored, hessian)
    writer.write(layer, new.kept.cpu().numpy(), bits, scores, damping=new.damping, output_error=error)
    more = writer.meta.setdefault("more_damping", {})
    if new.damping != writer.settings.damping:
        more[layer] = new.damping
    weight.copy_(stored)
