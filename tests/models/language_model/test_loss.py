"""Check that padding, batches and their order change no answer loss. Compare the losses of a distillation with torch's.

test_logits.py compares the answer loss with transformers'."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example, collate
from sparseft.models.language_model.loss import (
    EVALUATED_ROWS,
    ROWS,
    TEXT_ROWS,
    AnswerLoss,
    CrossEntropyFunction,
    answer_losses,
    evaluation_batches,
    logits_by_rows,
    mean_answer_loss,
)
from sparseft.models.language_model.model import empty_model
from sparseft.models.language_model.weights import Expert, Experts
from tiny_models import MODELS, stock
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional as F

CPU = torch.device("cpu")
EXAMPLES = [  # 6, 3, 110 and 70 tokens: two are longer than Mistral's window of 64
    Example([5, 6, 7, 8, 9, 10], 4),
    Example([20, 21, 22], 1),
    Example(list(range(30, 140)), 100),
    Example([number * 7 % 250 for number in range(70)], 69),
]


@pytest.fixture
def model(tiny_models32):
    return stock(tiny_models32["llama"])


def losses_of_examples(model) -> Tensor:
    return torch.from_numpy(answer_losses(AnswerLoss(model), EXAMPLES, 4, CPU)[0])


def logits_of_a_text(model) -> Tensor:
    ids = torch.tensor(EXAMPLES[2].ids)
    targets, parts = zip(*logits_by_rows(model, ids), strict=True)
    assert torch.equal(torch.cat(targets), ids[1:])
    return torch.cat(parts)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize(("compute", "limits"), [(losses_of_examples, EVALUATED_ROWS), (logits_of_a_text, TEXT_ROWS)])
def test_only_some_rows_of_logits_exist_at_a_time(model, monkeypatch, compute, limits, rows):
    whole, shapes = compute(model), []
    monkeypatch.setitem(limits, "cpu", rows)
    model.lm_head.register_forward_hook(lambda _, __, output: shapes.append(output.shape[1]))
    torch.testing.assert_close(compute(model), whole)
    assert max(shapes) == rows


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_divide_the_batches_of_an_evaluation_and_together_have_the_bits_of_one(model, processes):
    loss, calls, parts = AnswerLoss(model), [], []
    whole, _ = answer_losses(loss, EXAMPLES, 1, CPU)
    for number in range(processes):
        process = SimpleNamespace(process_index=number, num_processes=processes, reduce=lambda sums, _: sums)
        made: list = []
        parts.append(
            answer_losses(lambda batch, made=made: made.append(batch) or loss(batch), EXAMPLES, 1, CPU, process)[0]
        )
        calls.append(len(made))
    # Divided weights are gathered from all processes, so each has the same number of batches.
    assert calls == [math.ceil(len(EXAMPLES) / processes)] * processes
    assert all(np.count_nonzero(part) <= number for part, number in zip(parts, calls, strict=True))
    assert (sum(parts) == whole).all()


def test_the_batch_with_the_most_tokens_comes_first_and_similar_lengths_are_together():
    # 110 and 70 tokens, and 6 and 3.
    assert evaluation_batches(EXAMPLES, 2) == [[3, 2], [1, 0]]
    # Three examples of 70 tokens are larger than one of 110.
    assert evaluation_batches(EXAMPLES, 3) == [[1, 0, 3], [2]]


def test_an_expert_without_a_token_does_not_run():
    act, numbers = torch.nn.SiLU(), []
    names = SimpleNamespace(gate="gate", up="up", down="down")
    experts = Experts(Expert(names, *torch.randn(2, 6, 5), torch.randn(5, 6), act) for _ in range(4))
    for number, expert in enumerate(experts):
        expert.register_forward_hook(lambda *_, number=number: numbers.append(number))
    x, index, weights = torch.randn(7, 5), torch.tensor([[3, 1]] * 3 + [[1, 3]] * 4), torch.rand(7, 2)
    experts(x, index, weights)
    assert numbers == [1, 3]


def test_a_loss_that_is_not_finite_is_refused(model):
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(InputError, match="evaluation loss is nan"):
        mean_answer_loss(AnswerLoss(model), EXAMPLES, 2, CPU)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("mixtral", "qwen3_moe")])
def test_a_micro_batch_asks_the_device_for_no_value(tiny_models, monkeypatch, name):
    """The meta device has no values. On a GPU, the program would wait for one, as for the tokens of each expert."""
    monkeypatch.setitem(ROWS, "meta", ROWS["cuda"])
    model = empty_model(Checkpoint(tiny_models[name])).to("meta").train()
    AnswerLoss(model)(collate(EXAMPLES[:2]).to(torch.device("meta"))).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


TEMPERATURE = 3.0
TARGETS = torch.arange(37)


def torchs(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
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
