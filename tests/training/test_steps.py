"""The learning rate of every step is that of transformers' schedule, to the bit."""

import pytest
import torch
from sparseft.training.steps import cosine_schedule
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
