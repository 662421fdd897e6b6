"""Rows from the hub, of which a folder with the layout of its cache stands in, from a local folder, and from a generator."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from hub_cache import COMMIT, publish, write
from project import call_script, run_script, succeed
from sparseft.errors import InputError
from sparseft.storage import atomic
from sparseft.storage.hashes import sha256
from sparseft.study.sources import HUB_DATA, TaskData
from sparseft.tasks import BY_NAME, TASKS, wikitext2
from sparseft.tasks.data_source import load_rows, load_text
from sparseft.tasks.documents import TextPlace, read_documents, recorded_source
from sparseft.tasks.hub import hub_dataset, loaded_revision
from sparseft.tasks.text import load_own_examples

BOOLQ = [{"passage": f"Ice {number}.", "question": "is ice cold", "answer": bool(number % 2)} for number in range(6)]


def test_super_glue_s_label_is_the_answer(hub):
    rows = [
        {**{key: row[key] for key in ("passage", "question")}, "idx": 3, "label": int(row["answer"])} for row in BOOLQ
    ]
    publish(hub, "org/boolq", dict.fromkeys(("train", "validation", "test"), rows))
    found = load_rows(BY_NAME["boolq"], "validation", None, 0, None, "org/boolq")
    assert [{key: row[key] for key in BOOLQ[0]} for row in found] == BOOLQ


@pytest.mark.parametrize("label", [-1, 2, "0", "no"])
def test_a_label_of_the_hub_other_than_0_and_1_is_refused(hub, label):
    name = f"org/labels{label}"  # a name of its own, because a data set is loaded once per name
    rows = [{"passage": "Ice.", "question": "is ice cold", "label": label}]
    publish(hub, name, {"train": rows, "validation": rows})
    with pytest.raises(InputError, match=f"{name}, split validation, row 1: field 'answer'"):
        load_rows(BY_NAME["boolq"], "validation", None, 0, None, name)


def test_only_gsm8k_takes_a_test_split_for_a_missing_validation_split(hub):
    publish(hub, "org/unsplit", {"train": BOOLQ, "test": BOOLQ})
    with pytest.raises(InputError, match="org/unsplit .*split validation, .*train, test"):
        load_rows(BY_NAME["boolq"], "validation", None, 0, None, "org/unsplit")


def test_gsm8k_is_validated_on_its_test_split(hub):
    train, test = ([{"question": split, "answer": "#### 1"}] for split in ("train", "test"))
    publish(hub, "org/gsm8k", {"train": train, "test": test})
    task = BY_NAME["gsm8k"]
    assert load_rows(task, "train", None, 0, None, "org/gsm8k") == train
    assert load_rows(task, "validation", None, 0, None, "org/gsm8k@main") == test
    with pytest.raises(InputError, match="gsm8k: 1 validation examples, 2 .*validation_examples"):
        load_rows(task, "validation", 2, 0, None, "org/gsm8k")
    with pytest.raises(InputError, match="gsm8k: 0 validation examples"):
        load_rows(task, "validation", 0, 0, None, "org/gsm8k")


def test_a_task_of_text_takes_the_texts_of_a_data_set(hub):
    rows = {split: [{"text": f"{split} {n}", "url": "u"} for n in range(3)] for split in ("train", "validation")}
    publish(hub, "org/texts", rows)
    examples = load_own_examples("wiki", TaskData(kind="text", hub="org/texts@main", train_examples=2))
    assert examples.rows["validation"] == [{"text": f"validation {n}"} for n in range(3)]
    assert len(examples.rows["train"]) == 2
    assert examples.source == {"hub": "org/texts", "revision": COMMIT}
    publish(hub, "org/documents", {split: [{"document": "d"}] for split in rows})
    with pytest.raises(InputError, match="org/documents, split train, row 1: field 'text' is missing"):
        load_own_examples("wiki", TaskData(kind="text", hub="org/documents"))


def test_the_text_of_wikitext2_is_its_test_split(hub):
    publish(hub, "org/wiki", {split: [{"text": f" = {split} = \n"}, {"text": ""}] for split in ("train", "test")})
    assert load_text(None, "org/wiki") == " = test = \n\n\n"
    publish(hub, "org/pages", {"train": [{"page": "a"}], "test": [{"page": "a"}]})
    with pytest.raises(InputError, match="org/pages, split test, row 1: field 'text'"):
        load_text(None, "org/pages")
    publish(hub, "org/lone", {"train": [{"text": "a"}]})
    with pytest.raises(InputError, match="org/lone .*split test, .*train"):
        load_text(None, "org/lone")


def test_a_calibration_text_on_the_hub_is_its_split_train(hub):
    publish(hub, "org/pile", {split: [{"text": f"{split} text"}] for split in ("train", "test")})
    succeed("prepare_text.py", text=f"hub:org/pile@{COMMIT}", output=hub / "data/calibration_pile.jsonl")
    documents, digest = read_documents(hub / "data/calibration_pile.jsonl")
    assert documents == ["train text"]
    source = recorded_source(hub / "data/calibration_pile.jsonl", digest)
    assert source == {"hub": "org/pile", "revision": COMMIT}


def test_one_file_of_a_data_set_is_its_split_train(hub, monkeypatch):
    for part in ("en/part.0.jsonl", "de/part.0.jsonl"):
        write(hub / "made" / part, [{"text": part, "url": "u"}])
    # A folder stands in for the repository. `datasets` reads the files of both in the same way.
    monkeypatch.setattr("datasets.load_dataset", lambda place, **flags: load_dataset(str(hub / "made"), **flags))
    place = TextPlace(None, f"org/parts/en/part.0.jsonl@{COMMIT}", "train", "masks.calibration.c4.text")
    assert place.documents() == ["en/part.0.jsonl"]


@pytest.mark.parametrize("place", ["org/here", "./here", f"org/here@{COMMIT}"])
def test_a_folder_that_is_named_as_a_data_set_is_not_taken_for_it(hub, place):
    write(hub / "org/here/train.jsonl", [{"question": "q", "answer": "#### 1"}])
    write(hub / "here/train.jsonl", [{"question": "q", "answer": "#### 1"}])
    with pytest.raises(InputError, match=f"^{place}: .*folder .*name"):
        load_rows(BY_NAME["gsm8k"], "train", None, 0, None, place)


def test_a_data_set_is_not_taken_for_a_folder_of_its_name(hub):
    publish(hub, "org/gsm8k", {"train": [{"question": "q", "answer": "#### 1"}]})
    with pytest.raises(InputError, match="^org/gsm8k/train.jsonl: no such"):
        load_rows(BY_NAME["gsm8k"], "train", None, 0, Path("org/gsm8k"))


def test_every_place_on_the_hub_is_pinned_to_a_commit():
    places = [task.hub for task in TASKS if task.hub] + [wikitext2.PLACE]
    assert len(places) == 1 + sum(task.generate is None for task in TASKS) > 1
    assert all(
        re.fullmatch(HUB_DATA, place) and re.fullmatch("[0-9a-f]{40}", place.partition("@")[2]) for place in places
    )


def test_offline_a_data_set_in_the_cache_is_used_only_at_the_requested_revision(hub):
    made = write(hub / "made/train.jsonl", [{"question": "q", "answer": "#### 1"}])
    assert loaded_revision(load_dataset(str(made.parent))) is None  # not from the hub
    publish(hub, "elsewhere/gsm8k", {"train": [{"question": "q", "answer": "#### 1"}]})
    for place in ("elsewhere/gsm8k", f"elsewhere/gsm8k@{COMMIT}"):
        assert len(load_rows(BY_NAME["gsm8k"], "train", None, 0, None, place)) == 1
        assert loaded_revision(hub_dataset(place, "tasks.gsm8k.local", "a folder")) == COMMIT
    other = f"elsewhere/gsm8k@{'0' * 40}"
    with pytest.raises(InputError, match=rf"^{other}: .*{COMMIT}; .*tasks\.gsm8k\.local"):
        load_rows(BY_NAME["gsm8k"], "train", None, 0, None, other)


def test_offline_without_local_data_the_error_names_both_remedies(tmp_path):
    done = run_script("prepare_task.py", "--task", "boolq", "--output_dir", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"error: {BY_NAME['boolq'].hub} ")
    assert re.search(r"; .*online.*tasks\.boolq\.local.*train\.jsonl", done.stderr)
    assert not (tmp_path / "out").exists()


def test_the_share_of_validation_rows_that_are_training_rows_is_in_a_warning_and_in_the_manifest(tmp_path):
    others = [{**BOOLQ[0], "question": "is it"}, {**BOOLQ[0], "passage": "Snow."}]
    files = {"train": write(tmp_path / "in/train.jsonl", BOOLQ),
             "validation": write(tmp_path / "in/validation.jsonl", [{**BOOLQ[2], "answer": True}, BOOLQ[5], *others])}  # fmt: skip
    done = run_script(
        "prepare_task.py", "--task", "boolq", "--local", tmp_path / "in", "--output_dir", tmp_path / "out"
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("warning: boolq: 50 % of the validation examples also occur in the training rows; ")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["validation_overlap"], manifest["examples"]) == (0.5, {"train": 6, "validation": 4})
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
    assert (manifest["source"], manifest["validation_overlap"]) == ({"generated": "boolq_mini"}, 0)
    refused = run_script("prepare_task.py", *flags, "--hub", "org/name")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "boolq_mini is generated" in refused.stderr


SENTENCES = " ".join(f"Sentence {n} is about the number {n}." for n in range(60))
LEAKS = {
    "a text, shifted by five characters": ("notes", SENTENCES, SENTENCES[5:]),
    "a text with one blank more": ("notes", SENTENCES, SENTENCES.replace(" ", "  ", 1)),
    "a text among others": ("notes", SENTENCES, f"{SENTENCES[::-1]} {SENTENCES} {SENTENCES[::-1]}"),
    "a prompt with a blank more": ("boolq", BOOLQ, [{**row, "passage": f"{row['passage']} "} for row in BOOLQ]),
    "a prompt in capitals": ("boolq", BOOLQ, [{**row, "question": row["question"].upper()} for row in BOOLQ]),
    "most prompts": ("boolq", BOOLQ, [*BOOLQ[:4], {**BOOLQ[4], "question": "is it"}]),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_validation_rows_that_are_mostly_training_rows_are_refused_unless_nothing_is_trained(tmp_path, leak):
    name, validation, train = LEAKS[leak]
    for split, content in (("train", train), ("validation", validation)):
        rows = [{"text": content}] if isinstance(content, str) else content
        write(tmp_path / f"in/{split}.jsonl", rows)
    flags = {"task": name, "local": tmp_path / "in", "train_examples": None, "validation_examples": None}
    flags |= {"kind": "text"} if name == "notes" else {}
    line = refused_preparation(tmp_path, **flags)
    assert re.match(rf"error: {name}: \d+(\.\d)? % of .* also occur in the training rows; ", line)
    flags = {flag: value for flag, value in flags.items() if value is not None}
    code, said = call_script("prepare_task.py", "--only_probe", **flags, output_dir=tmp_path / "out")
    assert (code, said.startswith(f"warning: {name}: ")) == (0, True)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["validation_overlap"] > 0.5


def refused_preparation(folder: Path, name: str = "prepare_task.py", **flags: object) -> str:
    """Run a script that must refuse its input and change no file; return what it writes to stderr."""
    if name == "prepare_task.py":
        flags = {
            "task": "boolq_mini",
            "train_examples": 8,
            "validation_examples": 8,
            "output_dir": folder / "out",
        } | flags
    before = sorted((path, path.is_file() and path.read_bytes()) for path in folder.rglob("*"))
    done = run_script(
        name, *(part for flag, value in flags.items() if value is not None for part in (f"--{flag}", value))
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert sorted((path, path.is_file() and path.read_bytes()) for path in folder.rglob("*")) == before
    return done.stderr


@pytest.mark.parametrize("name", ["train.jsonl", "validation.jsonl", "manifest.json"])
def test_no_file_is_written_if_one_of_them_cannot_be(tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out/other").write_text("mine")
    assert f"error: {tmp_path}/out/{name}: no file can be written there; check the" in refused_preparation(tmp_path)


def test_a_disk_that_is_full_after_the_first_file_leaves_no_file(tmp_path):
    script = Path(__file__).parents[2] / "workflow/scripts/prepare_task.py"
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    flags = [
        "--task",
        "boolq_mini",
        "--train_examples",
        "8",
        "--validation_examples",
        "200",
        "--output_dir",
        tmp_path / "out",
    ]
    done = subprocess.run([sys.executable, "-c", limited, script, *flags], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "File too large" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_below_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").write_text("a file, not a folder")
    line = refused_preparation(tmp_path, task="boolq", local=tmp_path / "nowhere", train_examples=None)
    assert line.startswith(f"error: {tmp_path}/out/train.jsonl: no file ")
    line = refused_preparation(
        tmp_path, "prepare_wikitext2.py", local=tmp_path / "nowhere", output=tmp_path / "out/w.txt"
    )
    assert line.startswith(f"error: {tmp_path}/out/w.txt: no file ")


@pytest.mark.parametrize(("flags", "fault"), [
    ({"local": "in", "hub": "org/boolq"}, "--local and hub"),
    ({"hub": "boolq"}, "--hub: .*pattern"),
    ({"local": ""}, "--local: .*at least 1 character"),
    ({"train_examples": "many"}, "--train_examples: .*integer.*'many'"),
    ({"seed": -1}, "--seed: .*equal to 0"),
])  # fmt: skip
def test_flags_are_checked_as_the_configuration_is(tmp_path, flags, fault):
    assert re.match(f"error: {fault}", refused_preparation(tmp_path, task="boolq", **flags))


def test_the_text_of_a_perplexity_has_its_source_beside_it(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"text": "one"}, {"text": "two"}])
    done = run_script("prepare_wikitext2.py", "--local", rows, "--output", tmp_path / "w.txt")
    assert (done.returncode, done.stderr, (tmp_path / "w.txt").read_text()) == (0, "", "one\n\ntwo")
    source = json.loads((tmp_path / "w.txt.json").read_text())
    assert source == {"source": {"local": sha256(rows)}, "sha256": sha256(tmp_path / "w.txt")}


def test_a_source_that_cannot_be_synced_keeps_the_older_text_and_its_source(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    flags = {"local": rows, "output": tmp_path / "w.txt"}
    write(rows, [{"text": "older"}])
    succeed("prepare_wikitext2.py", **flags)
    before = [(tmp_path / name).read_bytes() for name in ("w.txt", "w.txt.json")]
    write(rows, [{"text": "newer"}])
    sync = atomic._sync

    def full(path: Path) -> None:
        if "w.txt.json" in path.name:
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(atomic, "_sync", full)
    code, said = call_script("prepare_wikitext2.py", **flags)
    assert (code, "No space left" in said) == (2, True)
    assert [(tmp_path / name).read_bytes() for name in ("w.txt", "w.txt.json")] == before


def test_the_text_of_a_perplexity_does_not_replace_a_file_of_somebody_else(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"text": "one"}])
    (tmp_path / "w.txt").write_text("mine")
    line = refused_preparation(tmp_path, "prepare_wikitext2.py", local=rows, output=tmp_path / "w.txt")
    assert line.startswith(f"error: {tmp_path}/w.txt: a file that would be lost; ")


def test_wikitext2_has_one_source_on_the_command_line_too(tmp_path):
    flags = {"local": tmp_path / "w.jsonl", "hub": "org/wiki", "output": tmp_path / "w.txt"}
    line = refused_preparation(tmp_path, "prepare_wikitext2.py", **flags)
    assert line.startswith("error: --local and hub")


@pytest.mark.parametrize(("train", "validation", "fault"), [
    (4, 2, "gsm8k: 4 training examples, 5 "),
    (5, 1, "gsm8k: one validation example "),
])  # fmt: skip
def test_too_few_rows_for_an_evaluation_are_refused_before_any_training(tmp_path, train, validation, fault):
    for split in ("train", "validation"):
        write(tmp_path / f"in/{split}.jsonl", [{"question": f"{split} {n}", "answer": "#### 1"} for n in range(9)])
    flags = {"task": "gsm8k", "local": tmp_path / "in", "train_examples": train, "validation_examples": validation}
    assert fault in refused_preparation(tmp_path, **flags)
