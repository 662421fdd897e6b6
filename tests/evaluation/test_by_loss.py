"""The evaluation by loss equals stock transformers' losses, with the labels masked by hand."""

import json
import math

import numpy as np
import pytest
import torch
from sparseft.errors import InputError
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.perplexity import token_perplexity
from sparseft.language_model.model import load_model
from sparseft.tasks import instruction, text
from tiny_models import CHAT_TEMPLATE, save_tiny

CPU = torch.device("cpu")
IGNORED = -100
PAIRS = [{"prompt": f"Question {n}: what is {n} + 1?\n", "response": f"It is {n + 1}." * (n + 1)} for n in range(5)]
CHATS = [
    {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]}
    for row in PAIRS
]
DOCUMENTS = [{"text": f"Document {n} says that {n} is less than {n + 1}. " * 4} for n in range(3)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return a tiny model in float32 and its tokenizer, which has a chat template."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("by_loss") / "m", torch.float32)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return load_model(folder, CPU)


def stock_losses(model, texts: list[tuple[list[int], int]]) -> tuple[list[float], list[int]]:
    """Return transformers' loss of each text (ids, length of the prompt), summed over its tokens, and their number."""
    sums, counts = [], []
    for ids, start in texts:
        labels = torch.tensor([[IGNORED] * start + ids[start:]])
        with torch.no_grad():
            loss = model(torch.tensor([ids]), labels=labels).loss
        sums.append(loss.item() * (len(ids) - start))
        counts.append(len(ids) - start)
    return sums, counts


def check(record: dict, model, texts: list[tuple[list[int], int]]) -> None:
    """Compare every number of a record with those of stock transformers."""
    sums, counts = stock_losses(model, texts)
    assert record["answer_tokens"] == counts
    assert record["losses"] == pytest.approx(sums, rel=1e-5)
    loss = sum(sums) / sum(counts)
    assert record["value"] == record["eval_loss"] == record["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert record["metrics"]["token_perplexity"] == math.exp(record["value"])
    # Cochran's linearised error of a ratio of means.
    ratio, tokens = np.array(sums) - loss * np.array(counts), np.array(counts)
    error = math.sqrt(ratio.var(ddof=1) / len(sums)) / tokens.mean()
    assert record["standard_error"] == record["metrics"]["loss_stderr"] == pytest.approx(error, rel=1e-4)


def test_only_the_tokens_of_the_response_and_the_last_one_count(loaded):
    model, tokenizer = loaded
    task = instruction.task_of("mine", {"kind": "instruction", "format": "response"})
    record = evaluate(model, tokenizer, task, {"train": PAIRS[:1], "validation": PAIRS}, 2)
    whole = [tokenizer.encode(row["prompt"] + row["response"]) for row in PAIRS]
    starts = [len(tokenizer.encode(row["prompt"])) for row in PAIRS]
    check(record, model, [([*ids, tokenizer.eos_token_id], start) for ids, start in zip(whole, starts, strict=True)])
    assert record["distinct_prompts"] == record["examples"] == 5


def test_of_a_conversation_only_the_last_message_counts(loaded):
    model, tokenizer = loaded
    task = instruction.task_of("chats", {"kind": "instruction", "format": "messages"})
    record = evaluate(model, tokenizer, task, {"train": CHATS[:1], "validation": CHATS}, 3)
    texts = []
    for row in CHATS:
        options = {"tokenize": True, "return_dict": False}
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, **options)
        texts.append((tokenizer.apply_chat_template(row["messages"], **options), len(prompt)))
    check(record, model, texts)


@pytest.mark.parametrize("length", [32, 100])
def test_of_a_text_every_token_but_the_first_of_a_sequence_counts_and_it_is_its_perplexity(loaded, length):
    model, tokenizer = loaded
    task = text.task_of("wiki", {"kind": "text", "length": length})
    record = evaluate(model, tokenizer, task, {"train": DOCUMENTS[:2], "validation": DOCUMENTS}, 4)
    joined = "\n\n".join(row["text"] for row in DOCUMENTS)
    ids = tokenizer.encode(joined)
    check(record, model, [(ids[start : start + length], 1) for start in range(0, len(ids) // length * length, length)])
    # torch rounds the mean loss of a window to fp32.
    perplexity = token_perplexity(model, tokenizer, joined, length)
    assert record["metrics"]["token_perplexity"] == pytest.approx(perplexity, rel=1e-6)
    assert record["examples"] == record["distinct_prompts"] == len(ids) // length


def test_sequences_that_repeat_are_counted_once(loaded):
    task = text.task_of("wiki", {"kind": "text", "length": 4})
    documents = [{"text": "ab" * 8}]
    record = evaluate(*loaded, task, {"train": documents, "validation": documents}, 4)
    assert (record["examples"], record["distinct_prompts"]) == (4, 1)


def test_the_record_says_what_was_measured_and_has_no_outcomes(loaded):
    task = text.task_of("wiki", {"kind": "text", "length": 16})
    record = evaluate(*loaded, task, {"train": DOCUMENTS, "validation": DOCUMENTS}, 4)
    assert json.loads(json.dumps(record)) == record
    assert (record["task"], record["metric"], record["dtype"]) == ("wiki", "loss", "float32")
    assert record["definition_sha256"] == task.definition_sha256
    assert (record["few_shot"], record["loss_few_shot"]) == (0, 0)
    assert record["chance"] is record["harness"] is None
    assert not record.keys() & {"outcomes", "predictions", "labels", "log_likelihoods", "generations", "ties"}


def test_the_digest_of_the_prompts_follows_the_validation_texts(loaded):
    task = instruction.task_of("chats", {"kind": "instruction", "format": "messages"})
    digests = {
        evaluate(*loaded, task, {"train": CHATS, "validation": rows}, 4)["prompt_sha256"]
        for rows in (CHATS, CHATS[::-1], CHATS[:4])
    }
    assert len(digests) == 3


def test_a_loss_without_a_finite_perplexity_is_refused(tmp_path):
    model, tokenizer = load_model(save_tiny("llama", tmp_path / "m", torch.float32), CPU)
    with torch.no_grad():
        model.model.norm.weight.mul_(1e6)
    task = text.task_of("wiki", {"kind": "text", "length": 16})
    with pytest.raises(InputError, match=r"loss is \S+ nats per token.* 709\b"):
        evaluate(model, tokenizer, task, {"train": DOCUMENTS, "validation": DOCUMENTS}, 4)
