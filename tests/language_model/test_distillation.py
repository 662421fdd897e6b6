"""Compare the losses of a distillation and their gradients with torch's, and the teacher's logits with stock
transformers'."""

import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.language_model.batches import Example, collate
from sparseft.language_model.loss import ROWS, CrossEntropyFunction, teacher_logits
from sparseft.language_model.model import empty_model, load_model
from sparseft.language_model.placement import StoredWeights, place
from tiny_models import MODELS
from torch.autograd import grad
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

CPU = torch.device("cpu")
BATCH = collate([Example([5, 6, 7, 8, 9, 10], 4), Example([20, 21, 22], 1), Example(list(range(30, 140)), 100)])
TEMPERATURE = 3.0
TARGETS = torch.arange(37)


def torchs(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return what CrossEntropyFunction gives, from torch's own functions."""
    # One copy, so that its gradient is rounded once.
    student, teacher = student.float(), teacher.float()
    log_q, log_p = ((part / TEMPERATURE).log_softmax(1) for part in (student, teacher))
    divergence = F.kl_div(log_q, log_p.exp(), reduction="none").sum(1)
    return torch.stack([F.cross_entropy(student, TARGETS, reduction="none"), divergence])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_losses_and_their_gradient_are_torchs_and_the_same_bits_by_rows_and_whole(monkeypatch, dtype):
    torch.manual_seed(0)
    student, teacher = ((4 * torch.randn(37, 50, dtype=torch.float64)).to(dtype) for _ in range(2))
    student.requires_grad_()
    expected = torchs(student, teacher)
    weights = torch.linspace(-1, 3, 74).view(2, 37)
    results = []
    for rows in (1, 7, 64):
        monkeypatch.setitem(ROWS, "cpu", rows)
        losses = CrossEntropyFunction.apply(student * 1, TARGETS, teacher, TEMPERATURE)
        results.append((losses.detach(), *grad((weights * losses).sum(), student)))
    torch.testing.assert_close(results[0], (expected.detach(), *grad((weights * expected).sum(), student)))
    assert all(torch.equal(*pair) for other in results[1:] for pair in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_the_teacher_s_logits_are_those_of_stock_transformers_wherever_its_weights_are(tiny_models, name):
    stock = AutoModelForCausalLM.from_pretrained(tiny_models[name], dtype="auto").eval()
    with torch.no_grad():
        expected = stock(input_ids=BATCH.ids, use_cache=False).logits.flatten(0, 1)[BATCH.positions]
    whole, _ = load_model(tiny_models[name], CPU)
    checkpoint = Checkpoint(tiny_models[name])
    placed = empty_model(checkpoint)
    place(placed, StoredWeights(checkpoint, placed), {"cpu": 0})
    for teacher in (whole, placed):
        # The second batch finds the weights in their files again.
        for _ in range(2):
            found = teacher_logits(teacher, BATCH)
            assert found.dtype == torch.bfloat16
            assert not found.requires_grad
            torch.testing.assert_close(found, expected)
    assert torch.equal(teacher_logits(whole, BATCH), teacher_logits(placed, BATCH))
