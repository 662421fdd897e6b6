"""Test tokens, conversations through a model's chat template, and batches.

lm-eval must split prompt and answer in the same way."""

from dataclasses import replace
from itertools import chain, islice

import pytest
from lm_eval.api.model import TemplateLM
from sparseft.axes.tasks import BY_NAME, TASKS, text
from sparseft.axes.tasks.instruction import task_of
from sparseft.axes.tasks.task import Task
from sparseft.common import limits
from sparseft.common.errors import InputError
from sparseft.models.language_model.batches import Example, encode, shuffled, written_by_template
from tiny_models import CHAT_TEMPLATE, append_token, prepend_token, save_tiny
from transformers import AutoTokenizer

AWKWARD = {"passage": "Ice is cold.\n\n  é", "question": "is ice  cold", "answer": True}
BOOLQ = BY_NAME["boolq_mini"]
# lm-eval moves the spaces at a prompt's end to the answer.
SPACED = replace(BOOLQ, name="spaced", prompt=lambda row: f"{BOOLQ.prompt(row)}  ")


class Harness(TemplateLM):
    """Split with lm-eval's own `_encode_pair`, over a tokenizer and without a model."""

    backend = "causal"
    eot_token_id = _loglikelihood_tokens = loglikelihood_rolling = generate_until = None

    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def tok_encode(self, string, add_special_tokens=None, **_):
        return self.tokenizer.encode(string)


@pytest.mark.parametrize("kind", ["plain", "with a first token"])
@pytest.mark.parametrize("task", [SPACED, *(task for task in TASKS if task.generate)], ids=lambda task: task.name)
def test_prompt_and_answer_are_split_as_lm_eval_splits_them(tiny_models, task, kind):
    bos = {"add_bos_token": True} if kind == "with a first token" else {}
    tokenizer = AutoTokenizer.from_pretrained(tiny_models["llama"], **bos)
    rows = [*task.generate("train", 24, 0), *([AWKWARD] if task.fields == BOOLQ.fields else [])]
    end = [tokenizer.eos_token_id] if task.choices is None else []
    harness = Harness(tokenizer)
    for row, example in zip(rows, encode(rows, task, tokenizer, 512), strict=True):
        context, continuation = harness._encode_pair(task.prompt(row), f" {task.answer(row)}")
        assert (example.ids, example.answer_start) == (context + continuation + end, len(context))
        assert (example.ids[0] == 257) == bool(bos)


def test_a_tokenizer_that_does_not_divide_prompt_and_answer_is_refused(tmp_path):
    ending = AutoTokenizer.from_pretrained(append_token(save_tiny("llama", tmp_path)))
    assert ending.encode("a")[1:] == [258]
    with pytest.raises(InputError, match="^boolq_mini: .*tokens of the prompt.*answer.* 4 of 4 rows, .*number 1"):
        encode(BOOLQ.generate("train", 4, 0), BOOLQ, ending, 512)


def test_all_examples_longer_than_the_context_are_counted_and_one_as_long_is_not(tiny_models):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models["llama"])
    row = {"passage": "p", "question": "q", "answer": True}
    length = len(encode([row], BOOLQ, tokenizer, 512)[0].ids)
    assert len(encode([row, row], BOOLQ, tokenizer, length)) == 2
    longer = [{**row, "passage": "p" * letters} for letters in (2, 4, 3)]
    fault = f"boolq_mini: examples have more than {length} tokens .*{length + 3}.* in 3 of 4 rows, .*number 2"
    with pytest.raises(InputError, match=f"^{fault}"):
        encode([row, *longer], BOOLQ, tokenizer, length)


def text_task(length: int) -> Task:
    return text.task_of("wiki", {"kind": "text", "length": length})


def test_documents_are_joined_by_blank_lines_and_cut_into_whole_sequences(tiny_models):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models["llama"], add_bos_token=True)
    rows = [{"text": "abc"}, {"text": ""}, {"text": "defghijk"}]
    ids = tokenizer.encode("abc\n\n\n\ndefghijk")
    assert len(ids) == 16
    examples = encode(rows, text_task(4), tokenizer, 4)
    assert [example.ids for example in examples] == [ids[start : start + 4] for start in range(0, len(ids) - 3, 4)]
    assert {example.answer_start for example in examples} == {1}
    # Only the first sequence begins with the token that begins a text.
    assert [example.ids[0] == 257 for example in examples] == [True, False, False, False]


def test_two_sequences_are_enough_and_what_fills_none_is_left_out(tiny_models):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models["llama"])
    for letters, sequences in ((8, 2), (11, 2), (12, 3)):
        assert len(encode([{"text": "a" * letters}], text_task(4), tokenizer, 512)) == sequences
    with pytest.raises(InputError, match=r"^tasks\.wiki\.length is 513 tokens.* takes 512"):
        encode([{"text": "a" * 2000}], text_task(513), tokenizer, 512)
    with pytest.raises(InputError, match=r"^wiki: .*7 tokens.*two sequences of 4.*tasks\.wiki\.length"):
        encode([{"text": "a" * 7}], text_task(4), tokenizer, 512)


def batches(examples: list[Example], size: int, steps: int, *, seed: int = 0, buckets: int = 1) -> list[list[Example]]:
    return list(islice(shuffled(examples, size, buckets, seed), steps))


