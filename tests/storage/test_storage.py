"""What this program writes is whole or absent, marked as its own, held by one process, and found if it is altered."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from project import tree
from sparseft.common.errors import InputError, message
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.trained_weights import check_trained
from sparseft.models.language_model.gpus import take
from sparseft.storage import atomic
from sparseft.storage.atomic import atomic_file, atomic_files, atomic_folder
from sparseft.storage.locks import hold
from sparseft.storage.outputs import check_apart, check_ours
from sparseft.storage.record import first_key, trained_digest, unaltered, write_record
from sparseft.storage.record_file import write
from sparseft.training.lora.merge_record import MergeRecord, check_model
from sparseft.training.trainers.appliance import held
from sparseft.training.training_record import TrainingRecord
from storage.sound_records import CONTENTS

DEAD = 2**22 + 1
HOLD = """
import sys
from pathlib import Path
from sparseft.storage.locks import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


def write_folder(path: Path, **contents: str) -> None:
    """Write a folder as the program does. Each file is in the folder and in one below it."""
    with atomic_folder(path, "a", "by us") as folder:
        (folder / "deep").mkdir()
        for name, text in contents.items():
            (folder / name).write_text(text)
            (folder / "deep" / name).write_text(text)


def write_files(path: Path, text: str) -> None:
    """Write two files into a folder as the program does."""
    with atomic_files(path / "a", "by us") as folder:
        (folder / "plots").mkdir()
        for name in ("a", "plots/b"):
            (folder / name).write_text(text)


# What lies where a stage writes a folder -> whether the folder is replaced.
FOLDERS = [
    ({}, True),
    ({"a": "1 by us", "deep/c": "1"}, True),
    ({"a": "1 by another stage"}, False),
    ({".git/config": "mine"}, False),
]


@pytest.mark.parametrize(("contents", "is_ours"), FOLDERS)
def test_a_folder_is_replaced_if_the_record_of_the_stage_is_in_it(tmp_path, contents, is_ours):
    out = tmp_path / "out"
    out.mkdir()
    for name, text in contents.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)
    with nullcontext() if is_ours else pytest.raises(InputError, match="would be lost"):
        write_folder(out, a="2 by us", b="2")
    names = {"a", "b", "deep/a", "deep/b"} if is_ours else contents.keys()
    assert tree(tmp_path).keys() == {f"out/{name}" for name in names}


