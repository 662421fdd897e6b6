"""The lengths of a task's examples: from the prepared data, from local files, or typical ones."""

import json
from pathlib import Path

import pytest
from project import laid_over
from sparseft.planning.lengths import FROM_FILES, MEASURED, TYPICAL, TaskLengths, task_lengths
from sparseft.tasks import BY_NAME
from sparseft.tasks.measured_lengths import measured_lengths


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch) -> Path:
    """Change into the folder of an empty study, and return it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_manifest_has_the_measured_lengths(study):
    task = BY_NAME["boolq_mini"]
    rows = {split: task.generate(split, 40, 0) for split in ("train", "validation")}
    recorded = measured_lengths(task, rows)
    manifest = study / "data/boolq_mini/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"task": "boolq_mini", "lengths": recorded}))
    lengths = task_lengths(laid_over({"grid": {"tasks": ["boolq_mini"]}}), "boolq_mini")
    characters = [len(f"{task.prompt(row)}{task.answer(row)}") for split in rows.values() for row in split]
    assert lengths.origin == MEASURED
    assert (lengths.rows, lengths.choices, lengths.few_shot) == ((40, 40), 2, 0)
    assert lengths.mean == -(-sum(characters) // (4 * len(characters)))
    assert max(characters) / 4 - 1 < lengths.long <= max(characters) / 4 + 1


def test_a_manifest_of_another_version_counts_as_none(study):
    manifest = study / "data/boolq_mini/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"task": "boolq_mini"}))
    assert task_lengths(laid_over({"grid": {"tasks": ["boolq_mini"]}}), "boolq_mini").origin == TYPICAL


def test_a_built_in_task_has_its_typical_lengths_and_the_rows_of_its_files(study):
    write_rows(study / "mine", [{"question": "?", "answer": "#### 1"}] * 3)
    typical = BY_NAME["gsm8k"]
    lengths = task_lengths(laid_over({"tasks": {"gsm8k": {"local": "mine"}}}), "gsm8k")
    assert (lengths.rows, lengths.mean, lengths.few_shot) == ((3, 3), typical.lengths.mean, typical.few_shot)
    assert lengths.bytes == (study / "mine/train.jsonl").stat().st_size // 3


def test_the_files_of_a_task_of_one_s_own_give_its_lengths(study):
    write_rows(study / "chats", [{"prompt": "p" * 196, "response": "r" * 171}] * 5)
    lengths = task_lengths(laid_over({"tasks": {"chats": {"kind": "instruction", "local": "chats"}}}), "chats")
    row_bytes = (study / "chats/train.jsonl").stat().st_size // 5
    assert (lengths.origin, lengths.rows, lengths.bytes) == (FROM_FILES, (5, 5), row_bytes)
    assert (lengths.mean, lengths.choices) == (row_bytes // 4, 0)


def test_a_text_is_cut_into_sequences_of_its_length(study):
    (study / "book").mkdir()
    (study / "book/train.txt").write_text("x" * 4000)
    (study / "book/validation.txt").write_text("x" * 800)
    config = laid_over({"tasks": {"book": {"kind": "text", "local": "book", "length": 100}}})
    lengths = task_lengths(config, "book")
    assert lengths == TaskLengths(rows=(10, 2), bytes=400, mean=100, long=100, answer=100, choices=0)
