"""Single steps: learning rates as transformers' schedule, to the bit, and the scale of float16 losses."""

import tracemalloc

import pytest
import torch
from sparseft.study.schedule import Training
from sparseft.training.steps import Progress, SavedState, Steps
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


def test_a_state_is_written_and_read_without_a_copy_in_memory(tmp_path):
    """tracemalloc counts what Python holds, and no tensors."""
    saved, weights = SavedState(tmp_path / "state.pt", "own"), torch.rand(1 << 22)
    tracemalloc.start()
    saved.write({"matrices": [weights]})
    (read,) = saved.read("matrices")["matrices"]
    assert tracemalloc.get_traced_memory()[1] < weights.nbytes / 4
    tracemalloc.stop()
    assert torch.equal(read, weights)


def test_adamw_beside_a_gpu_is_fused_and_steps_as_elsewhere_to_a_rounding():
    found = []
    for device in ("cpu", "cuda"):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 1000))
        steps = Steps([weight], Training(weight_decay=0.1, warmup_fraction=0), device_type=device)
        assert steps.optimizer.defaults["fused"] == (device == "cuda")
        for step in (1, 2, 3):
            weight.square().sum().backward()
            steps.clip(step, 1.0, Progress())
            steps.update()
        found.append(weight.detach())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)
