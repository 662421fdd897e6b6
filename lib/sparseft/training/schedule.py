"""Compute the learning rate of a step: a linear warm-up from 0, then a cosine decay to 0.

Source: Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts. The rates are those of transformers'
get_cosine_schedule_with_warmup, to the bit. The module of that function also imports PEFT if it is installed, which would make
the start of every job twice as long.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_schedule(optimizer: Optimizer, warmup_steps: int, steps: int) -> LambdaLR:
    """Return the schedule of a training of `steps` steps. The learning rate of `optimizer` is the peak.

    With a warm-up, the first step has learning rate 0."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, factor)
