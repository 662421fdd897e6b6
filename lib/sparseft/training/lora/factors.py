"""Compute with the low-rank factors of an adapter, A (r, in) and B (out, r), in plain tensor algebra.

    A ~ U(-1 / sqrt(in), 1 / sqrt(in)), B = 0     the start, as PEFT's: kaiming-uniform with a = sqrt(5)
    s (B A) * M                                   the masked update of W

Every compiler that traces a model can trace these functions.

LoRA: Hu et al. 2021, arXiv 2106.09685, section 4.1.
"""

import math

import torch
from torch import Tensor, nn


def initial_factor(r: int, columns: int, device: torch.device) -> Tensor:
    """Return a new A (r, in), fp32. It is drawn on the CPU, because every kind of device would draw other numbers."""
    return nn.init.kaiming_uniform_(torch.empty(r, columns), a=math.sqrt(5)).to(device)


def masked_update(A: Tensor, B: Tensor, s: float, M: Tensor) -> Tensor:
    """Return s (B A) * M, (out, in)."""
    return s * (B @ A) * M
