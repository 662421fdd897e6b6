"""Texts as documents: read from files, prepared with their source beside them, and refused where they are none.

test_data_source.py has the texts on the hub.
"""

import json
import re
from pathlib import Path

import pytest
from project import call_script, succeed
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.tasks.documents import read_documents, recorded_source

ROWS = [{"text": "one\u2028 line"}, {"text": "", "page": 2}, {"text": "dr\u00ef \U0001f600"}]
DOCUMENTS = [row["text"] for row in ROWS]


@pytest.fixture
def rows(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS))
    return path


def test_the_documents_of_a_file_are_its_rows_and_their_digest_is_the_file_s(tmp_path, rows):
    assert read_documents(rows) == (DOCUMENTS, sha256(rows))
    (tmp_path / "whole.txt").write_text("one\n\ntwo\n")
    assert read_documents(tmp_path / "whole.txt") == (["one\n\ntwo\n"], sha256(tmp_path / "whole.txt"))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"text": "a"}\n{"page": "b"}\n', "line 2: field 'text' is missing"),
        (b'{"text": "a"}\n\n{"text": 3}\n', "line 3: field 'text' has the wrong type"),
        (b'{"text": "a"}\n{"text": \n', "line 2: not valid JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: not UTF-8"),
        (b"\n\n", "holds no row"),
    ],
)
def test_a_file_without_documents_is_refused_with_its_place(tmp_path, content, fault):
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=f"t.jsonl.*{fault}"):
        read_documents(tmp_path / "t.jsonl")


@pytest.mark.parametrize(("name", "fault"), [("t.txt", "byte order mark"), ("t.jsonl", "line 1: not valid JSON .*BOM")])
def test_a_byte_order_mark_is_refused(tmp_path, name, fault):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + b'{"text": "a"}\n')
    with pytest.raises(InputError, match=f"{name}.*{fault}"):
        read_documents(tmp_path / name)


def test_a_prepared_text_is_read_back_with_its_source(tmp_path, rows):
    prepared = tmp_path / "data/calibration_c4.jsonl"
    succeed("prepare_text.py", text=rows, output=prepared)
    documents, digest = read_documents(prepared)
    assert documents == DOCUMENTS
    assert recorded_source(prepared, digest) == {"local": sha256(rows)}
    prepared.write_text('{"text": "another"}\n')
    with pytest.raises(InputError, match=r"calibration_c4.jsonl: not the text that .*json describes; prepare it again"):
        recorded_source(prepared, read_documents(prepared)[1])


def test_offline_the_error_names_the_key_that_may_have_a_file(tmp_path):
    code, said = call_script("prepare_text.py", text="hub:org/nowhere/en/part.json.gz", output=tmp_path / "c4.jsonl")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("error: org/nowhere/en/part.json.gz cannot be loaded from the hub ")
    assert "go online, or set masks.calibration.NAME.text to a .jsonl file" in said


@pytest.mark.parametrize(
    ("content", "output", "fault"),
    [
        ('{"text": " \\n"}\n{"text": ""}\n', "c4.jsonl", "t.jsonl: the text is empty; give another text"),
        ('{"text": "a"}\n', "c4.txt", "--output .*c4.txt: not a .jsonl file"),
        ('{"text": "a"}\n', "t.jsonl", ".*t.jsonl: a file that would be lost"),
    ],
)
def test_what_cannot_be_prepared_is_refused_and_changes_no_file(tmp_path, monkeypatch, content, output, fault):
    monkeypatch.chdir(tmp_path)
    Path("t.jsonl").write_text(content)
    code, said = call_script("prepare_text.py", text="t.jsonl", output=tmp_path / output)
    assert (code, said.count("\n")) == (2, 1)
    assert re.match(f"error: {fault}", said), said
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]
    assert Path("t.jsonl").read_text() == content
