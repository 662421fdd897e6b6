"""The token perplexity agrees with transformers' own loss."""

import math

import pytest
import torch
from sparseft.errors import InputError
from sparseft.evaluation.perplexity import token_perplexity
from sparseft.language_model.model import load_model
from tiny_models import save_tiny

CPU = torch.device("cpu")
TEXT = "The cat sat on the mat, and then it ran away. " * 9  # 414 tokens


@pytest.fixture(scope="module")
def tiny32(tmp_path_factory):
    return load_model(save_tiny("llama", tmp_path_factory.mktemp("fp32") / "llama", torch.float32), CPU)


@pytest.mark.parametrize(("context", "windows", "used"), [(100, None, 4), (100, 2, 2), (414, None, 1)])
def test_it_is_exp_of_the_mean_loss_of_windows_that_do_not_overlap(tiny32, context, windows, used):
    model, tokenizer = tiny32
    ids = torch.tensor(tokenizer.encode(TEXT))
    assert len(ids) == 414
    pieces = [ids[None, start : start + context] for start in range(0, used * context, context)]
    with torch.no_grad():
        losses = [model(piece, labels=piece).loss.item() for piece in pieces]
    expected = math.exp(sum(losses) / used)
    assert token_perplexity(model, tokenizer, TEXT, context, windows) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("context", "windows", "fault"), [
    (415, None, "0 windows of 415 in 414 tokens"),
    (100, 5, "4 windows of 100 in 414 tokens"),
    (513, None, "513 tokens.* 512"),
])  # fmt: skip
def test_a_text_or_context_without_a_perplexity_is_refused(tiny32, context, windows, fault):
    with pytest.raises(InputError, match=fault):
        token_perplexity(*tiny32, TEXT, context, windows)


def test_a_loss_with_an_infinite_exponential_is_refused(tmp_path):
    model, tokenizer = load_model(save_tiny("llama", tmp_path / "m", torch.float32), CPU)
    with torch.no_grad():
        model.model.norm.weight.mul_(1e6)
    with pytest.raises(InputError, match=r"loss is \S+ nats per token.* 709\b"):
        token_perplexity(model, tokenizer, TEXT, 100)
