"""The loss and the perplexity equal stock transformers' losses, with the labels masked by hand."""

import math

import numpy as np
import pytest
import torch
from sparseft.axes.tasks import instruction, text
from sparseft.common.errors import InputError
from sparseft.evaluation.evaluate import evaluate, token_perplexity
from sparseft.models.language_model.model import load_model
from tiny_models import save_tiny

IGNORED = -100
# Their order is not that of their lengths.
PAIRS = [{"prompt": f"Question {n}: what is {n}?\n", "response": f"It is {n}." * (3 * n % 5 + 1)} for n in range(5)]
DOCUMENTS = [{"text": f"Document {n} says that {n} is less than {n + 1}. " * 4} for n in range(3)]
# 414 tokens.
TEXT = "The cat sat on the mat, and then it ran away. " * 9


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(save_tiny("llama", tmp_path_factory.mktemp("by_loss") / "m", torch.float32), torch.device("cpu"))


def evaluated(loaded, task, rows: list[dict], batch_size: int = 4) -> dict:
    return evaluate(*loaded, task, {"train": rows, "validation": rows}, batch_size)


@torch.no_grad()
def stock_losses(model, texts: list[tuple[list[int], int]]) -> tuple[np.ndarray, list[int]]:
    """Return transformers' loss of each text (ids, length of the prompt), summed over its tokens, and their number."""
    counts = [len(ids) - start for ids, start in texts]
    labels = [torch.tensor([[IGNORED] * start + ids[start:]]) for ids, start in texts]
    losses = [model(torch.tensor([ids]), labels=own).loss.item() for (ids, _), own in zip(texts, labels, strict=True)]
    return np.array(losses) * counts, counts


def check(record: dict, model, texts: list[tuple[list[int], int]]) -> None:
    """Compare every number of a record with those of stock transformers."""
    sums, counts = stock_losses(model, texts)
    assert record["answer_tokens"] == counts
    assert record["losses"] == pytest.approx(sums, rel=1e-5)
    loss = sum(sums) / sum(counts)
    assert record["value"] == record["eval_loss"] == record["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert record["metrics"]["token_perplexity"] == math.exp(record["value"])
    # Cochran's linearised error of a ratio of means.
    error = math.sqrt((sums - loss * np.array(counts)).var(ddof=1) / len(sums)) / np.mean(counts)
    assert record["standard_error"] == record["metrics"]["loss_stderr"] == pytest.approx(error, rel=1e-4)


def test_only_the_tokens_of_the_response_and_the_last_one_count(loaded):
    model, tokenizer = loaded
    record = evaluated(loaded, instruction.task_of("mine", {"kind": "instruction", "format": "response"}), PAIRS, 2)
    whole = [tokenizer.encode(row["prompt"] + row["response"]) for row in PAIRS]
    starts = [len(tokenizer.encode(row["prompt"])) for row in PAIRS]
    check(record, model, [([*ids, tokenizer.eos_token_id], start) for ids, start in zip(whole, starts, strict=True)])
    assert record["distinct_prompts"] == record["examples"] == 5


def test_of_a_text_every_token_but_the_first_of_a_sequence_counts_and_it_is_its_perplexity(loaded):
    (model, tokenizer), length = loaded, 32
    task = text.task_of("wiki", {"kind": "text", "length": length})
    record = evaluated(loaded, task, DOCUMENTS)
    joined = "\n\n".join(row["text"] for row in DOCUMENTS)
    ids = tokenizer.encode(joined)
    check(record, model, [(ids[start : start + length], 1) for start in range(0, len(ids) // length * length, length)])
    # torch rounds the mean loss of a window to fp32.
    perplexity = token_perplexity(model, tokenizer, joined, length)
    assert record["metrics"]["token_perplexity"] == pytest.approx(perplexity, rel=1e-6)
    assert record["examples"] == record["distinct_prompts"] == len(ids) // length
    assert record["definition_sha256"] == task.definition_sha256
    assert record["chance"] is record["harness"] is None
    assert not record.keys() & {"outcomes", "predictions", "labels", "log_likelihoods", "generations", "ties"}


def test_sequences_that_repeat_are_counted_once(loaded):
    record = evaluated(loaded, text.task_of("wiki", {"kind": "text", "length": 4}), [{"text": "ab" * 8}])
    assert (record["examples"], record["distinct_prompts"]) == (4, 1)


@pytest.mark.parametrize(("windows", "used"), [(None, 4), (2, 2)])
def test_perplexity_is_exp_of_the_mean_loss_of_windows_that_do_not_overlap(loaded, windows, used):
    model, tokenizer = loaded
    ids = tokenizer.encode(TEXT)
    sums, counts = stock_losses(model, [(ids[at : at + 100], 1) for at in range(0, used * 100, 100)])
    expected = math.exp(sums.sum() / sum(counts))
    assert token_perplexity(model, tokenizer, TEXT, 100, windows) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("context", "windows", "fault"), [(100, 5, "4 windows of 100 in 414 tokens"), (513, None, "513 tokens.* 512")]
)
def test_a_text_or_context_without_a_perplexity_is_refused(loaded, context, windows, fault):
    with pytest.raises(InputError, match=fault):
        token_perplexity(*loaded, TEXT, context, windows)


def test_a_loss_without_a_finite_perplexity_is_refused(tmp_path):
    model, tokenizer = load_model(save_tiny("llama", tmp_path / "m", torch.float32), torch.device("cpu"))
    with torch.no_grad():
        model.model.norm.weight.mul_(1e6)
    fault = r"loss is \S+ nats per token.* 709\b"
    with pytest.raises(InputError, match=fault):
        evaluated((model, tokenizer), text.task_of("wiki", {"kind": "text", "length": 16}), DOCUMENTS)
    with pytest.raises(InputError, match=fault):
        token_perplexity(model, tokenizer, TEXT, 100)
