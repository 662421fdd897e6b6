"""Rows from the hub, for which its cache stands in, from a local folder, and from a generator."""

import re
from pathlib import Path

import pytest
from datasets import load_dataset
from hub_cache import COMMIT, publish, write
from project import call_script, refused, succeed
from sparseft.axes.tasks import BY_NAME, TASKS, instruction
from sparseft.axes.tasks.task import MANIFESTS, SPLITS, Lengths
from sparseft.common.errors import InputError
from sparseft.data.loading import load_examples, load_rows, loaded_revision, measured_lengths, own_task
from sparseft.data.settings import HUB_DATA, WIKITEXT2_PLACE, TaskData
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json

BOOLQ = [{"passage": f"Ice {number}.", "question": "is ice cold", "answer": bool(number % 2)} for number in range(6)]
LABELLED = [{"passage": row["passage"], "question": row["question"], "label": int(row["answer"])} for row in BOOLQ]
GSM8K = {split: [{"question": split, "answer": "#### 1"}] for split in ("train", "test")}


def test_super_glue_s_label_is_the_answer(hub):
    publish(hub, "org/rows", dict.fromkeys(("train", "validation"), LABELLED))
    rows, source = load_rows(BY_NAME["boolq"], "validation", TaskData(hub="org/rows@main"))
    assert [{key: row[key] for key in BOOLQ[0]} for row in rows] == BOOLQ
    assert source == {"hub": "org/rows", "revision": COMMIT}


def test_only_gsm8k_takes_a_test_split_for_a_missing_validation_split(hub):
    publish(hub, "org/gsm8k", GSM8K)
    assert load_rows(BY_NAME["gsm8k"], "validation", TaskData(hub="org/gsm8k@main"))[0] == GSM8K["test"]
    publish(hub, "org/unsplit", {"train": BOOLQ, "test": BOOLQ})
    with pytest.raises(InputError, match="org/unsplit .*split validation, .*train, test"):
        load_rows(BY_NAME["boolq"], "validation", TaskData(hub="org/unsplit"))


def test_a_task_of_text_takes_the_texts_of_a_data_set(hub):
    publish(hub, "org/texts", {split: [{"text": split, "url": "u"}] * 3 for split in SPLITS})
    data = TaskData(kind="text", hub="org/texts@main", train_examples=2)
    examples = load_examples(own_task("wiki", data), data)
    assert examples.rows == {"train": [{"text": "train"}] * 2, "validation": [{"text": "validation"}] * 3}


def chat(*turns: str) -> dict:
    roles = ["system", *("user", "assistant") * (len(turns) // 2)]
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, ["", *turns], strict=True)]}


@pytest.mark.parametrize(("rows", "name"), [
    ([{"prompt": f"Q{n}: ", "response": f"\nA{n}"} for n in range(4)], "response"),
    ([chat("Q0", "A0"), chat("Q1", "A1", "Q2", "A2")], "messages"),
])  # fmt: skip
def test_rows_of_instructions_stay_as_they_are_written_and_the_first_decides_the_format(rows, name, tmp_path):
    for split in SPLITS:
        write(tmp_path / f"{split}.jsonl", rows)
    data = TaskData(kind="instruction", local=str(tmp_path))
    examples = load_examples(own_task("mine", data), data)
    assert examples.rows == {"train": rows, "validation": rows}
    assert examples.task.definition == {"kind": "instruction", "format": name}
    # In another order of its keys.
    again = instruction.task_of("mine", dict(reversed(examples.task.definition.items())))
    assert again.definition_sha256 == examples.task.definition_sha256


def test_a_text_is_one_split_of_a_data_set_or_a_file(hub):
    publish(hub, "org/wiki", {split: [{"text": f" = {split} = \n"}, {"text": ""}] for split in ("train", "test")})
    rows = write(Path("rows.jsonl"), [{"text": "one"}, {"text": "two"}])
    for text, flags, content, source in (
        ("hub:org/wiki", {"split": "test"}, " = test = \n\n\n", {"hub": "org/wiki", "revision": COMMIT}),
        (f"hub:org/wiki@{COMMIT}", {}, " = train = \n\n\n", {"hub": "org/wiki", "revision": COMMIT}),
        (rows, {"split": "test"}, "one\n\ntwo", {"local": sha256(rows)}),
    ):
        succeed("prepare_text.py", text=text, **flags, output="w.txt")
        assert Path("w.txt").read_text() == content
        assert read_json("w.txt.json") == {"source": source, "sha256": sha256("w.txt")}


def test_one_file_of_a_data_set_is_its_split_train(hub, monkeypatch):
    for part in ("en/part.0.jsonl", "de/part.0.jsonl"):
        write(hub / "made" / part, [{"text": part, "url": "u"}])
    # A folder stands in for the repository. `datasets` reads the files of both in the same way.
    monkeypatch.setattr("datasets.load_dataset", lambda place, **flags: load_dataset(str(hub / "made"), **flags))
    succeed("prepare_text.py", text=f"hub:org/parts/en/part.0.jsonl@{COMMIT}", output="c4.jsonl")
    assert read_json("c4.jsonl") == {"text": "en/part.0.jsonl"}


def test_a_folder_that_is_named_as_a_data_set_is_not_taken_for_it_nor_the_data_set_for_a_folder(hub):
    write(hub / "org/here/train.jsonl", GSM8K["train"])
    with pytest.raises(InputError, match=f"^org/here@{COMMIT}: .*folder .*name"):
        load_rows(BY_NAME["gsm8k"], "train", TaskData(hub=f"org/here@{COMMIT}"))
    publish(hub, "org/there", GSM8K)
    with pytest.raises(FileNotFoundError, match="org/there/train.jsonl"):
        load_rows(BY_NAME["gsm8k"], "train", TaskData(local="org/there"))


