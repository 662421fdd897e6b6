"""Conversations through a model's chat template: what is prompt and what is response, and what is refused."""

import pytest
from sparseft import limits
from sparseft.errors import InputError
from sparseft.language_model.batches import encode, written_by_template
from sparseft.tasks.instruction import task_of
from tiny_models import CHAT_TEMPLATE, prepend_token, save_tiny
from transformers import AutoTokenizer

TASK = task_of("chats", {"kind": "instruction", "format": "messages"})
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
    (example,) = encode([{"messages": CHAT}], TASK, tokenizer, 512)
    assert tokenizer.decode(example.ids[example.answer_start :]) == "Bye</s>\n"
    assert example.ids == tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)


SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}"
LEAVES_OUT = "leaves a message out, changes its text, "


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
