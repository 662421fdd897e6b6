"""The right answers of a record beside the rows that lie in the study."""

import hashlib
import json
from pathlib import Path

from sparseft.analysis.recompute import NOT_CHECKED, check_rows
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
    for other in (labels_digest([1, 1], [[2, 3], [2, 3]]), labels_digest([1, 0], [[2, 4], [2, 3]])):
        fault = check_rows(other, data, "boolq", tmp_path, known)
        assert not fault.startswith(NOT_CHECKED)
        for word in ("labels", "choice_lengths", "boolq/validation.jsonl"):
            assert word in fault


def test_a_file_is_read_once(tmp_path):
    data, known = write(tmp_path), {}
    check_rows(SOUND, data, "boolq", tmp_path, known)
    (tmp_path / "data/boolq/validation.jsonl").write_text("")
    assert check_rows(SOUND, data, "boolq", tmp_path, known) == ""


def test_rows_that_are_not_there_are_not_checked(tmp_path):
    absent = check_rows(SOUND, "f" * 64, "boolq", tmp_path, {})
    write(tmp_path)
    other = check_rows(SOUND, "f" * 64, "boolq", tmp_path, {})
    assert absent != other
    for reason in (absent, other):
        assert reason.startswith(NOT_CHECKED)
        assert "boolq/validation.jsonl" in reason


def test_rows_that_are_not_those_of_the_manifest_beside_them_are_a_fault_whatever_was_evaluated(tmp_path):
    data = write(tmp_path)
    manifest = tmp_path / "data/boolq/manifest.json"
    manifest.write_text(json.dumps({"sha256": {"train": "0" * 64, "validation": data}}))
    assert check_rows(SOUND, data, "boolq", tmp_path, {}) == ""
    for content in ({"sha256": {"train": data, "validation": "0" * 64}}, {"sha256": None}, {}):
        manifest.write_text(json.dumps(content))
        for evaluated in (data, "f" * 64):
            fault = check_rows(SOUND, evaluated, "boolq", tmp_path, {})
            assert not fault.startswith(NOT_CHECKED)
            assert "boolq/validation.jsonl" in fault
            assert "manifest" in fault
