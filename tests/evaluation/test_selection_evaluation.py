"""The selection rows of lm-eval's tasks, and the evaluation of a model on the selection rows of every kind of task."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from hub_cache import publish, write
from project import read_record, succeed
from sparseft.data.prepared import find_task, read_splits
from sparseft.data.selection_rows import read_selection
from sparseft.evaluation.evaluate import evaluate
from sparseft.language_model.model import load_model
from sparseft.records.evaluation_record import SelectionRecord
from sparseft.records.record_file import read_record_file
from sparseft.storage.hashes import sha256
from tiny_models import save_tiny

# lm-eval starts git and tools that describe the machine.
pytestmark = pytest.mark.process
COLOURS = {
    "task": "colours",
    "output_type": "multiple_choice",
    "dataset_path": "org/colours",
    "training_split": "train",
    "validation_split": "validation",
    "doc_to_text": "Thing: {{thing}}\nColour:",
    "doc_to_choice": "{{colours}}",
    "doc_to_target": "right",
    "num_fewshot": 2,
    "fewshot_split": "train",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def colours(word: str, count: int) -> list[dict]:
    """Return rows of the task `colours`."""
    return [
        {"thing": f"{word} {n}", "colours": ["red", f"green {n}", "pale blue"], "right": n % 3} for n in range(count)
    ]


ROWS = {"train": colours("brick", 20), "validation": colours("leaf", 5)}


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch) -> None:
    """Change into a folder with rows of the task `colours`."""
    monkeypatch.chdir(tmp_path)
    for split, rows in ROWS.items():
        write(Path(f"own/{split}.jsonl"), rows)


def prepare(changes: dict | None = None, **flags: object) -> tuple[list[dict], dict]:
    """Prepare the task `colours` with its selection rows; return these rows and their manifest."""
    Path("colours.yaml").write_text(yaml.safe_dump(COLOURS | (changes or {})))
    keys = {"task": "colours", "lm_eval": "colours.yaml", "train_examples": 8}
    keys |= {name: value for name, value in flags.items() if name != "selection_examples"}
    succeed("prepare_task.py", **keys, output_dir="data/colours")
    succeed("prepare_selection.py", **keys | flags, data_dir="data/colours")
    rows = [json.loads(line) for line in Path("data/colours/selection.jsonl").read_text().splitlines()]
    return rows, read_record(Path("data/colours/selection_manifest.json"))


def things(rows: list[dict]) -> list[str]:
    """Return the things that rows are about, sorted."""
    return sorted(row["doc"]["thing"] for row in rows)


def test_rows_of_a_folder_are_unused_training_rows_in_lm_eval_s_words():
    write(Path("own/train.jsonl"), ROWS["train"] + colours("leaf", 3))
    rows, manifest = prepare(local="own", selection_examples=6)
    task = find_task(Path("data/colours"), "colours")
    prepared, digests = read_splits(Path("data/colours"), task)
    assert read_selection(Path("data/colours"), task, digests)[0] == rows
    assert len(rows) == 6
    assert all(row["prompt"] == f"Thing: {row['doc']['thing']}\nColour:" for row in rows)
    assert not set(things(rows)) & set(things(prepared["train"] + prepared["validation"]))
    assert set(things(rows)) <= {row["thing"] for row in ROWS["train"]}
    assert manifest["split"] == "train"


def test_a_file_selection_of_the_folder_is_taken():
    file = write(Path("own/selection.jsonl"), colours("sky", 4) + colours("leaf", 2))
    rows, manifest = prepare(local="own")
    assert things(rows) == [f"sky {n}" for n in range(4)]
    assert (manifest["split"], manifest["source"], manifest["left_out"]) == ("selection", {"local": sha256(file)}, 2)


@pytest.mark.parametrize(("changes", "split"), [
    ({"test_split": "test"}, "validation"),
    ({}, "train"),
    # lm-eval then draws one more worked example than it shows.
    ({"fewshot_split": None}, "train"),
    # A question could stand before itself.
    ({"test_split": "test", "fewshot_split": "validation"}, "train"),
    ({"test_split": "test", "fewshot_split": None, "fewshot_config": {"split": "validation"}}, "train"),
])  # fmt: skip
def test_the_validation_split_of_the_hub_is_taken_if_the_test_split_is_evaluated(hub, changes, split):
    place = "org/colours"
    publish(hub, place, {**ROWS, "test": colours("sea", 6)})
    rows, manifest = prepare(changes)
    assert manifest["split"] == split
    assert things(rows)[0].startswith({"validation": "leaf", "train": "brick"}[split])
    assert len(rows) == {"validation": 5, "train": 6 if "test_split" in changes else 5}[split]


KINDS = {
    "gsm8k_mini": {"train_examples": 12, "validation_examples": 6},
    "notes": {"kind": "text", "local": "notes", "length": 8, "train_examples": 2},
    "colours": {"lm_eval": "colours.yaml", "local": "own", "train_examples": 8},
}


@pytest.mark.parametrize("name", KINDS)
def test_the_record_is_the_evaluation_of_the_selection_rows(tmp_path, name):
    model = save_tiny("llama", tmp_path / "m", torch.float32)
    Path("colours.yaml").write_text(yaml.safe_dump(COLOURS))
    write(Path("notes/train.jsonl"), [{"text": f"Note {n} says that {n} is less than {n + 1}. "} for n in range(6)])
    write(Path("notes/validation.jsonl"), [{"text": "Another note, which is a bit longer than the others are."}])
    folder = Path("data") / name
    succeed("prepare_task.py", task=name, **KINDS[name], output_dir=folder)
    succeed("prepare_selection.py", task=name, **KINDS[name], data_dir=folder)
    flags = {"checkpoint": model, "task": name, "data_dir": folder, "batch_size": 2}
    succeed("evaluate.py", **flags, split="selection", output="selection.json")
    task = find_task(folder, name)
    prepared, digests = read_splits(folder, task)
    rows = read_selection(folder, task, digests)[0]
    expected = evaluate(
        *load_model(model, torch.device("cpu")), task, {"train": prepared["train"], "validation": rows}, 2
    )
    record = read_record(Path("selection.json"))
    assert {key: record[key] for key in expected} == expected
    assert {key: digest for key, digest in record["inputs"].items() if digest and key != "model"} == {
        "data": sha256(folder / "selection.jsonl"), **digests
    }  # fmt: skip
    checked = read_record_file(Path("selection.json"), SelectionRecord)
    assert (checked.split, checked.value, checked.examples) == ("selection", expected["value"], expected["examples"])
