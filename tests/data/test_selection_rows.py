"""The selection rows: which rows become them, which are left out, and how a model is evaluated on them."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from hub_cache import COLOURS, COMMIT, colour_row, publish, write
from project import read_record, refused, succeed
from sparseft.axes.tasks import BY_NAME, TASKS
from sparseft.common.errors import InputError
from sparseft.data.overlap import shares_found, texts_of
from sparseft.data.prepared import find_task, read_splits
from sparseft.data.selection_rows import read_selection
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.evaluation_record import SelectionRecord
from sparseft.models.language_model.model import load_model
from sparseft.storage.hashes import sha256
from sparseft.storage.record import write_record
from sparseft.storage.record_file import read_record_file

HUB_COLOURS = COLOURS | {"dataset_path": "org/colours", "description": ""}


def colours(word: str, count: int) -> list[dict]:
    return [colour_row(number, word) for number in range(count)]


ROWS = {"train": colours("brick", 20), "validation": colours("leaf", 5)}
MINI = [task.name for task in TASKS if task.generate]
FOLDER = Path("data/boolq")


def boolq(numbers: range | list[int], word: str = "Ice") -> list[dict]:
    return [{"passage": f"{word} {n}.", "question": "is ice cold", "answer": n % 2 == 0} for n in numbers]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch) -> None:
    """Change into a folder with 20 training rows and 4 validation rows of BoolQ in `own`, and with the task
    `colours`."""
    monkeypatch.chdir(tmp_path)
    write(Path("own/train.jsonl"), boolq(range(20)))
    write(Path("own/validation.jsonl"), boolq(range(4), "Snow"))
    for split, rows in ROWS.items():
        write(Path(f"colours/{split}.jsonl"), rows)
    Path("colours.yaml").write_text(yaml.safe_dump(HUB_COLOURS))


def prepare(task: str = "boolq", **flags: object) -> tuple[list[dict], dict]:
    """Prepare a task and its selection rows; return these rows and their manifest."""
    flags = {"local": "own", "train_examples": 8} | flags
    flags = {name: value for name, value in flags.items() if value is not None}
    succeed("prepare_task.py", task=task, **flags, output_dir=f"data/{task}")
    succeed("prepare_selection.py", task=task, **flags, data_dir=f"data/{task}")
    return rows_of(f"data/{task}/selection.jsonl"), read_record(Path(f"data/{task}/selection_manifest.json"))


def rows_of(path: Path | str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def is_disjoint(task: str, rows: list[dict]) -> bool:
    """Return whether no row occurs in the prepared rows, and none twice."""
    values = BY_NAME[task]
    others = [texts_of(values, split) for split in read_splits(Path(f"data/{task}"), values)[0].values()]
    prompts = {values.prompt(row) for row in rows}
    return len(prompts) == len(rows) and shares_found({"": texts_of(values, rows)}, others) == {"": 0.0}


@pytest.mark.parametrize("name", MINI)
def test_a_mini_task_generates_more_rows_of_its_training_words_and_none_twice(name):
    numbers = {"train_examples": 300, "validation_examples": 50, "local": None}
    rows, manifest = prepare(name, **numbers, selection_examples=400)
    assert len(rows) == manifest["examples"] == 400
    assert is_disjoint(name, rows)
    assert manifest["disjoint_from"] == read_splits(Path(f"data/{name}"), BY_NAME[name])[1]
    assert manifest["sha256"] == sha256(f"data/{name}/selection.jsonl")
    every_row = {json.dumps(row) for seed in range(2) for row in BY_NAME[name].generate("validation", 500, seed)}
    assert not every_row & {json.dumps(row) for row in rows}
    assert prepare(name, **numbers, selection_examples=400)[0] == rows
    assert prepare(name, **numbers, seed=1, selection_examples=400)[0] != rows


def test_the_rows_are_training_rows_that_the_training_does_not_use():
    rows, manifest = prepare(selection_examples=12)
    used = rows_of(FOLDER / "train.jsonl")
    assert sorted(map(str, used + rows)) == sorted(map(str, rows_of("own/train.jsonl")))
    assert (manifest["split"], manifest["source"]) == ("train", {"local": sha256("own/train.jsonl")})
    assert manifest["left_out"] == 0
    # Without a number, there are as many as validation rows, or as are left.
    assert [len(prepare(train_examples=used)[0]) for used in (8, 18)] == [4, 2]


def test_rows_that_repeat_another_one_are_left_out_and_counted():
    # Five rows repeat training rows, and four the validation rows, with another answer or a blank more.
    repeated = [{**row, "answer": not row["answer"]} for row in boolq(range(5))] + boolq(range(4), "Snow ")
    write(Path("own/train.jsonl"), boolq(range(20)) + repeated)
    rows, manifest = prepare(train_examples=10, selection_examples=9)
    assert len(rows) == 9
    assert is_disjoint("boolq", rows)
    assert manifest["left_out"] > 0


def test_a_split_selection_of_the_folder_is_taken_whole_but_for_repeats():
    write(Path("own/selection.jsonl"), boolq(range(7), "Rain") + boolq([1, 1], "Rain") + boolq(range(2), "Snow"))
    rows, manifest = prepare(train_examples=None)
    assert sorted(row["passage"] for row in rows) == [f"Rain {n}." for n in range(7)]
    assert (manifest["split"], manifest["left_out"]) == ("selection", 4)
    assert manifest["source"] == {"local": sha256("own/selection.jsonl")}
    assert len(prepare(train_examples=None, selection_examples=3)[0]) == 3


def test_rows_of_the_hub_come_from_its_split_selection_or_from_its_training_rows(hub):
    splits = {"train": boolq(range(20)), "validation": boolq(range(4), "Snow")}
    publish(hub, "org/two", splits)
    publish(hub, "org/three", splits | {"selection": boolq(range(5), "Rain")})
    rows, manifest = prepare(local=None, hub="org/two")
    assert all(row["passage"].startswith("Ice") for row in rows)
    assert (manifest["split"], manifest["source"]) == ("train", {"hub": "org/two", "revision": COMMIT})
    rows, manifest = prepare(local=None, hub="org/three")
    assert sorted(row["passage"] for row in rows) == [f"Rain {n}." for n in range(5)]
    assert manifest["split"] == "selection"


def test_documents_are_as_much_text_as_the_validation_documents():
    documents = [{"text": f"Document {n} of ten characters or more."} for n in range(20)] + [{"text": ""}]
    write(Path("own/train.jsonl"), documents)
    write(Path("own/validation.jsonl"), [{"text": "One long document. " * 8}])
    rows, manifest = prepare("notes", kind="text", length=4)
    lengths = [len(row["text"]) for row in rows]
    assert sum(lengths) >= 19 * 8 > sum(lengths[:-1])
    assert manifest["split"] == "train"


NOTES = {name: " ".join(f"{name} {n} is not {name} {n + 1}." for n in range(60)) for name in ("train", "validation")}


def write_notes(selection: str) -> None:
    for split, text in (NOTES | {"selection": selection}).items():
        Path(f"own/{split}.jsonl").unlink(missing_ok=True)
        Path(f"own/{split}.txt").write_text(text)


def test_the_share_of_a_selection_text_that_is_other_text_is_recorded_and_at_most_half():
    new = " ".join(f"new {n} is not new {n + 1}." for n in range(60))
    write_notes(new + NOTES["train"][5 : len(NOTES["train"]) // 2])
    assert prepare("notes", kind="text", train_examples=None)[1]["overlap"] == pytest.approx(1 / 3, abs=0.03)
    write_notes(NOTES["validation"][5:])
    said = refused(Path(), "prepare_selection.py", task="notes", kind="text", local="own", data_dir="data/notes")
    assert re.match("error: tasks.notes: .* % of the windows of 13 words of the selection", said)


@pytest.mark.parametrize(("used", "wanted", "fault"), [
    (19, 1, "boolq: one selection example has no standard error"),
    (12, 9, "tasks.boolq: 8 rows are left .*, 9 needed; lower"),
])  # fmt: skip
def test_selection_rows_that_cannot_be_chosen(used, wanted, fault):
    flags = {"task": "boolq", "local": "own", "train_examples": used}
    succeed("prepare_task.py", **flags, output_dir="data")
    said = refused(Path(), "prepare_selection.py", **flags, selection_examples=wanted, data_dir="data")
    assert re.match(f"error: {fault}", said)


def read() -> list[dict]:
    """Read the selection rows of BoolQ as an evaluation does."""
    task = find_task(FOLDER, "boolq")
    return read_selection(FOLDER, task, read_splits(FOLDER, task)[1])[0]


@pytest.mark.parametrize(
    "changes", [{"sha256": "0" * 64}, {"disjoint_from": {"train": "0" * 64, "validation": "0" * 64}}]
)
def test_rows_that_do_not_fit_their_manifest_are_refused(changes):
    assert prepare()[0] == read()
    manifest = FOLDER / "selection_manifest.json"
    write_record(manifest, read_record(manifest) | changes)
    with pytest.raises(InputError, match="not the file that selection_manifest.json records, or chosen beside other"):
        read()


def things(rows: list[dict]) -> list[str]:
    return sorted(row["doc"]["thing"] for row in rows)


@pytest.mark.process
def test_rows_of_a_folder_are_unused_training_rows_in_lm_eval_s_words():
    write(Path("colours/train.jsonl"), ROWS["train"] + colours("leaf", 3))
    rows, manifest = prepare("colours", lm_eval="colours.yaml", local="colours", selection_examples=6)
    task = find_task(Path("data/colours"), "colours")
    prepared, digests = read_splits(Path("data/colours"), task)
    assert read_selection(Path("data/colours"), task, digests)[0] == rows
    assert len(rows) == 6
    assert all(row["prompt"] == f"Thing: {row['doc']['thing'].upper()}\nColour:" for row in rows)
    assert not set(things(rows)) & set(things(prepared["train"] + prepared["validation"]))
    assert set(things(rows)) <= {row["thing"] for row in ROWS["train"]}
    assert manifest["split"] == "train"


@pytest.mark.process
@pytest.mark.parametrize(("changes", "split"), [
    ({"test_split": "test"}, "validation"),
    ({}, "train"),
    # A question could stand before itself.
    ({"test_split": "test", "fewshot_split": "validation"}, "train"),
])  # fmt: skip
def test_the_validation_split_of_the_hub_is_taken_if_the_test_split_is_evaluated(hub, changes, split):
    publish(hub, "org/colours", {**ROWS, "test": colours("sea", 6)})
    Path("colours.yaml").write_text(yaml.safe_dump(HUB_COLOURS | changes))
    rows, manifest = prepare("colours", lm_eval="colours.yaml", local=None)
    assert manifest["split"] == split
    assert things(rows)[0].startswith({"validation": "leaf", "train": "brick"}[split])
    assert len(rows) == {"validation": 5, "train": 6 if "test_split" in changes else 5}[split]


KINDS = {
    "gsm8k_mini": {"train_examples": 12, "validation_examples": 6},
    "notes": {"kind": "text", "local": "notes", "length": 8, "train_examples": 2},
    "colours": {"lm_eval": "colours.yaml", "local": "colours", "train_examples": 8},
}


@pytest.mark.process
@pytest.mark.parametrize("name", KINDS)
def test_the_record_is_the_evaluation_of_the_selection_rows(tiny_models32, name):
    model = tiny_models32["llama"]
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
    loaded = load_model(model, torch.device("cpu"))
    expected = evaluate(*loaded, task, {"train": prepared["train"], "validation": rows}, 2)
    record = read_record(Path("selection.json"))
    assert {key: record[key] for key in expected} == expected
    assert {key: digest for key, digest in record["inputs"].items() if digest and key != "model"} == {
        "data": sha256(folder / "selection.jsonl"), **digests
    }  # fmt: skip
    checked = read_record_file(Path("selection.json"), SelectionRecord)
    assert (checked.split, checked.value, checked.examples) == ("selection", expected["value"], expected["examples"])