def test_a_folder_that_is_filled_meanwhile_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
        (tmp_path / "out/thesis.txt").write_text("years of work")
    assert tree(tmp_path).keys() == {"out/thesis.txt"}


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_older_one(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", a="1 by us")
    replace, calls = os.replace, []

    def second_fails(*places: object) -> None:
        calls.append(places)
        if len(calls) == 2:
            raise OSError("no")
        replace(*places)

    monkeypatch.setattr(atomic.os, "replace", second_fails)
    with pytest.raises(OSError, match="no"):
        write_folder(tmp_path / "out", a="2")
    assert (tmp_path / "out/a").read_text() == "1 by us"


def test_files_are_moved_over_those_of_this_program_only(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/a").write_text("theirs")
    with pytest.raises(InputError, match=r"a: .*would be lost"):
        write_files(tmp_path / "theirs", "ours")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["a"]
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/thesis.txt").write_text("years of work")
    for text in ("1 by us", "2"):
        write_files(tmp_path / "ours", text)
    assert [(tmp_path / "ours" / name).read_text() for name in ("a", "plots/b")] == ["2", "2"]
    # Another process writes to the same folder.
    with atomic_files(tmp_path / "ours/one", "") as first, atomic_files(tmp_path / "ours/two", "") as second:
        (first / "one").write_text("1")
        (second / "two").write_text("2")
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["a", "one", "plots", "thesis.txt", "two"]


@pytest.mark.parametrize("is_there", [False, True])
def test_files_whose_writing_fails_leave_the_folder_as_it_was(tmp_path, is_there):
    if is_there:
        (tmp_path / "out").mkdir()
    with pytest.raises(ZeroDivisionError), atomic_files(tmp_path / "out/a", "") as folder:
        (folder / "a").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["out"] * is_there


def test_a_file_that_cannot_be_synced_keeps_all_older_files(tmp_path, monkeypatch):
    write_files(tmp_path / "out", "older by us")
    sync = atomic._sync

    def full(path: Path) -> None:
        if path.name == "b":
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(atomic, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        write_files(tmp_path / "out", "newer")
    assert [(tmp_path / "out" / name).read_text() for name in ("a", "plots/b")] == ["older by us"] * 2


def no_space(*names: object) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", *names)


def test_the_error_of_a_full_disk_names_the_file_that_was_being_written(tmp_path):
    out = tmp_path / "out"
    cases = [
        (atomic_file(out / "x.json"), lambda place: no_space(place), out / "x.json"),
        (atomic_folder(out / "m"), lambda place: no_space(), out / "m"),
        # As shutil.copyfile: the source, and the file that it writes.
        (atomic_folder(out / "m"), lambda place: no_space("source", None, str(place / "a/b")), out / "m/a/b"),
        (atomic_files(out / "masks/a", ""), lambda place: no_space(place / "plots/b"), out / "masks/plots/b"),
        (atomic_files(out / "masks/a", ""), lambda place: no_space("/other/disk"), Path("/other/disk")),
    ]
    for context, error, named in cases:
        with pytest.raises(OSError, match="No space left") as caught, context as place:
            raise error(place)
        assert message(caught.value).startswith(f"{named}: No space left on device; ")


@pytest.mark.parametrize("is_own_number", [False, True])
def test_what_a_dead_process_left_is_removed(tmp_path, is_own_number):
    owner = os.getpid() if is_own_number else DEAD
    (tmp_path / f".a.{owner}.tmp").mkdir()
    (tmp_path / f".a.{owner}.tmp/c").write_text("of a dead process")
    (tmp_path / f".b.{owner}.tmp").write_text("of a dead process")
    write_files(tmp_path, "1")
    with atomic_file(tmp_path / "b") as temporary:
        assert not temporary.exists()
        temporary.write_text("2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "plots"]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: no file"), atomic_file(tmp_path / "pipe") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("is_pipe", [True, False])
@pytest.mark.parametrize("lock", [
    lambda folder: take(1, ["GPU-aa"], locks=folder),
    lambda folder: held(folder / "sparseft-GPU-aa.lock", "a job").__enter__(),
    lambda folder: hold(folder / "out"),
])  # fmt: skip
def test_no_lock_follows_a_link_or_waits_for_a_pipe(tmp_path, lock, is_pipe):
    for name in (".out.lock", "sparseft-GPU-aa.lock"):
        if is_pipe:
            os.mkfifo(tmp_path / name)
        else:
            (tmp_path / name).symlink_to(tmp_path / "target")
    handler = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(5)
    try:
        with pytest.raises((InputError, OSError), match="lock: not a file" if is_pipe else "symbolic links"):
            lock(tmp_path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("output", ["in", "link/new"])
def test_an_output_that_is_an_input_or_lies_in_one_is_refused(tmp_path, output):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(InputError, match="is an input, or lies in one"):
        check_apart([tmp_path / output], [None, tmp_path / "in"])
    check_apart([tmp_path / "other/new"], [tmp_path / "in"])


@pytest.mark.process
@pytest.mark.parametrize("is_killed", [False, True])
def test_the_second_writer_waits_for_the_first_and_says_so(tmp_path, is_killed):
    output = tmp_path / "run/adapter"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    start = partial(subprocess.Popen, [sys.executable, "-c", HOLD, output], text=True, **pipes)
    with start() as holding:
        assert holding.stdout.readline() == "held\n"
        with start() as waiting:
            assert f"{output} is being written by process {holding.pid} on " in waiting.stderr.readline()
            if is_killed:
                holding.send_signal(signal.SIGKILL)
            else:
                holding.communicate("go\n", timeout=60)
            assert waiting.stdout.readline() == "held\n"
            waiting.communicate("go\n", timeout=60)
            assert waiting.returncode == 0
    assert list((tmp_path / "run").iterdir()) == []


def test_a_record_is_replaced_by_its_own_kind_only(tmp_path):
    write_record(tmp_path / "x.json", {"record": "merge"})
    check_ours(tmp_path / "x.json", first_key("merge"))
    check_ours(tmp_path / "new.json", first_key("merge"))
    with pytest.raises(InputError, match=r"x\.json: .*would be lost"):
        check_ours(tmp_path / "x.json", first_key("merg"))


def test_any_flipped_bit_of_a_record_is_found(tmp_path):
    path = tmp_path / "x.json"
    write_record(path, {"value": 0.5})
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        assert not unaltered(bytes(altered))
    assert unaltered(content)


def test_an_adapter_is_the_one_that_its_training_recorded(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / name).write_bytes(b"{}")
    content = CONTENTS[TrainingRecord] | {"outputs": {"adapter": trained_digest(adapter)}}
    write(tmp_path / "train.json", TrainingRecord.model_validate(content))
    recorded = trained_digest(adapter)
    check_trained(adapter, recorded)
    (adapter / "adapter_config.json").write_bytes(b"[]")
    with pytest.raises(InputError, match=r"adapter: .*train\.json records"):
        check_trained(adapter, trained_digest(adapter))
    # A record that was edited to name the other adapter proves nothing.
    record = tmp_path / "train.json"
    record.write_text(record.read_text().replace(recorded, trained_digest(adapter)))
    with pytest.raises(InputError, match=r"adapter: .*train\.json records"):
        check_trained(adapter, trained_digest(adapter))


@pytest.mark.parametrize("altered", ["model.safetensors", "added_tokens.json", "config.json"])
def test_a_merged_model_is_the_one_that_its_merge_recorded(tmp_path, altered):
    model = tmp_path / "model_dir"
    model.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (model / name).write_text(name)
    (model / ".snakemake_timestamp").touch()
    content = CONTENTS[MergeRecord] | {"outputs": Checkpoint(model).hashes()}
    write(tmp_path / "merge.json", MergeRecord.model_validate(content))
    check_model(model, Checkpoint(model).hashes())
    if altered == "config.json":
        (model / altered).unlink()
    else:
        (model / altered).write_text("{}")
    with pytest.raises(InputError, match=f"model_dir/{altered}: .*merge.json records"):
        check_model(model, Checkpoint(model).hashes())
