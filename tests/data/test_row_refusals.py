"""What cannot be prepared ends in one line with exit code 2, and changes no file."""

import json
import re
from pathlib import Path

import pytest
from hub_cache import write
from project import refused

BOOLQ = {"passage": "p", "question": "q", "answer": True}
HELLASWAG = {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e", "f", "g"], "label": 3}
GSM8K = {"question": "q", "answer": "#### 1"}
PAIR = {"prompt": "p", "response": "r"}


def chat(*turns: tuple[object, object]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


CHAT = chat(("user", "u"), ("assistant", "a"))
GOOD = {"boolq": BOOLQ, "hellaswag": HELLASWAG, "gsm8k": GSM8K, "pairs": PAIR, "chats": CHAT, "notes": {"text": "t"}}
KINDS = {"pairs": {"kind": "instruction"}, "chats": {"kind": "instruction"}, "notes": {"kind": "text"}}


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


# Task, one row of its training rows as an object or a text, what is wrong with it.
ROWS = [
    ("boolq", {"passage": "p", "question": "q"}, "field 'answer' is missing"),
    ("boolq", {**BOOLQ, "answer": "yes"}, "field 'answer' has the wrong type (str)"),
    ("boolq", {**BOOLQ, "question": " "}, "field 'question' is empty"),
    ("boolq", '{"passage": "p \\ud800", "question": "q", "answer": true}', "not valid JSON ("),
    ("boolq", '{"passage": ' + "[" * 10**5 + "]" * 10**5 + "}", "not valid JSON ("),
    ("hellaswag", {**HELLASWAG, "label": 4}, "label 4 is outside 0 to 3"),
    ("hellaswag", {**HELLASWAG, "label": True}, "field 'label' has the wrong type (bool)"),
    ("hellaswag", {**HELLASWAG, "endings": ["x", "[step] "]}, "ending 1 is empty"),
    ("hellaswag", {**HELLASWAG, "ctx_a": " ", "ctx_b": ""}, "fields 'ctx_a' and 'ctx_b' "),
    ("gsm8k", {**GSM8K, "answer": "It is 1."}, "field 'answer' does not end"),
    ("chats", chat(("user", "u"), ("assistant", "a"), ("system", "s")), "the roles are user, assistant, system:"),
    ("chats", chat(("user", " "), ("assistant", "a")), "message 1 has no text"),
    ("chats", {"messages": [{"role": "user", "content": "u", "weight": 0}]}, "message 1 must be an object"),
    ("notes", {"page": "t"}, "field 'text' is missing"),
]


@pytest.mark.parametrize(("task", "row", "fault"), ROWS)
def test_a_bad_row_is_named_with_its_line(task, row, fault):
    line = row if isinstance(row, str) else json.dumps(row)
    write(Path("in/validation.jsonl"), [GOOD[task]])
    Path("in/train.jsonl").write_text(f"{json.dumps(GOOD[task])}\n\n{line}\n")
    said = refused(Path(), "prepare_task.py", task=task, local="in", output_dir="out", **KINDS.get(task, {}))
    assert said.startswith(f"error: in/train.jsonl, line 3: {fault}")


# Bytes of a text, or of the training rows of BoolQ, what is wrong with them.
@pytest.mark.parametrize(("name", "content", "fault"), [
    ("train.jsonl", b"", "in/train.jsonl: holds no text"),
    ("train.jsonl", b'{"text": "\xff"}', "in/train.jsonl, line 1: not valid JSON .*utf-8"),
    ("train.jsonl", b'\xef\xbb\xbf{"text": "a"}', "in/train.jsonl, line 1: not valid JSON .*BOM"),
    ("train.txt", b"caf\xe9", "in/train.txt: not UTF-8"),
    ("other", b"", "in/train.jsonl: No such file"),
])  # fmt: skip
def test_a_file_without_documents_is_named(name, content, fault):
    write(Path("in/validation.jsonl"), [GOOD["notes"]])
    Path("in", name).write_bytes(content)
    said = refused(Path(), "prepare_task.py", task="notes", kind="text", local="in", output_dir="out")
    assert re.match(f"error: {fault}", said)


MINI = {"task": "boolq_mini", "train_examples": 8, "validation_examples": 8}
QUESTIONS = [{"question": f"q{n}", "answer": "#### 1"} for n in range(9)]
FILES = {
    "gsm8k/train.jsonl": QUESTIONS[:6],
    "gsm8k/validation.jsonl": QUESTIONS[6:],
    "few/train.jsonl": QUESTIONS[:4],
    "few/validation.jsonl": QUESTIONS[6:],
    "same/train.jsonl": [BOOLQ],
    "same/validation.jsonl": [BOOLQ, {**BOOLQ, "answer": False}],
    "two/train.jsonl": [GOOD["notes"]],
    "mine/train.jsonl/other": [],
}


@pytest.mark.parametrize(("flags", "fault"), [
    ({"task": "bolq"}, "task 'bolq' is not built in; give --lm_eval or --kind, or choose one of boolq, hellaswag"),
    ({"task": "mine", "kind": "instruction"}, "a task of kind instruction needs rows"),
    ({"task": "mine", "kind": "text"}, "a task of kind text needs rows"),
    ({**MINI, "hub": "org/name"}, "boolq_mini is generated; give train_examples"),
    ({"task": "boolq_mini"}, "boolq_mini is generated; give train_examples"),
    ({**MINI, "train_examples": 10**6}, r"boolq_mini cannot make 1000000 train rows; ask for 1 to \d+$"),
    ({"task": "gsm8k", "local": "gsm8k", "validation_examples": 9},
     "gsm8k: 3 validation examples, 9 are .*; lower validation_examples"),
    ({"task": "gsm8k", "local": "gsm8k", "validation_examples": 1},
     "gsm8k: one validation example has no standard error"),
    ({"task": "gsm8k", "local": "few"}, "gsm8k: 4 training examples, 5 of them stand before every question"),
    ({"task": "boolq", "local": "same"}, "boolq: all 2 validation examples have the same prompt"),
    ({"task": "notes", "kind": "text", "local": "two"}, "two: there are both train.txt and train.jsonl"),
    ({"task": "boolq"},
     r"aps/super_glue/boolq@\w+ cannot be loaded .*; go online, .* or set tasks.boolq.local to a local copy"),
    ({**MINI, "output_dir": "mine"}, ".*mine/train.jsonl: this stage did not write it"),
    ({"task": "gsm8k", "local": "gsm8k", "output_dir": "gsm8k/out"}, "gsm8k/out is an input, or lies in one"),
])  # fmt: skip
def test_a_command_that_cannot_prepare_a_task_says_why(flags, fault):
    for name, rows in FILES.items():
        write(Path(name), rows)
    Path("two/train.txt").write_text("text")
    assert re.match(f"error: {fault}", refused(Path(), "prepare_task.py", **{"output_dir": "out"} | flags))


@pytest.mark.parametrize(("flags", "fault"), [
    ({"output": "rows.jsonl"}, ".*rows.jsonl: this stage did not write it"),
    ({"output": "c4.json"}, "--output .*c4.json: not a .jsonl or .txt file"),
    ({"text": "hub:org/absent", "split": "test"},
     "org/absent cannot be loaded .*; go online, .* or set perplexity.local to"),
])  # fmt: skip
def test_a_text_that_cannot_be_prepared(flags, fault):
    write(Path("rows.jsonl"), [{"text": "one"}])
    flags = {"text": "rows.jsonl", "output": "new.jsonl"} | flags
    assert re.match(f"error: {fault}", refused(Path(), "prepare_text.py", **flags))
