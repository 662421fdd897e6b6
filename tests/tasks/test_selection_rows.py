"""The selection rows: which rows become them, which are left out, and what is refused."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_cache import COMMIT, publish, write
from project import ROOT, call_script, succeed
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.storage.record import read_record, write_record
from sparseft.study.config import TaskData
from sparseft.tasks import BY_NAME, TASKS
from sparseft.tasks.prepared import find_task, read_splits
from sparseft.tasks.selection_rows import choose_selection, load_candidates, read_selection, shared_rows

MINI = [task.name for task in TASKS if task.generate]
FOLDER = Path("data/boolq")


def boolq(numbers: range | list[int], word: str = "Ice") -> list[dict]:
    """Return rows of BoolQ with these numbers in their passages."""
    return [{"passage": f"{word} {n}.", "question": "is ice cold", "answer": n % 2 == 0} for n in numbers]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch) -> None:
    """Change into a folder with 20 training rows and 4 validation rows of BoolQ in `own`."""
    monkeypatch.chdir(tmp_path)
    write(Path("own/train.jsonl"), boolq(range(20)))
    write(Path("own/validation.jsonl"), boolq(range(4), "Snow"))


def prepare(task: str = "boolq", **flags: object) -> tuple[list[dict], dict]:
    """Prepare a task and its selection rows; return these rows and their manifest."""
    flags = {"local": "own", "train_examples": 8} | flags
    flags = {name: value for name, value in flags.items() if value is not None}
    without = {name: value for name, value in flags.items() if name != "selection_examples"}
    succeed("prepare_task.py", task=task, **without, output_dir=f"data/{task}")
    succeed("prepare_selection.py", task=task, **flags, data_dir=f"data/{task}")
    return rows_of(f"data/{task}/selection.jsonl"), read_record(Path(f"data/{task}/selection_manifest.json"))


def refused(task: str = "boolq", **flags: object) -> str:
    """Prepare a task; return the line with which its selection rows are refused. Nothing may be written."""
    flags = {"local": "own"} | flags
    succeed("prepare_task.py", task=task, **flags, output_dir=f"data/{task}")
    before = sorted(Path(f"data/{task}").iterdir())
    code, line = call_script("prepare_selection.py", task=task, **flags, data_dir=f"data/{task}")
    assert (code, line.count("\n"), sorted(Path(f"data/{task}").iterdir())) == (2, 1, before)
    return line


def rows_of(path: Path | str) -> list[dict]:
    """Return the rows of a .jsonl file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("name", MINI)
def test_a_mini_task_generates_more_rows_of_its_training_words_and_none_twice(name):
    numbers = {"train_examples": 300, "validation_examples": 50, "local": None}
    rows, manifest = prepare(name, **numbers, selection_examples=400)
    task = BY_NAME[name]
    prepared, digests = read_splits(Path(f"data/{name}"), task)
    assert len(rows) == len({task.prompt(row) for row in rows}) == manifest["examples"] == 400
    assert shared_rows(task, rows, prepared) == {}
    assert manifest["disjoint_from"] == digests
    assert manifest["sha256"] == sha256(f"data/{name}/selection.jsonl")
    every_row = {json.dumps(row) for seed in range(2) for row in task.generate("validation", 500, seed)}
    assert not every_row & {json.dumps(row) for row in rows}
    assert prepare(name, **numbers, selection_examples=400)[0] == rows
    assert prepare(name, **numbers, seed=1, selection_examples=400)[0] != rows


def test_the_training_and_the_validation_rows_keep_their_bytes():
    succeed("prepare_task.py", task="boolq", local="own", train_examples=8, output_dir=FOLDER)
    before = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    prepare()
    after = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert after.keys() - before.keys() == {"selection.jsonl", "selection_manifest.json"}
    assert {name: after[name] for name in before} == before


def test_the_rows_are_training_rows_that_the_training_does_not_use():
    rows, manifest = prepare(selection_examples=12)
    used = rows_of(FOLDER / "train.jsonl")
    order = {row["passage"]: row for row in rows_of("own/train.jsonl")}
    assert sorted(map(str, used + rows)) == sorted(map(str, order.values()))
    assert (manifest["split"], manifest["source"]) == ("train", {"local": sha256("own/train.jsonl")})
    assert manifest["left_out"] == 0


def test_without_a_number_there_are_as_many_as_validation_rows():
    assert len(prepare()[0]) == 4
    code, printed = call_script("prepare_selection.py", task="boolq", local="own", train_examples=18, data_dir=FOLDER)
    assert code == 0
    assert printed.startswith("warning: boolq: only 2 rows for the split selection, and 4 for validation")


