"""AdamW and its schedule on cerebras-pytorch, equal to those of the backend torch."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from sparseft.backends.cerebras.package import cstorch
from sparseft.study.schedule import Training


class AdamW(cstorch.optim.AdamW):
    """Add eps where torch adds it: after the bias of the second moment is corrected. The package adds it before."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """Make one step with eps * sqrt(1 - beta2^t) as the package's eps."""
        configured = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            # beta2^t at step t
            power = self.state[group["params"][0]]["beta2_power"]
            group["eps"] = group["eps"] * torch.sqrt(1.0 - power)
        loss = super().step(closure)
        for group, eps in zip(self.param_groups, configured, strict=True):
            group["eps"] = eps
        return loss


def optimizer_and_schedule(
    parameters: Iterable[nn.Parameter], settings: Training
) -> tuple[cstorch.optim.Optimizer, cstorch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW, and the schedule of transformers' get_cosine_schedule_with_warmup.

    The learning rate rises in a line from 0 and then falls in a cosine to 0."""
    rate = settings.learning_rate
    warmup = settings.steps_to_peak
    optimizer = AdamW(list(parameters), lr=rate, eps=1e-8, weight_decay=settings.weight_decay)
    schedulers = cstorch.optim.lr_scheduler
    cosine = schedulers.CosineDecayLR(optimizer, rate, 0.0, settings.steps - warmup)
    if not warmup:
        return optimizer, cosine
    line = schedulers.LinearLR(optimizer, 0.0, rate, warmup)
    return optimizer, schedulers.SequentialLR(optimizer, [line, cosine], [warmup])
