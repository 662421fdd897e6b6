"""Read the weights of a checkpoint as tensors of torch."""

import torch
from torch import Tensor

from sparseft.checkpoints.checkpoint import DTYPES, Checkpoint

# The dtype in a safetensors header -> torch's.
_TORCH_DTYPES = {code: getattr(torch, name) for name, code in DTYPES.items()}


def read_weight(checkpoint: Checkpoint, name: str) -> Tensor:
    """Return the tensor `name` of a checkpoint in its own dtype and shape, on the CPU."""
    return torch.from_numpy(checkpoint.read(name)).view(_TORCH_DTYPES[checkpoint.tensors[name].dtype])
