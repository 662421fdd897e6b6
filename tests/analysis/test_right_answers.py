"""Check the comparison of right answers with the rows that lie in the study."""

import hashlib
import json
from pathlib import Path

from sparseft.analysis.records.right_answers import AnswerCheck, RightAnswers
from sparseft.tasks.scoring import labels_digest

ROWS = [{"passage": "Ice is cold.", "question": "is ice cold", "answer": True},
        {"passage": "Ice is cold.", "question": "is ice hot", "answer": False}]  # fmt: skip
SOUND = labels_digest([1, 0], [[2, 3], [2, 3]])


def write(study: Path) -> str:
    """Write the rows and return their sha256."""
    path = study / "data/boolq/validation.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_labels_and_lengths_are_those_of_the_rows(tmp_path):
    data = write(tmp_path)
    answers = RightAnswers(tmp_path)
    assert answers.check("boolq", data, SOUND) == AnswerCheck()
    for other in (labels_digest([1, 1], [[2, 3], [2, 3]]), labels_digest([1, 0], [[2, 4], [2, 3]])):
        check = answers.check("boolq", data, other)
        assert check.unchecked is None
        for word in ("labels", "choice_lengths", "boolq/validation.jsonl"):
            assert word in check.fault


def test_of_a_loss_only_the_file_is_compared(tmp_path):
    data = write(tmp_path)
    answers = RightAnswers(tmp_path)
    assert answers.check("boolq", data, None) == AnswerCheck()
    assert answers.check("boolq", "f" * 64, None).unchecked
    (tmp_path / "data/boolq/manifest.json").write_text(json.dumps({"sha256": {"validation": "0" * 64}}))
    assert RightAnswers(tmp_path).check("boolq", data, None).fault


def test_the_definition_is_that_of_the_manifest(tmp_path):
    write(tmp_path)
    definition = {"kind": "text", "length": 8}
    for name in ("own", "other"):
        folder = tmp_path / "data" / name
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"task": "own", "definition": definition}))
    answers = RightAnswers(tmp_path)
    digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
    assert [answers.definition(name) for name in ("own", "other", "boolq", "absent")] == [digest, None, None, None]


def test_a_file_is_read_once(tmp_path):
    data = write(tmp_path)
    answers = RightAnswers(tmp_path)
    answers.check("boolq", data, SOUND)
    (tmp_path / "data/boolq/validation.jsonl").write_text("")
    assert answers.check("boolq", data, SOUND) == AnswerCheck()


def test_rows_that_are_not_there_are_not_checked(tmp_path):
    absent = RightAnswers(tmp_path).check("boolq", "f" * 64, SOUND)
    write(tmp_path)
    other = RightAnswers(tmp_path).check("boolq", "f" * 64, SOUND)
    assert absent != other
    for check in (absent, other):
        assert check.fault is None
        assert "boolq/validation.jsonl" in check.unchecked


def test_rows_of_an_unknown_task_or_that_are_no_rows_are_a_fault_if_they_are_those_that_were_evaluated(tmp_path):
    path = tmp_path / "data/boolq/validation.jsonl"
    write(tmp_path)
    for task, content in (("own", path.read_bytes()), ("boolq", b"{"), ("boolq", b"\xff")):
        path = tmp_path / f"data/{task}/validation.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        data = hashlib.sha256(content).hexdigest()
        check = RightAnswers(tmp_path).check(task, data, SOUND)
        assert f"{task}/validation.jsonl" in check.fault
        assert RightAnswers(tmp_path).check(task, "f" * 64, SOUND).fault is None


def test_rows_that_are_not_those_of_the_manifest_beside_them_are_a_fault_whatever_was_evaluated(tmp_path):
    data = write(tmp_path)
    manifest = tmp_path / "data/boolq/manifest.json"
    manifest.write_text(json.dumps({"sha256": {"train": "0" * 64, "validation": data}}))
    assert RightAnswers(tmp_path).check("boolq", data, SOUND) == AnswerCheck()
    for content in ({"sha256": {"train": data, "validation": "0" * 64}}, {"sha256": None}, {}):
        manifest.write_text(json.dumps(content))
        for evaluated in (data, "f" * 64):
            check = RightAnswers(tmp_path).check("boolq", evaluated, SOUND)
            assert check.unchecked is None
            assert "boolq/validation.jsonl" in check.fault
            assert "manifest" in check.fault
