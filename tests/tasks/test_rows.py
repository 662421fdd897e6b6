"""Rows come from users: an error names the file and the line of a bad row."""

import json
import re

import pytest
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.tasks import BY_NAME, TASKS
from sparseft.tasks.prepared import find_task, read_prepared
from sparseft.tasks.rows import read_rows

BOOLQ = {"passage": "p", "question": "q", "answer": True}
HELLASWAG = {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e", "f", "g"], "label": 3}


def write(path, *rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("task", [task for task in TASKS if task.generate], ids=lambda task: task.name)
def test_generated_rows_survive_a_round_trip(task, tmp_path):
    rows = task.generate("validation", 20, 1)
    assert read_rows(write(tmp_path / "rows.jsonl", *rows), task) == rows


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path):
    row = {**BOOLQ, "passage": "one\u2028two\x85three"}
    assert read_rows(write(tmp_path / "rows.jsonl", row, BOOLQ), BY_NAME["boolq"]) == [row, BOOLQ]


@pytest.mark.parametrize(
    ("name", "row", "problem"),
    [
        ("boolq", {"passage": "p", "question": "q"}, "field 'answer' is missing"),
        ("boolq", {**BOOLQ, "answer": "yes"}, "field 'answer' has the wrong type (str)"),
        ("boolq", [1], "a JSON object is expected"),
        ("hellaswag", {**HELLASWAG, "label": 4}, "label 4 is outside 0 to 3"),
        ("hellaswag", {**HELLASWAG, "label": -1}, "label -1 is outside 0 to 3"),
        ("hellaswag", {**HELLASWAG, "label": ""}, "label '' is outside 0 to 3"),
        ("hellaswag", {**HELLASWAG, "label": True}, "field 'label' has the wrong type (bool)"),
        ("hellaswag", {**HELLASWAG, "endings": ["d", 5]}, "field 'endings' is not a list"),
        ("hellaswag", {**HELLASWAG, "endings": ["d", ""]}, "ending 1 is empty"),
        (
            "hellaswag",
            {**HELLASWAG, "endings": ["x [title]", "[step] "]},
            "ending 1 is empty",
        ),
        ("hellaswag", {**HELLASWAG, "label": "1.0"}, "label '1.0' is outside 0 to 3"),
        ("hellaswag", {**HELLASWAG, "label": " 1"}, "label ' 1' is outside 0 to 3"),
        ("hellaswag", {**HELLASWAG, "ctx_a": " ", "ctx_b": ""}, "fields 'ctx_a' and 'ctx_b' "),
        ("boolq", {**BOOLQ, "question": " "}, "field 'question' is empty"),
        ("boolq", {**BOOLQ, "passage": ""}, "field 'passage' is empty"),
        ("gsm8k", {"question": "", "answer": "#### 1"}, "field 'question' is empty"),
        ("gsm8k", {"question": "q", "answer": "It is 1."}, "field 'answer' does not end"),
        ("gsm8k", {"question": "q", "answer": "#### one"}, "field 'answer' does not end"),
        ("gsm8k", {"question": "q", "answer": "#### 5 apples"}, "field 'answer' does not end"),
        ("gsm8k", {"question": "q", "answer": "#### ."}, "field 'answer' does not end"),
        ("gsm8k", {"question": "q", "answer": "#### 5\n#### 6"}, "field 'answer' does not end"),
        ("gsm8k", {"question": None, "answer": "#### 1"}, "field 'question' has the wrong type (NoneType)"),
    ],
)
def test_an_error_names_the_file_and_the_line_of_a_bad_row(name, row, problem, tmp_path):
    good = {"boolq": BOOLQ, "hellaswag": HELLASWAG, "gsm8k": {"question": "q", "answer": "#### 1"}}[name]
    path = write(tmp_path / "rows.jsonl", good, row)
    with pytest.raises(InputError) as error:
        read_rows(path, BY_NAME[name])
    assert str(error.value).startswith(f"{path}, line 2: {problem}")
    assert name in str(error.value).partition("; ")[2]


@pytest.mark.parametrize(("line", "fault"), [
    ('{"passage": "p \\ud800", "question": "q", "answer": true}', "an escape such as \\ud800 is half"),
    ('{"passage": "p", "question": "q", "answer": true, "\\udfff": 0}', "an escape such as \\ud800 is half"),
    ('{"passage": ' + "[" * 10**5 + "]" * 10**5 + "}", "not valid JSON ("),
])  # fmt: skip
def test_an_error_names_the_number_of_a_line_that_is_not_text_or_not_json(line, fault, tmp_path):
    path = tmp_path / "rows.jsonl"
    # The first line has both halves of a character.
    path.write_text(json.dumps({**BOOLQ, "passage": "\U0001f600"}) + "\n" + line + "\n")
    with pytest.raises(InputError) as error:
        read_rows(path, BY_NAME["boolq"])
    assert str(error.value).startswith(f"{path}, line 2: {fault}")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{\n", b"\xff\xfe"])
def test_a_file_without_rows_is_an_error(content, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="rows.jsonl.*(holds no row|line 1: not valid JSON|not UTF-8 text)"):
        read_rows(path, BY_NAME["boolq"])


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="none.jsonl: no such"):
        read_rows(tmp_path / "none.jsonl", BY_NAME["boolq"])


def test_an_error_about_an_unknown_task_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="task 'bolq' .*boolq, hellaswag, gsm8k, boolq_mini"):
        find_task(tmp_path, "bolq")


@pytest.mark.parametrize(("name", "change", "fault"), [
    ("hellaswag", {"endings": ["d", "e", "[x]d", "g"]}, "hellaswag: validation example 2 has the choice 'd'"),
    ("boolq", {}, "boolq: all 3 validation examples have the same prompt"),
])  # fmt: skip
def test_validation_rows_that_cannot_tell_right_from_wrong_are_refused(name, change, fault):
    first = {"boolq": BOOLQ, "hellaswag": HELLASWAG}[name]
    last = {**first, "ctx_a": "other"} if name == "hellaswag" else first
    with pytest.raises(InputError, match=f"^{re.escape(fault)}"):
        BY_NAME[name].check({"train": [], "validation": [first, {**first, **change}, last]})


def test_rows_that_were_prepared_for_another_task_are_refused_though_they_fit(tmp_path):
    path = write(tmp_path / "validation.jsonl", BOOLQ)
    manifest = {"task": "boolq_mini", "sha256": {"validation": sha256(path)}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_prepared(path, BY_NAME["boolq_mini"])[0] == [BOOLQ]
    with pytest.raises(InputError, match=r"validation\.jsonl: .*boolq_mini, not for boolq"):
        read_prepared(path, BY_NAME["boolq"])
