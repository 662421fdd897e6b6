"""Batches, models and LoRA layers of fixed shapes, beside the ones of the torch backend."""

import pytest
import torch
from sparseft.axes.tasks import BY_NAME
from sparseft.models.language_model.batches import Example, collate, encode
from sparseft.models.language_model.loss import AnswerLoss
from sparseft.models.language_model.model import load_model
from sparseft.training.lora.effective_weight import Workspace
from sparseft.training.lora.masked_lora import kind_of
from sparseft.training.settings import Training
from sparseft.training.trainers.fixed_shapes import (
    HIDDEN,
    IGNORED,
    FixedLengthLoss,
    causal_mask,
    fixed_batch,
    plain_kind_of,
)
from tiny_models import save_tiny

CPU = torch.device("cpu")


def test_a_batch_by_hand():
    batch = fixed_batch([Example([5, 6, 7, 8], 2), Example([9, 3], 1)], 5, 3)
    assert batch["ids"].tolist() == [[5, 6, 7, 8, 0], [9, 3, 0, 0, 0], [0] * 5]
    i = IGNORED
    assert batch["labels"].tolist() == [[i, 7, 8, i, i], [3, i, i, i, i], [i] * 5]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int32}


def test_the_mask_hides_what_comes_later_and_what_the_window_has_left():
    seen = (causal_mask(4, 2)[0, 0] == 0).int().tolist()
    assert seen == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert (causal_mask(4, None)[0, 0] == 0).equal(torch.ones(4, 4).tril() > 0)
    assert causal_mask(4, None).to(torch.float16).isfinite().all()
    assert torch.softmax(torch.tensor([0.0, HIDDEN]), 0)[1] == 0


@pytest.mark.parametrize(("name", "changes"), [
    ("llama", {}),
    ("llama", {"sliding_window": 8}),  # left from a Mistral; no LLaMA heeds it
    ("mistral", {}),
    ("granite", {}),  # scales its logits
])  # fmt: skip
def test_the_loss_is_that_of_batches_of_any_length(name, changes, tmp_path):
    folder = save_tiny(name, tmp_path / name, torch.float32, changes)
    task = BY_NAME["boolq_mini"]
    model, tokenizer = load_model(folder, CPU)
    examples = encode(task.generate("train", 5, 0), task, tokenizer, 512)
    expected = AnswerLoss(model)(collate(examples)).sum()
    found = FixedLengthLoss(load_model(folder, CPU)[0], 200)(**fixed_batch(examples, 200, 8))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


SHAPE = (6, 8)
MASKS = {
    "ones": torch.ones(SHAPE, dtype=torch.bool),
    "unstructured": torch.arange(48).view(SHAPE) % 3 > 0,
    "structured": (torch.arange(6) % 2 > 0)[:, None] & (torch.arange(8) > 2),
}


def outcome(kind, mask: torch.Tensor, settings: Training, dtype: torch.dtype, *, has_bias: bool) -> list[torch.Tensor]:
    """Return y, and the gradients of x, A and B, of a layer drawn from one seed whose B is no longer 0."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    layer = kind(torch.nn.Linear(8, 6, bias=has_bias, dtype=dtype), mask, settings, Workspace())
    layer.lora_B.data.normal_(generator=generator)
    x = torch.randn(2, 5, 8, generator=generator).to(dtype).requires_grad_()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=generator).to(dtype))
    return [y, x.grad, layer.lora_A.grad, layer.lora_B.grad]


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_forward_and_gradients_are_those_of_the_other_form(mask, mode, dtype, tolerance, has_bias):
    settings = Training(lora_r=3, lora_alpha=6.0)
    kept = MASKS[mask]
    pairs = [outcome(kind(mode, kept), kept, settings, dtype, has_bias=has_bias) for kind in (plain_kind_of, kind_of)]
    for plain, other in zip(*pairs, strict=True):
        torch.testing.assert_close(plain, other, rtol=tolerance, atol=10 * tolerance)
