"""Batches and models of one length, beside the ones of the torch backend."""

import pytest
import torch
from sparseft.backends.fixed_shapes import HIDDEN, IGNORED, FixedLengthLoss, causal_mask, fixed_batch
from sparseft.language_model.batches import Example, collate, encode
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.model import load_model
from sparseft.tasks import BY_NAME
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