def test_offline_a_data_set_in_the_cache_is_used_only_at_the_requested_revision(hub):
    made = write(hub / "made/train.jsonl", GSM8K["train"])
    assert loaded_revision(load_dataset(str(made.parent))) is None  # not from the hub
    publish(hub, "elsewhere/gsm8k", GSM8K)
    assert load_rows(BY_NAME["gsm8k"], "train", TaskData(hub=f"elsewhere/gsm8k@{COMMIT}"))[0] == GSM8K["train"]
    other = f"elsewhere/gsm8k@{'0' * 40}"
    with pytest.raises(InputError, match=rf"^{other}: .*{COMMIT}; .*tasks\.gsm8k\.local"):
        load_rows(BY_NAME["gsm8k"], "train", TaskData(hub=other))


def test_the_manifest_has_the_source_the_digests_and_the_share_of_validation_rows_that_are_training_rows(tmp_path):
    others = [{**BOOLQ[0], "question": "is it"}, {**BOOLQ[0], "passage": "Snow."}]
    rows = {"train": BOOLQ, "validation": [{**BOOLQ[2], "answer": True}, BOOLQ[5], *others]}
    files = {split: write(tmp_path / f"in/{split}.jsonl", part) for split, part in rows.items()}
    said = succeed("prepare_task.py", task="boolq", local=tmp_path / "in", output_dir=tmp_path / "out")
    assert said.startswith("warning: boolq: 50 % of the validation examples also occur in the training rows; ")
    manifests = {split: read_json(tmp_path / "out" / MANIFESTS[split]) for split in files}
    assert manifests["validation"]["validation_overlap"] == 0.5
    for (split, manifest), number in zip(manifests.items(), (6, 4), strict=True):
        assert manifest["examples"] == {split: number}
        assert manifest["source"] == {"local": sha256(files[split])}
        assert manifest["sha256"] == {split: sha256(tmp_path / f"out/{split}.jsonl")}


@pytest.mark.parametrize("name", ["boolq_mini", "gsm8k_mini", "hellaswag_mini", "boolq"])
def test_rows_follow_the_seed_and_more_validation_rows_change_no_training_row(tmp_path, name):
    for split in SPLITS:
        rows = [{"passage": f"{split} {n}", "question": "q", "answer": True} for n in range(20)]
        write(tmp_path / f"{split}.jsonl", rows)
    source = {"local": str(tmp_path)} if name == "boolq" else {}
    few, many, other = (
        load_examples(BY_NAME[name], TaskData(train_examples=12, validation_examples=number, seed=seed, **source)).rows
        for number, seed in ((6, 0), (12, 0), (12, 1))
    )
    assert few["train"] == many["train"] != other["train"]
    assert [len(many[split]) for split in SPLITS] == [12, 12]


def test_validation_rows_are_prepared_beside_their_training_rows_and_refused_beside_others(tmp_path):
    flags = {"task": "boolq_mini", "train_examples": 8, "output_dir": tmp_path}
    succeed("prepare_task.py", **flags, validation_examples=4, splits="train")
    train = tmp_path / "train.jsonl"
    status, names = train.stat(), {path.name for path in tmp_path.iterdir()}
    assert "validation.jsonl" not in names
    for number in (4, 6):
        succeed("prepare_task.py", **flags, validation_examples=number, splits="validation")
    assert (train.stat().st_mtime_ns, train.stat().st_ino) == (status.st_mtime_ns, status.st_ino)
    assert read_json(tmp_path / "validation_manifest.json")["examples"] == {"validation": 6}
    changed = flags | {"train_examples": 9, "validation_examples": 6}
    said = refused(tmp_path, "prepare_task.py", **changed, splits="validation")
    assert "train.jsonl: its source or its flags have changed since" in said


def test_validation_rows_that_are_mostly_training_rows_are_refused_but_for_a_probe(tmp_path):
    write(tmp_path / "in/train.jsonl", [{**row, "question": f"{row['question'].upper()} "} for row in BOOLQ[:4]])
    write(tmp_path / "in/validation.jsonl", BOOLQ)
    flags = {"task": "boolq", "local": tmp_path / "in", "output_dir": tmp_path / "out"}
    code, line = call_script("prepare_task.py", **flags)
    assert code == 2
    assert re.match(r"error: boolq: \d+(\.\d)? % of .* also occur in the training rows; ", line)
    assert not (tmp_path / "out").exists()
    said = succeed("prepare_task.py", only_probe=True, **flags)
    assert said.startswith("warning: boolq: ")
    assert read_json(tmp_path / "out/validation_manifest.json")["validation_overlap"] > 0.5


def test_the_lengths_are_those_of_the_rows():
    task = BY_NAME["boolq"]
    row = {"question": "q", "answer": True}
    lengths = {"train": [40, 120], "validation": [80]}
    rows = {split: [{**row, "passage": "p" * number} for number in numbers] for split, numbers in lengths.items()}
    # A prompt is its passage and 21 characters, and each answer is "yes".
    assert measured_lengths(task, rows) == Lengths(rows=[2, 1], mean=26, long=36, answer=1, choices=2)


def test_every_place_on_the_hub_is_pinned_to_a_commit():
    places = [task.hub for task in TASKS if task.hub] + [WIKITEXT2_PLACE]
    assert len(places) == 4
    for place in places:
        assert re.fullmatch(HUB_DATA, place) and re.fullmatch("[0-9a-f]{40}", place.partition("@")[2])
