"""Invert the Hessian H = sum_t x_t x_t^T of a layer's inputs, with damping, and write the weights that are found with
it.

    H + damping * mean(diag H) * I

A matrix that is not positive definite gets more damping. Everything is in the dtype of H. Every layer's new weights are
rounded once to the dtype of the model. The next decoder layer sees the rounded weights, because the file holds these.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparseft.common.errors import InputError
from sparseft.models.checkpoints.rewriting import converted
from sparseft.pruning.pruned_base import PrunedWriter
from sparseft.storage.bits import BITS, to_float32

# How many dampings are tried on a Hessian, and the ratio of each to the one before.
ATTEMPTS = 5
DAMPING_RATIO = 10


def solve_damped(
    layer: str,
    hessian: Tensor,
    diagonal: Tensor,
    scale: Tensor,
    damping: float,
    solve: Callable[[Tensor, Tensor], Tensor | None],
) -> tuple[Tensor, float]:
    """Return solve(L, L L^T) of a layer with L L^T = H + damping * scale * I, and the damping. H gets the `diagonal`,
    (cols,), before.

    `scale` is the mean of the diagonal of all columns. It is 0 if no token reaches the layer. `solve` may overwrite its
    matrices, (cols, cols), and returns None if it fails. If L does not exist, or `solve` fails, stderr says so, and
    there is more damping. Raises InputError after ATTEMPTS."""
    for attempt in range(1, ATTEMPTS + 1):
        # In columns, as LAPACK has them. It would copy rows.
        damped = hessian.mT.contiguous().mT
        damped.diagonal().copy_(diagonal + damping * scale)
        factor, failed = torch.linalg.cholesky_ex(damped)
        solution = None if failed else solve(factor, damped)
        # Both are NaN if a value is NaN.
        if solution is not None and all(map(math.isfinite, solution.mT.aminmax())):
            return solution, damping
        fault = f"{layer}: its Hessian is not positive definite with a damping of {damping:g}"
        if attempt < ATTEMPTS:
            damping *= DAMPING_RATIO
            print(f"{fault}; trying {damping:g}", file=sys.stderr)
    raise InputError(fault, "raise the number of calibration examples, so that tokens reach it, or masks.damping")


def inverse(factor: Tensor, damped: Tensor) -> Tensor:
    """Return the inverse of a positive definite matrix, in its place. `factor` is its lower triangle."""
    return torch.cholesky_inverse(factor, out=damped)


def output_error(weights: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """Return ||W X - W' X||^2 / ||W X||^2 over all tokens of the examples. The weights are (rows, cols).

    It is 0 if W X is 0 everywhere, because such a layer has nothing to lose."""
    energy, lost = (
        float((matrix @ hessian * matrix).sum(dtype=torch.float64)) for matrix in (weights, weights - pruned)
    )
    return lost / energy if energy else 0.0


@dataclass(frozen=True)
class NewWeights:
    """Hold what an update makes of a layer.

    weights: the new weights, 0 where they are pruned, fp32 (rows, cols)
    kept: the mask, bool (rows, cols)
    damping: the one with which the Hessian was positive definite"""

    weights: Tensor
    kept: Tensor
    damping: float


def change_weights(
    writer: PrunedWriter,
    layer: str,
    weight: Tensor,
    hessian: Tensor,
    update: Callable[[str, Tensor, Tensor], NewWeights],
) -> None:
    """Write the mask and the new weights that `update` makes of a layer from its name, its weights in fp32, and its
    Hessian (cols, cols). Set its `weight` (rows, cols) in memory to what the file holds.

    The report gets the damping, and the error of the layer's output over all tokens of the examples. The metadata gets
    each damping that is not the one of the settings."""
    new = update(layer, weight.float(), hessian)
    dtype = writer.masks.checkpoint.tensors[f"{layer}.weight"].dtype
    values = new.weights.contiguous().cpu().numpy().reshape(-1).view(np.uint32)
    bits = converted(values, "F32", dtype).view(BITS[dtype]).reshape(weight.shape)
    stored = torch.from_numpy(to_float32(bits, dtype)).to(weight.device)
    error = output_error(weight.float(), stored, hessian)
    writer.write(layer, new.kept.cpu().numpy(), bits, damping=new.damping, output_error=error)
    more = writer.meta.setdefault("more_damping", {})
    if new.damping != writer.masks.settings.damping:
        more[layer] = new.damping
    weight.copy_(stored)
