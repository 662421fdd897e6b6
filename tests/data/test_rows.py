"""Rows and documents are read as they were written, with what records their source."""

import json

import pytest
from project import succeed
from sparseft.axes.tasks import BY_NAME
from sparseft.common.errors import InputError
from sparseft.data.prepared import find_task, read_prepared
from sparseft.data.rows import write_rows
from sparseft.data.texts import read_documents, recorded_source
from sparseft.storage.hashes import sha256

BOOLQ = {"passage": "p", "question": "q", "answer": True}
# JSON allows a line separator inside a string.
ROWS = [{"text": "one\u2028two\x85three"}, {"text": "", "page": 2}, {"text": "dr\u00ef \U0001f600"}]
DOCUMENTS = [row["text"] for row in ROWS]


@pytest.mark.parametrize(("manifest", "fault"), [
    (None, None),
    ({"task": "boolq"}, None),
    ({"task": "boolq_mini"}, r"validation\.jsonl: not the boolq rows that its manifest records for boolq_mini"),
    ({"task": "boolq", "sha256": {"validation": "0" * 64}}, r"validation\.jsonl: not the boolq rows"),
])  # fmt: skip
def test_prepared_rows_are_those_of_their_manifest(manifest, fault, tmp_path):
    path = tmp_path / "validation.jsonl"
    write_rows(path, [BOOLQ])
    if manifest:
        content = {"sha256": {"validation": sha256(path)}} | manifest
        (tmp_path / "validation_manifest.json").write_text(json.dumps(content))
    if fault is None:
        assert read_prepared(path, BY_NAME["boolq"]) == ([BOOLQ], sha256(path))
        return
    with pytest.raises(InputError, match=fault):
        read_prepared(path, BY_NAME["boolq"])


def test_a_task_without_a_definition_is_unknown(tmp_path):
    with pytest.raises(InputError, match="no such file; prepare the task 'bolq' .*boolq, hellaswag, gsm8k, boolq_mini"):
        find_task(tmp_path, "bolq")
    (tmp_path / "manifest.json").write_text(json.dumps({"task": "boolq"}))
    with pytest.raises(InputError, match="does not define the task 'bolq'"):
        find_task(tmp_path, "bolq")


def test_the_documents_of_a_file_are_its_rows_and_those_of_a_prepared_text_have_its_source(tmp_path):
    rows, whole, prepared = (tmp_path / name for name in ("rows.jsonl", "whole.txt", "data/calibration_c4.jsonl"))
    write_rows(rows, ROWS)
    whole.write_text("\ufeffone\n\ntwo\n")
    assert read_documents(whole) == (["one\n\ntwo\n"], sha256(whole))
    assert read_documents(rows) == (DOCUMENTS, sha256(rows))
    succeed("prepare_text.py", text=rows, output=prepared)
    documents, digest = read_documents(prepared)
    assert documents == DOCUMENTS
    assert recorded_source(prepared, digest) == {"local": sha256(rows)}
    prepared.write_text('{"text": "another"}\n')
    with pytest.raises(InputError, match=r"calibration_c4.jsonl: not the text that .*json describes; prepare it again"):
        recorded_source(prepared, read_documents(prepared)[1])
