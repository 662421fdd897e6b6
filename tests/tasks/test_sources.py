"""Sources: the hub's splits and fields (read from a folder of its layout), revisions, and what a manifest says."""

import json
from pathlib import Path

import pytest
from datasets import load_dataset
from sparseft.errors import InputError
from sparseft.files import sha256
from sparseft.tasks import get_task
from sparseft.tasks.source import hub_dataset, load_rows, load_text, loaded_revision
from study import run_script

COMMIT = "e53f048856ff4f594e959d75785d2c2d37b678ee"
BOOLQ = [{"passage": f"Ice {number}.", "question": "is ice cold", "answer": bool(number % 2)} for number in range(6)]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder in which datasets finds ORG/NAME before it asks the hub, and keeps what it reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_super_glue_s_label_is_the_answer(hub):
    rows = [
        {**{key: row[key] for key in ("passage", "question")}, "idx": 3, "label": int(row["answer"])} for row in BOOLQ
    ]
    for split in ("train", "validation", "test"):
        write(hub / "org/boolq" / f"{split}.jsonl", rows)
    found = load_rows(get_task("boolq"), "validation", None, 0, None, "org/boolq")
    assert [{key: row[key] for key in BOOLQ[0]} for row in found] == BOOLQ


@pytest.mark.parametrize("label", [-1, 2, "0", "no"])
def test_a_label_of_the_hub_that_is_none_is_refused(hub, label):
    name = f"org/labels{label}"  # what was read once is kept by its name
    for split in ("train", "validation"):
        write(hub / name / f"{split}.jsonl", [{"passage": "Ice.", "question": "is ice cold", "label": label}])
    with pytest.raises(InputError, match=f"{name}, split validation, row 1: field 'answer' is missing"):
        load_rows(get_task("boolq"), "validation", None, 0, None, name)


def test_a_test_split_stands_for_no_validation_split_but_gsm8k_s(hub):
    for split in ("train", "test"):
        write(hub / "org/unsplit" / f"{split}.jsonl", BOOLQ)
    with pytest.raises(InputError, match="org/unsplit has no split validation, only train, test"):
        load_rows(get_task("boolq"), "validation", None, 0, None, "org/unsplit")


def test_gsm8k_is_validated_on_its_test_split(hub):
    train, test = ([{"question": split, "answer": "#### 1"}] for split in ("train", "test"))
    write(hub / "org/gsm8k/train.jsonl", train)
    write(hub / "org/gsm8k/test.jsonl", test)
    task = get_task("gsm8k")
    assert load_rows(task, "train", None, 0, None, "org/gsm8k") == train
    assert load_rows(task, "validation", None, 0, None, "org/gsm8k@main") == test
    with pytest.raises(InputError, match="gsm8k: 1 validation examples, 2 are asked for; lower validation_examples"):
        load_rows(task, "validation", 2, 0, None, "org/gsm8k")
    with pytest.raises(InputError, match="gsm8k: 0 validation examples are asked for; ask for one or more"):
        load_rows(task, "validation", 0, 0, None, "org/gsm8k")


def test_the_text_of_wikitext2_is_its_test_split(hub):
    for split, words in (("train", "no"), ("test", "yes")):
        write(hub / f"org/wiki/{split}.jsonl", [{"text": f" = {words} = \n"}, {"text": ""}])
    assert load_text(None, "org/wiki") == " = yes = \n\n\n"


def test_off_line_a_kept_data_set_is_taken_at_the_revision_asked_for_alone(hub):
    write(hub / "org/gsm8k/train.jsonl", [{"question": "q", "answer": "#### 1"}])
    dataset = load_dataset("org/gsm8k")
    assert loaded_revision(dataset) is None  # not from the hub
    kept = Path(dataset["train"].cache_files[0]["filename"]).parent
    moved = hub / "cache/elsewhere___gsm8k/default/0.0.0" / COMMIT  # where one lies that came from the hub
    moved.parent.mkdir(parents=True)
    kept.rename(moved)
    for place in ("elsewhere/gsm8k", f"elsewhere/gsm8k@{COMMIT}"):
        assert len(load_rows(get_task("gsm8k"), "train", None, 0, None, place)) == 1
        assert loaded_revision(hub_dataset(place, "tasks.gsm8k", "a folder")) == COMMIT
    other = f"elsewhere/gsm8k@{'0' * 40}"
    with pytest.raises(
        InputError, match=f"^{other} is here at revision {COMMIT} alone; go online, or give tasks.gsm8k.loc"
    ):
        load_rows(get_task("gsm8k"), "train", None, 0, None, other)


def test_off_line_without_local_data_one_line_names_both_ways_out(tmp_path):
    done = run_script("prepare_task.py", "--task", "boolq", "--output_dir", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: aps/super_glue/boolq cannot be had from the hub (")
    assert "; go online, or give tasks.boolq.local: a folder with train.jsonl and validation.jsonl" in done.stderr
    assert not (tmp_path / "out").exists()


def test_training_rows_that_are_validation_rows_are_counted_in_a_warning_and_in_the_manifest(tmp_path):
    files = {"train": write(tmp_path / "in/train.jsonl", BOOLQ),
             "validation": write(tmp_path / "in/validation.jsonl", [{**BOOLQ[2], "answer": True}, BOOLQ[5],
                                                                    {**BOOLQ[0], "question": "is it"}])}  # fmt: skip
    done = run_script(
        "prepare_task.py", "--task", "boolq", "--local", tmp_path / "in", "--output_dir", tmp_path / "out"
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("warning: boolq: 2 of 6 training examples have the prompt of a validation example")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["train_overlap"], manifest["examples"]) == (2, {"train": 6, "validation": 3})
    assert manifest["source"] == {"local": {split: sha256(path) for split, path in files.items()}}
    assert manifest["sha256"] == {split: sha256(tmp_path / f"out/{split}.jsonl") for split in files}


def test_a_generated_task_has_no_overlap_and_no_other_source(tmp_path):
    flags = [
        "--task",
        "boolq_mini",
        "--train_examples",
        8,
        "--validation_examples",
        8,
        "--output_dir",
        tmp_path / "out",
    ]
    done = run_script("prepare_task.py", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["source"], manifest["train_overlap"]) == ({"generated": "boolq_mini"}, 0)
    refused = run_script("prepare_task.py", *flags, "--hub", "org/name")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert (
        "boolq_mini is generated; give train_examples and validation_examples, neither local nor hub" in refused.stderr
    )
