"""The right answers of a record beside the rows that lie in the study."""

import hashlib
import json
from pathlib import Path

from sparseft.analysis.recompute import check_rows
from sparseft.tasks.scoring import labels_digest

ROWS = [{"passage": "Ice is cold.", "question": "is ice cold", "answer": True},
        {"passage": "Ice is cold.", "question": "is ice hot", "answer": False}]  # fmt: skip
SOUND = labels_digest([1, 0], [[2, 3], [2, 3]])


def write(study: Path) -> str:
    """Write the rows; returns their sha256."""
    path = study / "data/boolq/validation.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_labels_and_lengths_are_those_of_the_rows(tmp_path):
    data, known = write(tmp_path), {}
    assert check_rows(SOUND, data, "boolq", tmp_path, known) == ""
    fault = "labels or choice_lengths are not those of boolq/validation.jsonl"
    assert check_rows(labels_digest([1, 1], [[2, 3], [2, 3]]), data, "boolq", tmp_path, known) == fault
    assert check_rows(labels_digest([1, 0], [[2, 4], [2, 3]]), data, "boolq", tmp_path, known) == fault


def test_a_file_is_read_once(tmp_path):
    data, known = write(tmp_path), {}
    check_rows(SOUND, data, "boolq", tmp_path, known)
    (tmp_path / "data/boolq/validation.jsonl").write_text("")
    assert check_rows(SOUND, data, "boolq", tmp_path, known) == ""


def test_rows_that_are_not_there_are_not_checked(tmp_path):
    assert check_rows(SOUND, "f" * 64, "boolq", tmp_path, {}) == "not checked: boolq/validation.jsonl is not there"
    write(tmp_path)
    other = "not checked: boolq/validation.jsonl is another file than the one that was evaluated on"
    assert check_rows(SOUND, "f" * 64, "boolq", tmp_path, {}) == other


def test_rows_that_are_not_those_of_the_manifest_beside_them_are_a_fault_whatever_was_evaluated(tmp_path):
    data = write(tmp_path)
    manifest = tmp_path / "data/boolq/manifest.json"
    manifest.write_text(json.dumps({"sha256": {"train": "0" * 64, "validation": data}}))
    assert check_rows(SOUND, data, "boolq", tmp_path, {}) == ""
    fault = "boolq/validation.jsonl is not the file that its manifest records"
    for content in ({"sha256": {"train": data, "validation": "0" * 64}}, {"sha256": None}, {}):
        manifest.write_text(json.dumps(content))
        assert check_rows(SOUND, data, "boolq", tmp_path, {}) == fault
        assert check_rows(SOUND, "f" * 64, "boolq", tmp_path, {}) == fault
