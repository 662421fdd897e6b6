"""Check that padding, batches and their order change no answer loss. test_logits.py compares the loss with transformers'."""

import pytest
import torch
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, collate
from sparseft.language_model.loss import AnswerLoss, CrossEntropyFunction, answer_losses, mean_answer_loss
from sparseft.language_model.weights import unfuse_experts
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

CPU = torch.device("cpu")
EXAMPLES = [  # 6, 3, 110 and 70 tokens: two are longer than Mistral's window of 64
    Example([5, 6, 7, 8, 9, 10], 4),
    Example([20, 21, 22], 1),
    Example(list(range(30, 140)), 100),
    Example([number * 7 % 250 for number in range(70)], 69),
]


def load(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    unfuse_experts(model)
    return model


@torch.no_grad()
def test_each_example_has_the_sum_over_its_answer_and_the_mean_is_over_all_tokens(tiny_llama):
    model = load(tiny_llama)
    sums = [AnswerLoss(model)(collate([example])).sum().item() for example in EXAMPLES]
    tokens = [len(example.ids) - example.answer_start for example in EXAMPLES]
    losses, counted = answer_losses(AnswerLoss(model), EXAMPLES, 3, CPU)
    assert losses == pytest.approx(sums, rel=1e-5)
    assert counted.tolist() == tokens
    assert mean_answer_loss(AnswerLoss(model), EXAMPLES, 3, CPU) == pytest.approx(sum(sums) / sum(tokens), rel=1e-5)


def test_a_loss_that_is_not_finite_is_refused(tiny_llama):
    model = load(tiny_llama)
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(InputError, match="evaluation loss is nan"):
        mean_answer_loss(AnswerLoss(model), EXAMPLES, 2, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_torchs(dtype):
    logits = (4 * torch.randn(37, 50, generator=torch.Generator().manual_seed(0))).to(dtype).requires_grad_()
    targets = torch.arange(37)
    loss = CrossEntropyFunction.apply(logits * 1, targets)
    expected = F.cross_entropy(logits.float(), targets, reduction="none")
    torch.testing.assert_close(loss, expected)
    weights = torch.linspace(-1, 3, 37)
    ours, theirs = (torch.autograd.grad(weights @ each, logits) for each in (loss, expected))
    torch.testing.assert_close(ours, theirs)