def test_rows_that_repeat_another_one_are_left_out_and_counted():
    repeated = boolq(range(20))
    # Rows 20 to 24 repeat training rows, and rows 25 to 28 the validation rows.
    write(Path("own/train.jsonl"), repeated + repeated[:5] + boolq(range(4), "Snow"))
    rows, manifest = prepare(train_examples=10, selection_examples=9)
    task = BY_NAME["boolq"]
    assert shared_rows(task, rows, read_splits(FOLDER, task)[0]) == {}
    assert len({task.prompt(row) for row in rows}) == 9
    prepared = read_splits(FOLDER, task)[0]
    candidates = load_candidates(task, TaskData(local="own", train_examples=10), prepared)
    assert choose_selection(task, candidates, prepared, 9).left_out == manifest["left_out"] > 0
    distinct = {task.prompt(row) for row in repeated} - {task.prompt(row) for row in prepared["train"]}
    with pytest.raises(InputError, match=rf"boolq: {len(distinct)} rows are left .*, 19 are asked for"):
        choose_selection(task, candidates, prepared, 19)


def test_a_split_selection_of_the_folder_is_taken_whole_but_for_repeats():
    write(Path("own/selection.jsonl"), boolq(range(7), "Rain") + boolq([1, 1], "Rain") + boolq(range(2), "Snow"))
    rows, manifest = prepare(train_examples=None)
    assert sorted(row["passage"] for row in rows) == [f"Rain {n}." for n in range(7)]
    assert (manifest["split"], manifest["left_out"]) == ("selection", 4)
    assert manifest["source"] == {"local": sha256("own/selection.jsonl")}
    assert len(prepare(train_examples=None, selection_examples=3)[0]) == 3


