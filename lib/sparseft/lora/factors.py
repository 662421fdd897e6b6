"""The low-rank factors of an adapter, A (r, in) and B (out, r), as they start."""

import math

import torch
from torch import Tensor, nn


def initial_factor(r: int, columns: int, device: torch.device) -> Tensor:
    """A (r, in), fp32, as PEFT's starts: kaiming-uniform with a = sqrt(5), drawn from torch's generator. B starts at 0."""
    return nn.init.kaiming_uniform_(torch.empty(r, columns, device=device), a=math.sqrt(5))
