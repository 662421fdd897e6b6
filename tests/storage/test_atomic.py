"""Files and folders are whole or absent, and only what this program wrote is replaced."""

import os
from pathlib import Path

import pytest
from sparseft.errors import InputError
from sparseft.storage import atomic
from sparseft.storage.atomic import atomic_file, atomic_files, atomic_folder
from sparseft.storage.ownership import MARKER


def write_folder(path: Path, **contents: str) -> None:
    """Write a folder as the program does."""
    with atomic_folder(path, "model") as folder:
        for name, text in contents.items():
            (folder / name).write_text(text)


def test_a_folder_of_this_program_is_marked_and_replaced(tmp_path):
    write_folder(tmp_path / "out", a="1")
    assert "SparseFT" in (tmp_path / "out" / MARKER).read_text()
    assert (tmp_path / "out" / MARKER).read_text().count("\n") == 1
    (tmp_path / "out/.snakemake_timestamp").touch()
    write_folder(tmp_path / "out", a="2")
    assert (tmp_path / "out/a").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "manifest.json", "compact.json"])
def test_somebody_else_s_checkpoint_is_not_replaced(tmp_path, name):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text("{}")
    with pytest.raises(InputError, match="theirs: .*other files"):
        write_folder(tmp_path / "theirs", **{name: "ours"})
    assert (tmp_path / "theirs" / name).read_text() == "{}"


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", a="1")
    assert (tmp_path / "out/a").read_text() == "1"


def test_a_folder_that_others_fill_while_ours_is_written_is_not_replaced(tmp_path):
    with pytest.raises(InputError, match="would be lost"), atomic_folder(tmp_path / "out", "model") as folder:
        (folder / "a").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/a").write_text("theirs")
    assert (tmp_path / "out/a").read_text() == "theirs"


@pytest.mark.parametrize("owner", [2**22 + 1, "own"])
def test_a_folder_that_a_killed_process_moved_aside_is_put_back_before_a_new_one_is_written(tmp_path, owner):
    owner = os.getpid() if owner == "own" else owner  # process numbers return
    write_folder(tmp_path / "out", a="1")
    (tmp_path / "out").rename(tmp_path / f".out.old.{owner}.tmp")
    (tmp_path / f".out.{owner}.tmp").mkdir()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out", "model"):
        raise ZeroDivisionError
    assert (tmp_path / "out/a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    write_folder(tmp_path / "out", a="2")
    assert (tmp_path / "out/a").read_text() == "2"


def test_a_folder_that_was_moved_aside_does_not_replace_a_newer_one(tmp_path):
    write_folder(tmp_path / "out", a="1")
    (tmp_path / "out").rename(tmp_path / f".out.old.{2**22 + 1}.tmp")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b").write_text("2")
    with pytest.raises(InputError, match="other files"):
        write_folder(tmp_path / "out", a="3")
    assert (tmp_path / "out/b").read_text() == "2"


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_older_one(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", a="1")
    replace, calls = os.replace, []

    def second_fails(*places: object) -> None:
        calls.append(places)
        if len(calls) == 2:
            raise OSError("no")
        replace(*places)

    monkeypatch.setattr(atomic.os, "replace", second_fails)
    with pytest.raises(OSError, match="no"):
        write_folder(tmp_path / "out", a="2")
    assert (tmp_path / "out/a").read_text() == "1"


def test_a_prepared_model_is_replaced_after_snakemake_deleted_its_manifest(tmp_path):
    write_folder(tmp_path / "m", **{"config.json": "{}", "manifest.json": "{}"})
    (tmp_path / "m/manifest.json").unlink()
    write_folder(tmp_path / "m", **{"config.json": "[]", "manifest.json": "{}"})
    assert (tmp_path / "m/config.json").read_text() == "[]"


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: no file"), atomic_file(tmp_path / "pipe") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "pipe").is_fifo()


def test_files_are_moved_over_those_of_this_program_only(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/summary.csv").write_text("theirs")
    with (
        pytest.raises(InputError, match=r"summary\.csv: .*would be lost"),
        atomic_files(tmp_path / "theirs", "summary.csv", "masks") as folder,
    ):
        (folder / "summary.csv").write_text("ours")
        (folder / "other.csv").write_text("ours")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["summary.csv"]
    for text in ("1", "2"):
        with atomic_files(tmp_path / "ours", "summary.csv", "masks") as folder:
            (folder / "plots").mkdir()
            (folder / "plots/a.png").write_text(text)
            (folder / "summary.csv").write_text(text)
    assert (tmp_path / "ours/summary.csv").read_text() == "2"
    assert (tmp_path / "ours/plots/a.png").read_text() == "2"
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [MARKER, "plots", "summary.csv"]


def test_files_beside_those_of_another_program_are_written_and_these_stay(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with atomic_files(tmp_path, "a", "masks") as folder:
        (folder / "a").write_text("ours")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "a").read_text() == "ours"


@pytest.mark.parametrize("existing", [False, True])
def test_files_whose_writing_fails_leave_the_folder_as_it_was(tmp_path, existing):
    if existing:
        (tmp_path / "out").mkdir()
    with pytest.raises(ZeroDivisionError), atomic_files(tmp_path / "out", "a", "masks") as folder:
        (folder / "a").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["out"] * existing


def test_a_file_that_cannot_be_synced_keeps_all_older_files(tmp_path, monkeypatch):
    with atomic_files(tmp_path / "out", "a", "masks") as folder:
        for name in ("a", "b"):
            (folder / name).write_text("older")
    sync = atomic._sync

    def full(path: Path) -> None:
        if path.name == "b":
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(atomic, "_sync", full)
    with pytest.raises(OSError, match="No space left"), atomic_files(tmp_path / "out", "a", "masks") as folder:
        for name in ("a", "b"):
            (folder / name).write_text("newer")
    assert [(tmp_path / "out" / name).read_text() for name in ("a", "b")] == ["older", "older"]


@pytest.mark.parametrize("owner", [2**22 + 1, "own"])
def test_what_a_dead_process_left_is_removed_and_no_part_of_the_files(tmp_path, owner):
    owner = os.getpid() if owner == "own" else owner  # process numbers return
    (tmp_path / f".a.{owner}.tmp").mkdir()
    (tmp_path / f".a.{owner}.tmp/c").write_text("of a dead process")
    (tmp_path / f".b.{owner}.tmp").write_text("of a dead process")
    with atomic_files(tmp_path, "a", "masks") as folder:
        (folder / "a").write_text("1")
    with atomic_file(tmp_path / "b") as temporary:
        assert not temporary.exists()
        temporary.write_text("2")
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "a", "b"]


def test_a_process_keeps_what_another_one_writes_to_the_same_folder_at_the_same_time(tmp_path):
    with atomic_files(tmp_path, "one", "masks") as first, atomic_files(tmp_path, "two", "masks") as second:
        (first / "one").write_text("1")
        (second / "two").write_text("2")
    assert [(tmp_path / name).read_text() for name in ("one", "two")] == ["1", "2"]