@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("cheat", ["train", "validation"])
def test_a_split_selection_that_is_mostly_another_split_with_a_blank_more_is_refused(cheat, others):
    rows = [{**row, "passage": f"{row['passage']} "} for row in rows_of(f"own/{cheat}.jsonl")]
    write(Path("own/selection.jsonl"), rows + boolq(range(others), "Rain"))
    line = refused()
    if others:
        assert (
            f"{len(rows)} of {len(rows) + 3} rows of the split selection also occur in the training or validation rows"
            in line
        )
    else:
        assert "no row is left for the split selection, because all" in line
        assert "set tasks.boolq.train_examples to a smaller number" in line


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_selection_text_that_is_mostly_another_text_is_refused_and_a_smaller_share_is_recorded(split):
    texts = {
        name: " ".join(f"{name} {n} is not {name} {n + 1}." for n in range(60))
        for name in ("train", "validation", "new")
    }
    for name in ("train", "validation"):
        Path(f"own/{name}.txt").write_text(texts[name])
        Path(f"own/{name}.jsonl").unlink()
    Path("own/selection.txt").write_text(f"x{texts[split]}")
    line = refused("notes", kind="text")
    assert re.search(
        r"9\d\.\d % of the windows of 13 words of the selection text also occur in the training or validation rows",
        line,
    )
    Path("own/selection.txt").write_text(texts["new"] + texts[split][5 : len(texts[split]) // 2])
    _, manifest = prepare("notes", kind="text", train_examples=None)
    assert manifest["overlap"] == pytest.approx(1 / 3, abs=0.03)


def test_if_the_training_takes_all_rows_the_line_says_what_to_set():
    assert refused() == (
        "error: tasks.boolq: no row is left for the split selection, because the training takes all 20 rows;"
        " set tasks.boolq.train_examples to a smaller number, or give the data a split selection\n"
    )


def test_one_row_is_refused_because_it_has_no_standard_error():
    line = refused(train_examples=19)
    assert "data/boolq/selection.jsonl, read like validation rows: boolq: one validation example" in line


def test_a_mini_task_without_enough_words_names_the_keys():
    flags = {"task": "boolq_mini", "train_examples": 300, "validation_examples": 50}
    succeed("prepare_task.py", **flags, output_dir="data/boolq_mini")
    code, line = call_script("prepare_selection.py", **flags, selection_examples=10**6, data_dir="data/boolq_mini")
    assert code == 2
    assert "1000000 selection rows beside 300 training rows: boolq_mini cannot make 1000300 train rows" in line
    assert line.endswith("lower tasks.boolq_mini.selection_examples or train_examples\n")


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
    write(
        Path("own/train.jsonl"),
        [{"text": f"Document {n} of ten characters or more."} for n in range(20)] + [{"text": ""}],
    )
    write(Path("own/validation.jsonl"), [{"text": "One long document. " * 8}])
    rows, manifest = prepare("notes", kind="text", length=4)
    needed = 19 * 8
    lengths = [len(row["text"]) for row in rows]
    assert sum(lengths) >= needed > sum(lengths[:-1])
    assert manifest["split"] == "train"
    Path("own/selection.txt").write_text("A document of its own.")
    assert prepare("notes", kind="text", length=4)[0] == [{"text": "A document of its own."}]


def test_an_instruction_task_has_selection_rows():
    pairs = [{"prompt": f"What is {n} + 1?", "response": f"{n + 1}"} for n in range(12)]
    write(Path("own/train.jsonl"), pairs[:9])
    write(Path("own/validation.jsonl"), pairs[9:])
    rows, _ = prepare("prompts", kind="instruction", train_examples=4)
    assert len(rows) == 3
    assert all(row in pairs[:9] for row in rows)


def read() -> list[dict]:
    """Read the selection rows of BoolQ as an evaluation does."""
    task = find_task(FOLDER, "boolq")
    prepared, digests = read_splits(FOLDER, task)
    return read_selection(FOLDER, task, prepared, digests)[0]


def test_rows_are_read_as_they_were_written():
    assert prepare()[0] == read()


@pytest.mark.parametrize(("name", "changes", "fault"), [
    ("other rows", {}, "not the file that selection_manifest.json records"),
    ("other task", {"task": "hellaswag"}, "not the file that selection_manifest.json records"),
    ("other digest", {"sha256": "0" * 64}, "not the file that selection_manifest.json records"),
    ("other validation", {"disjoint_from": {"train": "0" * 64, "validation": "0" * 64}}, "chosen beside other files"),
])  # fmt: skip
def test_rows_that_do_not_fit_their_manifest_are_refused(name, changes, fault):
    prepare()
    manifest = FOLDER / "selection_manifest.json"
    write_record(manifest, read_record(manifest) | changes)
    if not changes:
        write(FOLDER / "selection.jsonl", boolq(range(5), "Rain"))
    with pytest.raises(InputError, match=fault):
        read()


def test_a_manifest_that_was_edited_is_refused():
    prepare()
    manifest = FOLDER / "selection_manifest.json"
    manifest.write_text(manifest.read_text().replace('"left_out": 0', '"left_out": 1'))
    with pytest.raises(InputError, match=r"selection_manifest\.json: altered"):
        read()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_of_another_split_are_refused_even_with_a_manifest_that_fits(split):
    _, manifest = prepare()
    file = write(FOLDER / "selection.jsonl", rows_of(FOLDER / f"{split}.jsonl"))
    write_record(FOLDER / "selection_manifest.json", manifest | {"sha256": sha256(file)})
    with pytest.raises(InputError, match=f"rows also occur in the {split} rows"):
        read()


def test_two_rows_with_one_prompt_and_different_answers_count_as_repeats():
    task = BY_NAME["boolq"]
    prepared = {"train": boolq(range(3)), "validation": boolq(range(3), "Snow")}
    (changed,) = [{**row, "answer": not row["answer"]} for row in boolq([1])]
    assert shared_rows(task, [changed], prepared) == {"train": 1}


# Run a script that is killed at the n-th time that it moves a file to its place.
KILLED = """
import os, runpy, signal, sys
moves = int(sys.argv[1])
def replace(source, place, move=os.replace):
    global moves
    moves -= 1
    if not moves:
        os.kill(os.getpid(), signal.SIGKILL)
    move(source, place)
os.replace = replace
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("move", [1, 2, 3, 4])
def test_a_kill_leaves_no_rows_that_are_read_and_the_next_command_makes_them(move):
    flags = {"task": "boolq", "local": "own", "train_examples": 8}
    succeed("prepare_task.py", **flags, output_dir=FOLDER)
    script = str(ROOT / "workflow/scripts/prepare_selection.py")
    words = [str(word) for name, value in {**flags, "data_dir": FOLDER}.items() for word in (f"--{name}", value)]
    done = subprocess.run([sys.executable, "-c", KILLED, str(move), script, *words], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="selection"):
        read()
    succeed("prepare_selection.py", **flags, data_dir=FOLDER)
    assert len(read()) == 4
    names = {path.name for path in FOLDER.iterdir()} - {".sparseft"}
    assert names == {"train.jsonl", "validation.jsonl", "manifest.json", "selection.jsonl", "selection_manifest.json"}
