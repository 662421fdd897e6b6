"""Tasks of prompts and responses, and of conversations: their two formats, and what a row must be."""

import json
from pathlib import Path

import pytest
from sparseft.errors import InputError
from sparseft.study.config import TaskData
from sparseft.study.section import parse_section
from sparseft.tasks.instruction import load_own_examples, task_of

PAIRS = [{"prompt": f"Q{n}: ", "response": f"\nA{n}"} for n in range(4)]
CHATS = [
    {"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": f"A{n}"}]} for n in range(4)
]


def folder_of(path: Path, train: list, validation: list) -> Path:
    """Write rows, or lines, into a folder."""
    for split, rows in (("train", train), ("validation", validation)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (path / f"{split}.jsonl").write_text("\n".join(lines))
    return path


def own_data(folder: Path, **keys: object) -> TaskData:
    return TaskData(kind="instruction", local=str(folder), **keys)


@pytest.mark.parametrize(("rows", "name"), [(PAIRS, "response"), (CHATS, "messages")], ids=["pairs", "chats"])
def test_the_rows_stay_as_they_are_written_and_the_first_decides_the_format(rows, name, tmp_path):
    examples = load_own_examples("mine", own_data(folder_of(tmp_path, rows, rows[2:])))
    assert examples.rows == {"train": rows, "validation": rows[2:]}
    assert examples.task.definition == {"kind": "instruction", "format": name}
    assert set(examples.source["local"]) == {"train", "validation"}
    again = task_of("mine", examples.task.definition)
    assert again.definition_sha256 == examples.task.definition_sha256
    assert [again.answer(row) for row in rows] == [examples.task.answer(row) for row in rows]


def test_a_number_of_rows_is_chosen_by_the_seed(tmp_path):
    folder_of(tmp_path, PAIRS, PAIRS)
    chosen = [
        load_own_examples("mine", own_data(tmp_path, train_examples=2, seed=seed)).rows["train"] for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(len(rows) == 2 for rows in chosen)


def test_what_is_told_apart_by_its_prompt_is_the_conversation_without_its_last_message():
    task = task_of("mine", {"kind": "instruction", "format": "messages"})
    other_answer = [CHATS[0]["messages"][0], {"role": "assistant", "content": "other"}]
    assert task.prompt(CHATS[0]) == task.prompt({"messages": other_answer}) != task.prompt(CHATS[1])
    assert task.answer(CHATS[0]) == "A0"


def chat(*turns: tuple[str, object]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(("row", "fault"), [
    ({"prompt": "p"}, "field 'response' is missing"),
    ({"prompt": "p", "response": 3}, "field 'response' has the wrong type"),
    ({"prompt": " \n", "response": "r"}, "field 'prompt' is empty"),
    ({"prompt": "p", "response": " "}, "field 'response' is empty"),
    (CHATS[0], "field 'prompt' is missing; .*'mine' row .* messages .*first training row has no messages"),
    ("{", "not valid JSON"),
])  # fmt: skip
def test_a_row_that_is_no_prompt_with_a_response_is_refused_with_its_line(row, fault, tmp_path):
    folder_of(tmp_path, [*PAIRS, row], PAIRS)
    with pytest.raises(InputError, match=rf"train\.jsonl, line 5: .*{fault}"):
        load_own_examples("mine", own_data(tmp_path))


@pytest.mark.parametrize(("row", "fault"), [
    (PAIRS[0], "field 'messages' is missing; .*'mine' row .* prompt and response.*first training row has messages"),
    ({"messages": "hello"}, "field 'messages' has the wrong type"),
    (chat(), "roles are none"),
    (chat(("assistant", "a")), "roles are assistant:"),
    (chat(("user", "u")), "roles are user:"),
    (chat(("system", "s")), "roles are system:"),
    (chat(("user", "u"), ("user", "u")), "roles are user, user:"),
    (chat(("user", "u"), ("assistant", "a"), ("system", "s")), "assistant, system:"),
    (chat(("user", "u"), ("assistant", "a"), ("user", "u")), "assistant, user:"),
    (chat(("tool", "t"), ("assistant", "a")), "message 1 has the role 'tool'"),
    (chat(("user", "u"), ("assistant", ["a"])), "message 2 has a content of the wrong type"),
    (chat(("user", " "), ("assistant", "a")), "message 1 is empty"),
    (chat(("user", "u"), ("assistant", "")), "message 2 is empty"),
    ({"messages": ["hello"]}, "message 1 must be an object"),
    ({"messages": [{"role": "user", "content": "u", "weight": 0}]}, "message 1 must be an object .* nothing else"),
])  # fmt: skip
def test_what_is_no_conversation_is_refused_with_its_line(row, fault, tmp_path):
    folder_of(tmp_path, CHATS, [CHATS[0], row])
    with pytest.raises(InputError, match=rf"validation\.jsonl, line 2: .*{fault}"):
        load_own_examples("mine", own_data(tmp_path))


def test_a_conversation_may_begin_with_a_system_message_which_may_be_empty(tmp_path):
    turns = [("system", ""), *[("user", "u"), ("assistant", "a")] * 3]
    rows = load_own_examples("mine", own_data(folder_of(tmp_path, [chat(*turns)], CHATS))).rows
    assert rows["train"] == [chat(*turns)]


@pytest.mark.parametrize(
    "keys", [{}, {"hub": "org/name"}, {"local": "x", "hub": "org/name"}, {"local": "x", "length": 8}]
)
def test_instructions_come_from_a_folder_and_have_no_length(keys):
    with pytest.raises(InputError, match=r"tasks\.mine"):
        parse_section(TaskData, {"kind": "instruction", **keys}, "tasks.mine")


def test_a_definition_of_another_version_is_refused():
    with pytest.raises(InputError, match="mine: unknown format 'poems'"):
        task_of("mine", {"kind": "instruction", "format": "poems"})
