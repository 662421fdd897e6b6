"""Tasks of general text: where the documents come from, and which are refused."""

import json
from pathlib import Path

import pytest
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.study.config import TaskData
from sparseft.study.section import parse_section
from sparseft.tasks.measured_lengths import measured_lengths
from sparseft.tasks.text import LENGTH, load_own_examples, task_of


def own_data(folder: Path, **keys: object) -> TaskData:
    return TaskData(kind="text", local=str(folder), **keys)


def write_rows(file: Path, documents: list[object]) -> None:
    file.write_text("".join(json.dumps({"text": document, "url": "u"}) + "\n" for document in documents))


def test_documents_come_from_jsonl_or_txt_files_in_their_order(tmp_path):
    write_rows(tmp_path / "train.jsonl", ["one", "", "two"])
    (tmp_path / "validation.txt").write_text("All of it.\n\nIs one document.\n")
    examples = load_own_examples("wiki", own_data(tmp_path))
    assert examples.rows == {
        "train": [{"text": "one"}, {"text": ""}, {"text": "two"}],
        "validation": [{"text": "All of it.\n\nIs one document.\n"}],
    }
    files = {"train": "train.jsonl", "validation": "validation.txt"}
    assert examples.source == {"local": {split: sha256(tmp_path / name) for split, name in files.items()}}


def test_a_number_of_documents_is_chosen_by_the_seed(tmp_path):
    for split in ("train", "validation"):
        write_rows(tmp_path / f"{split}.jsonl", [f"document {n}" for n in range(9)])
    chosen = [
        load_own_examples("wiki", own_data(tmp_path, train_examples=3, seed=seed)).rows["train"] for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 3
    with pytest.raises(InputError, match="wiki: 9 validation examples, 10 are asked for"):
        load_own_examples("wiki", own_data(tmp_path, validation_examples=10))


def test_the_definition_has_the_length(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("text")
    for length, expected in ((None, LENGTH), (8, 8)):
        task = load_own_examples("wiki", own_data(tmp_path, length=length)).task
        assert task.definition == {"kind": "text", "length": expected}
        assert task.sequence_length == task_of("wiki", task.definition).sequence_length == expected


@pytest.mark.parametrize(("train", "validation", "fault"), [
    (["", " \n"], ["text"], "train text is empty"),
    (["text"], ["\t"], "validation text is empty"),
    (["text"], [None], r"validation\.jsonl, line 1: field 'text' has the wrong type"),
    ([], ["text"], r"train\.jsonl: holds no row"),
])  # fmt: skip
def test_a_split_without_text_is_refused(train, validation, fault, tmp_path):
    write_rows(tmp_path / "train.jsonl", train)
    write_rows(tmp_path / "validation.jsonl", validation)
    with pytest.raises(InputError, match=fault):
        load_own_examples("wiki", own_data(tmp_path))


def test_missing_doubled_and_unreadable_files_are_refused(tmp_path):
    (tmp_path / "validation.txt").write_text("text")
    with pytest.raises(InputError, match=r"train\.jsonl: no such file"):
        load_own_examples("wiki", own_data(tmp_path))
    (tmp_path / "train.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"train\.txt: not UTF-8"):
        load_own_examples("wiki", own_data(tmp_path))
    write_rows(tmp_path / "train.jsonl", ["text"])
    with pytest.raises(InputError, match=r"both train\.txt and train\.jsonl"):
        load_own_examples("wiki", own_data(tmp_path))


@pytest.mark.parametrize("keys", [{}, {"local": "x", "length": 1}, {"local": "x", "metric": "acc"}])
def test_a_text_has_a_place_and_at_least_two_tokens_per_sequence(keys):
    with pytest.raises(InputError, match=r"tasks\.wiki"):
        parse_section(TaskData, {"kind": "text", **keys}, "tasks.wiki")


@pytest.mark.parametrize("length", [None, 1, "512"])
def test_a_definition_without_a_length_is_refused(length):
    with pytest.raises(InputError, match="wiki: a length of"):
        task_of("wiki", {"kind": "text", "length": length})


def test_the_measured_lengths_are_those_of_sequences():
    task = task_of("wiki", {"kind": "text", "length": 10})
    rows = {"train": [{"text": "a" * 300}, {"text": "b" * 100}], "validation": [{"text": "c" * 30}]}
    lengths = measured_lengths(task, rows)
    # A token is four characters: 400 of them are 10 sequences.
    assert lengths["rows"] == [10, 1]
    assert lengths["mean"] == lengths["long"] == lengths["answer"] == 10
    size = sum(len(json.dumps(row)) + 1 for split in rows for row in rows[split])
    assert lengths["bytes"] == -(-size // 11)
