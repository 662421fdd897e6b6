"""Single steps: learning rates as transformers' schedule, to the bit, and the scale of float16 losses."""

import tracemalloc

import pytest
import torch
from accelerate import Accelerator
from sparseft.models.language_model.batches import Example
from sparseft.training.loop import optimizer_and_schedule, train_part
from sparseft.training.progress import SavedState
from sparseft.training.settings import Training
from sparseft.training.trained_part import TrainedPart
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

CPU = torch.device("cpu")
TRANSFORMERS = {"cosine": get_cosine_schedule_with_warmup, "linear": get_linear_schedule_with_warmup}


@pytest.mark.parametrize("decay", TRANSFORMERS)
@pytest.mark.parametrize("warmup, steps", [(0, 1), (0, 7), (2, 20), (5, 5), (1, 1), (6, 60), (37, 1000)])
def test_learning_rates(warmup, steps, decay):
    share = min(warmup / steps, 0.9999)
    settings = Training(steps=steps, learning_rate=0.003, warmup_fraction=share, lr_scheduler_type=decay)
    assert settings.steps_to_peak == warmup
    taken = optimizer_and_schedule([torch.zeros(1, requires_grad=True)], settings, CPU)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.003)
    ours = rates(*taken, steps)
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
    part = Weights(torch.full((4,), 0.5, requires_grad=True))
    part.losses = lambda *_: slope * part.parameters[0].half().float().sum()[None]
    for part.dtype, expected in ((torch.float16, scale), (torch.bfloat16, 1)):
        progress = trained(part, Training(steps=1, learning_rate=1e-9))
        assert progress.loss_scale == expected
    # The norm of four equal gradients.
    part.dtype = torch.float16
    assert trained(part, Training(steps=1)).curve[0]["gradient_norm"] == pytest.approx(2 * slope, rel=1e-3)


class Weights(TrainedPart):
    """Some parameters, whose loss is the sum of the first one."""

    rate, dtype = "training.learning_rate", torch.float32

    def __init__(self, *parameters: torch.Tensor) -> None:
        self.parameters = list(parameters)

    def losses(self, micro_batch, batch) -> torch.Tensor:
        return self.parameters[0].sum()[None]


def trained(part: TrainedPart, settings: Training):
    settings = settings.model_copy(update={"batch_size": 1, "micro_batch_size": 1})
    return train_part(part, [Example([1, 2], 1)], settings, 0, Accelerator(cpu=True))


def test_a_parameter_without_a_gradient_has_one_of_zeros_and_decays():
    part = Weights(*(torch.nn.Parameter(torch.ones(2)) for _ in range(2)))
    trained(part, Training(steps=2, weight_decay=0.1, learning_rate=0.5, warmup_fraction=0))
    assert not part.parameters[1].grad.any()
    assert (part.parameters[1] < 1).all()


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
        settings = Training(weight_decay=0.1, warmup_fraction=0)
        optimizer, schedule = optimizer_and_schedule([weight], settings, torch.device(device))
        assert optimizer.defaults["fused"] == (device == "cuda")
        for _ in range(3):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
            schedule.step()
        found.append(weight.detach())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)
