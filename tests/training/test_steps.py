"""Single steps: learning rates as transformers' schedule, to the bit, and the scale of float16 losses."""

import pytest
import torch
from sparseft.study.schedule import Training
from sparseft.training.steps import Progress, Steps, cosine_schedule
from transformers import get_cosine_schedule_with_warmup


@pytest.mark.parametrize("warmup, steps", [(0, 1), (0, 7), (2, 20), (5, 5), (1, 1), (6, 60), (37, 1000)])
def test_learning_rates(warmup, steps):
    ours, theirs = (rates(schedule, warmup, steps) for schedule in (cosine_schedule, get_cosine_schedule_with_warmup))
    assert ours == theirs
    assert ours[warmup] == 0.003 or warmup == steps
    assert not warmup or ours[0] == 0


def rates(schedule, warmup: int, steps: int) -> list[float]:
    """Return the learning rate of every step, and the one after the last."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.003)
    scheduler = schedule(optimizer, warmup, steps)
    found = []
    for _ in range(steps + 1):
        found += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("slope", "scale"), [(1e-9, 2.0**16), (1e4, 4.0)])
def test_gradients_that_float16_cannot_hold_are_scaled_and_a_scale_that_overflows_is_halved(slope, scale):
    weight = torch.full((4,), 0.5, requires_grad=True)
    progress = Progress.of(torch.float16)

    def gradients(factor: float) -> float:
        loss = slope * weight.half().float().sum()
        (factor * loss).backward()
        return loss.item()

    Steps([weight], Training()).take(1, gradients, 4, progress)
    assert progress.loss_scale == scale
    # The norm of four equal gradients.
    assert progress.curve[0]["gradient_norm"] == pytest.approx(2 * slope, rel=1e-3)
    assert Progress.of(torch.bfloat16).loss_scale == 1
