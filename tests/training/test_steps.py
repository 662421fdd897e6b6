"""Single steps: learning rates as transformers' schedule, to the bit, and the scale of float16 losses."""

import pytest
import torch
from sparseft.study.schedule import Training
from sparseft.training.steps import Progress, Steps
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

TRANSFORMERS = {"cosine": get_cosine_schedule_with_warmup, "linear": get_linear_schedule_with_warmup}


@pytest.mark.parametrize("decay", TRANSFORMERS)
@pytest.mark.parametrize("warmup, steps", [(0, 1), (0, 7), (2, 20), (5, 5), (1, 1), (6, 60), (37, 1000)])
def test_learning_rates(warmup, steps, decay):
    share = min(warmup / steps, 0.9999)
    settings = Training(steps=steps, learning_rate=0.003, warmup_fraction=share, lr_scheduler_type=decay)
    assert settings.steps_to_peak == warmup
    taken = Steps([torch.zeros(1, requires_grad=True)], settings)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.003)
    ours = rates(taken.optimizer, taken.schedule, steps)
    theirs = rates(optimizer, TRANSFORMERS[decay](optimizer, warmup, steps), steps)
    assert ours == theirs
    assert ours[warmup] == 0.003 or warmup == steps
    assert settings.updates == sum(rate > 0 for rate in ours[:steps])


def rates(optimizer, scheduler, steps: int) -> list[float]:
    """Return the learning rate of every step, and the one after the last."""
    found = []
    for _ in range(steps + 1):
        found += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("slope", "scale"), [(1e-9, 2.0**16), (1e4, 4.0)])
def test_gradients_that_float16_cannot_hold_are_scaled_and_a_scale_that_overflows_is_halved(slope, scale):
    weight = torch.full((4,), 0.5, requires_grad=True)
    progress, steps, norm = Progress.of(torch.float16), Steps([weight], Training()), None
    while norm is None:
        loss = slope * weight.half().float().sum()
        (progress.loss_scale * loss).backward()
        norm = steps.clip(1, loss.item(), progress)
    assert progress.loss_scale == scale
    # The norm of four equal gradients.
    assert norm == pytest.approx(2 * slope, rel=1e-3)
    assert Progress.of(torch.bfloat16).loss_scale == 1