@pytest.mark.parametrize("buckets", [1, 3, 8])
@pytest.mark.parametrize(("number", "size", "steps"), [(10, 4, 10), (3, 8, 6), (1, 1, 3), (8, 8, 4), (50, 4, 40)])
def test_every_example_comes_once_an_epoch(number, size, steps, buckets):
    found = batches([Example([index] * index, 0) for index in range(number)], size, steps, buckets=buckets)
    assert [len(batch) for batch in found] == [size] * steps
    order = [len(example.ids) for batch in found for example in batch]
    epochs = [tuple(order[start : start + number]) for start in range(0, len(order), number)]
    whole = [epoch for epoch in epochs if len(epoch) == number]
    assert len(whole) == size * steps // number > 0
    assert all(sorted(epoch) == list(range(number)) for epoch in whole)
    assert number in (1, size) or len(set(whole)) > 1  # a new permutation each; one batch is sorted


def test_buckets_sort_by_length_and_leave_the_order_random():
    found = batches([Example([0] * length, 0) for length in range(1, 33)], 4, 8, buckets=4)
    lengths = [[len(example.ids) for example in batch] for batch in found]
    assert lengths == [sorted(batch) for batch in lengths]
    for window in (lengths[:4], lengths[4:]):
        # No batch's lengths overlap another's.
        assert list(chain(*sorted(window))) == sorted(chain(*window))
    assert lengths[:4] != sorted(lengths[:4])


def test_the_order_depends_only_on_the_seed():
    examples = [Example([index], 0) for index in range(20)]
    first, again, other = (batches(examples, 4, 10, seed=seed, buckets=3) for seed in (0, 0, 1))
    assert first == again != other
    assert batches(examples, 4, 3, buckets=3) == first[:3]  # more steps change no earlier batch


CHATS = task_of("chats", {"kind": "instruction", "format": "messages"})
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Bye"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a tiny model whose tokenizer begins every text with <s>."""
    return prepend_token(save_tiny("llama", tmp_path_factory.mktemp("chat") / "m"))


def tokenizer_with(folder, template: str):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def test_the_response_is_the_last_message_with_its_end_and_every_token_is_written_once(folder):
    tokenizer = tokenizer_with(folder, CHAT_TEMPLATE)
    assert tokenizer.encode("a")[0] == 257  # a second one would stand before the template's
    (example,) = encode([{"messages": CHAT}], CHATS, tokenizer, 512)
    assert tokenizer.decode(example.ids[example.answer_start :]) == "Bye</s>\n"
    assert example.ids == tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)


SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}"
LEAVES_OUT = "leaves a message out, changes its text, "


@pytest.mark.long
@pytest.mark.parametrize(("template", "fault"), [
    ("{{ raise_exception('No system role') }}", "chats, row 1: .* refuses the messages .*No system role"),
    ("{{ messages.__class__.__mro__ }}", "row 1: .* refuses .*unsafe"),
    (SLOW, "row 1: .* computes for more than 1 s"),
    ("{{ messages[-1].content }}", f"row 1: .* {LEAVES_OUT}"),
    (CHAT_TEMPLATE.replace("messages %}", "messages if message.role != 'system' %}"), f"row 2: .* {LEAVES_OUT}"),
    (CHAT_TEMPLATE.replace("message.content", "message.content | upper"), f"row 2: .* {LEAVES_OUT}"),
])  # fmt: skip
def test_what_a_template_cannot_write_is_refused_in_one_line_with_the_row(folder, monkeypatch, template, fault):
    monkeypatch.setattr(limits, "SECONDS", 1)
    short = [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    with pytest.raises(InputError, match=fault) as refusal:
        written_by_template("chats", [short, CHAT], tokenizer_with(folder, template))
    assert "\n" not in str(refusal.value)


SYSTEM_LAST = (
    "{% set system = messages[0].content %}{% for message in messages[1:] %}"
    "{% if loop.index0 == 2 %}{{ system }}{% endif %}[{{ message.content }}]{% endfor %}"
)


def test_blanks_around_a_message_may_be_removed_and_the_system_message_may_stand_before_the_last_question(folder):
    padded = [message | {"content": f" {message['content']}\n"} for message in CHAT]
    trimming = CHAT_TEMPLATE.replace("message.content", "message.content | trim")
    written = written_by_template("chats", [CHAT], tokenizer_with(folder, CHAT_TEMPLATE))
    assert written_by_template("chats", [padded], tokenizer_with(folder, trimming)) == written
    ((prompt, whole),) = written_by_template("chats", [CHAT], tokenizer_with(folder, SYSTEM_LAST))
    assert (prompt, whole) == ("[Hi][Hello]Be brief.[And?]", "[Hi][Hello]Be brief.[And?][Bye]")


def test_a_date_is_the_same_every_day(folder):
    dated = "{% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% endif %}|" + CHAT_TEMPLATE
    ((prompt, whole),) = written_by_template("chats", [CHAT[1:3]], tokenizer_with(folder, dated))
    assert prompt == "26 Jul 2024|<s>user\nHi</s>\n<s>assistant\n"
    assert whole == f"{prompt}Hello</s>\n"
