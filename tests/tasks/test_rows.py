"""Rows are read as they were written, and prepared rows only with a manifest that fits. test_row_refusals.py has bad rows."""

import json

import pytest
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.tasks import BY_NAME
from sparseft.tasks.prepared import find_task, read_prepared
from sparseft.tasks.rows import read_rows, write_rows

BOOLQ = {"passage": "one\u2028two\x85three \U0001f600", "question": "q", "answer": True}


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [BOOLQ, BOOLQ])
    assert read_rows(tmp_path / "rows.jsonl", BY_NAME["boolq"]) == [BOOLQ, BOOLQ]


@pytest.mark.parametrize(("manifest", "fault"), [
    (None, None),
    ({"task": "boolq"}, None),
    ({"task": "boolq_mini"}, r"validation\.jsonl: prepared for boolq_mini, not for boolq"),
    ({"task": "boolq", "sha256": {"validation": "0" * 64}}, r"validation\.jsonl: not the file that its manifest records"),
])  # fmt: skip
def test_prepared_rows_are_those_of_their_manifest(manifest, fault, tmp_path):
    path = tmp_path / "validation.jsonl"
    write_rows(path, [BOOLQ])
    if manifest:
        content = {"sha256": {"validation": sha256(path)}} | manifest
        (tmp_path / "manifest.json").write_text(json.dumps(content))
    if fault is None:
        assert read_prepared(path, BY_NAME["boolq"]) == ([BOOLQ], sha256(path))
        return
    with pytest.raises(InputError, match=fault):
        read_prepared(path, BY_NAME["boolq"])


def test_a_task_without_a_definition_is_unknown(tmp_path):
    with pytest.raises(InputError, match="task 'bolq' .*boolq, hellaswag, gsm8k, boolq_mini"):
        find_task(tmp_path, "bolq")
    (tmp_path / "manifest.json").write_text(json.dumps({"task": "boolq"}))
    with pytest.raises(InputError, match="does not define the task 'bolq'"):
        find_task(tmp_path, "bolq")
