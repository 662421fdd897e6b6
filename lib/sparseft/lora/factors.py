"""Start the low-rank factors of an adapter as PEFT does: A (r, in) at random, B (out, r) at 0.

    A ~ U(-1 / sqrt(in), 1 / sqrt(in))      kaiming-uniform with a = sqrt(5)

LoRA: Hu et al. 2021, arXiv 2106.09685, section 4.1.
"""

import math

import torch
from torch import Tensor, nn


def initial_factor(r: int, columns: int, device: torch.device) -> Tensor:
    """Return a new A (r, in), fp32, drawn from torch's generator."""
    return nn.init.kaiming_uniform_(torch.empty(r, columns, device=device), a=math.sqrt(5))
