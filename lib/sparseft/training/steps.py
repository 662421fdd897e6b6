"""Take the steps of AdamW: a linear warm-up of the learning rate from 0, a cosine decay to 0, and clipped gradients.

Source: Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts. The rates are those of transformers'
get_cosine_schedule_with_warmup, to the bit. The module of that function also imports PEFT if it is installed, which would make
the start of every job twice as long.
"""

import math
import time
from collections.abc import Callable

from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sparseft.study.schedule import Training
from sparseft.training.progress import Progress, check_finite


class Steps:
    """Hold the optimizer of some parameters with its schedule, and take its steps."""

    def __init__(self, parameters: list[nn.Parameter], settings: Training, key: str = "training.learning_rate") -> None:
        """`key` is what the user may lower if the loss is not finite."""
        self.parameters = parameters
        self.settings = settings
        self.key = key
        self.optimizer = AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.schedule = cosine_schedule(self.optimizer, settings.steps_to_peak, settings.steps)

    def take(self, step: int, gradients: Callable[[], float], tokens: int, progress: Progress) -> None:
        """Take one step, and append its measurements to `progress`.

        gradients: computes the gradients of the parameters, and returns the loss
        tokens: those of the step's batch, without padding

        Raises InputError if the loss or its gradient is not finite."""
        start = time.perf_counter()
        rate = self.schedule.get_last_lr()[0]
        loss = gradients()
        norm = clip_grad_norm_(self.parameters, self.settings.max_grad_norm).item()
        check_finite(step, loss, norm, self.key)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        progress.curve.append({"step": step, "loss": loss, "gradient_norm": norm, "learning_rate": rate})
        progress.seconds.append(time.perf_counter() - start)
        progress.tokens.append(tokens)


def cosine_schedule(optimizer: Optimizer, warmup_steps: int, steps: int) -> LambdaLR:
    """Return the schedule of a training of `steps` steps. The learning rate of `optimizer` is the peak.

    With a warm-up, the first step has learning rate 0."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, factor)
